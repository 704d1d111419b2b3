local sent, answer

mock("http", {post = function(url, o)
	sent = {url = url, json = o.json}
	if answer.class then
		return nil, answer
	end
	return answer
end})

local function change()
	return job{
		account = {login = "app"}, resource = {address = "db:5432"}, run = {id = "run-1", time = 0},
		records = {integration = {secret = secret("r0uting-key")}},
	}
end

test("a change event", function()
	answer = {status = 202}
	assert(outcome(run(change())) == "changed")
	assert(sent.url == "https://events.pagerduty.com/v2/change/enqueue" and reveal(sent.json.routing_key) == "r0uting-key")
	assert(sent.json.payload.summary == "The secret of app on db:5432 was changed" and sent.json.payload.timestamp == "1970-01-01T00:00:00Z")
end)

test("what is not taken", function()
	for status, want in pairs{[400] = "pagerduty.refused", [429] = "pagerduty.busy", [500] = ""} do
		answer = {status = status}
		assert(reason(run(change())) == want)
	end
	answer = {class = "unreachable", reason = "http"}
	local none, err = run(change())
	assert(none == nil and err.class == "unreachable")
end)
