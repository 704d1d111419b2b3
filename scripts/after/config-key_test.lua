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

local PATH = "/etc/app/config"

local function env(more)
	more.path, more.format, more.key = PATH, more.format or "json", more.key or "db.password"
	return more
end

test("one value of each kind of file changes", function()
	for _, row in ipairs{
		{{format = "json"}, '{\n  "db": {"password": "f1rst", "port": 1}\n}', '{\n  "db": {"password": "n3\\"w", "port": 1}\n}'},
		{{format = "yaml"}, "db:\n  # ours\n  password: f1rst # the app's\n", "db:\n  # ours\n  password: \"n3\\\"w\" # the app's\n"},
		{{format = "ini", section = "db", key = "password"}, "[x]\npassword = stays\n[db]\npassword = f1rst\n", "[x]\npassword = stays\n[db]\npassword = n3\"w\n"},
		{{format = "ini", section = "db", key = "password", quote = "double"}, "[db]\npassword = f1rst\n", "[db]\npassword = \"n3\\\"w\"\n"},
		{{format = "xml", key = "c.db.@password"}, '<c><db password="f1rst"/></c>', '<c><db password="n3&#34;w"/></c>'},
		{{format = "json", key = "url", value = "postgres://{{login}}:{{secret|url}}@db/app"}, '{"url": "x"}', '{"url": "postgres://app:n3%22w@db/app"}'},
	} do
		files[PATH] = row[2]
		assert(outcome(run(with(env(row[1]), "n3\"w"))) == "changed", row[1].format)
		assert(files[PATH] == row[3], row[1].format)
	end
end)

test("a value that cannot be made", function()
	files[PATH] = '{"db": {}}'
	assert(reason(run(with(env{value = "{{nobody}}"}))) == "file.value")
	assert(reason(run(with(env{}, "\255"))) == "file.value")
	assert(files[PATH] == '{"db": {}}')
end)

test("what is there already is not written", function()
	files[PATH] = '{"db": {"password": "n3w"}}'
	refuses[PATH] = true
	assert(outcome(run(with(env{}))) == "changed")
end)

test("the file as it was is kept, if that is asked for", function()
	files[PATH] = '{"db": {"password": "f1rst"}}'
	assert(outcome(run(with(env{backup = true}))) == "changed")
	assert(files[PATH .. ".before"] == '{"db": {"password": "f1rst"}}' and modes[PATH .. ".before"] == "0640")
	assert(files[PATH] == '{"db": {"password": "n3w"}}')
	files[PATH], refuses[PATH .. ".before"] = '{"db": {"password": "f1rst"}}', true
	assert(reason(run(with(env{backup = true}))) == "sftp.permission" and files[PATH] == '{"db": {"password": "f1rst"}}')
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
	files[PATH] = '{"db": {"password": "f1rst"}}'
	local answer = run(with(env{format = "ini"}, "two\nlines"))
	assert(outcome(answer) == "unchanged" and reason(answer) == "text.value", reason(answer))
	assert(files[PATH] == '{"db": {"password": "f1rst"}}')
end)

test("a file that cannot be written", function()
	files[PATH], refuses[PATH] = '{"db": {"password": "f1rst"}}', true
	local answer, err = run(with(env{}))
	assert(answer == nil and err.class == "permission")
end)
