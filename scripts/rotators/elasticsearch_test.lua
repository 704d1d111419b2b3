local asked, answers = {}, {}

mock("http", {
	request = function(o)
		asked[#asked + 1] = o
		local a = table.remove(answers, 1)
		if a.class then
			return nil, a
		end
		return {status = a[1], body = type(a[2]) == "string" and a[2] or "", json = function() return a[2] end}
	end,
	path = function(part) return "/" .. part end,
})

local function change(login)
	return job{account = {login = login or "logs"}, admin = {login = "elastic", secret = secret("a")}, candidate = secret("n3w")}
end

local LOGS = {200, {logs = {username = "logs", enabled = true}}}

test("a password is set", function()
	answers = {LOGS, {200, {}}}
	assert(outcome(set_secret(nil, change())) == "changed")
	assert(asked[1].path == "/_security/user/logs" and asked[2].method == "POST" and asked[2].path == "/_security/user/logs/_password" and reveal(asked[2].body) == [[{"password":"n3w"}]])
end)

test("whose password it is not", function()
	for _, row in ipairs{
		{{404, {}}, "account.missing"}, {{200, {}}, "account.missing"}, {{200, {logs = {enabled = false}}}, "account.disabled"},
		{{403}, "admin.rights"}, {{401}, "admin.refused"},
	} do
		answers = {row[1]}
		assert(reason(set_secret(nil, change())) == row[2], row[2])
	end
	assert(#asked == 5)
	for _, name in ipairs{"", "..", "lo*", "a,b"} do
		assert(reason(set_secret(nil, change(name))) == "account.missing" and #asked == 5)
	end
end)

test("what Elasticsearch says of the change", function()
	for status, want in pairs{[400] = "policy.refused", [403] = "admin.rights", [503] = ""} do
		answers = {LOGS, {status}}
		assert(reason(set_secret(nil, change())) == want)
	end
	answers = {LOGS, {class = "unreachable", reason = "http", not_sent = false}}
	local none, err = set_secret(nil, change())
	assert(none == nil and err.not_sent == false)
end)

test("the administrator", function()
	for _, row in ipairs{{{401}, "auth"}, {{503}, "unreachable"}} do
		answers = {row[1]}
		local ok, err = pcall(open, change())
		assert(not ok and err.class == row[2] and err.not_sent)
	end
	answers = {{200, {username = "elastic"}}}
	open(change())
end)

test("logins", function()
	for _, row in ipairs{
		{{200, {username = "logs"}}, "accepted", ""}, {{200, {username = "_anonymous"}}, "undecided", "not_asked"}, {{401}, "undecided", "not_judged"}, {{503}, "undecided", "api.status"},
	} do
		answers = {row[1]}
		local answer = verify(change())
		assert(outcome(answer) == row[2] and reason(answer) == row[3], row[3])
	end
end)

test("why a login was refused", function()
	local off = {200, {logs = {username = "logs", enabled = false}}}
	for _, row in ipairs{
		{{LOGS, {401}, LOGS}, "rejected", "bad_secret"}, {{LOGS, {200, {username = "logs"}}}, "undecided", "not_judged"}, {{LOGS, {503}}, "undecided", "not_judged"},
		{{LOGS, {401}, off}, "undecided", "not_judged"}, {{LOGS, {401}, {503}}, "undecided", "not_judged"}, {{LOGS, {401}, {404, "{}"}}, "undecided", "not_judged"},
		{{{404, "{}"}}, "rejected", "bad_secret"}, {{{404}}, "undecided", "not_judged"}, {{{404, [[{"error":"no Route matched"}]]}}, "undecided", "not_judged"},
		{{{404, "<html>"}}, "undecided", "not_judged"}, {{off}, "undecided", "disabled"}, {{{200, {}}}, "undecided", "not_judged"},
		{{{200, {logs = {username = "logs"}}}}, "undecided", "not_judged"}, {{{403}}, "undecided", "not_judged"}, {{{503}}, "undecided", "not_judged"},
	} do
		answers = row[1]
		local answer = judge(nil, change())
		assert(outcome(answer) == row[2] and reason(answer) == row[3] and #answers == 0, row[3])
	end
	assert(asked[1].path == "/_security/user/logs" and asked[1].basic.user == "elastic")
	assert(asked[2].path == "/_security/_authenticate" and asked[2].basic.user == "logs" and reveal(asked[2].basic.secret) == "n3w")
	answers = {LOGS, {class = "unreachable", reason = "http", not_sent = true}}
	local none, err = judge(nil, change())
	assert(none == nil and err.class == "unreachable")
end)
