--[[ rotunda
name    = "rabbitmq"
version = "1.0.0"
kind    = "rotator"
about   = "Sets the passwords of RabbitMQ users through the management API."
modules = ["http", "json"]
hosts   = ["resource"]
[rotator]
kinds   = ["password"]
max_len = 256
]]

local http = require "http"
local json = require "json"

-- The API says 401 to a wrong password, and to a right one of a user who may not use the
-- management: most of those whose passwords are rotated. Only the reason tells them apart;
-- one that is not known proves nothing.
local WRONG_PASSWORD = "Login failed"
local NO_MANAGEMENT = "Not management user"

local function ask(method, path, login, secret, body)
	if login == "" or login:find(":", 1, true) then -- HTTP Basic would read the rest as the password
		sdk.fail{class = "invalid", reason = "account.name", not_sent = true, text = "no user of such a name can log in by HTTP"}
	end
	return http.request{
		method = method, path = path, basic = {user = login, secret = secret},
		body = body, headers = body and {["content-type"] = "application/json"},
	}
end

-- why is the reason beside a refusal; nil where there is none.
local function why(got)
	local said = got.json()
	return type(said) == "table" and said.reason or nil
end

-- refused is what the API clearly said of a change; anything else is not known.
local function refused(got)
	if got.status == 404 then
		return sdk.unchanged("not_found", "account.missing")
	elseif got.status == 401 and why(got) == WRONG_PASSWORD then
		return sdk.unchanged("auth", "admin.refused")
	elseif got.status == 401 or got.status == 403 then
		return sdk.unchanged("permission", "admin.rights")
	end
	return sdk.unknown
end

function open(job)
	if not job.admin then
		sdk.fail{class = "invalid", reason = "administrator.missing", not_sent = true, text = "only an administrator changes passwords in RabbitMQ: give the resource one"}
	end
	local got, err = ask("GET", "/api/whoami", job.admin.login, job.admin.secret)
	if not got then
		err.not_sent = true -- a question changes nothing
		return nil, err
	end
	if got.status == 401 and why(got) == WRONG_PASSWORD then
		sdk.fail{class = "auth", reason = "admin.refused", not_sent = true, text = "RabbitMQ refuses the administrator's password"}
	elseif got.status == 401 then -- without the tag management, or not from here
		sdk.fail{class = "permission", reason = "admin.rights", not_sent = true, text = "RabbitMQ does not let the administrator use the management"}
	elseif got.status ~= 200 then
		sdk.fail{class = "unreachable", reason = "api.status", not_sent = true, text = "the management API answers with status " .. got.status}
	end
end

-- PUT replaces a user as a whole, and makes one that is not there: so it is asked first who
-- that is, and his tags are written back.
function set_secret(_, job)
	local name = job.account.login
	if name == "" or name == "." or name == ".." then -- which no path of a URL can name
		return sdk.unchanged("not_found", "account.missing")
	end
	local path = "/api/users" .. http.path(name)
	local got, err = ask("GET", path, job.admin.login, job.admin.secret)
	if not got then
		err.not_sent = true
		return nil, err
	elseif got.status ~= 200 then
		return refused(got)
	end
	local user = got.json()
	local tags = type(user) == "table" and user.tags
	if type(tags) == "table" and #tags == 0 then
		tags = ""
	elseif type(tags) ~= "table" and type(tags) ~= "string" then -- words, before RabbitMQ 3.9
		return sdk.unchanged("unsupported", "api.answer")
	end
	local said, body = pcall(json.encode, {password = job.candidate, tags = tags})
	if not said then -- JSON has no bytes that are not UTF-8
		return sdk.unchanged("policy", "policy.charset")
	end
	got, err = ask("PUT", path, job.admin.login, job.admin.secret, body)
	if not got then
		return nil, err -- which says whether it was sent
	elseif got.status == 201 or got.status == 204 then
		return sdk.changed
	elseif got.status == 400 then -- the broker's credential validator
		return sdk.unchanged("policy", "policy.refused")
	end
	return refused(got)
end

-- RabbitMQ judges the password before it looks at the tags.
function verify(job)
	local got, err = ask("GET", "/api/whoami", job.account.login, job.candidate)
	if not got then
		return nil, err
	end
	local reason = got.status == 401 and why(got)
	if got.status == 200 or reason == NO_MANAGEMENT then
		return sdk.accepted
	elseif reason == WRONG_PASSWORD then
		return sdk.rejected()
	elseif got.status == 401 then -- from another host only, for one
		return sdk.undecided("no_login")
	end
	return sdk.undecided("api.status")
end
