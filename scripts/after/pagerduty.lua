--[[ rotunda
name    = "pagerduty"
version = "1.0.0"
kind    = "after_rotation"
about   = "Notes in PagerDuty, as a change event of a service, that a secret was changed; it wakes nobody."
modules = ["http", "time"]
hosts   = ["parameters.endpoint"]
[parameters.endpoint]
type    = "url"
about   = "PagerDuty's address for change events; that of the EU is https://events.eu.pagerduty.com/v2/change/enqueue."
default = "https://events.pagerduty.com/v2/change/enqueue"
[records.integration]
about = "The service's integration for Events API V2: its key is the secret."
as    = "account"
]]

local http = require "http"
local time = require "time"

function run(job)
	local got, err = http.post(job.parameters.endpoint, {json = {
		routing_key = job.records.integration.secret,
		payload = {
			summary = "The secret of " .. job.account.login .. " on " .. job.resource.address .. " was changed",
			timestamp = time.format(job.run.time),
			source = "rotunda",
			custom_details = {login = job.account.login, resource = job.resource.address, run = job.run.id},
		},
	}})
	if not got then
		return nil, err
	elseif got.status == 202 then
		return sdk.changed
	elseif got.status == 400 then -- also of a key that nobody has
		return sdk.unchanged("invalid", "pagerduty.refused")
	elseif got.status == 429 then
		return sdk.unchanged("conflict", "pagerduty.busy")
	end
	return sdk.unknown
end
