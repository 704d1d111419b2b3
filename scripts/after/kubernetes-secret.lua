--[[ rotunda
name    = "kubernetes-secret"
version = "1.1.0"
kind    = "after_rotation"
about   = "Writes the new secret into a Secret of a Kubernetes cluster, and restarts workloads that read it when they start."
needs   = ["secret"]
modules = ["kube", "log"]
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

local kube = require "kube"
local log = require "log"

local REASONS = {["kube.unauthorized"] = "admin.refused", ["kube.forbidden"] = "admin.rights", ["kube.missing"] = "object.missing"}

function run(job)
	local p, cluster = job.parameters, job.records.cluster
	local values = {[p.key] = job.secret}
	if p.login_key ~= "" then
		values[p.login_key] = job.account.login
	end
	local at = {address = cluster.address, token = cluster.secret, namespace = p.namespace, name = p.name, values = values}
	local ok, err = kube.set_secret(at)
	if not ok then
		log.error("the Secret", p.name, "is not written:", err.text)
		if err.not_sent then
			return sdk.unchanged(err.class, REASONS[err.reason] or err.reason)
		end
		return nil, err
	end
	for _, workload in ipairs(p.restart) do
		local kind, name = workload:match("^(%a+)/(.+)$")
		ok, err = kube.restart{
			address = cluster.address, token = cluster.secret, namespace = p.namespace, kind = kind .. "s", name = name, time = job.run.time,
		}
		if not ok then
			log.error("the Secret is written, but", workload, "is not restarted:", err.text)
			return sdk.unknown
		end
	end
	return sdk.changed
end
