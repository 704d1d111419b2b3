--[[ rotunda
name    = "grafana-datasource"
version = "1.0.0"
kind    = "after_rotation"
about   = "Gives a data source of Grafana the new password of the database account that it uses."
needs   = ["secret"]
modules = ["http", "json", "log"]
hosts   = ["records.grafana"]
[parameters.source]
type     = "string"
about    = "The data source's name."
required = true
[parameters.field]
type    = "string"
about   = "The secret field: password, or basicAuthPassword where the source logs in by HTTP."
default = "password"
[records.grafana]
about = "Grafana; its administrator is a service account's token that may write data sources."
as    = "resource"
]]

local http = require "http"
local json = require "json"
local log = require "log"

function run(job)
	local p, grafana = job.parameters, job.records.grafana
	local function ask(method, path, body)
		return http.request{
			method = method, path = path, address = grafana.address, bearer = grafana.secret,
			body = body, headers = {["content-type"] = body and "application/json"},
		}
	end
	local got, err = ask("GET", "/api/datasources/name" .. http.path(p.source))
	if not got then
		return nil, err
	elseif got.status == 404 then
		return sdk.unchanged("not_found", "grafana.source")
	elseif got.status ~= 200 then
		return sdk.unchanged("permission", "grafana.rights")
	end
	local source = json.decode(got.body)
	if type(source) ~= "table" or type(source.uid) ~= "string" then
		return sdk.unchanged("unsupported", "grafana.answer")
	elseif source.readOnly == true then -- it comes from a file
		return sdk.unchanged("conflict", "grafana.provisioned")
	end
	-- Grafana never tells a secret; those that are not said stay as they are.
	source.secureJsonData, source.secureJsonFields = {[p.field] = job.secret}, nil
	got, err = ask("PUT", "/api/datasources/uid" .. http.path(source.uid), json.encode(source))
	if not got then
		return nil, err
	elseif got.status == 200 then
		log.info("the data source", p.source, "has the new secret")
		return sdk.changed
	elseif got.status == 409 or got.status == 412 then -- somebody else changed it in between
		return sdk.unchanged("conflict", "grafana.changed")
	elseif got.status == 401 or got.status == 403 then
		return sdk.unchanged("permission", "grafana.rights")
	end
	return sdk.unknown
end
