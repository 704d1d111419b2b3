local said, asked, told = nil, nil, {}
local closed, connected

-- shown is a value as a text, a secret by its text.
local function shown(v)
	if type(v) == "userdata" then return reveal(v) end
	if type(v) ~= "table" then return tostring(v) end
	local parts = {}
	for _, one in ipairs(v) do parts[#parts + 1] = shown(one) end
	if #v > 0 then return "[" .. table.concat(parts, " ") .. "]" end
	local names = {}
	for name in pairs(v) do names[#names + 1] = name end
	table.sort(names)
	for _, name in ipairs(names) do parts[#parts + 1] = name .. "=" .. shown(v[name]) end
	return "{" .. table.concat(parts, " ") .. "}"
end

mock("json", {encode = function(v) return secret(shown(v)) end})
mock("base64", {encode = function(v) return secret("<" .. reveal(v) .. ">") end})
mock("text", {
	concat = function(a, b) return secret(reveal(a) .. b) end,
	trim = function(s) return (s:gsub("%s+$", "")) end,
})
local function tells(...)
	for _, one in ipairs{...} do told[#told + 1] = tostring(one) end
end
mock("log", {info = tells, warn = tells, error = tells})
mock("ssh", {connect = function(o)
	connected = o
	if said.class then
		return nil, said
	end
	return {
		run = function(_, options)
			asked = options
			if said.lost then
				return nil, said.lost
			end
			return said
		end,
		close = function() closed = true end,
	}
end})

local function handed(fields)
	local j = {
		account = {login = "app"}, resource = {host = "db1", port = 5432, address = "db1:5432"},
		secret = secret("n\"ew"), former = secret("old"), admin = {login = "root", secret = secret("adm")},
		parameters = {program = "/opt/after.sh"},
	}
	for name, value in pairs(fields or {}) do j[name] = value end
	return job(j)
end

-- The modules that make the input are mocked: json.encode shows what it was given.
test("the input is KeeperPAM's", function()
	said = {status = 0, stdout = "", stderr = ""}
	assert(outcome(run(handed())) == "changed")
	assert(asked.argv[1] == "/opt/after.sh" and #asked.argv == 1 and asked.timeout == 300)
	assert(reveal(asked.stdin) == "<{newPassword=n\"ew oldPassword=old providerRecordUid=provider "
		.. "records=<[{title=Rotunda uid=provider} {pamHostname={hostName=db1 port=5432} title=db1:5432 uid=resource} "
		.. "{login=app password=n\"ew title=app uid=user}]> resourceRecordUid=resource user=app userRecordUid=user}>\n")
end)

test("its names are the use's, and its arguments", function()
	said = {status = 0, stdout = "done", stderr = ""}
	local p = {program = "/usr/bin/sudo", arguments = {"-n", "/opt/after.sh"}, timeout = 5, provider_uid = "Pr", resource_uid = "Re", user_uid = "Us"}
	local j = handed{parameters = p}
	j.former = nil -- it is not known
	assert(outcome(run(j)) == "changed")
	assert(table.concat(asked.argv, " ") == "/usr/bin/sudo -n /opt/after.sh" and asked.timeout == 5)
	local input = reveal(asked.stdin)
	for _, part in ipairs{"providerRecordUid=Pr", "resourceRecordUid=Re", "userRecordUid=Us", "oldPassword= ", "uid=Us"} do
		assert(input:find(part, 1, true), part)
	end
end)

test("a status that is not 0 is a failure, and is told", function()
	for _, row in ipairs{
		{{status = 3, stdout = "one\n", stderr = "two"}, "one two the program ended with status 3"},
		{{status = -1, signal = "SIGKILL", stdout = "", stderr = ""}, "a signal ended the program: SIGKILL"},
	} do
		said, told = row[1], {}
		local answer = run(handed())
		assert(outcome(answer) == "unchanged" and reason(answer) == "program.failed")
		assert(table.concat(told, " ") == row[2], table.concat(told, " "))
	end
end)

test("it is the administrator who logs in, and out", function()
	said = {status = 0, stdout = "", stderr = ""}
	run(handed())
	assert(connected.address == "db1:5432" and connected.login == "root" and reveal(connected.secret) == "adm" and closed)
	local ok, err = pcall(run, handed{admin = false})
	assert(not ok and err.reason == "administrator.missing" and err.not_sent)
end)

test("no answer is none", function()
	said = {class = "unreachable", reason = "dial", not_sent = true, text = "no"}
	local answer, err = run(handed())
	assert(outcome(answer) == "unchanged" and reason(answer) == "dial") -- nothing was run
	said = {lost = {class = "unreachable", reason = "deadline"}}
	answer, err = run(handed())
	assert(answer == nil and err.reason == "deadline" and closed)
end)
