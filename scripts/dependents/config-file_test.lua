local PATH = "/etc/app/config"
local meanwhile = {} -- what somebody else writes before the next ones
local files, kind, refuses, unreachable = {}, "file", nil, nil

mock("ssh", {connect = function()
	if unreachable then
		return nil, {class = "unreachable", reason = "connection"}
	end
	return {
		close = function() end,
		get = function(_, path, o)
			assert(o.secret, "the file is read as a secret")
			if not files[path] then
				return nil, {class = "not_found", reason = "sftp.missing"}
			end
			return secret(files[path])
		end,
		stat = function() return {kind = kind} end,
		put = function(_, path, content, o)
			if refuses then
				return nil, refuses
			end
			files[path] = table.remove(meanwhile, 1) or files[path]
			if reveal(o.was) ~= files[path] then
				return nil, {class = "conflict", reason = "sftp.changed", not_sent = true}
			end
			files[path] = reveal(content)
			return true
		end,
	}
end})

local function with(parameters)
	parameters.path, parameters.format, parameters.key = PATH, parameters.format or "json", parameters.key or "db.password"
	return job{admin = {login = "root", secret = secret("r")}, secret = secret("n3w"), parameters = parameters}
end

test("a plan writes nothing, and what it plans is done and undone", function()
	for _, row in ipairs{
		{{format = "env", key = "P"}, "P=f1rst\nQ=stays\n", "P=n3w\nQ=stays\n"},
		{{format = "json"}, '{"db": {"password": "f1rst"}}', '{"db": {"password": "n3w"}}'},
		{{format = "yaml"}, "db:\n  password: f1rst # ours\n", "db:\n  password: n3w # ours\n"},
		{{format = "ini", section = "db", key = "password"}, "[db]\npassword = f1rst\n", "[db]\npassword = n3w\n"},
		{{format = "xml", key = "db.@password"}, '<db password="f1rst"/>', '<db password="n3w"/>'},
		{{value = "app:{{secret|url}}@db"}, '{"db": {"password": "app:f1rst@db"}}', '{"db": {"password": "app:n3w@db"}}'},
	} do
		files[PATH] = row[2]
		local j = with(row[1])
		local steps = plan(j)
		assert(#steps == 1 and steps[1].title == "write " .. PATH and files[PATH] == row[2])
		assert(outcome(apply(steps[1], j)) == "changed" and files[PATH] == row[3], row[1].format)
		j.secret = secret("f1rst")
		assert(outcome(undo(steps[1], j)) == "changed" and files[PATH] == row[2], row[1].format)
	end
end)

test("what cannot be done is not planned", function()
	assert(select(2, plan(with{})).reason == "sftp.missing")
	files[PATH] = '{"other": 1}'
	local ok, err = pcall(plan, with{})
	assert(not ok and err.class == "not_found")
	files[PATH], kind = '{"db": {}}', "link"
	ok, err = pcall(plan, with{})
	assert(not ok and err.reason == "file.kind")
	assert(not pcall(plan, with{value = "{{nobody}}"}))
end)

test("what cannot be written is unchanged, what got no answer is not known", function()
	local step = {id = "file", data = {path = PATH}}
	files[PATH] = '{"db": {"password": "f1rst"}}'
	for _, row in ipairs{
		{{class = "permission", reason = "sftp.permission", not_sent = true}, "unchanged"}, {{class = "unreachable", reason = "sftp", not_sent = false}, "unknown"},
	} do
		refuses = row[1]
		assert(outcome((apply(step, with{}))) == row[2])
	end
	refuses = nil
	local j = with{}
	j.secret = secret("\255")
	assert(reason(apply(step, j)) == "file.value")
	assert(reason(apply({id = "file", data = {path = "/other"}}, j)) == "step.data")
	unreachable = true
	local none, err = apply(step, j)
	assert(none == nil and err.not_sent)
end)

test("what somebody else writes meanwhile stays", function()
	files[PATH] = '{"db": {"password": "f1rst"}, "n": 0}'
	local j = with{}
	local step = plan(j)[1]
	meanwhile = {'{"db": {"password": "f1rst"}, "n": 1}'}
	assert(outcome(apply(step, j)) == "changed" and files[PATH] == '{"db": {"password": "n3w"}, "n": 1}')
	files[PATH] = '{"db": {"password": "f1rst"}, "n": 0}'
	for n = 1, 20 do
		meanwhile[n] = '{"db": {}, "n": ' .. n .. "}"
	end
	local answer, err = apply(step, j)
	assert(answer == nil and err.class == "unreachable" and err.not_sent and #meanwhile == 10)
end)
