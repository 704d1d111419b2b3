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
	path = function(part) return "/" .. part:gsub(":", "%%3A") end,
})

local function change()
	return job{account = {login = "ann"}, admin = {login = "adm", secret = secret("a")}, candidate = secret("n3w")}
end

local ANN = [[{"_id":"org.couchdb.user:ann","_rev":"3-abc","name":"ann","roles":[],"type":"user","derived_key":"x","salt":"y","iterations":10,"password_scheme":"pbkdf2","team":"ours"}]]

test("a password is set, and all else stays", function()
	answers = {{200, ANN}, {201}}
	assert(outcome(set_secret(nil, change())) == "changed")
	assert(asked[1].path == "/_users/org.couchdb.user%3Aann" and asked[2].method == "PUT")
	assert(reveal(asked[2].body) == [[{"_id":"org.couchdb.user:ann","_rev":"3-abc","name":"ann","password":"n3w","roles":[],"team":"ours","type":"user"}]])
end)

test("a clear refusal is believed, and no other", function()
	for status, want in pairs{[401] = "admin.refused", [403] = "admin.rights", [404] = "account.missing", [409] = "account.changed", [400] = "policy.refused", [500] = ""} do
		answers = {{200, ANN}, {status}}
		assert(reason(set_secret(nil, change())) == want)
	end
	answers = {{404}}
	assert(reason(set_secret(nil, change())) == "account.missing")
	answers = {{200, "[]"}}
	assert(reason(set_secret(nil, change())) == "couchdb.answer")
end)

test("a change without an answer may have been made, a question not", function()
	answers = {{class = "unreachable", reason = "http", not_sent = false}}
	local _, err = set_secret(nil, change())
	assert(err.not_sent)
	answers = {{200, ANN}, {class = "unreachable", reason = "http", not_sent = false}}
	_, err = set_secret(nil, change())
	assert(not err.not_sent)
end)

test("logins", function()
	for _, row in ipairs{
		{{200, [[{"ok":true,"userCtx":{"name":"ann","roles":[]}}]]}, "accepted"}, {{200, [[{"ok":true,"userCtx":{"name":null,"roles":[]}}]]}, "undecided"},
		{{401}, "rejected"}, {{403}, "undecided"}, {{503}, "undecided"},
	} do
		answers = {row[1]}
		assert(outcome(verify(change())) == row[2], row[2])
	end
end)

test("the administrator", function()
	answers = {{401}}
	local ok, err = pcall(open, change())
	assert(not ok and err.class == "auth")
	answers = {{200}}
	open(change())
end)
