--[[ rotunda
name    = "htpasswd"
version = "1.0.0"
kind    = "rotator"
about   = "Sets the passwords in a password file of nginx or Apache on an SSH host, and proves them by a login over HTTP."
modules = ["hash", "http", "ssh", "text"]
hosts   = ["resource", "parameters.url"]
[parameters.path]
type     = "string"
about    = "The password file."
required = true
pattern  = "/.+"
[parameters.url]
type     = "url"
about    = "What the file protects: it is asked for with the login."
required = true
[parameters.scheme]
type    = "enum"
values  = ["bcrypt", "sha512"]
about   = "How passwords are kept: bcrypt, or sha512, which takes more than 72 bytes but not every server's platform."
default = "bcrypt"
[parameters.cost]
type    = "integer"
about   = "The cost of bcrypt, 4 to 14."
default = 10
[rotator]
kinds   = ["password"]
max_len = 72
]]

local hash = require "hash"
local http = require "http"
local ssh = require "ssh"
local text = require "text"

function open(job)
	if not job.admin then
		sdk.fail{class = "invalid", reason = "administrator.missing", not_sent = true, text = "give the resource an administrator who may write the file"}
	end
	local c, err = ssh.connect{login = job.admin.login, secret = job.admin.secret}
	if not c then
		return nil, err
	end
	local stat
	stat, err = c:stat(job.parameters.path)
	if not stat then
		return nil, err
	end
	return {connection = c}
end

function close(session)
	session.connection:close()
end

-- read gives the file, over a new connection where the old one has ended.
local function read(session, job)
	local now, err = session.connection:get(job.parameters.path)
	if not now and err.class == "unreachable" then
		local c, why = ssh.connect{login = job.admin.login, secret = job.admin.secret}
		if not c then
			return nil, why
		end
		session.connection:close()
		session.connection = c
		now, err = c:get(job.parameters.path)
	end
	return now, err
end

-- apart gives what stands before and after the login's hash: more than one line of a login
-- are as many passwords, of which the first counts.
local function apart(content, login)
	local at, found = 1, nil
	while at <= #content do
		local stop = content:find("\n", at, true) or #content + 1
		local line = content:sub(at, stop - 1)
		if line:sub(1, #login + 1) == login .. ":" then
			if found then
				return nil, "twice"
			end
			local from = at + #login + 1
			local to = content:find("[:\r\n]", from) or #content + 1
			found = {content:sub(1, from - 1), content:sub(to)}
		end
		at = stop + 1
	end
	return found
end

function set_secret(session, job)
	local p, login = job.parameters, job.account.login
	if login == "" or login:find("[:%c]") or login:sub(1, 1) == "#" then
		return sdk.unchanged("unsupported", "account.name")
	end
	local made, kept
	if p.scheme == "bcrypt" then
		made, kept = pcall(hash.bcrypt, job.candidate, p.cost)
	else
		made, kept = pcall(hash.sha512_crypt, job.candidate)
	end
	if not made then -- too long, or with a zero byte
		return sdk.unchanged("policy", "policy.length")
	end
	local done, err
	for _ = 1, 10 do -- another login of the file may be given a password meanwhile
		local now
		now, err = read(session, job)
		if not now and err.class == "unreachable" then
			err.not_sent = true
			return nil, err
		elseif not now then
			return sdk.unchanged(err.class, err.reason)
		end
		local found, twice = apart(now, login)
		if twice then
			return sdk.unchanged("conflict", "account.ambiguous")
		elseif not found then
			return sdk.unchanged("not_found", "account.missing")
		end
		done, err = session.connection:put(p.path, text.concat(found[1], kept, found[2]), {was = now})
		if done then
			return sdk.changed
		elseif err.reason ~= "sftp.changed" then
			break
		end
	end
	if err.reason == "sftp.changed" or err.reason == "sftp.locked" then -- others are at it: later again
		err.class = "unreachable"
		return nil, err
	elseif err.not_sent and err.class ~= "unreachable" then
		return sdk.unchanged(err.class, err.reason)
	end
	return nil, err
end

function verify(job)
	local p, login = job.parameters, job.account.login
	if login:find(":", 1, true) then
		return sdk.undecided("account.name")
	end
	-- A page that everybody gets proves nothing.
	local got, err = http.get(p.url)
	if not got then
		return nil, err
	elseif got.status ~= 401 then
		return sdk.undecided("not_asked")
	end
	got, err = http.get(p.url, {basic = {user = login, secret = job.candidate}})
	if not got then
		return nil, err
	elseif got.status >= 200 and got.status < 400 then
		return sdk.accepted
	elseif got.status == 401 then
		return sdk.rejected()
	end
	return sdk.undecided("http.status")
end
