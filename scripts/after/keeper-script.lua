--[[ rotunda
name    = "keeper-script"
version = "1.0.0"
kind    = "after_rotation"
about   = "Runs a program on the account's machine, by SSH, with the input of KeeperPAM's post-rotation scripts."
needs   = ["admin", "secret", "former"]
modules = ["ssh", "json", "base64", "text", "log"]
hosts   = ["resource"]
[parameters.program]
type = "string"
about = "The program's whole path on the account's machine."
required = true
pattern = "/[ -~]+"
[parameters.arguments]
type = "strings"
about = "Arguments of the program."
default = []
[parameters.timeout]
type = "integer"
about = "Seconds that the program has."
default = 300
[parameters.provider_uid]
type = "string"
about = "What the input says as providerRecordUid, for a program that looks its records up by it."
default = "provider"
[parameters.resource_uid]
type = "string"
about = "What it says as resourceRecordUid."
default = "resource"
[parameters.user_uid]
type = "string"
about = "What it says as userRecordUid."
default = "user"
]]

local ssh = require "ssh"
local json = require "json"
local base64 = require "base64"
local text = require "text"
local log = require "log"

-- input is what KeeperPAM pipes into a post-rotation script: JSON in base64, in which records
-- is once more JSON in base64. It holds secrets, and so is one.
local function input(job)
	local p = job.parameters
	local old = job.former or ""
	local records = {
		{uid = p.provider_uid, title = "Rotunda"},
		{uid = p.resource_uid, title = job.resource.address, pamHostname = {hostName = job.resource.host, port = tostring(job.resource.port)}},
		{uid = p.user_uid, title = job.account.login, login = job.account.login, password = job.secret},
	}
	return text.concat(base64.encode(json.encode{
		providerRecordUid = p.provider_uid, resourceRecordUid = p.resource_uid, userRecordUid = p.user_uid,
		newPassword = job.secret, oldPassword = old, user = job.account.login,
		records = base64.encode(json.encode(records)),
	}), "\n")
end

-- judged is what a program's end means: 0 is success there, anything else is not.
local function judged(result)
	if result.stdout ~= "" then log.info(text.trim(result.stdout)) end
	if result.stderr ~= "" then log.warn(text.trim(result.stderr)) end
	if result.status == 0 then
		return sdk.changed
	elseif result.signal then
		log.error("a signal ended the program:", result.signal)
	else
		log.error("the program ended with status", result.status)
	end
	return sdk.unchanged("conflict", "program.failed")
end

function run(job)
	if not job.admin then
		sdk.fail{class = "invalid", reason = "administrator.missing", not_sent = true, text = "the resource has no administrator, as whom the program would run"}
	end
	local machine, err = ssh.connect{address = job.resource.address, login = job.admin.login, secret = job.admin.secret}
	if not machine then
		log.error(err.text)
		return sdk.unchanged(err.class, err.reason)
	end
	local argv = {job.parameters.program, unpack(job.parameters.arguments)}
	local result, failed = machine:run{argv = argv, stdin = input(job), timeout = job.parameters.timeout, max = 65536}
	machine:close()
	if not result then
		return nil, failed
	end
	return judged(result)
end
