local asked, fails

mock("sql", {connect = function(o)
	assert(o.kind == "postgres" and o.login == "root" and reveal(o.secret) == "r")
	return {
		close = function() end,
		query = function(_, ...)
			asked = {o.database, ...}
			if fails then
				return nil, fails
			end
			return {{pg_notify = ""}}
		end,
	}
end})

local function change(parameters)
	return job{account = {login = "app"}, admin = {login = "root", secret = secret("r")}, run = {id = "r1"}, parameters = parameters}
end

test("who listens is told", function()
	assert(outcome(run(change())) == "changed")
	assert(asked[1] == "postgres" and asked[2] == "select pg_notify($1, $2)" and asked[3] == "rotunda")
	assert(asked[4] == [[{"event":"secret.changed","login":"app","run":"r1"}]])
end)

test("an error is the run's", function()
	fails = {class = "unreachable", reason = "connection"}
	local ok, err = pcall(run, change{channel = "secrets", database = "app"})
	assert(not ok and err.class == "unreachable" and asked[1] == "app" and asked[3] == "secrets")
end)

test("a channel that is no name", function()
	assert(not pcall(change, {channel = "a b"}))
end)
