--[[ rotunda
name    = "cisco-ios"
version = "1.0.0"
kind    = "rotator"
about   = "Sets the secrets of local users of Cisco IOS and IOS XE devices, over SSH."
modules = ["secret", "ssh", "text"]
hosts   = ["resource"]
[parameters.algorithm]
type    = "enum"
values  = ["scrypt", "sha256", "device"]
about   = "How the device keeps the secret: scrypt (type 9), sha256 (type 8), or what the device does by itself (type 5 or 9)."
default = "scrypt"
[parameters.save]
type    = "boolean"
about   = "Whether the startup configuration is written after the change; without it a restart brings the former secret back."
default = true
[rotator]
kinds   = ["password"]
max_len = 25
forbid  = "? "
]]

local secret = require "secret"
local ssh = require "ssh"
local text = require "text"

-- A prompt stands alone at the end of what the device said. It holds the device's name, and
-- in the configuration its part: sw1>, sw1#, sw1(config)#.
local USER = [[(?m)^[\w.-]+>\s?\z]]
local EXEC = [[(?m)^[\w.-]+#\s?\z]]
local CONFIG = [[(?m)^[\w.-]+\(config[^()]*\)#\s?\z]]
local PASSWORD = [[(?i)password:\s?\z]]
local QUESTION = [[\[confirm\]\s?\z|\[yes/no\]:?\s?\z]]

-- unsent raises an error of what could not change anything.
local function unsent(err)
	if type(err) == "table" then
		err.not_sent = true
	end
	error(err, 0)
end

-- run types a line and waits for a prompt. It gives what the device said in between.
local function run(d, line, prompt)
	assert(d:send(line))
	local n, m = assert(d:expect{prompt, PASSWORD, QUESTION, timeout = 30})
	if n ~= 1 then
		sdk.fail{class = "unsupported", reason = "device.question", text = "the device asks a question where a prompt was expected"}
	end
	return m.before
end

-- Words with which IOS objects, small, beside lines that begin with a percent sign.
local OBJECTIONS = {"^error:", "^command rejected", "^command authorization failed", "^can ?not have both ", "password configuration failed"}

-- refusal is the first line with which the device objects; nil where there is none. A message
-- of its log (%SYS-5-CONFIG_I: …) is none.
local function refusal(said)
	for line in said:gmatch("[^\r\n]+") do -- by no module: where the device echoes a secret, none takes it
		line = line:gsub("^%s+", "")
		if line:match("^%%") and not line:match("^%%[%w_]+%-%d%-") then
			return line
		end
		local small = line:lower()
		for _, words in ipairs(OBJECTIONS) do
			if small:match(words) then
				return line
			end
		end
	end
end

-- enter logs in and becomes privileged.
local function enter(login, password, enable)
	local c, err = ssh.connect{login = login, secret = password}
	if not c then
		return nil, err
	end
	local d = assert(c:shell())
	local n = assert(d:expect{USER, EXEC, timeout = 30})
	if n == 1 then
		if not enable then
			sdk.fail{class = "permission", reason = "admin.rights", not_sent = true, text = "the administrator is not privileged, and the resource has no extra secret named enable"}
		end
		assert(d:send("enable"))
		if assert(d:expect{PASSWORD, USER, EXEC}) == 1 then
			assert(d:send(enable))
			n = assert(d:expect{EXEC, PASSWORD, USER})
		end
		if n ~= 1 then
			sdk.fail{class = "permission", reason = "admin.rights", not_sent = true, text = "the device does not let the administrator become privileged"}
		end
	end
	run(d, "terminal length 0", EXEC)
	return {connection = c, dialogue = d}
end

-- at gives the dialogue of a session. After a call that did not come to its end nobody knows
-- what the device will say next: it is left, and entered anew.
local function at(session, job)
	if session.midway then
		session.connection:close()
		local again, err = enter(job.admin.login, job.admin.secret, job.extras.enable)
		if not again then
			unsent(err)
		end
		session.connection, session.dialogue = again.connection, again.dialogue
	end
	session.midway = true
	return session.dialogue
end

function open(job)
	if not job.admin then
		sdk.fail{class = "invalid", reason = "administrator.missing", not_sent = true, text = "give the resource an administrator of privilege 15"}
	end
	local ok, session, err = pcall(enter, job.admin.login, job.admin.secret, job.extras.enable)
	if ok and session then
		return session
	end
	unsent(ok and err or session) -- nothing is configured yet
end

function close(session)
	session.connection:close()
end

-- command is the line that sets the secret. What type it is of is said, so that a secret
-- that begins with a number is not taken for a hash.
local function command(name, algorithm, value)
	if algorithm == "device" then
		return text.concat("username ", name, " secret 0 ", value)
	end
	return text.concat("username ", name, " algorithm-type ", algorithm, " secret ", value)
end

local NAME = "^[%w_][%w_.@+-]*$"

-- anyOf is a pattern of the device that a name fits: others may, too. A dot stands for what has
-- a meaning there, such as _, which is a space or the end of the line and no underscore.
local function anyOf(name)
	return (name:gsub("%W", "."))
end

-- has says whether the device has such a user. Unlike "username", "show" makes nobody.
local function has(d, name)
	local said = run(d, "show running-config | include ^username " .. anyOf(name) .. " ", EXEC)
	for line in said:gmatch("[^\n]+") do
		if line:sub(1, #name + 10) == "username " .. name .. " " then
			return true
		end
	end
	local why = refusal(said)
	if why then
		sdk.fail{class = "permission", reason = "admin.rights", not_sent = true, text = "the device does not show its configuration: " .. why}
	end
	return false
end

-- configure sets the secret. It gives the device's objection.
local function configure(d, line)
	run(d, "configure terminal", CONFIG)
	local said = run(d, line, CONFIG)
	run(d, "end", EXEC)
	return refusal(said)
end

-- objected is what an objection of the device's means.
local function objected(why)
	why = why:lower()
	if why:match("authoriz") then
		return sdk.unchanged("permission", "admin.rights")
	elseif why:match("not have both") then -- a user with a password (type 0 or 7) gets no secret beside it
		return sdk.unchanged("conflict", "device.refused")
	elseif why:match("password") or why:match("secret") or why:match("length") then
		return sdk.unchanged("policy", "policy.refused")
	elseif why:match("invalid input") or why:match("^command rejected") then -- an algorithm that it does not know
		return sdk.unchanged("unsupported", "device.refused")
	end
	return sdk.unknown
end

function set_secret(session, job)
	local name = job.account.login
	if not name:match(NAME) or #name > 64 then
		return sdk.unchanged("unsupported", "account.name")
	end
	-- A question mark asks for help, and what comes before a space would be a type.
	if not secret.matches(job.candidate, "[!->@-~]+") then
		return sdk.unchanged("policy", "policy.charset")
	end
	local d = at(session, job)
	local ok, there = pcall(has, d, name)
	if not ok then
		unsent(there)
	end
	local answer = sdk.changed
	if not there then
		answer = sdk.unchanged("not_found", "account.missing")
	else
		local why = configure(d, command(name, job.parameters.algorithm, job.candidate))
		if why then
			answer = objected(why)
		elseif job.parameters.save and not run(d, "write memory", EXEC):find("[OK]", 1, true) then
			answer = sdk.unknown -- a restart would bring the former one back: it is to be done again
		end
	end
	session.midway = false
	return answer
end

-- The login itself is the proof; the device may then show a prompt or a menu, as it likes.
function verify(job)
	local c, err = ssh.connect{login = job.account.login, secret = job.candidate}
	if c then
		c:close()
		return sdk.accepted
	elseif err.reason == "bad_secret" then -- also the right one, where users are locked out or a server is asked
		return sdk.undecided("not_judged")
	end
	return nil, err
end

-- With these lines alone, the first of which must be there, the device compares a secret with its
-- own user's, locks nobody out and has no secret end. Without it each line of its own says by what
-- it lets people in, which may be no user's secret.
local HARMLESS = {"^aaa new%-model$", "^aaa session%-id %S+$", "^aaa authentication login %S+ local$", "^aaa accounting ", "^username "}

-- judge says whether the configuration has another reason for a refusal than a wrong secret.
function judge(session, job)
	local name = job.account.login
	if not name:match(NAME) or #name > 64 then
		return sdk.undecided("not_judged")
	end
	local d = at(session, job)
	local said = run(d, "show running-config | include ^aaa |^login |^username " .. anyOf(name) .. " ", EXEC)
	session.midway = false
	local user, model
	for line in said:gmatch("[^\r\n]+") do
		line = line:gsub("%s+$", "")
		model = model or line == "aaa new-model"
		local harmless = false
		for _, p in ipairs(HARMLESS) do
			harmless = harmless or line:match(p) ~= nil
		end
		if line:match("^aaa ") and not harmless or line:match("^login block%-for ") or refusal(line) then
			return sdk.undecided("not_judged")
		elseif line:sub(1, #name + 10) == "username " .. name .. " " then
			user = user and "" or line:sub(#name + 11)
		end
	end
	user = user and user:gsub("^privilege %d+ ", "")
	if model and user and (user:match("^secret %d+ %S+$") or user:match("^password %d+ %S+$")) then
		return sdk.rejected()
	end
	return sdk.undecided("not_judged") -- also nobody, or one with more to his name, such as an access list
end
