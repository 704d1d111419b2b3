--[[ rotunda
name    = "reload-nginx"
version = "1.0.0"
kind    = "after_rotation"
about   = "Has nginx on a host check its configuration, and reload it."
modules = ["log", "ssh", "text"]
hosts   = ["records.host"]
[parameters.config]
type    = "string"
about   = "The configuration's path; empty: the one that nginx was built with."
pattern = "|/[A-Za-z0-9._/+-]+"
default = ""
[parameters.sudo]
type    = "boolean"
about   = "Whether nginx is run by sudo, without a password."
default = false
[records.host]
as    = "resource"
about = "The host, which is reached over SSH by its administrator."
]]

local log = require "log"
local ssh = require "ssh"
local text = require "text"

function run(job)
	local p = job.parameters
	local host = job.records.host
	local c, err = ssh.connect{address = host.address, login = host.login, secret = host.secret}
	if not c then
		log.error(err.text)
		return sdk.unchanged(err.class, err.reason)
	end
	local function nginx(...)
		local argv = {"nginx", "-q", ...}
		if p.sudo then
			table.insert(argv, 1, "-n")
			table.insert(argv, 1, "sudo")
		end
		if p.config ~= "" then
			argv[#argv + 1] = "-c"
			argv[#argv + 1] = p.config
		end
		local done = assert(c:run{argv = argv})
		if done.status ~= 0 then
			log.error(text.trim(done.stderr))
		end
		return done.status == 0
	end
	if not nginx("-t") then
		return sdk.unchanged("conflict", "nginx.config")
	elseif not nginx("-s", "reload") then
		return sdk.unchanged("conflict", "nginx.reload")
	end
	return sdk.changed
end
