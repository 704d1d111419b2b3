--[[ rotunda
name    = "restart-unit"
version = "1.0.0"
kind    = "after_rotation"
about   = "Restarts or reloads a systemd unit on a host, and sees that it runs."
modules = ["log", "ssh", "text", "time"]
hosts   = ["records.host"]
[parameters.unit]
type     = "string"
about    = "The unit's name."
required = true
pattern  = "[A-Za-z0-9@._:\\\\][A-Za-z0-9@._:\\\\-]*"
[parameters.action]
type    = "enum"
values  = ["restart", "reload", "try-restart", "reload-or-restart"]
about   = "What is done with it."
default = "restart"
[parameters.sudo]
type    = "boolean"
about   = "Whether systemctl is run by sudo, without a password."
default = false
[parameters.wait]
type    = "integer"
about   = "Seconds within which the unit must run."
default = 30
[records.host]
as    = "resource"
about = "The host, which is reached over SSH by its administrator."
]]

local log = require "log"
local ssh = require "ssh"
local text = require "text"
local time = require "time"

local function systemctl(c, p, ...)
	local argv = {"systemctl", ...}
	if p.sudo then
		table.insert(argv, 1, "-n")
		table.insert(argv, 1, "sudo")
	end
	return assert(c:run{argv = argv, timeout = 300})
end

function run(job)
	local p = job.parameters
	local host = job.records.host
	local c, err = ssh.connect{address = host.address, login = host.login, secret = host.secret}
	if not c then
		log.error(err.text)
		return sdk.unchanged(err.class, err.reason)
	end
	local done = systemctl(c, p, "--no-ask-password", p.action, "--", p.unit)
	if done.status ~= 0 then
		log.error(text.trim(done.stderr))
		return sdk.unchanged("conflict", "unit." .. p.action:gsub("-", "_"))
	end
	local state
	for second = 0, p.wait do
		state = text.trim(systemctl(c, p, "is-active", "--", p.unit).stdout)
		if state == "active" or state == "inactive" and p.action == "try-restart" then
			log.info(p.unit, "is", state)
			return sdk.changed
		elseif state == "failed" or second == p.wait then
			break
		end
		time.sleep(1)
	end
	log.error(p.unit, "is", state)
	return sdk.unchanged("conflict", "unit.not_running")
end
