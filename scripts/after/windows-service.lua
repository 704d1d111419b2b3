--[[ rotunda
name    = "windows-service"
version = "1.0.0"
kind    = "after_rotation"
about   = "Gives a Windows service the new secret of the account that it runs as, and restarts it."
needs   = ["secret"]
modules = ["base64", "log", "text", "winrm"]
hosts   = ["records.host"]
[parameters.service]
type     = "string"
about    = "The service's short name, as sc.exe has it."
required = true
pattern  = "[A-Za-z0-9_.$-]+"
[parameters.user]
type    = "string"
about   = "The user as whom the service must run, without the domain; empty: the account's login without it."
pattern = "[A-Za-z0-9 ._$-]*"
default = ""
[parameters.restart]
type    = "boolean"
about   = "Whether it is restarted, with those that depend on it, where it runs; without that it logs in anew when it starts next."
default = true
[parameters.auth]
type    = "enum"
values  = ["ntlm", "basic"]
about   = "How the administrator logs in; basic is for local users, where the host allows it."
default = "ntlm"
[records.host]
as    = "resource"
about = "The Windows host, which is reached by WinRM over HTTPS (port 5986) by its administrator."
]]

local base64 = require "base64"
local log = require "log"
local text = require "text"
local winrm = require "winrm"

-- Within single quotes PowerShell leaves a $ in a name alone. The secret comes on standard
-- input, in base64, so that no code page changes it. What is printed is a word of ours, or
-- Windows' number.
local SCRIPT = [[
$secret = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String([Console]::In.ReadToEnd().Trim()))
$service = Get-CimInstance -ClassName Win32_Service -Filter 'Name=''%s'''
if (-not $service) { 'missing'; exit 3 }
if (($service.StartName -replace '^.*\\' -replace '@.*$') -ne '%s') { 'other'; exit 5 }
$done = Invoke-CimMethod -InputObject $service -MethodName Change -Arguments @{ StartPassword = $secret }
if ($done.ReturnValue -ne 0) { $done.ReturnValue; exit 4 }
%s'done'
]]

-- What Win32_Service.Change answers where it has changed nothing: access denied, an invalid
-- parameter, an account that is not there.
local REFUSED = {["2"] = "permission", ["21"] = "conflict", ["22"] = "conflict"}

function run(job)
	local p, host = job.parameters, job.records.host
	local user = p.user ~= "" and p.user or job.account.login:match("([^\\]*)$"):match("^[^@]*")
	if not user:match("^[%w ._$-]+$") then -- a DN, for one, or a sign that PowerShell reads
		return sdk.unchanged("invalid", "service.user")
	end
	local restart = p.restart and ("if ($service.State -eq 'Running') { Restart-Service -Name '" .. p.service .. "' -Force }\n") or ""
	local got, err = winrm.powershell{
		address = host.address, login = host.login, secret = host.secret, auth = p.auth,
		script = SCRIPT:format(p.service, user, restart), stdin = base64.encode(job.secret), timeout = 300,
	}
	if not got then
		log.error(err.text)
		return err.not_sent and sdk.unchanged(err.class, err.reason) or sdk.unknown
	end
	local said = text.trim(got.stdout)
	if got.status == 0 and said == "done" then
		log.info(p.service, p.restart and "has the new secret, and was restarted" or "has the new secret")
		return sdk.changed
	elseif got.status == 3 then
		return sdk.unchanged("not_found", "service.missing")
	elseif got.status == 5 then
		return sdk.unchanged("conflict", "service.other_user")
	elseif got.status == 4 then
		log.error("Win32_Service.Change answers", said)
		if REFUSED[said] then
			return sdk.unchanged(REFUSED[said], "service.refused")
		end
		return sdk.unknown
	end
	log.error(text.trim(got.stderr))
	return sdk.unknown -- it may have the secret, and not have started with it
end
