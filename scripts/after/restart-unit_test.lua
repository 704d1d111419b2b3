-- A host on which commands answer in turn.
local commands, answers, refused = {}, {}, nil

mock("ssh", {connect = function(o)
	if refused then
		return nil, refused
	end
	assert(o.login == "root")
	return {run = function(_, r)
		commands[#commands + 1] = table.concat(r.argv, " ")
		local a = table.remove(answers, 1)
		return {status = a[1], stdout = a[2] or "", stderr = a[3] or ""}
	end}
end})
mock("time", {sleep = function() end})

local function unit(parameters)
	parameters.unit = parameters.unit or "app@one.service"
	return job{records = {host = {address = "web1:22", login = "root", secret = secret("r")}}, parameters = parameters}
end

test("a unit is restarted, and runs", function()
	answers = {{0}, {3, "activating\n"}, {0, "active\n"}}
	assert(outcome(run(unit{})) == "changed")
	assert(commands[1] == "systemctl --no-ask-password restart -- app@one.service")
	assert(commands[3] == "systemctl is-active -- app@one.service")
end)

test("by sudo", function()
	answers = {{0}, {0, "active\n"}}
	assert(outcome(run(unit{sudo = true, action = "reload"})) == "changed")
	assert(commands[1] == "sudo -n systemctl --no-ask-password reload -- app@one.service")
end)

test("a unit that stands still is left so, if that is what was asked for", function()
	answers = {{0}, {3, "inactive\n"}, {0}, {3, "inactive\n"}}
	assert(outcome(run(unit{action = "try-restart"})) == "changed")
	assert(reason(run(unit{wait = 0})) == "unit.not_running")
end)

test("what does not start is not done", function()
	answers = {{0}, {3, "failed\n"}, {0}, {0, "activating"}, {0, "activating"}}
	assert(reason(run(unit{})) == "unit.not_running")
	assert(reason(run(unit{wait = 1})) == "unit.not_running" and #answers == 0)
end)

test("what systemctl refuses", function()
	answers = {{5, "", "Unit app.service not found.\n"}, {1, "", "no"}}
	assert(reason(run(unit{})) == "unit.restart")
	assert(reason(run(unit{action = "reload-or-restart"})) == "unit.reload_or_restart")
end)

test("a name that would be an option is none", function()
	assert(not pcall(unit, {unit = "--force"}))
	assert(not pcall(unit, {unit = "a b"}))
end)

test("a host that is not reached", function()
	refused = {class = "unreachable", reason = "connection", not_sent = true, text = "no"}
	local answer = run(unit{})
	assert(outcome(answer) == "unchanged" and reason(answer) == "connection")
end)
