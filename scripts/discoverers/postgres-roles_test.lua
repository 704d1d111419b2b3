local asked, rows

mock("sql", {connect = function(options)
	asked = {kind = options.kind, login = options.login, secret = reveal(options.secret)}
	if not rows then
		return nil, {class = "unreachable", reason = "sql", not_sent = true}
	end
	return {
		close = function() asked.closed = true end,
		query = function(_, _, like)
			asked.like = like
			if rows == "refused" then
				return nil, {class = "permission", reason = "sql.permission"}
			end
			return rows
		end,
	}
end})

local function work(parameters)
	return job{admin = {login = "root", secret = secret("r")}, parameters = parameters}
end

test("roles, with what is so of them", function()
	rows = {
		{rolname = "app", rolsuper = false, rolreplication = false, rolcreaterole = false, sessions = 3, member_of = "readers"},
		{rolname = "root", rolsuper = true, rolreplication = true, rolcreaterole = true, sessions = 0, valid_until = "infinity"},
	}
	local found = discover(work())
	assert(asked.kind == "postgres" and asked.login == "root" and asked.secret == "r" and asked.like == "%" and asked.closed)
	assert(#found == 2 and found[1].login == "app" and found[2].login == "root")
	local app, root = found[1].facts, found[2].facts
	assert(app.sessions == 3 and app.member_of == "readers" and app.superuser == nil and app.valid_until == nil)
	assert(root.superuser and root.replication and root.createrole and root.valid_until == "infinity" and root.sessions == nil)
end)

test("of some names", function()
	rows = {}
	assert(#discover(work{like = "app_%"}) == 0 and asked.like == "app_%")
end)

test("what cannot be seen is said", function()
	for class, answer in pairs{permission = "refused", unreachable = false} do
		rows = answer
		local found, err = discover(work())
		assert(found == nil and err.class == class)
	end
end)
