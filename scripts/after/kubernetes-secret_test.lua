local asked, answers = {}, {}

local function answered(what)
	return function(o)
		asked[#asked + 1] = {what = what, o = o}
		local bad = table.remove(answers, 1)
		if bad then
			return nil, bad
		end
		return true
	end
end

mock("kube", {set_secret = answered("set_secret"), restart = answered("restart")})

local function change(parameters)
	parameters.name = parameters.name or "app"
	return job{
		account = {login = "app"}, secret = secret("n3w"), run = {id = "r1", time = 7}, parameters = parameters,
		records = {cluster = {address = "kube.example.com:6443", secret = secret("t0ken")}},
	}
end

test("a Secret, and who reads it", function()
	assert(outcome(run(change{login_key = "user", restart = {"deployment/web", "daemonset/agent"}})) == "changed")
	local o = asked[1].o
	assert(o.address == "kube.example.com:6443" and reveal(o.token) == "t0ken" and o.namespace == "default" and o.name == "app")
	assert(reveal(o.values.password) == "n3w" and o.values.user == "app")
	for n, want in ipairs{"deployments web", "daemonsets agent"} do
		o = asked[n + 1].o
		assert(o.kind .. " " .. o.name == want and reveal(o.token) == "t0ken" and o.time == 7)
	end
end)

test("what the API says", function()
	for reason_of, want in pairs{["kube.unauthorized"] = "admin.refused", ["kube.forbidden"] = "admin.rights", ["kube.missing"] = "object.missing", ["kube.refused"] = "kube.refused"} do
		answers = {{class = "conflict", reason = reason_of, not_sent = true, text = "no"}}
		assert(reason(run(change{restart = {"deployment/web"}})) == want)
	end
	answers = {{class = "unreachable", reason = "http", text = "no answer"}}
	local none, err = run(change{})
	assert(none == nil and err.class == "unreachable" and #asked == 5)
end)

test("a workload that is not restarted", function()
	answers = {false, {class = "not_found", reason = "kube.missing", not_sent = true, text = "no"}}
	assert(outcome(run(change{restart = {"deployment/web"}})) == "unknown")
end)

test("names", function()
	for _, bad in ipairs{{name = "../x"}, {name = "UP"}, {name = "a", namespace = "a/b"}, {name = "a", restart = {"pod/x"}}} do
		assert(not pcall(change, bad))
	end
end)
