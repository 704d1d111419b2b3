local asked, answer

mock("http", {
	put = function(url, o)
		asked = {url = url, o = o}
		if answer.class then
			return nil, answer
		end
		return answer
	end,
	path = function(part) return "/" .. part:gsub("/", "%%2F") end,
})

local function change(parameters)
	parameters.id, parameters.key = parameters.id or "team/app", "DB_PASSWORD"
	return job{secret = secret("n3w"), records = {token = {secret = secret("glpat-1")}}, parameters = parameters}
end

test("a variable is written", function()
	answer = {status = 200}
	assert(outcome(run(change{scope = "production"})) == "changed")
	assert(asked.url == "https://gitlab.com/api/v4/projects/team%2Fapp/variables/DB_PASSWORD" and asked.o.query["filter[environment_scope]"] == "production")
	assert(reveal(asked.o.form.value) == "n3w" and reveal(asked.o.headers["private-token"]) == "glpat-1" and asked.o.secret)
	run(change{gitlab = "https://git.example.com/", kind = "groups", id = "7"})
	assert(asked.url == "https://git.example.com/api/v4/groups/7/variables/DB_PASSWORD")
end)

test("what GitLab says", function()
	for status, want in pairs{[400] = "gitlab.refused", [401] = "gitlab.token", [403] = "gitlab.rights", [404] = "gitlab.missing", [500] = ""} do
		answer = {status = status}
		assert(reason(run(change{})) == want)
	end
	answer = {class = "unreachable", reason = "http"}
	local none, err = run(change{})
	assert(none == nil and err.class == "unreachable")
end)
