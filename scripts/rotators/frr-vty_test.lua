-- A daemon of a few lines: what is typed is in typed.
local typed, state, password, enabled, saves, objects = {}, "login", "f1rst", "en4ble", true, ""

mock("telnet", {connect = function()
	local says, before = {login = "Password: ", none = "Vty password is not set."}, ""
	local now = state
	local prompts = {login = "Password: ", user = "r1> ", asks = "Password: ", exec = "r1# ", config = "r1(config)# ", over = "% Bad passwords", none = says.none}
	return {
		close = function() end,
		send = function(_, line)
			line = type(line) == "userdata" and reveal(line) or line
			typed[#typed + 1] = line
			before = ""
			if now == "login" then
				now = line == password and "user" or "over"
			elseif now == "user" and line == "enable" then
				now = enabled and "asks" or "exec"
			elseif now == "asks" then
				now = line == enabled and "exec" or "asks"
			elseif line == "configure terminal" then
				now = "config"
			elseif line == "end" then
				now = "exec"
			elseif line == "write memory" then
				before = saves and "Configuration saved to /etc/frr/ripd.conf\n" or "Can't open configuration file\n"
			elseif line:match("^password ") then
				before = objects
			end
			return true
		end,
		expect = function(_, patterns)
			local want = {["(?m)^[\\w.-]+> \\z"] = "r1> ", ["(?m)^[\\w.-]+# \\z"] = "r1# ", ["(?m)^[\\w.-]+\\(config\\)# \\z"] = "r1(config)# ", ["(?m)^Password: \\z"] = "Password: "}
			for n, p in ipairs(patterns) do
				if want[p] == prompts[now] or prompts[now]:find(p, 1, true) then
					return n, {before = before}
				end
			end
			return nil, {class = "unreachable", reason = "dialogue.timeout", not_sent = false}
		end,
	}
end})

local function change(candidate)
	return job{
		account = {login = "vty"}, admin = {login = "vty", secret = secret("f1rst")}, extras = {enable = secret("en4ble")},
		candidate = secret(candidate or "n3w"), self = true,
	}
end

test("a password is set and saved", function()
	local j = change()
	assert(outcome(set_secret(open(j), j)) == "changed")
	assert(table.concat(typed, "|") == "f1rst|enable|en4ble|configure terminal|password n3w|end|write memory")
end)

test("a daemon without an enable password", function()
	enabled = nil
	local j = change()
	j.extras = {}
	assert(outcome(set_secret(open(j), j)) == "changed")
	assert(typed[3] == "configure terminal")
end)

test("who is not let in, or not further", function()
	for _, row in ipairs{
		{function(j) j.admin.secret = secret("wrong") end, "auth"},
		{function(j) j.extras = {} end, "permission"},
		{function(j) j.extras.enable = secret("wrong") end, "permission"},
		{function() state = "none" end, "unsupported"},
		{function() state = "exec" end, "unsupported"},
	} do
		local j = change()
		row[1](j)
		local ok, err = pcall(open, j)
		assert(not ok and err.class == row[2] and err.not_sent, row[2])
	end
end)

test("passwords that the command line cannot hold", function()
	local j = change()
	local s = open(j)
	for _, bad in ipairs{"", "_begins", "wh?t", "a|b", "a b", "\228", "a\nb"} do
		j.candidate = secret(bad)
		assert(reason(set_secret(s, j)) == "policy.charset", bad)
	end
	assert(#typed == 3)
end)

test("another account is none", function()
	local j = change()
	j.account.login = "root"
	assert(reason(set_secret(open(j), j)) == "account.missing")
end)

test("what the daemon objects to, and what is not saved", function()
	local j = change()
	objects = "Please specify string starting with alphanumeric\n"
	assert(reason(set_secret(open(j), j)) == "policy.refused")
	objects = "% [RIP] Unknown command: password n3w\n"
	assert(reason(set_secret(open(j), j)) == "device.refused")
	objects, saves = "", false
	assert(outcome(set_secret(open(j), j)) == "unknown")
end)

test("logins", function()
	local j = change("f1rst")
	assert(outcome(verify(j)) == "accepted")
	j.candidate = secret("wrong")
	assert(outcome(verify(j)) == "rejected")
	state = "exec"
	local ok, err = pcall(verify, j)
	assert(not ok and err.reason == "not_asked")
end)
