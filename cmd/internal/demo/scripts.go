package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rotunda-pam/rotunda/internal/installation"
)

// failing is a script that fails until a file says otherwise.
const failing = `--[[ rotunda
name    = "tell-app"
version = "1.0.0"
kind    = "after_rotation"
about   = "Tells an application that its password is new."
needs   = ["admin"]
modules = ["ssh"]
hosts   = ["resource"]
[parameters.ready]
type  = "string"
about = "The file that is there when the application can be told."
required = true
]]
local ssh = require "ssh"

function run(job)
	local c = assert(ssh.connect{login = job.admin.login, secret = job.admin.secret})
	local got = assert(c:run{argv = {"test", "-e", job.parameters.ready}})
	if got.status ~= 0 then
		return sdk.unchanged("conflict", "app.not_ready")
	end
	return sdk.changed
end
`

// endsSessions has a Lua script end the sessions that were opened with the former secret.
func (d *demo) endsSessions(ctx context.Context) error {
	a := d.account("app")
	session, err := d.pg.ConnectAs(ctx, `app "one"`, a.current.Secret)
	if err != nil {
		return err
	}
	defer session.Close(ctx)
	d.say("rotunda script add scripts/after/postgres-end-sessions.lua; record edit app --script postgres-end-sessions; rotate app")
	if err := d.cli(ctx, "script", "add", "scripts/after/postgres-end-sessions.lua", "--folder", installation.Folder); err != nil {
		return err
	}
	if err := d.cli(ctx, "record", "edit", "app", "--script", "postgres-end-sessions", "--yes"); err != nil {
		return err
	}
	open := session.Ping(ctx) == nil
	o, err := d.rotunda.Rotate(ctx, "app")
	if err != nil {
		return fmt.Errorf("%w: %+v", err, o)
	}
	if err := d.changed(ctx, a, "with a script in its database"); err != nil {
		return err
	}
	d.claim(open && o.Scripts == "done" && session.Ping(ctx) != nil, "app: a script has ended the session that was open with the old secret")
	return nil
}

// scripted has what follows a new secret done by Lua scripts: sessions ended, a password
// file on another host, and one that fails, which the credential does not suffer from.
func (d *demo) scripted(ctx context.Context) error {
	if err := d.endsSessions(ctx); err != nil {
		return err
	}
	if d.sshd == nil {
		d.say("left out: scripts on another host, which need the sshd")
		return nil
	}
	path := filepath.Join(d.dir, "app-server.pgpass")
	if err := os.WriteFile(path, []byte("*:*:*:reports:someone-else's\n"), 0o600); err != nil {
		return err
	}
	d.say("rotunda script add scripts/after/pgpass.lua; record edit app --script pgpass,record.host=web1,…")
	if err := d.cli(ctx, "script", "add", "scripts/after/pgpass.lua", "--folder", installation.Folder); err != nil {
		return err
	}
	if err := d.cli(ctx, "record", "edit", "app", "--script", "pgpass,record.host=web1,param.path="+path, "--yes"); err != nil {
		return err
	}
	d.say("rotunda rotate app")
	o, err := d.rotunda.Rotate(ctx, "app")
	if err != nil {
		return fmt.Errorf("%w: %+v", err, o)
	}
	a := d.account("app")
	if err := d.changed(ctx, a, "with a script after it"); err != nil {
		return err
	}
	written, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	line := `*:*:*:app "one":` + strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(a.current.Secret.ExposeString()) + "\n"
	d.claim(o.Scripts == "done" && strings.Contains(string(written), line), "app: a script has written the new secret into a password file on another host")

	script := filepath.Join(d.dir, "tell-app.lua")
	if err := os.WriteFile(script, []byte(failing), 0o600); err != nil {
		return err
	}
	ready := filepath.Join(d.dir, "ready")
	for _, args := range [][]string{
		{"script", "add", script, "--folder", installation.Folder},
		{"record", "edit", "deploy", "--script", "tell-app,param.ready=" + ready, "--yes"},
	} {
		if err := d.cli(ctx, args...); err != nil {
			return err
		}
	}
	d.say("rotunda rotate deploy, with a script after it that fails")
	o, _ = d.rotunda.Rotate(ctx, "deploy") // its exit code says that a script failed
	d.claim(o.Credential == "done" && o.Scripts == "failed", "deploy: the script failed and the credential is changed all the same: credential %s, scripts %s", o.Credential, o.Scripts)
	if err := d.changed(ctx, d.account("deploy"), "a script failing after it"); err != nil {
		return err
	}
	if err := os.WriteFile(ready, nil, 0o600); err != nil {
		return err
	}
	d.say("rotunda script run deploy")
	if o, err = d.rotunda.RunScripts(ctx, "deploy"); err != nil {
		return fmt.Errorf("%w: %+v", err, o)
	}
	same, err := d.rotunda.Credential(ctx, "deploy", d.account("deploy").kind)
	if err != nil {
		return err
	}
	d.claim(o.Scripts == "done" && same.Secret.Equal(d.account("deploy").current.Secret), "deploy: the script alone was run again, and the secret stayed")
	return nil
}

func (d *demo) cli(ctx context.Context, args ...string) error {
	_, err := d.rotunda.CLI(ctx, nil, args...)
	return err
}
