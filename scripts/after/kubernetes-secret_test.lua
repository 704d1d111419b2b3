local asked, statuses = {}, {}

mock("http", {
	patch = function(path, o)
		asked[#asked + 1] = {path = path, o = o}
		local s = table.remove(statuses, 1)
		if type(s) == "table" then
			return nil, s
		end
		return {status = s}
	end,
	path = function(...) return "/" .. table.concat({...}, "/") end,
})

local function change(parameters)
	parameters.name = parameters.name or "app"
	return job{
		account = {login = "app"}, secret = secret("n3w"), run = {id = "r1", time = 0}, parameters = parameters,
		records = {cluster = {address = "kube.example.com:6443", secret = secret("t0ken")}},
	}
end

local function body(n)
	return type(asked[n].o.body) == "userdata" and reveal(asked[n].o.body) or asked[n].o.body
end

test("a Secret, and who reads it", function()
	statuses = {200, 200, 200}
	assert(outcome(run(change{login_key = "user", restart = {"deployment/web", "daemonset/agent"}})) == "changed")
	assert(asked[1].path == "/api/v1/namespaces/default/secrets/app" and body(1) == [[{"data":{"password":"bjN3","user":"YXBw"}}]])
	assert(asked[1].o.address == "kube.example.com:6443" and reveal(asked[1].o.bearer) == "t0ken" and asked[1].o.headers["content-type"] == "application/merge-patch+json")
	assert(asked[2].path == "/apis/apps/v1/namespaces/default/deployments/web" and asked[3].path == "/apis/apps/v1/namespaces/default/daemonsets/agent")
	assert(body(2) == [[{"spec":{"template":{"metadata":{"annotations":{"rotunda.dev/changed":"1970-01-01T00:00:00Z"}}}}}]])
end)

test("what the API says", function()
	for status, want in pairs{[401] = "admin.refused", [403] = "admin.rights", [404] = "object.missing", [422] = "object.refused", [500] = ""} do
		statuses = {status}
		assert(reason(run(change{restart = {"deployment/web"}})) == want)
	end
	statuses = {{class = "unreachable", reason = "http"}}
	local none, err = run(change{})
	assert(none == nil and err.class == "unreachable" and #asked == 6)
end)

test("a workload that is not restarted", function()
	statuses = {200, 404}
	assert(outcome(run(change{restart = {"deployment/web"}})) == "unknown")
end)

test("names", function()
	for _, bad in ipairs{{name = "../x"}, {name = "UP"}, {name = "a", namespace = "a/b"}, {name = "a", restart = {"pod/x"}}} do
		assert(not pcall(change, bad))
	end
end)
