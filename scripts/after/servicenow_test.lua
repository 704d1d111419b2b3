local asked, answers = {}, {}

local function ask(method)
	return function(url, o)
		asked[#asked + 1] = {method = method, url = url, o = o}
		local a = table.remove(answers, 1)
		if a.class then
			return nil, a
		end
		return {status = a[1], json = function() return a[2] end}
	end
end
mock("http", {get = ask "GET", post = ask "POST"})

local function change()
	return job{
		account = {login = "app"}, resource = {address = "db:5432"}, run = {id = "r1", time = 0},
		records = {user = {login = "rot", secret = secret("s")}}, parameters = {instance = "https://example.service-now.com/"},
	}
end

test("one record", function()
	answers = {{200, {result = {}}}, {201, {result = {sys_id = "1"}}}}
	assert(outcome(run(change())) == "changed")
	assert(asked[1].url == "https://example.service-now.com/api/now/table/change_request" and asked[1].o.query.sysparm_query == "correlation_id=rotunda-r1")
	assert(asked[2].method == "POST" and asked[2].o.json.correlation_id == "rotunda-r1" and reveal(asked[2].o.basic.secret) == "s")
end)

test("and no second one", function()
	answers = {{200, {result = {{sys_id = "1"}}}}}
	assert(outcome(run(change())) == "changed" and #asked == 1)
end)

test("what the instance says", function()
	for status, want in pairs{[401] = "servicenow.login", [403] = "servicenow.rights", [404] = "servicenow.table", [500] = ""} do
		answers = {{status}}
		assert(reason(run(change())) == want)
		answers = {{200, {result = {}}}, {status}}
		assert(reason(run(change())) == want)
	end
	answers = {{200, "<html>"}}
	assert(reason(run(change())) == "servicenow.answer")
	answers = {{200, {result = {}}}, {class = "unreachable", reason = "http"}}
	local none, err = run(change())
	assert(none == nil and err.class == "unreachable")
end)
