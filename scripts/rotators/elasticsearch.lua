--[[ rotunda
name    = "elasticsearch"
version = "1.0.0"
kind    = "rotator"
about   = "Sets the passwords of native and reserved users of Elasticsearch."
modules = ["http", "json"]
hosts   = ["resource"]
[rotator]
kinds   = ["password"]
max_len = 256
]]

local http = require "http"
local json = require "json"

local function ask(method, path, login, secret, body)
	if login == "" or login:find(":", 1, true) then
		sdk.fail{class = "invalid", reason = "account.name", not_sent = true, text = "no user of such a name can log in by HTTP"}
	end
	return http.request{
		method = method, path = path, basic = {user = login, secret = secret},
		body = body, headers = body and {["content-type"] = "application/json"},
	}
end

-- refused is what Elasticsearch clearly said of a change; anything else is not known.
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
		sdk.fail{class = "invalid", reason = "administrator.missing", not_sent = true, text = "give the resource an administrator with the cluster privilege manage_security"}
	end
	local got, err = ask("GET", "/_security/_authenticate", job.admin.login, job.admin.secret)
	if not got then
		err.not_sent = true
		return nil, err
	elseif got.status == 401 then
		sdk.fail{class = "auth", reason = "admin.refused", not_sent = true, text = "Elasticsearch refuses the administrator's password"}
	elseif got.status ~= 200 then
		sdk.fail{class = "unreachable", reason = "api.status", not_sent = true, text = "Elasticsearch answers with status " .. got.status}
	end
end

function set_secret(_, job)
	local admin, name = job.admin, job.account.login
	if name == "" or name == "." or name == ".." or name:find("[*,]") then -- a pattern would name others
		return sdk.unchanged("not_found", "account.missing")
	end
	local path = "/_security/user" .. http.path(name)
	local got, err = ask("GET", path, admin.login, admin.secret)
	if not got then
		err.not_sent = true
		return nil, err
	elseif got.status ~= 200 then
		return refused(got)
	end
	local users = got.json()
	local user = type(users) == "table" and users[name]
	if type(user) ~= "table" then
		return sdk.unchanged("not_found", "account.missing")
	elseif user.enabled == false then -- nobody could tell whether the new one works
		return sdk.unchanged("conflict", "account.disabled")
	end
	local said, body = pcall(json.encode, {password = job.candidate})
	if not said then -- JSON has no bytes that are not UTF-8
		return sdk.unchanged("policy", "policy.charset")
	end
	got, err = ask("POST", path .. "/_password", admin.login, admin.secret, body)
	if not got then
		return nil, err
	elseif got.status == 200 then
		return sdk.changed
	elseif got.status == 400 then -- too short, for one
		return sdk.unchanged("policy", "policy.refused")
	end
	return refused(got)
end

function verify(job)
	local got, err = ask("GET", "/_security/_authenticate", job.account.login, job.candidate)
	if not got then
		return nil, err
	elseif got.status == 200 then
		local user = got.json()
		if type(user) == "table" and user.username == job.account.login then -- and not the anonymous one
			return sdk.accepted
		end
		return sdk.undecided("not_asked")
	elseif got.status == 401 then -- also to the right one of a user who is disabled, and while no users can be read
		return sdk.undecided("not_judged")
	end
	return sdk.undecided("api.status")
end

-- state is what the administrator reads of a user, as a login reads him: enabled, disabled,
-- missing, or unread.
local function state(admin, name)
	local got, err = ask("GET", "/_security/user" .. http.path(name), admin.login, admin.secret)
	if not got then
		return nil, err
	elseif got.status == 404 and got.body:match("^%s*{%s*}%s*$") then -- Elasticsearch's own word, and no proxy's
		return "missing"
	end
	local users = got.status == 200 and got.json()
	local user = type(users) == "table" and users[name]
	if type(user) ~= "table" or type(user.enabled) ~= "boolean" then
		return "unread"
	end
	return user.enabled and "enabled" or "disabled"
end

-- The login was refused at another moment than the user is read, when he may not have been to be
-- read. So it is tried again: refused between two readings, the password was judged, and is wrong.
function judge(_, job)
	local admin, name = job.admin, job.account.login
	if name == "" or name == "." or name == ".." or name:find("[*,]") then
		return sdk.undecided("not_judged")
	end
	local before, err = state(admin, name)
	if not before then
		return nil, err
	elseif before == "missing" then
		return sdk.rejected()
	elseif before ~= "enabled" then
		return sdk.undecided(before == "disabled" and "disabled" or "not_judged")
	end
	local got
	got, err = ask("GET", "/_security/_authenticate", name, job.candidate)
	if not got then
		return nil, err
	elseif got.status ~= 401 then
		return sdk.undecided("not_judged")
	end
	local since
	since, err = state(admin, name)
	if not since then
		return nil, err
	elseif since == "enabled" then
		return sdk.rejected()
	end
	return sdk.undecided("not_judged")
end
