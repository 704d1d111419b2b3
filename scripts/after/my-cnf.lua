--[[ rotunda
name    = "my-cnf"
version = "1.0.0"
kind    = "after_rotation"
about   = "Writes the new secret into an option file of MySQL or MariaDB on a host."
needs   = ["secret"]
modules = ["log", "secret", "ssh", "text"]
hosts   = ["records.host"]
[parameters.path]
type     = "string"
about    = "The file; it must be there, and keeps its mode and its owner."
required = true
pattern  = "/.+"
[parameters.section]
type    = "string"
about   = "The group of options."
default = "client"
pattern = "[A-Za-z0-9_.-]+"
[parameters.key]
type    = "string"
about   = "The option that has the secret."
default = "password"
pattern = "[A-Za-z0-9_-]+"
[parameters.login_key]
type    = "string"
about   = "The option that has the account's login; empty: none."
pattern = "[A-Za-z0-9_-]*"
default = ""
[parameters.backup]
type    = "boolean"
about   = "Whether the file as it was is kept beside it, with .before after its name; it has the former secret in it."
default = false
[records.host]
as    = "resource"
about = "The host, which is reached over SSH by its administrator."
]]

local log = require "log"
local secret = require "secret"
local ssh = require "ssh"
local text = require "text"

-- refused is an error after which the file is as it was.
local function refused(err)
	log.error(err.text)
	return sdk.unchanged(err.class, err.reason)
end

local function edit(now, job)
	local p = job.parameters
	local new, err = text.put_mycnf(now, p.section, p.key, job.secret)
	if new and p.login_key ~= "" then
		new, err = text.put_mycnf(new, p.section, p.login_key, job.account.login)
	end
	return new, err
end

-- write reads the file, makes the change and puts it there. Its error is sftp.changed where
-- somebody else has changed the file meanwhile.
local function write(c, job)
	local path = job.parameters.path
	local now, err = c:get(path, {secret = true})
	if not now then
		return refused(err)
	end
	local said, new, why = pcall(edit, now, job)
	if not said then -- the file's kind has no way to write such a value
		return refused{class = "policy", reason = "file.value", text = tostring(new)}
	elseif not new then
		return refused(why)
	elseif secret.equal(now, new) then
		log.info(path, "has it already")
		return sdk.changed
	end
	if job.parameters.backup then
		local mode = assert(c:stat(path)).mode
		local kept
		kept, err = c:put(path .. ".before", now, {mode = mode})
		if not kept then
			return refused(err)
		end
	end
	local done
	done, err = c:put(path, new, {was = now})
	if not done then
		return nil, err
	end
	log.info(path, "is written")
	return sdk.changed
end

function run(job)
	local host = job.records.host
	local c, err = ssh.connect{address = host.address, login = host.login, secret = host.secret}
	if not c then
		return refused(err)
	end
	for _ = 1, 10 do
		local answer
		answer, err = write(c, job)
		if answer or err.reason ~= "sftp.changed" then
			return answer, err
		end
	end
	return refused(err)
end
