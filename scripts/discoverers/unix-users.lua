--[[ rotunda
name    = "unix-users"
version = "1.0.0"
kind    = "discoverer"
about   = "Finds the users of a Unix host that may log in, over SSH."
modules = ["ssh"]
hosts   = ["resource"]
[parameters.everybody]
type    = "boolean"
about   = "Whether users are listed whose shell lets nobody in, too."
default = false
]]

local ssh = require "ssh"

-- Shells that end at once.
local CLOSED = {nologin = true, ["false"] = true, sync = true, shutdown = true, halt = true}

function discover(job)
	local c, lost = ssh.connect{login = job.admin.login, secret = job.admin.secret}
	if not c then
		return nil, lost
	end
	local got, err = c:run{argv = {"getent", "passwd"}}
	c:close()
	if not got then
		return nil, err
	end
	if got.status ~= 0 or got.truncated then
		return nil, {class = "unsupported", reason = "users.unlisted", text = "getent passwd ended with status " .. got.status .. (got.truncated and ", and said too much" or "")}
	end
	local found = {}
	for line in got.stdout:gmatch("[^\n]+") do
		local login, uid, home, shell = line:match("^([^:]+):[^:]*:(%d+):%d*:[^:]*:([^:]*):([^:]*)$")
		if not login then
			return nil, {class = "unsupported", reason = "users.unlisted", text = "getent passwd gives a line that is none of passwd(5)"}
		end
		if job.parameters.everybody or not CLOSED[shell:match("[^/]*$")] then
			found[#found + 1] = {login = login, facts = {uid = uid, home = home, shell = shell}}
		end
	end
	return found
end
