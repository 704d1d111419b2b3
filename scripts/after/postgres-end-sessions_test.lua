local asked, fails

mock("sql", {connect = function()
	return {
		close = function() end,
		query = function(_, ...)
			asked = {...}
			if fails then
				return nil, fails
			end
			return {{pid = 7, application_name = "app", ended = true}, {pid = 8, application_name = "", ended = false}}
		end,
	}
end})

local function change(parameters)
	return job{account = {login = "app"}, admin = {login = "root", secret = secret("r")}, run = {id = "r1", time = 1700000000.25}, parameters = parameters}
end

test("sessions from before are ended", function()
	assert(outcome(run(change())) == "changed")
	assert(asked[2] == "app" and asked[3] == "1700000000.250" and asked[4] == "{}")
end)

test("but for some", function()
	run(change{keep = {"backup", [[a"b\c]]}})
	assert(asked[4] == [[{"backup","a\"b\\c"}]], asked[4])
end)

test("an administrator without the right ends none", function()
	fails = {class = "permission", reason = "sql.permission"}
	local ok, err = pcall(run, change())
	assert(not ok and err.class == "permission")
end)
