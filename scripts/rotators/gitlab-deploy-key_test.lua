local asked, answers, logins, ran = {}, {}, {}, {}

mock("http", {
	request = function(o)
		asked[#asked + 1] = o
		local a = table.remove(answers, 1)
		if a.class then
			return nil, a
		end
		return {status = a[1], headers = a[3] or {}, json = function() return a[2] end}
	end,
	path = function(...) return "/" .. table.concat({...}, "/") end,
})

mock("ssh", {
	connect = function(o)
		assert(o.login == "git" and reveal(o.secret) == "new")
		local a = table.remove(logins, 1)
		if a.class then
			return nil, a
		end
		return {close = function() end, run = function(_, o)
			ran[#ran + 1] = o
			if a.lost then
				return nil, {class = "unreachable", reason = "connection", not_sent = false}
			end
			return {status = a.status}
		end}
	end,
})

local OLD, NEW, OTHER = "ssh-ed25519 AAAAold", "ssh-ed25519 AAAAnew", "ssh-rsa AAAAother"

local function change(fields)
	local j = {
		account = {login = "octo/app"}, admin = {login = "bot", secret = secret("t0ken")},
		candidate = secret("new", NEW .. " of rotunda"), current = secret("old", OLD), old = secret("old", OLD), keep = secret("new", NEW),
	}
	for name, value in pairs(fields or {}) do
		j[name] = value
	end
	return job(j)
end

local function key(id, text, more)
	local k = more or {title = "a key", can_push = false}
	k.id, k.key = id, text
	return k
end

test("a key is made", function()
	answers = {{200, {key(1, OTHER)}}, {201}}
	assert(outcome(set_secret(nil, change())) == "changed")
	assert(asked[1].method == "GET" and asked[1].url == "https://gitlab.com/api/v4/projects/octo/app/deploy_keys" and asked[1].query.page == 1)
	assert(reveal(asked[1].bearer) == "t0ken")
	local made = asked[2].json
	assert(asked[2].method == "POST" and asked[2].url == asked[1].url and made.key == NEW and made.title == "Rotunda" and made.can_push == false)
end)

test("it may what the former one may", function()
	answers = {{200, {key(1, OTHER), key(2, OLD .. " c", {title = "deploy", can_push = true})}}, {201}}
	assert(outcome(set_secret(nil, change())) == "changed")
	assert(asked[2].json.title == "deploy" and asked[2].json.can_push == true)
end)

test("a first key may push where the parameter says so", function()
	answers = {{200, {}}, {201}}
	set_secret(nil, change{parameters = {write = true, api = "https://git.example.com/api/v4/"}})
	assert(asked[2].json.can_push == true and asked[2].url == "https://git.example.com/api/v4/projects/octo/app/deploy_keys")
end)

test("a key that is there is not made again", function()
	answers = {{200, {key(3, NEW)}}}
	assert(outcome(set_secret(nil, change())) == "changed" and #asked == 1)
end)

test("a project in a group of a group", function()
	answers = {{200, {}}, {201}}
	assert(outcome(set_secret(nil, change{account = {login = "a/b/c.d"}})) == "changed")
	assert(asked[1].url == "https://gitlab.com/api/v4/projects/a/b/c.d/deploy_keys")
end)

test("every page is read", function()
	local many = {}
	for n = 1, 100 do
		many[n] = key(n, OTHER .. n)
	end
	answers = {{200, many}, {200, {key(101, NEW)}}}
	assert(outcome(set_secret(nil, change())) == "changed" and #asked == 2 and asked[2].query.page == 2)
end)

test("what is refused before anything is made", function()
	for _, row in ipairs{
		{{401}, "admin.refused"}, {{403}, "admin.rights"}, {{404}, "account.missing"}, {{301}, "account.moved"}, {{429}, "gitlab.busy"},
		{{200, "<html>"}, "api.answer"}, {{200, {{id = 1}}}, "api.answer"},
	} do
		answers = {row[1]}
		local answer = set_secret(nil, change())
		assert(outcome(answer) == "unchanged" and reason(answer) == row[2], row[2])
	end
	assert(#asked == 7)
	for _, name in ipairs{"", "app", "octo/..", "octo/../app", "octo//app", "octo/a b", "/app", "octo/app/", "-octo/app"} do
		assert(reason(set_secret(nil, change{account = {login = name}})) == "account.name")
	end
	assert(reason(set_secret(nil, change{candidate = secret("new")})) == "key.public" and #asked == 7)
end)

test("what GitLab says of a new key", function()
	for status, want in pairs{[400] = "policy.refused", [422] = "policy.refused", [403] = "admin.rights", [500] = "", [202] = ""} do
		answers = {{200, {}}, {status}}
		assert(reason(set_secret(nil, change())) == want)
	end
	answers = {{200, {}}, {class = "unreachable", reason = "http", not_sent = false}}
	local none, err = set_secret(nil, change())
	assert(none == nil and err.not_sent == false)
	answers = {{class = "unreachable", reason = "http", not_sent = false}}
	local ok, lost = pcall(set_secret, nil, change())
	assert(not ok and lost.not_sent)
end)

test("the old key alone is removed", function()
	answers = {{200, {key(1, OTHER), key(2, OLD .. " c"), key(3, NEW)}}, {204}}
	assert(outcome(retire(nil, change())) == "changed")
	assert(#asked == 2 and asked[2].method == "DELETE" and asked[2].url == "https://gitlab.com/api/v4/projects/octo/app/deploy_keys/2")
end)

test("what becomes of the old key", function()
	answers = {{200, {key(3, NEW)}}}
	assert(outcome(retire(nil, change())) == "changed" and #asked == 1)
	for status, want in pairs{[404] = "changed", [403] = "unchanged", [500] = "unknown"} do
		answers = {{200, {key(2, OLD)}}, {status}}
		assert(outcome(retire(nil, change())) == want)
	end
	answers = {{502}}
	assert(outcome(retire(nil, change())) == "unknown")
	local before = #asked
	for _, bad in ipairs{{old = secret("new", NEW)}, {old = secret("old")}, {keep = secret("new")}, {account = {login = "octo"}}} do
		local ok, err = pcall(retire, nil, change(bad))
		assert(not ok and err.class == "invalid" and err.not_sent)
	end
	assert(#asked == before)
end)

test("the administrator", function()
	for _, row in ipairs{{{401}, "auth"}, {{502}, "unreachable"}} do
		answers = {row[1]}
		local ok, err = pcall(open, change())
		assert(not ok and err.class == row[2] and err.not_sent)
	end
	for _, status in ipairs{200, 403} do
		answers = {{status}}
		open(change())
	end
	local ok, err = pcall(open, job{})
	assert(not ok and err.reason == "administrator.missing")
end)

test("logins", function()
	for _, row in ipairs{{{status = 0}, "accepted"}, {{status = 1}, "undecided"}, {{class = "auth", reason = "bad_secret"}, "rejected"}} do
		logins = {row[1]}
		assert(outcome(verify(change())) == row[2])
	end
	assert(ran[1].argv[1] == "git-upload-pack" and ran[1].argv[2] == "octo/app.git" and ran[1].stdin == "0000")
	for _, lost in ipairs{{class = "auth", reason = "target_identity"}, {class = "unsupported", reason = "ssh.partial"}, {lost = true}} do
		logins = {lost}
		local none, err = verify(change())
		assert(none == nil and err.reason ~= "bad_secret")
	end
	assert(outcome(verify(change{account = {login = "octo"}})) == "undecided")
end)
