--[[ rotunda
name    = "frr-vty"
version = "1.0.0"
kind    = "rotator"
about   = "Sets the password of the terminal of an FRRouting or Quagga daemon, over telnet."
modules = ["secret", "telnet", "text"]
hosts   = ["resource"]
[rotator]
kinds       = ["password"]
self        = true
login_tries = 2
max_len     = 64
forbid      = "?| "
]]

local secret = require "secret"
local telnet = require "telnet"
local text = require "text"

local USER = [[(?m)^[\w.-]+> \z]]
local EXEC = [[(?m)^[\w.-]+# \z]]
local CONFIG = [[(?m)^[\w.-]+\(config\)# \z]]
local PASSWORD = [[(?m)^Password: \z]]
local NONE = [[Vty password is not set]]
local OVER = [[Bad passwords]]

-- unsent raises an error of what could not change anything.
local function unsent(err)
	if type(err) == "table" then
		err.not_sent = true
	end
	error(err, 0)
end

local function fail(class, reason, why)
	sdk.fail{class = class, reason = reason, not_sent = true, text = why}
end

-- login gives a dialogue, or nil where the daemon refused the password.
local function login(password)
	local d = assert(telnet.connect())
	local n = assert(d:expect{PASSWORD, NONE, USER, EXEC})
	if n == 2 then
		fail("unsupported", "no_login", "the daemon has no password, and lets nobody in")
	elseif n > 2 then
		fail("unsupported", "not_asked", "the daemon lets everybody in without a password")
	end
	assert(d:send(password))
	n = assert(d:expect{USER, EXEC, PASSWORD, OVER})
	if n > 2 then
		d:close()
		return nil
	end
	return d, n == 2
end

-- run types a line and waits for a prompt. It gives what the daemon said in between.
local function run(d, line, prompt)
	assert(d:send(line))
	local _, m = assert(d:expect{prompt})
	return m.before
end

-- enter logs in and becomes privileged.
local function enter(job)
	local d, privileged = login(job.admin.secret)
	if not d then
		fail("auth", "admin.refused", "the daemon refuses the password")
	end
	if not privileged then
		assert(d:send("enable"))
		local n = assert(d:expect{EXEC, PASSWORD})
		if n == 2 and not job.extras.enable then
			fail("permission", "admin.rights", "the daemon asks for its enable password: give the resource an extra secret named enable")
		elseif n == 2 then
			assert(d:send(job.extras.enable))
			n = assert(d:expect{EXEC, PASSWORD, USER})
		end
		if n ~= 1 then
			fail("permission", "admin.rights", "the daemon refuses the enable password")
		end
	end
	return d
end

-- There is one password and no names, so whoever is logged in changes the one that he came
-- in by.
function open(job)
	if not job.admin then
		fail("invalid", "administrator.missing", "the daemon's password is changed by itself: let the account be one without an administrator")
	end
	local ok, d = pcall(enter, job)
	if not ok then
		unsent(d)
	end
	return {dialogue = d}
end

function close(session)
	session.dialogue:close()
end

function set_secret(session, job)
	if job.account.login ~= "vty" then
		return sdk.unchanged("not_found", "account.missing")
	end
	-- It begins with a letter or a number; a question mark asks for help, a line asks for a
	-- filter, and after a space there would be another word.
	if not secret.matches(job.candidate, "[0-9A-Za-z][!->@-{}~]*") then
		return sdk.unchanged("policy", "policy.charset")
	end
	-- After a call that did not come to its end nobody knows what the daemon will say next.
	if session.midway then
		session.dialogue:close()
		local ok, d = pcall(enter, job)
		if not ok then
			unsent(d)
		end
		session.dialogue = d
	end
	session.midway = true
	local d, answer = session.dialogue, sdk.changed
	run(d, "configure terminal", CONFIG)
	local said = run(d, text.concat("password ", job.candidate), CONFIG)
	run(d, "end", EXEC)
	if said:find("Please specify", 1, true) then
		answer = sdk.unchanged("policy", "policy.refused")
	elseif said:find("%", 1, true) and said:find("command", 1, true) then
		answer = sdk.unchanged("unsupported", "device.refused")
	elseif not run(d, "write memory", EXEC):find("onfiguration saved to", 1, true) then
		answer = sdk.unknown -- a restart would bring the former one back: it is to be done again
	end
	session.midway = false
	return answer
end

function verify(job)
	if job.account.login ~= "vty" then
		return sdk.undecided("account.missing")
	end
	local d = login(job.candidate)
	if not d then
		return sdk.rejected()
	end
	d:close()
	return sdk.accepted
end
