-- What RabbitMQ 3.10 answered, and what must not be taken for an answer.
local said, asked = {}, {}

mock("http", {
	request = function(o)
		asked[#asked + 1] = o
		local answer = table.remove(said, 1)
		if answer.class then
			return nil, answer
		end
		return {status = answer[1], json = function() return answer[2] end}
	end,
	path = function(name) return "/" .. name:gsub("[^%w]", function(c) return string.format("%%%02X", c:byte()) end) end,
})

local function change(login)
	return job{account = {login = login}, admin = {login = "rotunda", secret = secret("adm")}, candidate = secret("n\"ew")}
end

test("a user's tags are written back", function()
	said = {{200, {name = "orders", tags = {"monitoring", "of-our-own"}}}, {204}}
	assert(outcome(set_secret(nil, change("orders"))) == "changed")
	assert(asked[1].method == "GET" and asked[1].path == "/api/users/orders" and asked[1].basic.user == "rotunda")
	assert(asked[2].method == "PUT" and reveal(asked[2].body) == [[{"password":"n\"ew","tags":["monitoring","of-our-own"]}]])
end)

test("of no tags, of tags as words", function()
	said = {{200, {tags = {}}}, {204}, {200, {tags = "management"}}, {204}}
	assert(outcome(set_secret(nil, change("orders"))) == "changed")
	assert(reveal(asked[2].body) == [[{"password":"n\"ew","tags":""}]])
	assert(outcome(set_secret(nil, change("orders"))) == "changed")
	assert(reveal(asked[4].body) == [[{"password":"n\"ew","tags":"management"}]])
end)

test("nobody is made", function()
	said = {{404}}
	local answer = set_secret(nil, change("nobody"))
	assert(outcome(answer) == "unchanged" and reason(answer) == "account.missing" and #asked == 1)
	assert(reason(set_secret(nil, change(".."))) == "account.missing" and #asked == 1)
end)

test("a name is one part of the path", function()
	said = {{404}}
	set_secret(nil, change("a/../b"))
	assert(asked[1].path == "/api/users/a%2F%2E%2E%2Fb")
end)

test("what the API says of a change", function()
	for _, row in ipairs{
		{{400, {reason = "password too short"}}, "unchanged", "policy.refused"},
		{{401, {reason = "Login failed"}}, "unchanged", "admin.refused"},
		{{401, {reason = "Not administrator user"}}, "unchanged", "admin.rights"},
		{{403}, "unchanged", "admin.rights"},
		{{500}, "unknown", ""},
		{{302}, "unknown", ""},
	} do
		said = {{200, {tags = {}}}, row[1]}
		local answer = set_secret(nil, change("orders"))
		assert(outcome(answer) == row[2] and reason(answer) == row[3], row[1][1])
	end
end)

test("an answer that names no user changes nothing", function()
	said = {{200, "<html>"}}
	assert(reason(set_secret(nil, change("orders"))) == "api.answer" and #asked == 1)
end)

test("a question that gets no answer changed nothing, a change may have", function()
	said = {{class = "unreachable", reason = "http", not_sent = false}}
	local _, err = set_secret(nil, change("orders"))
	assert(err.not_sent == true)
	said = {{200, {tags = {}}}, {class = "unreachable", reason = "http", not_sent = false}}
	_, err = set_secret(nil, change("orders"))
	assert(err.not_sent == false)
end)

test("bytes that are no text are refused before anything is sent", function()
	said = {{200, {tags = {}}}}
	local j = change("orders")
	j.candidate = secret("\255\195")
	assert(reason(set_secret(nil, j)) == "policy.charset" and #asked == 1)
end)

test("logins", function()
	for _, row in ipairs{
		{{200, {name = "orders"}}, "accepted", ""},
		{{401, {reason = "Not management user"}}, "accepted", ""},
		{{401, {reason = "Login failed"}}, "rejected", "bad_secret"},
		{{401, {reason = "User can only log in via localhost"}}, "undecided", "no_login"},
		{{401, "<html>"}, "undecided", "no_login"},
		{{503}, "undecided", "api.status"},
	} do
		said = {row[1]}
		local answer = verify(job{account = {login = "orders"}, candidate = secret("x")})
		assert(outcome(answer) == row[2] and reason(answer) == row[3], row[3])
	end
end)

test("the administrator", function()
	for _, row in ipairs{
		{{401, {reason = "Login failed"}}, "auth"}, {{401, {reason = "Not management user"}}, "permission"}, {{502}, "unreachable"},
	} do
		said = {row[1]}
		local ok, err = pcall(open, change(""))
		assert(not ok and err.class == row[2] and err.not_sent, row[2])
	end
	said = {{200, {name = "rotunda"}}}
	open(change(""))
end)
