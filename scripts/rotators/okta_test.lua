local asked, answers = {}, {}

local function ask(o)
	asked[#asked + 1] = o
	local a = table.remove(answers, 1)
	if a.class then
		return nil, a
	end
	return {status = a[1], body = a[2] and type(a[2]) == "string" and secret(a[2]), json = function() return a[2] end}
end

mock("http", {
	request = ask,
	post = function(path, o)
		o.method, o.path = "POST", path
		return ask(o)
	end,
	path = function(part) return "/" .. part end,
})

local function change(login)
	return job{account = {login = login or "ann@example.com"}, admin = {login = "rotunda", secret = secret("00tok")}, candidate = secret("n3w")}
end

local function user(fields)
	local u = {id = "00u1", status = "ACTIVE", profile = {login = "ann@example.com"}, credentials = {provider = {type = "OKTA"}}}
	for k, v in pairs(fields or {}) do
		u[k] = v
	end
	return {200, u}
end

test("a password is set", function()
	answers = {user(), {200, {}}}
	assert(outcome(set_secret(nil, change())) == "changed")
	assert(asked[1].path == "/api/v1/users/ann@example.com" and reveal(asked[1].headers.authorization) == "SSWS 00tok")
	assert(asked[2].method == "POST" and asked[2].path == "/api/v1/users/00u1" and reveal(asked[2].body) == [[{"credentials":{"password":{"value":"n3w"}}}]])
end)

test("whose password it is not", function()
	for _, row in ipairs{
		{{404}, "account.missing"}, {user{profile = {login = "ann@other.example"}}, "account.missing"}, {user{status = "DEPROVISIONED"}, "account.disabled"},
		{user{credentials = {provider = {type = "ACTIVE_DIRECTORY"}}}, "account.external"}, {{200, {}}, "api.answer"}, {{429}, "okta.busy"}, {{401}, "admin.refused"},
	} do
		answers = {row[1]}
		local answer = set_secret(nil, change())
		assert(outcome(answer) == "unchanged" and reason(answer) == row[2], row[2])
	end
	assert(reason(set_secret(nil, change("me"))) == "account.missing" and #asked == 7)
end)

test("what Okta says of the change", function()
	for status, want in pairs{[400] = "policy.refused", [403] = "admin.rights", [429] = "okta.busy", [500] = ""} do
		answers = {user(), {status}}
		assert(reason(set_secret(nil, change())) == want)
	end
	answers = {user(), {class = "unreachable", reason = "http", not_sent = false}}
	local none, err = set_secret(nil, change())
	assert(none == nil and err.not_sent == false)
end)

test("the administrator", function()
	for _, row in ipairs{{{401}, "auth"}, {{503}, "unreachable"}} do
		answers = {row[1]}
		local ok, err = pcall(open, change())
		assert(not ok and err.class == row[2] and err.not_sent)
	end
	answers = {{200, {}}}
	open(change())
end)

test("logins", function()
	for _, row in ipairs{
		{{200, [[{"status":"SUCCESS","sessionToken":"t"}]]}, "accepted"}, {{200, [[{"status":"MFA_REQUIRED"}]]}, "accepted"},
		{{200, [[{"status":"LOCKED_OUT"}]]}, "undecided"}, {{200, "<html>"}, "undecided"}, {{401, "{}"}, "undecided"}, {{429, "{}"}, "undecided"},
	} do
		answers = {row[1]}
		assert(outcome(verify(change())) == row[2], row[2])
	end
	assert(asked[1].path == "/api/v1/authn" and asked[1].secret and reveal(asked[1].body) == [[{"password":"n3w","username":"ann@example.com"}]])
end)

test("why a login was refused", function()
	for _, row in ipairs{
		{user(), "undecided", "not_judged"}, {user{status = "LOCKED_OUT"}, "undecided", "locked"}, {user{status = "SUSPENDED"}, "undecided", "disabled"},
		{user{status = "PASSWORD_EXPIRED"}, "undecided", "not_judged"}, {user{profile = {login = "ann@other.example"}}, "undecided", "not_judged"},
		{{404, {errorCode = "E0000007", errorSummary = "Not found: Resource not found: ann@example.com (User)"}}, "rejected", "bad_secret"},
		{{404}, "undecided", "not_judged"}, {{404, {error = "no such route"}}, "undecided", "not_judged"}, {{429}, "undecided", "not_judged"},
	} do
		answers = {row[1]}
		local answer = judge(nil, change())
		assert(outcome(answer) == row[2] and reason(answer) == row[3], row[3])
	end
	assert(asked[1].path == "/api/v1/users/ann@example.com" and reveal(asked[1].headers.authorization) == "SSWS 00tok")
end)
