--[[ rotunda
name    = "servicenow"
version = "1.0.0"
kind    = "after_rotation"
about   = "Writes one record of the change into a table of ServiceNow, however often it is run."
modules = ["http", "time"]
hosts   = ["parameters.instance"]
[parameters.instance]
type     = "url"
about    = "The instance, such as https://example.service-now.com."
required = true
[parameters.table]
type    = "string"
about   = "The table; it must have the fields correlation_id, short_description and description."
pattern = "[a-z][a-z0-9_]*"
default = "change_request"
[records.user]
about = "The user of the instance who may read and write the table."
as    = "account"
]]

local http = require "http"
local time = require "time"

-- refused is what the instance clearly said.
local function refused(status)
	if status == 401 then
		return sdk.unchanged("auth", "servicenow.login")
	elseif status == 403 then
		return sdk.unchanged("permission", "servicenow.rights")
	elseif status == 400 or status == 404 then
		return sdk.unchanged("invalid", "servicenow.table")
	end
	return sdk.unknown
end

function run(job)
	local p, user = job.parameters, job.records.user
	local url = p.instance:gsub("/+$", "") .. "/api/now/table/" .. p.table
	local basic = {user = user.login, secret = user.secret}
	local id = "rotunda-" .. job.run.id
	local got, err = http.get(url, {basic = basic, headers = {accept = "application/json"}, query = {
		sysparm_query = "correlation_id=" .. id, sysparm_fields = "sys_id", sysparm_limit = "1",
	}})
	if not got then
		return nil, err
	elseif got.status ~= 200 then
		return refused(got.status)
	end
	local said = got.json()
	if type(said) ~= "table" or type(said.result) ~= "table" then
		return sdk.unchanged("unsupported", "servicenow.answer")
	elseif #said.result > 0 then
		return sdk.changed -- by an earlier try of this run
	end
	got, err = http.post(url, {basic = basic, headers = {accept = "application/json"}, json = {
		correlation_id = id,
		correlation_display = "rotunda",
		short_description = "The secret of " .. job.account.login .. " on " .. job.resource.address .. " was changed",
		description = "Changed by Rotunda in the run " .. job.run.id .. ", which began at " .. time.format(job.run.time) .. ".",
	}})
	if not got then
		return nil, err
	elseif got.status == 201 then
		return sdk.changed
	end
	return refused(got.status)
end
