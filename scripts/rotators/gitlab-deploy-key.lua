--[[ rotunda
name    = "gitlab-deploy-key"
version = "1.0.0"
kind    = "rotator"
about   = "Changes the SSH deploy keys of projects on GitLab, through its REST API."
modules = ["http", "ssh"]
hosts   = ["resource", "parameters.api"]
[parameters.api]
type    = "url"
about   = "GitLab's REST API; that of a server of your own is https://HOST/api/v4."
default = "https://gitlab.com/api/v4"
[parameters.write]
type    = "boolean"
about   = "Whether a project's first key may push. A later one may what the key before it may."
default = false
[rotator]
kinds   = ["ssh_key"]
overlap = ["ssh_key"]
]]

local http = require "http"
local ssh = require "ssh"

local PAGE = 100 -- keys in an answer, as many as GitLab gives

-- keys is the path of a project's deploy keys: the project is GROUP/…/NAME.
local function keys(job)
	local name = job.account.login
	if not name:match("^[%w_][%w_.-]*/[%w_./-]*[%w_-]$") or ("/" .. name .. "/"):match("/%.*/") then
		return nil
	end
	return http.path("projects", name, "deploy_keys")
end

-- line is a public key without its comment.
local function line(public)
	local kind, key = public:match("^%s*(%S+)%s+(%S+)")
	return kind and kind .. " " .. key
end

local function half(pair)
	return pair and line(pair:public())
end

local function ask(method, path, job, more)
	local o = more or {}
	o.method, o.url, o.bearer = method, job.parameters.api:gsub("/+$", "") .. path, job.admin.secret
	return http.request(o)
end

-- refused is what GitLab clearly said; anything else is not known.
local function refused(got)
	if got.status == 429 then
		return sdk.unchanged("conflict", "gitlab.busy") -- it did not look at this one
	elseif got.status == 401 then
		return sdk.unchanged("auth", "admin.refused")
	elseif got.status == 403 then
		return sdk.unchanged("permission", "admin.rights")
	elseif got.status == 404 then -- also a project that the token may not see
		return sdk.unchanged("not_found", "account.missing")
	elseif got.status == 301 or got.status == 307 or got.status == 308 then
		return sdk.unchanged("not_found", "account.moved")
	end
	return sdk.unknown
end

-- list gives all deploy keys of the project, or the answer that a function ends with.
local function list(path, job)
	local all = {}
	for page = 1, 100 do
		local got, err = ask("GET", path, job, {query = {per_page = PAGE, page = page}})
		if not got then
			err.not_sent = true
			error(err)
		elseif got.status ~= 200 then
			return nil, refused(got)
		end
		local some = got.json()
		if type(some) ~= "table" then
			return nil, sdk.unchanged("unsupported", "api.answer")
		end
		for _, key in ipairs(some) do
			if type(key) ~= "table" or type(key.id) ~= "number" or type(key.key) ~= "string" then
				return nil, sdk.unchanged("unsupported", "api.answer")
			end
			all[#all + 1] = key
		end
		if #some < PAGE then
			return all
		end
	end
	return nil, sdk.unchanged("unsupported", "api.answer")
end

function open(job)
	if not job.admin then
		sdk.fail{class = "invalid", reason = "administrator.missing", not_sent = true, text = "give the resource an administrator whose secret is an access token of GitLab with the scope api"}
	end
	local got, err = ask("GET", "/version", job)
	if not got then
		err.not_sent = true
		return nil, err
	elseif got.status == 401 then
		sdk.fail{class = "auth", reason = "admin.refused", not_sent = true, text = "GitLab refuses the access token"}
	elseif got.status ~= 200 and got.status ~= 403 then -- 403: the token is good, and may not ask for this
		sdk.fail{class = "unreachable", reason = "api.status", not_sent = true, text = "GitLab answers with status " .. got.status}
	end
end

function set_secret(_, job)
	local path, new, former = keys(job), half(job.candidate), half(job.current)
	if not path then
		return sdk.unchanged("unsupported", "account.name")
	elseif not new then
		return sdk.unchanged("invalid", "key.public")
	end
	local there, answer = list(path, job)
	if not there then
		return answer
	end
	local title, can_push = "Rotunda", job.parameters.write
	for _, key in ipairs(there) do
		local text = line(key.key)
		if text == new then -- it was made before, and the answer was lost
			return sdk.changed
		elseif text == former then
			title, can_push = key.title, key.can_push
		end
	end
	local got, err = ask("POST", path, job, {json = {title = title, key = new, can_push = can_push}})
	if not got then
		return nil, err
	elseif got.status == 201 then
		return sdk.changed
	elseif got.status == 400 or got.status == 422 then -- a kind of key that the server does not take, for one
		return sdk.unchanged("policy", "policy.refused")
	end
	return refused(got)
end

-- That the project can be read is the proof: a key that opens another one, or is a person's,
-- logs in as well.
function verify(job)
	if not keys(job) then
		return sdk.undecided("account.name")
	end
	local c, err = ssh.connect{login = "git", secret = job.candidate}
	if not c and err.reason == "bad_secret" then
		return sdk.rejected()
	elseif not c then
		return nil, err
	end
	local got
	got, err = c:run{argv = {"git-upload-pack", job.account.login .. ".git"}, stdin = "0000", max = 4096}
	c:close()
	if not got then
		return nil, err
	elseif got.status == 0 then
		return sdk.accepted
	end
	return sdk.undecided("gitlab.project")
end

function retire(_, job)
	local path, old, keep = keys(job), half(job.old), half(job.keep)
	if not job.old then
		return sdk.changed
	elseif not path or not old or not keep or old == keep then
		sdk.fail{class = "invalid", reason = "key.public", not_sent = true, text = "the key to remove cannot be told from the one to keep"}
	end
	local there, answer = list(path, job)
	if not there then
		return answer
	end
	for _, key in ipairs(there) do
		if line(key.key) == old then
			local got, err = ask("DELETE", path .. http.path(string.format("%d", key.id)), job)
			if not got then
				return nil, err
			elseif got.status ~= 204 and got.status ~= 404 then -- 404: somebody else removed it
				return refused(got)
			end
		end
	end
	return sdk.changed
end
