--[[ rotunda
name    = "pgpass"
version = "1.0.0"
kind    = "after_rotation"
about   = "Writes the new secret into a password file of PostgreSQL's clients on a host."
needs   = ["secret"]
modules = ["log", "secret", "ssh", "text"]
hosts   = ["records.host"]
[parameters.path]
type     = "string"
about    = "The file; it must be there, and keeps its mode and its owner."
required = true
pattern  = "/.+"
[parameters.host]
type    = "string"
about   = "The database's host as clients name it; a star stands for any."
default = "*"
[parameters.port]
type    = "string"
about   = "Its port; a star stands for any."
pattern = "[0-9]+|[*]"
default = "*"
[parameters.database]
type    = "string"
about   = "The database; a star stands for any."
default = "*"
[parameters.user]
type    = "string"
about   = "The role; empty: the account's login."
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
	local user = p.user ~= "" and p.user or job.account.login
	return text.put_pgpass(now, {host = p.host, port = p.port, database = p.database, user = user}, job.secret)
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
