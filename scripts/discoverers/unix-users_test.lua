local asked, answer

mock("ssh", {connect = function(options)
	asked = {login = options.login, secret = reveal(options.secret)}
	if not answer then
		return nil, {class = "unreachable", reason = "ssh", not_sent = true}
	end
	return {
		close = function() asked.closed = true end,
		run = function(_, options)
			asked.argv = table.concat(options.argv, " ")
			if answer == "lost" then
				return nil, {class = "unreachable", reason = "ssh.lost"}
			end
			return answer
		end,
	}
end})

local function work(parameters)
	return job{admin = {login = "root", secret = secret("r")}, parameters = parameters}
end

local PASSWD = "root:x:0:0:root:/root:/bin/bash\nsync:x:4:65534:sync:/bin:/bin/sync\nweb:x:33:33:,,,:/var/www:/usr/sbin/nologin\nann:x:1000:1000:Ann,,,:/home/ann:/bin/sh\nold:x:1001::::\n"

test("users that may log in", function()
	answer = {status = 0, stdout = PASSWD, truncated = false}
	local found = discover(work())
	assert(asked.login == "root" and asked.secret == "r" and asked.argv == "getent passwd" and asked.closed)
	assert(#found == 3 and found[1].login == "root" and found[2].login == "ann" and found[3].login == "old", #found)
	assert(found[2].facts.uid == "1000" and found[2].facts.home == "/home/ann" and found[2].facts.shell == "/bin/sh")
end)

test("everybody", function()
	answer = {status = 0, stdout = PASSWD, truncated = false}
	assert(#discover(work{everybody = true}) == 5)
end)

test("a list that is not whole is none", function()
	for _, bad in ipairs{
		{status = 2, stdout = "", truncated = false}, {status = 0, stdout = PASSWD, truncated = true}, {status = 0, stdout = "ann\n", truncated = false},
	} do
		answer = bad
		local found, err = discover(work())
		assert(found == nil and err.class == "unsupported" and err.reason == "users.unlisted")
	end
	for _, bad in ipairs{false, "lost"} do
		answer = bad
		local found, err = discover(work())
		assert(found == nil and err.class == "unreachable")
	end
end)
