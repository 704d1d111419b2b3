--[[ rotunda
name    = "postgres-end-sessions"
version = "1.0.0"
kind    = "after_rotation"
about   = "Ends the sessions of the account in its PostgreSQL that were opened before its secret was changed."
needs   = ["admin"]
modules = ["log", "sql"]
hosts   = ["resource"]
[parameters.keep]
type    = "strings"
about   = "Names of applications (application_name) whose sessions stay."
default = []
]]

local log = require "log"
local sql = require "sql"

-- A session that another one replaces meanwhile is one that came in by the new secret.
local SESSIONS = [[
select pid, application_name, pg_terminate_backend(pid) as ended from pg_stat_activity
where usename = $1 and backend_type = 'client backend' and pid <> pg_backend_pid()
and backend_start < to_timestamp($2::float8) and not application_name = any($3::text[])]]

-- list writes texts as an array of PostgreSQL's.
local function list(names)
	local out = {}
	for _, name in ipairs(names) do
		out[#out + 1] = '"' .. name:gsub('[\\"]', "\\%0") .. '"'
	end
	return "{" .. table.concat(out, ",") .. "}"
end

function run(job)
	local db = assert(sql.connect{kind = "postgres", login = job.admin.login, secret = job.admin.secret})
	local rows = assert(db:query(SESSIONS, job.account.login, string.format("%.3f", job.run.time), list(job.parameters.keep)))
	db:close()
	for _, row in ipairs(rows) do
		log.info("session", row.pid, row.application_name, row.ended and "ended" or "had ended")
	end
	return sdk.changed
end
