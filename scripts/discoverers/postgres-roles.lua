--[[ rotunda
name    = "postgres-roles"
version = "1.0.0"
kind    = "discoverer"
about   = "Finds the roles of a PostgreSQL server that may log in, and what they may."
modules = ["sql"]
hosts   = ["resource"]
[parameters.like]
type    = "string"
about   = "What their names are like, with % and _ as in SQL."
default = "%"
]]

local sql = require "sql"

local ROLES = [[
select r.rolname, r.rolsuper, r.rolreplication, r.rolcreaterole, r.rolvaliduntil::text as valid_until,
(select count(*) from pg_stat_activity a where a.usename = r.rolname) as sessions,
(select case when octet_length(names) > 200 then left(names, 50) || ' …' else names end from (
	select string_agg(distinct g.rolname::text, ' ' order by g.rolname::text) as names from pg_auth_members m join pg_roles g on g.oid = m.roleid where m.member = r.oid
) as n) as member_of
from pg_roles r where r.rolcanlogin and r.rolname like $1 order by r.rolname]]

function discover(job)
	-- An account's scope is the database to log in to; the login of a role is good in all.
	local database = job.admin.scope ~= "" and job.admin.scope or nil
	local db, lost = sql.connect{kind = "postgres", login = job.admin.login, secret = job.admin.secret, database = database}
	if not db then
		return nil, lost
	end
	local rows, err = db:query(ROLES, job.parameters.like)
	db:close()
	if not rows then
		return nil, err
	end
	local found = {}
	for n, row in ipairs(rows) do
		-- What is not so is left out: the list is for people.
		found[n] = {login = row.rolname, facts = {
			superuser = row.rolsuper or nil,
			replication = row.rolreplication or nil,
			createrole = row.rolcreaterole or nil,
			valid_until = row.valid_until,
			sessions = row.sessions > 0 and row.sessions or nil,
			member_of = row.member_of,
		}}
	end
	return found
end
