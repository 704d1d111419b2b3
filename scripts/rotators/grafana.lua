--[[ rotunda
name    = "grafana"
version = "1.0.0"
kind    = "rotator"
about   = "Sets the passwords of Grafana's own users through its administration API."
modules = ["http", "json"]
hosts   = ["resource"]
[rotator]
kinds   = ["password"]
max_len = 256
]]

local http = require "http"
local json = require "json"

local function ask(method, path, login, secret, more)
	if login == "" or login:find(":", 1, true) then
		sdk.fail{class = "invalid", reason = "account.name", not_sent = true, text = "no user of such a name can log in by HTTP"}
	end
	local o = more or {}
	o.method, o.path, o.basic = method, path, {user = login, secret = secret}
	return http.request(o)
end

-- refused is what Grafana clearly said of a change; anything else is not known.
local function refused(got)
	if got.status == 404 then
		return sdk.unchanged("not_found", "account.missing")
	elseif got.status == 401 then
		return sdk.unchanged("auth", "admin.refused")
	elseif got.status == 403 then
		return sdk.unchanged("permission", "admin.rights")
	end
	return sdk.unknown
end

function open(job)
	if not job.admin then
		sdk.fail{class = "invalid", reason = "administrator.missing", not_sent = true, text = "give the resource a server administrator of Grafana"}
	end
	local got, err = ask("GET", "/api/user", job.admin.login, job.admin.secret)
	if not got then
		err.not_sent = true
		return nil, err
	elseif got.status == 401 then
		sdk.fail{class = "auth", reason = "admin.refused", not_sent = true, text = "Grafana refuses the administrator's password"}
	elseif got.status ~= 200 then
		sdk.fail{class = "unreachable", reason = "api.status", not_sent = true, text = "Grafana answers with status " .. got.status}
	end
	local user = got.json()
	if type(user) ~= "table" or user.isGrafanaAdmin ~= true then
		sdk.fail{class = "permission", reason = "admin.rights", not_sent = true, text = "the administrator is no server administrator of Grafana"}
	end
end

function set_secret(_, job)
	local admin = job.admin
	local got, err = ask("GET", "/api/users/lookup", admin.login, admin.secret, {query = {loginOrEmail = job.account.login}})
	if not got then
		err.not_sent = true
		return nil, err
	elseif got.status ~= 200 then
		return refused(got)
	end
	local user = got.json()
	if type(user) ~= "table" or type(user.id) ~= "number" then
		return sdk.unchanged("unsupported", "api.answer")
	elseif user.login ~= job.account.login then -- it was found by its address
		return sdk.unchanged("not_found", "account.missing")
	elseif user.isExternal == true or user.isDisabled == true then
		return sdk.unchanged("conflict", user.isDisabled and "account.disabled" or "account.external")
	end
	local said, body = pcall(json.encode, {password = job.candidate})
	if not said then -- JSON has no bytes that are not UTF-8
		return sdk.unchanged("policy", "policy.charset")
	end
	got, err = ask("PUT", "/api/admin/users" .. http.path(string.format("%d", user.id)) .. "/password", admin.login, admin.secret,
		{body = body, headers = {["content-type"] = "application/json"}})
	if not got then
		return nil, err
	elseif got.status == 200 then
		return sdk.changed
	elseif got.status == 400 then
		return sdk.unchanged("policy", "policy.refused")
	end
	return refused(got)
end

function verify(job)
	local got, err = ask("GET", "/api/user", job.account.login, job.candidate)
	if not got then
		return nil, err
	elseif got.status == 200 then
		return sdk.accepted
	elseif got.status == 401 then -- also to the right one, for five minutes after five wrong ones
		return sdk.undecided("not_judged")
	end
	return sdk.undecided("api.status")
end

-- setting is one of Grafana's settings as a text; nil where it is not shown.
local function setting(all, section, name)
	return type(all) == "table" and type(all[section]) == "table" and all[section][name] or nil
end

-- Who is shut out for a while is shown nowhere: a refusal says that the password is wrong
-- only where Grafana shuts nobody out and takes passwords.
function judge(_, job)
	local admin = job.admin
	local got, err = ask("GET", "/api/users/lookup", admin.login, admin.secret, {query = {loginOrEmail = job.account.login}})
	if not got then
		return nil, err
	end
	local user = got.json()
	local said = type(user) == "table" and user.message
	if got.status == 404 and type(said) == "string" and said:lower() == "user not found" then -- Grafana's own word, and no proxy's
		return sdk.rejected()
	elseif got.status ~= 200 or type(user) ~= "table" or user.login ~= job.account.login or user.isExternal == true then
		return sdk.undecided("not_judged")
	elseif user.isDisabled == true then
		return sdk.undecided("disabled")
	end
	got, err = ask("GET", "/api/admin/settings", admin.login, admin.secret)
	if not got then
		return nil, err
	end
	local all = got.status == 200 and got.json()
	if setting(all, "security", "disable_brute_force_login_protection") == "true" and setting(all, "auth.basic", "enabled") == "true" then
		return sdk.rejected()
	end
	return sdk.undecided("not_judged")
end
