--[[ rotunda
name    = "webhook"
version = "1.0.0"
kind    = "after_rotation"
about   = "Tells a channel of Slack or Microsoft Teams, or any web service, that a secret was changed; never the secret."
modules = ["http", "template", "time"]
hosts   = ["parameters.url"]
[parameters.url]
type     = "url"
about    = "Where the message is sent."
required = true
[parameters.format]
type    = "enum"
values  = ["slack", "teams", "generic"]
about   = "What the message is like: for Slack's incoming webhooks, for Teams' workflows, or a JSON object with all that is known."
default = "generic"
[parameters.text]
type    = "string"
about   = "The message: {{login}}, {{resource}}, {{run}} and {{time}} are filled in."
default = "The secret of {{login}} on {{resource}} was changed."
]]

local http = require "http"
local template = require "template"
local time = require "time"

-- message is the body that the service wants.
local function message(format, text, job)
	if format == "slack" then
		-- Slack reads these three as marks of its own.
		return {text = (text:gsub("[&<>]", {["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;"}))}
	elseif format == "teams" then
		return {type = "message", attachments = {{
			contentType = "application/vnd.microsoft.card.adaptive",
			content = {type = "AdaptiveCard", version = "1.4", body = {{type = "TextBlock", text = text, wrap = true}}},
		}}}
	end
	return {
		event = "secret.changed", text = text, login = job.account.login, resource = job.resource.address,
		run = job.run.id, time = time.format(job.run.time),
	}
end

function run(job)
	local p = job.parameters
	local text = template.render(p.text, {
		login = job.account.login, resource = job.resource.address, run = job.run.id, time = time.format(job.run.time),
	})
	local got, err = http.post(p.url, {json = message(p.format, text, job)})
	if not got then
		return nil, err
	elseif got.status >= 200 and got.status < 300 then
		return sdk.changed
	elseif got.status >= 400 and got.status < 500 then
		return sdk.unchanged("permission", "webhook.refused")
	end
	return sdk.unknown
end
