package proof

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
)

const telling = `--[[ rotunda
name    = "tell"
version = "1.0.0"
kind    = "after_rotation"
about   = "Tells an application that its password is new."
needs   = ["admin"]
modules = ["log", "ssh"]
hosts   = ["resource"]
[parameters.ready]
type  = "string"
about = "The file that is there when the application can be told."
required = true
]]
local log = require "log"
local ssh = require "ssh"

function run(job)
	local c = assert(ssh.connect{login = job.admin.login, secret = job.admin.secret})
	local got = assert(c:run{argv = {"test", "-e", job.parameters.ready}})
	if got.status ~= 0 then
		log.warn("the application is not ready")
		return sdk.unchanged("conflict", "app.not_ready")
	end
	return sdk.changed
end
`

// TestScripts has Lua scripts follow the rotations of a real PostgreSQL role and of a real
// Unix account: one writes a password file on another host, also where the agent is killed
// before it or after it; one fails, which the credential does not suffer from, and is run
// again alone.
func TestScripts(t *testing.T) {
	beside(t)
	if os.Geteuid() != 0 {
		t.Skip("an sshd that logs other users in needs root")
	}
	w := newWorld(t, "fault")
	ctx := t.Context()
	pg, sshd := targets.Postgres(t), targets.OpenSSH(t, targets.SSHDOptions{Lines: []string{"Subsystem sftp internal-sftp"}})
	must(t, w.AddPostgres(ctx, "db", pg))
	must(t, w.AddSSHD(ctx, "web", sshd))
	do := func(args ...string) {
		t.Helper()
		if _, err := w.CLI(ctx, nil, args...); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	path, ready, script := filepath.Join(dir, ".pgpass"), filepath.Join(dir, "ready"), filepath.Join(dir, "tell.lua")
	must(t, os.WriteFile(path, []byte("*:*:*:other:of-somebody-else\n"), 0o600))
	must(t, os.WriteFile(script, []byte(telling), 0o600))
	if _, err := w.AddRole(ctx, pg, "db", "app", "app_role"); err != nil {
		t.Fatal(err)
	}
	do("script", "add", "../../scripts/after/pgpass.lua", "--folder", installation.Folder)
	do("script", "add", script, "--folder", installation.Folder)
	do("record", "edit", "app", "--script", "pgpass,record.host=web,param.path="+path, "--yes")

	// follows holds what stands in the file against the database.
	follows := func() {
		t.Helper()
		secret, err := w.Secret(ctx, "app")
		must(t, err)
		b, err := os.ReadFile(path)
		must(t, err)
		want := "app_role:" + strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(secret.ExposeString()) + "\n"
		if !strings.HasPrefix(string(b), "*:*:*:other:of-somebody-else\n") || !strings.Contains(string(b), want) {
			t.Error("the file does not have the secret of the record, or lost what was in it")
		}
		if ok, err := pg.Accepts(ctx, "app_role", secret); err != nil || !ok {
			t.Errorf("the secret does not open the database: %v", err)
		}
	}
	o, err := w.Rotate(ctx, "app")
	if err != nil || o.Credential != "done" || o.Scripts != "done" {
		t.Fatalf("%+v, %v: %s", o, err, w.agent.Tail())
	}
	follows()

	for _, point := range []string{"before-scripts", "after-scripts", "before-report"} {
		must(t, os.WriteFile(filepath.Join(w.agent.Fault, point), []byte("kill"), 0o600))
		if _, err := w.Rotate(ctx, "app", "--no-wait"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-w.agent.Done():
		case <-time.After(time.Minute):
			t.Fatalf("the agent did not come to %s: %s", point, w.agent.Tail())
		}
		must(t, w.agent.Start(ctx))
		if err := w.settled(ctx, "app"); err != nil {
			t.Fatalf("%s: %v: %s", point, err, w.agent.Tail())
		}
		follows()
	}

	user, err := sshd.CreateUser(ctx, targets.UserOptions{})
	must(t, err)
	first, err := newKey()
	must(t, err)
	must(t, w.AddUser(ctx, "web", "deploy", user.Name, first))
	do("record", "edit", "deploy", "--script", "tell,param.ready="+ready, "--yes")
	o, err = w.Rotate(ctx, "deploy")
	if err == nil || o.Credential != "done" || o.Scripts != "failed" || o.Reason != "scripts.failed" || !strings.Contains(o.Detail, "not ready") {
		t.Errorf("a script that fails: %+v, %v", o, err)
	}
	revision := func() int64 {
		r, err := w.Record(ctx, "deploy")
		must(t, err)
		return r.Revision
	}
	was := revision()
	if o, err = w.RunScripts(ctx, "deploy"); err == nil || o.Scripts != "failed" {
		t.Errorf("run again, and failing still: %+v, %v", o, err)
	}
	must(t, os.WriteFile(ready, nil, 0o600))
	if o, err = w.RunScripts(ctx, "deploy"); err != nil || o.Scripts != "done" || o.Credential == "failed" {
		t.Errorf("run again alone: %+v, %v: %s", o, err, w.agent.Tail())
	}
	if now := revision(); now != was {
		t.Errorf("revision %d became %d, though only scripts ran", was, now)
	}
}
