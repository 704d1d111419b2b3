local meanwhile = {} -- what somebody else writes before the next ones
local files, broken, statuses, asked, connected = {}, 0, {}, {}, 0
local PATH = "/etc/nginx/passwd"

mock("ssh", {connect = function()
	connected = connected + 1
	return {
		close = function() end,
		stat = function(_, path)
			if not files[path] then
				return nil, {class = "not_found", reason = "sftp.missing"}
			end
			return {kind = "file"}
		end,
		get = function(_, path)
			if broken > 0 then
				broken = broken - 1
				return nil, {class = "unreachable", reason = "connection"}
			elseif not files[path] then
				return nil, {class = "not_found", reason = "sftp.missing"}
			end
			return files[path]
		end,
		put = function(_, path, content, o)
			if files.refuses then
				return nil, files.refuses
			end
			files[path] = table.remove(meanwhile, 1) or files[path]
			if o.was ~= files[path] then
				return nil, {class = "conflict", reason = "sftp.changed", not_sent = true}
			end
			files[path] = reveal(content)
			return true
		end,
	}
end})
mock("hash", {
	bcrypt = function(password, cost)
		local p = reveal(password)
		if #p > 72 then
			error("a password has 1 to 72 bytes")
		end
		return secret("$2a$" .. cost .. "$" .. p)
	end,
	sha512_crypt = function(password) return secret("$6$" .. reveal(password)) end,
})
mock("http", {get = function(url, o)
	asked[#asked + 1] = {url, o}
	local s = table.remove(statuses, 1)
	if type(s) == "table" then
		return nil, s
	end
	return {status = s}
end})

local function change(login, parameters)
	parameters = parameters or {}
	parameters.path, parameters.url = PATH, "https://www.example.com/private/"
	return job{account = {login = login}, admin = {login = "root", secret = secret("r")}, candidate = secret("n3w"), parameters = parameters}
end

local function apply(j)
	return set_secret(open(j), j)
end

test("one login's hash changes", function()
	files[PATH] = "# ours\nann:$2y$10$abc\nanna:$apr1$x:a comment\r\nbob:{SHA}y"
	assert(outcome(apply(change("anna"))) == "changed")
	assert(files[PATH] == "# ours\nann:$2y$10$abc\nanna:$2a$10$n3w:a comment\r\nbob:{SHA}y", files[PATH])
	assert(outcome(apply(change("bob", {scheme = "sha512"}))) == "changed")
	assert(files[PATH] == "# ours\nann:$2y$10$abc\nanna:$2a$10$n3w:a comment\r\nbob:$6$n3w", files[PATH])
	assert(outcome(apply(change("ann", {cost = 5}))) == "changed")
	assert(files[PATH]:find("ann:$2a$5$n3w\n", 1, true))
end)

test("who is not there is not made, and who is there twice is no one", function()
	files[PATH] = "ann:x\nbob:x\nbob:y\n"
	assert(reason(apply(change("an"))) == "account.missing")
	assert(reason(apply(change("bob"))) == "account.ambiguous")
	for _, bad in ipairs{"", "a:b", "a\nb", "# ours"} do
		assert(reason(apply(change(bad))) == "account.name")
	end
	assert(files[PATH] == "ann:x\nbob:x\nbob:y\n")
end)

test("what somebody else writes meanwhile stays", function()
	files[PATH] = "ann:x\nbob:y\n"
	meanwhile = {"ann:x\nbob:z\n"}
	assert(outcome(apply(change("ann"))) == "changed")
	assert(files[PATH] == "ann:$2a$10$n3w\nbob:z\n", files[PATH])
	for n = 1, 20 do
		meanwhile[n] = "ann:" .. n .. "\n"
	end
	local answer, err = apply(change("ann"))
	assert(answer == nil and err.class == "unreachable" and err.not_sent and #meanwhile == 10)
end)

test("what cannot be kept", function()
	files[PATH] = "ann:x\n"
	local j = change("ann")
	j.candidate = secret(("x"):rep(73))
	assert(reason(apply(j)) == "policy.length")
	assert(reason(apply(change("ann"))) == "" and files[PATH] == "ann:$2a$10$n3w\n")
end)

test("a connection that has ended is made again", function()
	files[PATH], broken = "ann:x\n", 1
	assert(outcome(apply(change("ann"))) == "changed" and connected == 2)
	broken = 2
	local none, err = apply(change("ann"))
	assert(none == nil and err.class == "unreachable" and err.not_sent)
end)

test("a file that cannot be read or written", function()
	local session, why = open(change("ann"))
	assert(session == nil and why.reason == "sftp.missing")
	files[PATH], files.refuses = "ann:x\n", {class = "permission", reason = "sftp.permission", not_sent = true}
	local answer = apply(change("ann"))
	assert(outcome(answer) == "unchanged" and reason(answer) == "sftp.permission")
	files.refuses = {class = "unreachable", reason = "sftp", not_sent = false}
	local none, err = apply(change("ann"))
	assert(none == nil and err.not_sent == false)
end)

test("logins", function()
	for _, row in ipairs{
		{{401, 200}, "accepted", ""}, {{401, 304}, "accepted", ""}, {{401, 401}, "rejected", "bad_secret"},
		{{200}, "undecided", "not_asked"}, {{401, 500}, "undecided", "http.status"}, {{401, 403}, "undecided", "http.status"},
	} do
		statuses = row[1]
		local answer = verify(change("ann"))
		assert(outcome(answer) == row[2] and reason(answer) == row[3], row[2])
	end
	assert(asked[1][2] == nil and reveal(asked[2][2].basic.secret) == "n3w" and asked[2][2].basic.user == "ann")
	statuses = {401, {class = "unreachable", reason = "http"}}
	local none, err = verify(change("ann"))
	assert(none == nil and err.class == "unreachable")
end)
