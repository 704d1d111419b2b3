--[[ rotunda
name    = "config-key"
version = "1.0.0"
kind    = "after_rotation"
about   = "Writes the new secret into one value of a JSON, YAML, INI or XML file on a host."
needs   = ["secret"]
modules = ["log", "secret", "ssh", "template", "text"]
hosts   = ["records.host"]
[parameters.path]
type     = "string"
about    = "The file; it must be there, and keeps its mode and its owner."
required = true
pattern  = "/.+"
[parameters.format]
type     = "enum"
values   = ["json", "yaml", "ini", "xml"]
about    = "What kind of file it is."
required = true
[parameters.key]
type     = "string"
about    = "Where the value is: a path such as db.users.1.password or Context.Resource.@password, or the key of an INI file."
required = true
pattern  = ".+"
[parameters.section]
type    = "string"
about   = "The section of an INI file; empty: what stands before the first."
default = ""
[parameters.value]
type    = "string"
about   = "What is written: the secret as {{secret}}, the login as {{login}}, with filters such as {{secret|url}}."
default = "{{secret}}"
[parameters.quote]
type    = "enum"
values  = ["none", "double"]
about   = "How an INI file's value is quoted; the others are always written so that they stay one value."
default = "none"
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
local template = require "template"
local text = require "text"

-- refused is an error after which the file is as it was.
local function refused(err)
	log.error(err.text)
	return sdk.unchanged(err.class, err.reason)
end

local function edit(now, job)
	local p = job.parameters
	local value = template.render(p.value, {secret = job.secret, login = job.account.login})
	if p.format == "ini" then
		return text.put_ini(now, p.section, p.key, value, {quote = p.quote})
	elseif p.format == "yaml" then
		return text.put_yaml(now, p.key, value)
	elseif p.format == "xml" then
		return text.put_xml(now, p.key, value)
	end
	return text.put_json(now, p.key, value)
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
