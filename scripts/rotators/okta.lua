--[[ rotunda
name    = "okta"
version = "1.0.0"
kind    = "rotator"
about   = "Sets the passwords of Okta's own users through its API."
modules = ["http", "json", "secret", "text"]
hosts   = ["resource"]
[rotator]
kinds   = ["password"]
max_len = 72
]]

local http = require "http"
local json = require "json"
local secret = require "secret"
local text = require "text"

local JSON = "application/json"

local function as_admin(method, path, job, body)
	return http.request{
		method = method, path = path, body = body,
		headers = {authorization = text.concat("SSWS ", job.admin.secret), accept = JSON, ["content-type"] = body and JSON},
	}
end

-- refused is what Okta clearly said of a change; anything else is not known.
local function refused(got)
	if got.status == 404 then
		return sdk.unchanged("not_found", "account.missing")
	elseif got.status == 401 then
		return sdk.unchanged("auth", "admin.refused")
	elseif got.status == 403 then
		return sdk.unchanged("permission", "admin.rights")
	elseif got.status == 429 then -- too many requests: it did not look at this one
		return sdk.unchanged("conflict", "okta.busy")
	end
	return sdk.unknown
end

function open(job)
	if not job.admin then
		sdk.fail{class = "invalid", reason = "administrator.missing", not_sent = true, text = "give the resource an administrator whose secret is an API token"}
	end
	local got, err = as_admin("GET", "/api/v1/users/me", job)
	if not got then
		err.not_sent = true
		return nil, err
	elseif got.status == 401 then
		sdk.fail{class = "auth", reason = "admin.refused", not_sent = true, text = "Okta refuses the API token"}
	elseif got.status ~= 200 then
		sdk.fail{class = "unreachable", reason = "api.status", not_sent = true, text = "Okta answers with status " .. got.status}
	end
end

function set_secret(_, job)
	local name = job.account.login
	if name == "" or name == "." or name == ".." or name == "me" then
		return sdk.unchanged("not_found", "account.missing")
	end
	local got, err = as_admin("GET", "/api/v1/users" .. http.path(name), job)
	if not got then
		err.not_sent = true
		return nil, err
	elseif got.status ~= 200 then
		return refused(got)
	end
	local user = got.json()
	local profile = type(user) == "table" and user.profile
	if type(profile) ~= "table" or type(user.id) ~= "string" then
		return sdk.unchanged("unsupported", "api.answer")
	elseif profile.login ~= name then -- a short name may fit several, and is another's tomorrow
		return sdk.unchanged("not_found", "account.missing")
	elseif user.status ~= "ACTIVE" and user.status ~= "PASSWORD_EXPIRED" then
		return sdk.unchanged("conflict", "account.disabled")
	end
	local provider = type(user.credentials) == "table" and user.credentials.provider
	if type(provider) == "table" and provider.type ~= "OKTA" then -- a directory's password is changed there
		return sdk.unchanged("unsupported", "account.external")
	end
	local said, body = pcall(json.encode, {credentials = {password = {value = job.candidate}}})
	if not said then -- JSON has no bytes that are not UTF-8
		return sdk.unchanged("policy", "policy.charset")
	end
	got, err = as_admin("POST", "/api/v1/users" .. http.path(user.id), job, body)
	if not got then
		return nil, err
	elseif got.status == 200 then
		return sdk.changed
	elseif got.status == 400 then -- the password policy, also its history
		return sdk.unchanged("policy", "policy.refused")
	end
	return refused(got)
end

-- These Okta says only when the password was right.
local RIGHT = {"SUCCESS", "MFA_REQUIRED", "MFA_ENROLL", "MFA_CHALLENGE", "PASSWORD_WARN", "PASSWORD_EXPIRED"}

function verify(job)
	local said, body = pcall(json.encode, {username = job.account.login, password = job.candidate})
	if not said then
		return sdk.undecided("policy.charset")
	end
	-- The answer may hold a token of a session, which nobody here needs.
	local got, err = http.post("/api/v1/authn", {body = body, secret = true, headers = {accept = JSON, ["content-type"] = JSON}})
	if not got then
		return nil, err
	end
	if got.status == 401 then -- also to the right one of a user who is locked out, unless the policy shows lockouts
		return sdk.undecided("not_judged")
	elseif got.status ~= 200 then
		return sdk.undecided("api.status")
	end
	local status = json.at(got.body, "status")
	for _, word in ipairs(RIGHT) do
		if status and secret.equal(status, word) then
			return sdk.accepted
		end
	end
	return sdk.undecided("no_login") -- locked, for one
end

local STATES = {LOCKED_OUT = "locked", SUSPENDED = "disabled", DEPROVISIONED = "disabled", STAGED = "disabled", PROVISIONED = "disabled"}

-- Okta's status says of some why they are refused. An active user may be kept out all the same,
-- as from a device that Okta does not know: what was wrong then is not known.
function judge(_, job)
	local name = job.account.login
	if name == "" or name == "." or name == ".." or name == "me" then
		return sdk.undecided("not_judged")
	end
	local got, err = as_admin("GET", "/api/v1/users" .. http.path(name), job)
	if not got then
		return nil, err
	end
	local user = got.json()
	if got.status == 404 and type(user) == "table" and user.errorCode == "E0000007" then -- Okta's own word, and no proxy's
		return sdk.rejected()
	end
	user = got.status == 200 and user
	local profile = type(user) == "table" and user.profile
	if type(profile) ~= "table" or profile.login ~= name then
		return sdk.undecided("not_judged")
	end
	return sdk.undecided(STATES[user.status] or "not_judged")
end
