--[[ rotunda
name    = "gitlab-variable"
version = "1.0.0"
kind    = "after_rotation"
about   = "Writes the new secret into a variable of a GitLab project's or group's pipelines."
needs   = ["secret"]
modules = ["http"]
hosts   = ["parameters.gitlab"]
[parameters.gitlab]
type    = "url"
about   = "The GitLab."
default = "https://gitlab.com"
[parameters.kind]
type    = "enum"
values  = ["projects", "groups"]
about   = "Whose variable it is."
default = "projects"
[parameters.id]
type     = "string"
about    = "The project's or group's number, or its whole path."
required = true
pattern  = "[A-Za-z0-9._/-]+"
[parameters.key]
type     = "string"
about    = "The variable; it must be there."
required = true
pattern  = "[A-Za-z0-9_]+"
[parameters.scope]
type    = "string"
about   = "The variable's environment scope."
default = "*"
[records.token]
about = "An access token with the scope api, of a maintainer."
as    = "account"
]]

local http = require "http"

function run(job)
	local p = job.parameters
	local url = p.gitlab:gsub("/+$", "") .. "/api/v4/" .. p.kind .. http.path(p.id) .. "/variables" .. http.path(p.key)
	local got, err = http.put(url, {
		query = {["filter[environment_scope]"] = p.scope}, headers = {["private-token"] = job.records.token.secret},
		form = {value = job.secret}, secret = true, -- it answers with the value
	})
	if not got then
		return nil, err
	elseif got.status == 200 then
		return sdk.changed
	elseif got.status == 400 then -- a value that cannot be masked, for one
		return sdk.unchanged("policy", "gitlab.refused")
	elseif got.status == 401 then
		return sdk.unchanged("auth", "gitlab.token")
	elseif got.status == 403 then
		return sdk.unchanged("permission", "gitlab.rights")
	elseif got.status == 404 then -- also a project that the token may not see
		return sdk.unchanged("not_found", "gitlab.missing")
	end
	return sdk.unknown
end
