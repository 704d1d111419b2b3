-- A device of a few lines. What is typed is in typed; answers are given by the line.
local typed, closed, privileged, answers = {}, 0, true, {}

local function prompt(line)
	if line == "configure terminal" then
		return "R1(config)#"
	elseif line:match("^username ") then
		return "R1(config)#"
	end
	return "R1#"
end

local function device()
	local next_text, before = privileged and "R1#" or "R1>", ""
	return {
		send = function(_, line)
			line = type(line) == "userdata" and reveal(line) or line
			typed[#typed + 1] = line
			before = answers[line] or ""
			next_text = prompt(line)
			if line == "enable" then
				next_text = "Password: "
			end
			return true
		end,
		expect = function(_, patterns)
			if before == "dead" then
				return nil, {class = "unreachable", reason = "dialogue.closed", not_sent = false}
			end
			for n, p in ipairs(patterns) do
				local is = p:find("password", 1, true) and "Password: "
					or p:find("config", 1, true) and "R1(config)#"
					or p:find(">", 1, true) and "R1>" or p:find("#", 1, true) and "R1#"
				if is == next_text then
					return n, {before = before}
				end
			end
			return nil, {class = "unreachable", reason = "dialogue.timeout", not_sent = false}
		end,
	}
end

local refused, recorded
mock("ssh", {connect = function(o)
	if refused then
		return nil, {class = refused.class, reason = refused.reason, not_sent = true}
	end
	return {shell = function() return recorded or device() end, close = function() closed = closed + 1 end}
end})

local SHOW = "show running-config | include ^username bob "

local function change(password, parameters)
	answers[SHOW] = answers[SHOW] or "username bob privilege 1 secret 9 $9$xyz\n"
	answers["write memory"] = answers["write memory"] or "Building configuration...\n[OK]\n"
	return job{
		account = {login = "bob"}, admin = {login = "adm", secret = secret("a")}, extras = {enable = secret("en")},
		candidate = secret(password or "n3w"), parameters = parameters,
	}
end

test("a secret is set and saved", function()
	local j = change()
	local s = open(j)
	assert(outcome(set_secret(s, j)) == "changed")
	assert(table.concat(typed, "|") == "terminal length 0|" .. SHOW .. "|configure terminal|username bob algorithm-type scrypt secret n3w|end|write memory")
	close(s)
	assert(closed == 1)
end)

test("as a device said it", function()
	recorded = dialogue{
		"\r\nR1>", "enable",
		"\r\nPassword: ", "en",
		"\r\nR1#", "terminal length 0",
		"\r\nR1#", SHOW,
		"\r\nusername bob privilege 1 secret 9 $9$xyz\r\n\r\nR1#", "configure terminal",
		"\r\nEnter configuration commands, one per line.  End with CNTL/Z.\r\nR1(config)#", "username bob algorithm-type scrypt secret n3w",
		"\r\nR1(config)#", "end",
		"\r\nR1#", "write memory",
		"\r\nBuilding configuration...\r\n[OK]\r\nR1#",
	}
	local j = change()
	assert(outcome(set_secret(open(j), j)) == "changed")
end)

test("as the device likes it, and not saved", function()
	local j = change("n3w", {algorithm = "device", save = false})
	assert(outcome(set_secret(open(j), j)) == "changed")
	assert(typed[4] == "username bob secret 0 n3w" and #typed == 5)
end)

test("one who is not privileged gives the enable secret", function()
	privileged = false
	open(change())
	assert(typed[1] == "enable" and typed[2] == "en" and typed[3] == "terminal length 0")
	local j = change()
	j.extras = {}
	local ok, err = pcall(open, j)
	assert(not ok and err.class == "permission" and err.not_sent)
end)

test("nobody is made", function()
	answers[SHOW] = "\n"
	local j = change()
	assert(reason(set_secret(open(j), j)) == "account.missing")
	assert(typed[#typed] == SHOW)
end)

test("who may not see the configuration changes nothing", function()
	answers[SHOW] = "% Invalid input detected at '^' marker.\n"
	local j = change()
	local ok, err = pcall(set_secret, open(j), j)
	assert(not ok and err.class == "permission" and err.not_sent)
end)

test("names and secrets that the command line cannot hold", function()
	local j = change("has a space")
	local s = open(j)
	assert(reason(set_secret(s, j)) == "policy.charset")
	for _, bad in ipairs{"wh?t", "ümlaut", "line\nbreak", ""} do
		j.candidate = secret(bad)
		assert(reason(set_secret(s, j)) == "policy.charset", bad)
	end
	j = change()
	for _, bad in ipairs{"bob secret 0 x", "-bob", "", "b|o", "b$b"} do
		j.account.login = bad
		assert(reason(set_secret(s, j)) == "account.name", bad)
	end
	assert(#typed == 1)
end)

test("what the device objects to", function()
	for said, want in pairs{
		["% Password too short - must be at least 10 characters. Password configuration failed\n"] = "policy.refused",
		["% Invalid Password length - must contain 1 to 25 characters. Password configuration failed\n"] = "policy.refused",
		["                ^\n% Invalid input detected at '^' marker.\n"] = "device.refused",
		["Command authorization failed.\n\n"] = "admin.rights",
		["\r\nERROR: Can not have both a user password and a user secret.\r\nPlease choose one or the other.\r\n"] = "device.refused",
		["Command rejected: the hash is of an unknown type\r\n"] = "device.refused",
		["Command rejected: Password does not meet the policy\r\n"] = "policy.refused",
	} do
		local j = change()
		answers["username bob algorithm-type scrypt secret n3w"] = said
		local answer = set_secret(open(j), j)
		assert(outcome(answer) == "unchanged" and reason(answer) == want, said)
	end
end)

test("a name with characters that have a meaning in the device's patterns", function()
	answers["show running-config | include ^username app.user "] = "username app-user secret 9 $9$abc\r\nusername app_user privilege 1 secret 9 $9$xyz\r\n"
	local j = change()
	j.account.login = "app_user"
	assert(outcome(set_secret(open(j), j)) == "changed")
	j.account.login = "app.user"
	assert(reason(set_secret(open(j), j)) == "account.missing")
end)

test("a line of the device's log is no objection", function()
	local j = change()
	answers["username bob algorithm-type scrypt secret n3w"] = "%SYS-5-CONFIG_I: Configured from console by adm on vty0\n"
	assert(outcome(set_secret(open(j), j)) == "changed")
end)

test("what is not saved is not done", function()
	answers["write memory"] = "startup-config file open failed (Device or resource busy)\n"
	local j = change()
	assert(outcome(set_secret(open(j), j)) == "unknown")
end)

test("after a change without an answer the device is entered anew", function()
	local j = change()
	answers["username bob algorithm-type scrypt secret n3w"] = "dead"
	local s = open(j)
	local ok, err = pcall(set_secret, s, j)
	assert(not ok and err.not_sent == false)
	answers["username bob algorithm-type scrypt secret n3w"] = nil
	assert(outcome(set_secret(s, j)) == "changed" and closed == 1)
end)

test("logins", function()
	assert(outcome(verify(change())) == "accepted" and closed == 1)
	refused = {class = "auth", reason = "bad_secret"}
	assert(outcome(verify(change())) == "undecided" and reason(verify(change())) == "not_judged")
	refused = {class = "unsupported", reason = "ssh.dialogue"}
	assert(verify(change()) == nil)
	refused = {class = "unreachable", reason = "connection"}
	local answer, err = verify(change())
	assert(answer == nil and err.class == "unreachable")
end)

test("why a login was refused", function()
	local j = change()
	local s = open(j)
	for said, want in pairs{
		["aaa new-model\nusername bob privilege 1 secret 9 $9$xyz\n"] = "rejected",
		["aaa new-model\nusername bob secret 5 $1$xyz\n"] = "rejected",
		["username bob privilege 1 secret 9 $9$xyz\n"] = "undecided",
		["aaa authentication login default local\nusername bob secret 9 $9$xyz\n"] = "undecided",
		["aaa new-model\naaa authentication login default local\naaa authentication login vty line\nusername bob secret 9 $9$xyz\n"] = "undecided",
		["aaa new-model\naaa authentication login default local\nusername bob secret 9 $9$xyz\naaa session-id common\n"] = "rejected",
		["aaa new-model\naaa local authentication attempts max-fail 3\nusername bob secret 9 $9$xyz\n"] = "undecided",
		["aaa new-model\naaa authentication login default group tacacs+ local\nusername bob secret 9 $9$xyz\n"] = "undecided",
		["aaa new-model\nlogin block-for 60 attempts 3 within 60\nusername bob secret 9 $9$xyz\n"] = "undecided",
		["aaa new-model\nusername bob access-class 7\nusername bob secret 9 $9$xyz\n"] = "undecided",
		["aaa new-model\nusername bob common-criteria-policy strict secret 9 $9$xyz\n"] = "undecided",
		["aaa new-model\nusername bobby secret 9 $9$xyz\n"] = "undecided",
		["% Invalid input detected at '^' marker.\n"] = "undecided",
		["aaa new-model\n"] = "undecided",
		["\n"] = "undecided",
	} do
		answers["show running-config | include ^aaa |^login |^username bob "] = said
		assert(outcome(judge(s, j)) == want, said)
	end
	assert(closed == 0)
end)
