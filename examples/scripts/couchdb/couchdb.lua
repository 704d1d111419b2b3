--[[ rotunda
name    = "couchdb"
version = "1.0.0"
kind    = "rotator"
about   = "Sets the passwords of CouchDB users."
modules = ["http", "json"]
hosts   = ["resource"]
[rotator]
kinds = ["password"]
]]

local http = require "http"
local json = require "json"

-- request asks CouchDB as somebody. Answers are read by json.decode, which remembers that an
-- empty list of roles is a list: it is written back.
local function request(method, path, login, secret, body)
	if login == "" or login:find(":", 1, true) then
		sdk.fail{class = "invalid", reason = "account.name", not_sent = true, text = "HTTP's own login knows no name like that"}
	end
	return http.request{
		method = method, path = path, basic = {user = login, secret = secret},
		body = body, headers = {accept = "application/json", ["content-type"] = body and "application/json"},
	}
end

function open(job)
	local got, err = request("GET", "/_session", job.admin.login, job.admin.secret)
	if not got then
		err.not_sent = true -- it was only a question
		return nil, err
	elseif got.status == 401 then
		sdk.fail{class = "auth", reason = "admin.refused", not_sent = true, text = "CouchDB refuses the administrator's password"}
	elseif got.status ~= 200 then
		sdk.fail{class = "unreachable", reason = "couchdb.status", not_sent = true, text = "CouchDB answers with status " .. got.status}
	end
end

-- refused is what a status says for certain; what it does not say is not known.
local function refused(status)
	if status == 401 then
		return sdk.unchanged("auth", "admin.refused")
	elseif status == 403 then
		return sdk.unchanged("permission", "admin.rights")
	elseif status == 404 then
		return sdk.unchanged("not_found", "account.missing")
	elseif status == 409 then -- somebody else changed the user in between
		return sdk.unchanged("conflict", "account.changed")
	end
	return sdk.unknown
end

function set_secret(_, job)
	local path = "/_users" .. http.path("org.couchdb.user:" .. job.account.login)
	local got, err = request("GET", path, job.admin.login, job.admin.secret)
	if not got then
		err.not_sent = true
		return nil, err
	elseif got.status ~= 200 then
		return refused(got.status)
	end
	local user = json.decode(got.body)
	if type(user) ~= "table" or type(user._rev) ~= "string" or user.type ~= "user" then
		return sdk.unchanged("unsupported", "couchdb.answer")
	end
	-- CouchDB makes these of the password; all else goes back as it came.
	for _, made in ipairs{"derived_key", "salt", "iterations", "password_scheme", "pbkdf2_prf"} do
		user[made] = nil
	end
	user.password = job.candidate
	local said, body = pcall(json.encode, user)
	if not said then
		return sdk.unchanged("policy", "policy.charset")
	end
	got, err = request("PUT", path, job.admin.login, job.admin.secret, body)
	if not got then
		return nil, err
	elseif got.status == 201 or got.status == 202 then
		return sdk.changed
	elseif got.status == 400 then
		return sdk.unchanged("policy", "policy.refused")
	end
	return refused(got.status)
end

function verify(job)
	local got, err = request("GET", "/_session", job.account.login, job.candidate)
	if not got then
		return nil, err
	elseif got.status == 200 then
		local session = json.decode(got.body)
		local who = type(session) == "table" and type(session.userCtx) == "table" and session.userCtx.name
		return who == job.account.login and sdk.accepted or sdk.undecided("not_asked")
	elseif got.status == 401 then
		return sdk.rejected()
	end
	return sdk.undecided("couchdb.status") -- 403: locked for a while
end
