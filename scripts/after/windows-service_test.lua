local asked, answer, refused

mock("winrm", {powershell = function(o)
	asked = o
	if refused then
		return nil, refused
	end
	return answer
end})

local function service(parameters)
	parameters.service = parameters.service or "AppPool$1"
	return job{account = {login = "CORP\\svc-app"}, secret = secret("n3w"), records = {host = {address = "win1:5986", login = "CORP\\ops", secret = secret("r")}}, parameters = parameters}
end

test("a service gets the secret on standard input, and is restarted", function()
	answer = {status = 0, stdout = "done\r\n", stderr = ""}
	assert(outcome(run(service{})) == "changed")
	assert(asked.login == "CORP\\ops" and asked.auth == "ntlm" and reveal(asked.stdin) == "bjN3")
	assert(asked.script:find("-Filter 'Name=''AppPool$1'''", 1, true) and asked.script:find("Restart-Service -Name 'AppPool$1' -Force", 1, true) and asked.script:find("-ne 'svc-app')", 1, true))
	assert(not asked.script:find("n3w", 1, true))
end)

test("not restarted", function()
	answer = {status = 0, stdout = "done", stderr = ""}
	assert(outcome(run(service{restart = false})) == "changed")
	assert(not asked.script:find("Restart-Service", 1, true))
end)

test("what the host answers", function()
	for said, want in pairs{
		["3 missing"] = "unchanged service.missing",
		["4 2"] = "unchanged service.refused",
		["4 22"] = "unchanged service.refused",
		["4 7"] = "unknown ",
		["5 other"] = "unchanged service.other_user",
		["1 "] = "unknown ",
		["0 "] = "unknown ",
	} do
		answer = {status = tonumber(said:sub(1, 1)), stdout = said:sub(3), stderr = "an error"}
		local got = run(service{})
		assert(outcome(got) .. " " .. (reason(got) or "") == want, said)
	end
end)

test("a host that is not reached, and one that breaks off", function()
	refused = {class = "auth", reason = "bad_secret", not_sent = true, text = "the host refused the login"}
	assert(reason(run(service{})) == "bad_secret")
	refused = {class = "unreachable", reason = "deadline", not_sent = false, text = "no answer"}
	assert(outcome(run(service{})) == "unknown")
end)

test("as whom it runs", function()
	answer = {status = 0, stdout = "done", stderr = ""}
	for login, user in pairs{["svc@corp.example"] = "svc", [".\\svc"] = "svc", svc = "svc"} do
		local j = service{}
		j.account.login = login
		assert(outcome(run(j)) == "changed" and asked.script:find("-ne '" .. user .. "')", 1, true))
	end
	local j = service{}
	j.account.login = "cn=svc,dc=corp,dc=example"
	assert(reason(run(j)) == "service.user")
	j = service{user = "svc"}
	j.account.login = "cn=svc,dc=corp,dc=example"
	assert(outcome(run(j)) == "changed")
end)

test("a name that would end its quotes", function()
	local ok = pcall(service, {service = "a' ; Stop-Computer '"})
	assert(not ok)
end)
