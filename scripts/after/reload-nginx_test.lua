local commands, answers = {}, {}
local away -- why the host is not reached

mock("ssh", {connect = function()
	if away then
		return nil, away
	end
	return {run = function(_, r)
		commands[#commands + 1] = table.concat(r.argv, " ")
		return {status = table.remove(answers, 1), stdout = "", stderr = "nginx: [emerg] unknown directive"}
	end}
end})

local function with(parameters)
	return job{records = {host = {address = "web1:22", login = "root", secret = secret("r")}}, parameters = parameters}
end

test("checked, then reloaded", function()
	answers = {0, 0, 0, 0}
	assert(outcome(run(with{})) == "changed")
	assert(table.concat(commands, "|") == "nginx -q -t|nginx -q -s reload")
	assert(outcome(run(with{sudo = true, config = "/srv/nginx.conf"})) == "changed")
	assert(commands[4] == "sudo -n nginx -q -s reload -c /srv/nginx.conf")
end)

test("a configuration that is wrong is not loaded", function()
	answers = {1}
	assert(reason(run(with{})) == "nginx.config" and #commands == 1)
end)

test("an nginx that does not run", function()
	answers = {0, 1}
	assert(reason(run(with{})) == "nginx.reload")
end)

test("a host that is not reached", function()
	away = {class = "unreachable", reason = "connection", not_sent = true, text = "no"}
	local answer = run(with{})
	assert(outcome(answer) == "unchanged" and reason(answer) == "connection" and #commands == 0)
end)
