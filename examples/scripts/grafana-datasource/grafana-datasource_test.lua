local asked, answers = {}, {}

mock("http", {
	request = function(o)
		asked[#asked + 1] = o
		local a = table.remove(answers, 1)
		if a.class then
			return nil, a
		end
		return {status = a[1], body = a[2] or ""}
	end,
	path = function(part) return "/" .. part:gsub(" ", "%%20") end,
})

local function change()
	return job{
		secret = secret("n3w"), parameters = {source = "The DB"},
		records = {grafana = {address = "grafana.example.com:443", secret = secret("glsa_1")}},
	}
end

local SOURCE = [[{"id":1,"uid":"abc","name":"The DB","type":"postgres","user":"app","jsonData":{"tags":[]},"secureJsonFields":{"password":true},"version":4,"readOnly":false}]]

test("the source gets the new secret, and all else stays", function()
	answers = {{200, SOURCE}, {200}}
	assert(outcome(run(change())) == "changed")
	assert(asked[1].path == "/api/datasources/name/The%20DB" and asked[1].address == "grafana.example.com:443" and reveal(asked[1].bearer) == "glsa_1")
	assert(asked[2].path == "/api/datasources/uid/abc")
	assert(reveal(asked[2].body) == [[{"id":1,"jsonData":{"tags":[]},"name":"The DB","readOnly":false,"secureJsonData":{"password":"n3w"},"type":"postgres","uid":"abc","user":"app","version":4}]])
end)

test("what Grafana says", function()
	for status, want in pairs{[404] = "grafana.source", [401] = "grafana.rights"} do
		answers = {{status}}
		assert(reason(run(change())) == want)
	end
	for status, want in pairs{[409] = "grafana.changed", [403] = "grafana.rights", [500] = ""} do
		answers = {{200, SOURCE}, {status}}
		assert(reason(run(change())) == want)
	end
	answers = {{200, (SOURCE:gsub('"readOnly":false', '"readOnly":true'))}}
	assert(reason(run(change())) == "grafana.provisioned")
	answers = {{200, "[]"}}
	assert(reason(run(change())) == "grafana.answer")
	answers = {{200, SOURCE}, {class = "unreachable", reason = "http"}}
	local none, err = run(change())
	assert(none == nil and err.class == "unreachable")
end)
