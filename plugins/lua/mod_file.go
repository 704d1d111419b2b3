package main

import (
	"strconv"
	"time"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

var fileModule = module{
	about: "Reads and writes files of the agent's host. The manifest's files name them, and so must the local policy of the host (scripts.files).",
	functions: []function{
		{
			name: "read", takes: "path: string, options?: file.read", gives: "string|secret|nil, sdk.error?",
			about: "Reads a whole file. The options: max bytes (1 MiB, which is also the most), timeout in seconds (60), secret = true makes a secret of it. " +
				"The path is whole and leads through no link; the file is a regular one with no second name. An error's reason is local.policy or local.manifest where it may not be read, " +
				"local.link where a link is on the way, local.file for all else (class not_found where there is none).",
			example: `local config = assert(file.read("/etc/app.conf", {secret = true}))`,
			do:      fileRead,
		},
		{
			name: "write", acts: true, takes: "path: string, content: string|secret, options?: file.write", gives: "boolean|nil, sdk.error?",
			about: "Puts a file of this content (at most 1 MiB) in a file's place, in one step: whoever looks finds the old one or the new one. It keeps owner, permissions and access list; " +
				"a new file belongs to the agent's user and has the mode 0600. Gives true where something was changed, false where the file was so already. " +
				"The options: mode, such as \"0640\" (nobody else may write); backup = true keeps the old file beside it, with .bak after its name; timeout in seconds (60). " +
				"The folder must be one in which nobody can put files but root, the agent's user and the file's owner. Errors as of read; not_sent where the file is as it was.",
			example: `assert(file.write("/etc/app.conf", text.concat("password=", job.secret, "\n"), {mode = "0640", backup = true}))`,
			do:      fileWrite,
		},
	},
}

// hostPath is a file of the agent's host, whose system this process does not know.
func (a *args) hostPath(n int) string {
	p := a.text(n)
	if !utf8.ValidString(p) || len(p) > 4096 {
		a.bad(n, "want a whole path")
	}
	return p
}

func fileRead(a *args) int {
	p, o := a.hostPath(1), a.options(2, "max", "timeout", "secret")
	hide := o.bool("secret")
	_, content, failed := a.onHost(o.seconds("timeout", time.Minute), pluginv1.LocalRequest{Read: &pluginv1.LocalRead{
		Path: p, Max: o.integer("max", pluginv1.MaxLocalBody, 1, pluginv1.MaxLocalBody),
	}}, nil)
	if failed != nil {
		failed.NotSent = true
		return a.fail(failed)
	}
	defer clear(content)
	return a.give(content, hide)
}

func fileWrite(a *args) int {
	p := a.hostPath(1)
	content, _ := a.bytes(2)
	defer clear(content)
	o := a.options(3, "mode", "backup", "timeout")
	if len(content) > pluginv1.MaxLocalBody {
		a.bad(2, "it has more than %d bytes", pluginv1.MaxLocalBody)
	}
	w := &pluginv1.LocalWrite{Path: p, Backup: o.bool("backup")}
	if o.has("mode") {
		mode, err := strconv.ParseUint(o.text("mode", ""), 8, 32)
		if err != nil || mode&^0o775 != 0 {
			a.bad(3, "mode: want permissions such as \"0640\", and none for everybody to write")
		}
		m := uint32(mode)
		w.Mode = &m
	}
	answer, _, failed := a.onHost(o.seconds("timeout", time.Minute), pluginv1.LocalRequest{Write: w}, content)
	if failed != nil {
		return a.fail(failed)
	}
	return a.push(lua.LBool(answer.Changed))
}
