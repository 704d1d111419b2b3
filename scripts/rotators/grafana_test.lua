local asked, answers = {}, {}

mock("http", {
	request = function(o)
		asked[#asked + 1] = o
		local a = table.remove(answers, 1)
		if a.class then
			return nil, a
		end
		return {status = a[1], json = function() return a[2] end}
	end,
	path = function(part) return "/" .. part end,
})

local function change(login)
	return job{account = {login = login or "ann"}, admin = {login = "admin", secret = secret("a")}, candidate = secret("n3w")}
end

local ANN = {200, {id = 7, login = "ann"}}

test("a password is set", function()
	answers = {ANN, {200}}
	assert(outcome(set_secret(nil, change())) == "changed")
	assert(asked[1].path == "/api/users/lookup" and asked[1].query.loginOrEmail == "ann" and asked[1].basic.user == "admin")
	assert(asked[2].method == "PUT" and asked[2].path == "/api/admin/users/7/password" and reveal(asked[2].body) == [[{"password":"n3w"}]])
end)

test("whose password it is not", function()
	for _, row in ipairs{
		{{404}, "account.missing"}, {{200, {id = 7, login = "other"}}, "account.missing"}, {{200, {id = 7, login = "ann", isExternal = true}}, "account.external"},
		{{200, {id = 7, login = "ann", isDisabled = true}}, "account.disabled"}, {{200, "<html>"}, "api.answer"}, {{403}, "admin.rights"}, {{401}, "admin.refused"},
	} do
		answers = {row[1]}
		local answer = set_secret(nil, change())
		assert(outcome(answer) == "unchanged" and reason(answer) == row[2], row[2])
	end
	assert(#asked == 7)
end)

test("what Grafana says of the change", function()
	for status, want in pairs{[400] = "policy.refused", [403] = "admin.rights", [404] = "account.missing", [500] = ""} do
		answers = {ANN, {status}}
		assert(reason(set_secret(nil, change())) == want)
	end
	answers = {ANN, {class = "unreachable", reason = "http", not_sent = false}}
	local none, err = set_secret(nil, change())
	assert(none == nil and err.not_sent == false)
end)

test("the administrator", function()
	for _, row in ipairs{{{401}, "auth"}, {{200, {isGrafanaAdmin = false}}, "permission"}, {{502}, "unreachable"}} do
		answers = {row[1]}
		local ok, err = pcall(open, change())
		assert(not ok and err.class == row[2] and err.not_sent)
	end
	answers = {{200, {isGrafanaAdmin = true}}}
	open(change())
end)

test("logins", function()
	for status, want in pairs{[200] = "accepted", [401] = "undecided", [500] = "undecided", [302] = "undecided"} do
		answers = {{status}}
		assert(outcome(verify(change())) == want)
	end
	assert(not pcall(verify, change("a:b")))
end)

test("why a login was refused", function()
	local function settings(protection, basic)
		return {200, {security = {disable_brute_force_login_protection = protection}, ["auth.basic"] = {enabled = basic}}}
	end
	for _, row in ipairs{
		{{ANN, settings("true", "true")}, "rejected", "bad_secret"}, {{ANN, settings("false", "true")}, "undecided", "not_judged"},
		{{ANN, settings("true", "false")}, "undecided", "not_judged"}, {{ANN, {200, {}}}, "undecided", "not_judged"}, {{ANN, {403}}, "undecided", "not_judged"},
		{{{404, {message = "user not found", messageId = "user.not-found", statusCode = 404}}}, "rejected", "bad_secret"},
		{{{404, {message = "User not found"}}}, "rejected", "bad_secret"}, {{{404}}, "undecided", "not_judged"},
		{{{404, {message = "Not found"}}}, "undecided", "not_judged"}, {{{404, "404 page not found"}}, "undecided", "not_judged"}, {{{200, {id = 7, login = "ann", isDisabled = true}}}, "undecided", "disabled"},
		{{{200, {id = 7, login = "ann", isExternal = true}}}, "undecided", "not_judged"}, {{{200, {id = 7, login = "other"}}}, "undecided", "not_judged"},
		{{{500}}, "undecided", "not_judged"},
	} do
		answers = row[1]
		local answer = judge(nil, change())
		assert(outcome(answer) == row[2] and reason(answer) == row[3], row[3])
	end
	assert(asked[2].path == "/api/admin/settings" and asked[2].basic.user == "admin")
end)
