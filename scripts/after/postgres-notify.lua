--[[ rotunda
name    = "postgres-notify"
version = "1.0.0"
kind    = "after_rotation"
about   = "Tells the sessions that listen on a channel of the account's PostgreSQL that its secret was changed; never the secret."
needs   = ["admin"]
modules = ["json", "sql"]
hosts   = ["resource"]
[parameters.channel]
type    = "string"
about   = "The channel of LISTEN."
pattern = "[A-Za-z_][A-Za-z0-9_]{0,62}"
default = "rotunda"
[parameters.database]
type    = "string"
about   = "The database in which they listen."
default = "postgres"
]]

local json = require "json"
local sql = require "sql"

function run(job)
	local p = job.parameters
	local db = assert(sql.connect{kind = "postgres", login = job.admin.login, secret = job.admin.secret, database = p.database})
	assert(db:query("select pg_notify($1, $2)", p.channel, json.encode{event = "secret.changed", login = job.account.login, run = job.run.id}))
	db:close()
	return sdk.changed
end
