local sent, answer = {}, {status = 200}

mock("http", {post = function(url, o)
	sent[#sent + 1] = {url = url, json = o.json}
	if answer.class then
		return nil, answer
	end
	return answer
end})

local function with(format, text)
	return job{
		account = {login = "app<1>"}, resource = {address = "db.example.com:5432"}, run = {id = "run-1", time = 86400},
		parameters = {url = "https://hooks.example.com/T1/x", format = format, text = text},
	}
end

test("Slack", function()
	assert(outcome(run(with("slack"))) == "changed")
	assert(sent[1].url == "https://hooks.example.com/T1/x")
	assert(sent[1].json.text == "The secret of app&lt;1&gt; on db.example.com:5432 was changed.")
end)

test("Teams", function()
	answer = {status = 202}
	assert(outcome(run(with("teams", "{{login}} {{run}}"))) == "changed")
	local card = sent[1].json.attachments[1]
	assert(card.contentType == "application/vnd.microsoft.card.adaptive" and card.content.body[1].text == "app<1> run-1")
end)

test("any other", function()
	assert(outcome(run(with())) == "changed")
	local said = sent[1].json
	assert(said.login == "app<1>" and said.resource == "db.example.com:5432" and said.run == "run-1" and said.time == "1970-01-02T00:00:00Z")
end)

test("what is not taken", function()
	answer = {status = 404}
	assert(reason(run(with("slack"))) == "webhook.refused")
	answer = {status = 503}
	assert(outcome(run(with("slack"))) == "unknown")
	answer = {class = "unreachable", reason = "http"}
	local none, err = run(with("slack"))
	assert(none == nil and err.class == "unreachable")
end)
