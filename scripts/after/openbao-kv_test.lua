local asked, answers = {}, {}

mock("http", {
	request = function(o)
		asked[#asked + 1] = o
		local a = table.remove(answers, 1)
		if type(a) == "table" then
			return nil, a
		end
		return {status = a}
	end,
	path = function(...)
		return "/" .. table.concat({...}, "/")
	end,
})

local function change(parameters)
	parameters.address, parameters.path = "https://bao.example.com:8200/", "apps/one"
	return job{
		account = {login = "app"}, secret = secret("n\"3w"), records = {token = {secret = secret("s.tok")}}, parameters = parameters,
	}
end

test("other values stay", function()
	answers = {200}
	assert(outcome(run(change{login_key = "user", namespace = "team"})) == "changed")
	local o = asked[1]
	assert(o.method == "PATCH" and o.url == "https://bao.example.com:8200/v1/secret/data/apps/one" and o.headers["content-type"] == "application/merge-patch+json")
	assert(reveal(o.body) == [[{"data":{"password":"n\"3w","user":"app"}}]] and reveal(o.headers["x-vault-token"]) == "s.tok" and o.headers["x-vault-namespace"] == "team")
end)

test("a secret that is not there is made", function()
	answers = {404, 200}
	assert(outcome(run(change{mount = "kv/apps"})) == "changed")
	assert(asked[2].method == "POST" and asked[2].url == "https://bao.example.com:8200/v1/kv/apps/data/apps/one" and asked[2].headers["x-vault-namespace"] == nil)
end)

test("what the server says", function()
	for status, want in pairs{[403] = "openbao.rights", [400] = "openbao.refused", [503] = ""} do
		answers = {status}
		assert(reason(run(change{})) == want)
	end
	answers = {404, 404}
	assert(reason(run(change{})) == "openbao.mount")
	answers = {{class = "unreachable", reason = "http"}}
	local none, err = run(change{})
	assert(none == nil and err.class == "unreachable")
end)

test("bytes that are no text are not sent", function()
	local j = change{}
	j.secret = secret("\255")
	assert(reason(run(j)) == "policy.charset" and #asked == 0)
end)
