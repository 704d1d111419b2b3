--[[ rotunda
name    = "kubernetes-secret"
version = "1.0.0"
kind    = "after_rotation"
about   = "Writes the new secret into a Secret of a Kubernetes cluster, and restarts workloads that read it when they start."
needs   = ["secret"]
modules = ["base64", "http", "json", "log", "time"]
hosts   = ["records.cluster"]
[parameters.namespace]
type    = "string"
about   = "The namespace of the Secret and of the workloads."
pattern = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
default = "default"
[parameters.name]
type     = "string"
about    = "The Secret; it must be there."
required = true
pattern  = "[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
[parameters.key]
type    = "string"
about   = "The value of it that is the secret."
pattern = "[A-Za-z0-9._-]+"
default = "password"
[parameters.login_key]
type    = "string"
about   = "The value of it that is the account's login; empty: none."
pattern = "[A-Za-z0-9._-]*"
default = ""
[parameters.restart]
type    = "strings"
about   = "Workloads that are restarted afterwards: deployment/NAME, statefulset/NAME or daemonset/NAME."
pattern = "(deployment|statefulset|daemonset)/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
default = []
[records.cluster]
about = "The cluster's API; its administrator has a token that may patch the Secret and the workloads."
as    = "resource"
]]

local base64 = require "base64"
local http = require "http"
local json = require "json"
local log = require "log"
local time = require "time"

-- patch changes a few fields of an object, and leaves the others as they are. Of the answer
-- only the object's metadata is asked for: the whole would have secrets in it.
local function patch(cluster, path, change)
	local got, err = http.patch(path, {
		address = cluster.address, bearer = cluster.secret, body = json.encode(change),
		headers = {["content-type"] = "application/merge-patch+json", accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"},
	})
	if not got then
		return nil, err
	elseif got.status == 200 then
		return sdk.changed
	elseif got.status == 401 then
		return sdk.unchanged("auth", "admin.refused")
	elseif got.status == 403 then
		return sdk.unchanged("permission", "admin.rights")
	elseif got.status == 404 then
		return sdk.unchanged("not_found", "object.missing")
	elseif got.status == 422 then -- a Secret that is immutable, for one
		return sdk.unchanged("conflict", "object.refused")
	end
	return sdk.unknown
end

function run(job)
	local p, cluster = job.parameters, job.records.cluster
	local data = {[p.key] = base64.encode(job.secret)}
	if p.login_key ~= "" then
		data[p.login_key] = base64.encode(job.account.login)
	end
	local answer, err = patch(cluster, "/api/v1" .. http.path("namespaces", p.namespace, "secrets", p.name), {data = data})
	if answer ~= sdk.changed then
		log.error("the Secret", p.name, "is not written")
		return answer, err
	end
	for _, workload in ipairs(p.restart) do
		local kind, name = workload:match("^(%a+)/(.+)$")
		answer, err = patch(cluster, "/apis/apps/v1" .. http.path("namespaces", p.namespace, kind .. "s", name), {
			spec = {template = {metadata = {annotations = {["rotunda.dev/changed"] = time.format(job.run.time)}}}},
		})
		if answer ~= sdk.changed then
			log.error("the Secret is written, but", workload, "is not restarted")
			return sdk.unknown
		end
	end
	return sdk.changed
end
