-- A host with files, which takes them apart as the real one does.
local files, modes, refuses = {}, {}, {}
local meanwhile = {} -- what somebody else writes before the next ones
local away -- why it is not reached

mock("ssh", {connect = function()
	if away then
		return nil, away
	end
	return {
		get = function(_, path, o)
			assert(o.secret, "the file is read as a secret")
			if not files[path] then
				return nil, {class = "not_found", reason = "sftp.missing", text = path}
			end
			return secret(files[path])
		end,
		stat = function() return {mode = "0640"} end,
		put = function(_, path, content, o)
			if refuses[path] then
				return nil, {class = "permission", reason = "sftp.permission", text = path, not_sent = true}
			end
			if #meanwhile > 0 and o.was then
				files[path] = table.remove(meanwhile, 1)
			end
			if o.was and reveal(o.was) ~= files[path] then
				return nil, {class = "conflict", reason = "sftp.changed", text = path, not_sent = true}
			end
			files[path], modes[path] = reveal(content), o.mode
			return true
		end,
	}
end})

local function with(parameters, password)
	return job{
		account = {login = "app"}, records = {host = {address = "web1:22", login = "root", secret = secret("r")}},
		secret = secret(password or "n3w"), parameters = parameters,
	}
end

local PATH = "/etc/app/env"

local function env(more)
	more.path, more.key = PATH, "DB_PASSWORD"
	return more
end

test("one variable changes", function()
	files[PATH] = "# ours\nexport DB_USER=old\nDB_PASSWORD=f1rst\nOTHER='stays'\n"
	assert(outcome(run(with(env{}))) == "changed")
	assert(files[PATH] == "# ours\nexport DB_USER=old\nDB_PASSWORD=n3w\nOTHER='stays'\n")
	assert(outcome(run(with(env{login_key = "DB_USER"}, "a b$c"))) == "changed")
	assert(files[PATH] == "# ours\nexport DB_USER=app\nDB_PASSWORD='a b$c'\nOTHER='stays'\n")
end)

test("what is there already is not written", function()
	files[PATH] = "DB_PASSWORD=n3w\n"
	refuses[PATH] = true
	assert(outcome(run(with(env{}))) == "changed")
end)

test("the file as it was is kept, if that is asked for", function()
	files[PATH] = "DB_PASSWORD=f1rst\n"
	assert(outcome(run(with(env{backup = true}))) == "changed")
	assert(files[PATH .. ".before"] == "DB_PASSWORD=f1rst\n" and modes[PATH .. ".before"] == "0640")
	assert(files[PATH] == "DB_PASSWORD=n3w\n")
	files[PATH], refuses[PATH .. ".before"] = "DB_PASSWORD=f1rst\n", true
	assert(reason(run(with(env{backup = true}))) == "sftp.permission" and files[PATH] == "DB_PASSWORD=f1rst\n")
end)

test("a host that is not reached", function()
	away = {class = "unreachable", reason = "connection", not_sent = true, text = "no"}
	local answer = run(with(env{}))
	assert(outcome(answer) == "unchanged" and reason(answer) == "connection")
end)

test("a file that is missing is not made", function()
	assert(reason(run(with(env{}))) == "sftp.missing" and not files[PATH])
end)

test("a secret that the file cannot hold", function()
	files[PATH] = "DB_PASSWORD=f1rst\n"
	local answer = run(with(env{}, "two\nlines"))
	assert(outcome(answer) == "unchanged" and reason(answer) == "text.value", reason(answer))
	assert(files[PATH] == "DB_PASSWORD=f1rst\n")
end)

test("a file that cannot be written", function()
	files[PATH], refuses[PATH] = "DB_PASSWORD=f1rst\n", true
	local answer, err = run(with(env{}))
	assert(answer == nil and err.class == "permission")
end)
