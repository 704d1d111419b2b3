--[[ rotunda
name    = "openbao-kv"
version = "1.0.0"
kind    = "after_rotation"
about   = "Writes the new secret into a secret of a KV version 2 engine of OpenBao or HashiCorp Vault."
needs   = ["secret"]
modules = ["http", "json"]
hosts   = ["parameters.address"]
[parameters.address]
type     = "url"
about    = "The server, such as https://bao.example.com:8200."
required = true
[parameters.mount]
type    = "string"
about   = "Where the engine is mounted."
pattern = "[A-Za-z0-9._/-]+"
default = "secret"
[parameters.path]
type     = "string"
about    = "The secret's path in it."
required = true
pattern  = "[A-Za-z0-9._/-]+"
[parameters.key]
type    = "string"
about   = "The name of the value that is the secret; others stay."
default = "password"
[parameters.login_key]
type    = "string"
about   = "The name of the value that is the account's login; empty: none."
default = ""
[parameters.namespace]
type    = "string"
about   = "The server's namespace; empty: none."
pattern = "[A-Za-z0-9._/-]*"
default = ""
[records.token]
about = "The token that may create and patch the path."
as    = "account"
]]

local http = require "http"
local json = require "json"

-- path is a path of several parts, none of which leads elsewhere.
local function path(text)
	local parts = {}
	for part in text:gmatch("[^/]+") do
		parts[#parts + 1] = part
	end
	return http.path(unpack(parts))
end

local function refused(status)
	if status == 403 then -- also to a token that is no more
		return sdk.unchanged("permission", "openbao.rights")
	elseif status == 404 then
		return sdk.unchanged("not_found", "openbao.mount")
	elseif status == 400 or status == 405 then
		return sdk.unchanged("unsupported", "openbao.refused")
	end
	return sdk.unknown
end

function run(job)
	local p = job.parameters
	local url = p.address:gsub("/+$", "") .. "/v1" .. path(p.mount) .. "/data" .. path(p.path)
	local values = {[p.key] = job.secret}
	if p.login_key ~= "" then
		values[p.login_key] = job.account.login
	end
	local said, body = pcall(json.encode, {data = values})
	if not said then
		return sdk.unchanged("policy", "policy.charset")
	end
	local function send(method, kind)
		return http.request{method = method, url = url, body = body, headers = {
			["content-type"] = kind, ["x-vault-request"] = "true", ["x-vault-token"] = job.records.token.secret,
			["x-vault-namespace"] = p.namespace ~= "" and p.namespace or nil,
		}}
	end
	local got, err = send("PATCH", "application/merge-patch+json")
	if got and got.status == 404 then -- there is nothing yet whose other values could stay
		got, err = send("POST", "application/json")
	end
	if not got then
		return nil, err
	elseif got.status == 200 or got.status == 204 then
		return sdk.changed
	end
	return refused(got.status)
end
