--[[ rotunda
name    = "config-file"
version = "1.0.0"
kind    = "dependents"
about   = "Writes a new secret into one value of a file on an SSH host while the former one still works, and the former one back if need be."
needs   = ["admin"]
modules = ["log", "secret", "ssh", "template", "text"]
hosts   = ["resource"]
[parameters.path]
type     = "string"
about    = "The file; it must be there, and keeps its mode and its owner."
required = true
pattern  = "/.+"
[parameters.format]
type     = "enum"
values   = ["env", "json", "yaml", "ini", "xml"]
about    = "What kind of file it is."
required = true
[parameters.key]
type     = "string"
about    = "The variable of an env file, the key of an INI file, or a path such as db.users.1.password."
required = true
pattern  = ".+"
[parameters.section]
type    = "string"
about   = "The section of an INI file; empty: what stands before the first."
default = ""
[parameters.value]
type    = "string"
about   = "What is written: the secret as {{secret}}, with filters such as {{secret|url}}."
default = "{{secret}}"
]]

local log = require "log"
local secret = require "secret"
local ssh = require "ssh"
local template = require "template"
local text = require "text"

local function edit(now, p, value)
	value = template.render(p.value, {secret = value})
	if p.format == "env" then
		return text.put_env(now, p.key, value)
	elseif p.format == "ini" then
		return text.put_ini(now, p.section, p.key, value)
	elseif p.format == "yaml" then
		return text.put_yaml(now, p.key, value)
	elseif p.format == "xml" then
		return text.put_xml(now, p.key, value)
	end
	return text.put_json(now, p.key, value)
end

-- read gives a connection and the file on it.
local function read(job)
	local c, err = ssh.connect{login = job.admin.login, secret = job.admin.secret}
	if not c then
		return nil, err
	end
	local now
	now, err = c:get(job.parameters.path, {secret = true})
	if not now then
		return nil, err
	end
	return c, now
end

-- plan tries the change on a copy that nobody writes.
function plan(job)
	local p = job.parameters
	local c, now = read(job)
	if not c then
		return nil, now
	end
	local stat = assert(c:stat(p.path))
	c:close()
	if stat.kind ~= "file" then
		sdk.fail{class = "conflict", reason = "file.kind", not_sent = true, text = p.path .. " is no regular file"}
	end
	assert(edit(now, p, "a secret to come"))
	return {{id = "file", title = "write " .. p.path, data = {path = p.path}}}
end

-- write reads the file, makes the change and puts it there. Its error is sftp.changed where
-- somebody else has changed the file meanwhile.
local function write(p, job)
	local c, now = read(job)
	if not c and now.class == "unreachable" then
		now.not_sent = true
		return nil, now
	elseif not c then
		return sdk.unchanged(now.class, now.reason)
	end
	local said, new, why = pcall(edit, now, p, job.secret)
	if not said or not new then
		log.error(said and why.text or tostring(new))
		return sdk.unchanged(said and why.class or "policy", said and why.reason or "file.value")
	end
	local done, err = true, nil
	if not secret.equal(now, new) then
		done, err = c:put(p.path, new, {was = now})
	end
	c:close()
	if done then
		return sdk.changed
	elseif err.reason == "sftp.changed" or err.reason == "sftp.locked" then -- others are at it: later again
		err.class = "unreachable"
		return nil, err
	elseif err.not_sent and err.class ~= "unreachable" then
		return sdk.unchanged(err.class, err.reason)
	end
	return nil, err
end

function apply(step, job)
	local p = job.parameters
	if type(step.data) ~= "table" or step.data.path ~= p.path then -- the settings are others by now
		return sdk.unchanged("invalid", "step.data")
	end
	local answer, err
	for _ = 1, 10 do
		answer, err = write(p, job)
		if answer or err.reason ~= "sftp.changed" then
			break
		end
	end
	return answer, err
end

undo = apply -- with the former secret
