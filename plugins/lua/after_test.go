package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// What runs after a rotation, by the SDK's verb, on a real OpenSSH server.

func overSSHD(t *testing.T, s *targets.SSHD, name string, parameters map[string]any) (*bench, sdk.OpenRequest, []sdk.Record) {
	t.Helper()
	b := fromLibrary(t, name)
	b.allow, b.host.Pins[s.Address] = []string{s.Address}, s.Pins()
	config, err := json.Marshal(parameters)
	if err != nil {
		t.Fatal(err)
	}
	return b, sdk.OpenRequest{Resource: sdk.Resource{Config: config}}, []sdk.Record{{
		Resource: sdk.Resource{Address: s.Address}, Account: sdk.Account{Name: s.Admin},
		Secret: sdk.Credential{Kind: sdk.SSHKey, Public: s.AdminPub, Secret: s.AdminKey},
	}}
}

// oddPassword has what files give a meaning to.
const oddPassword = `p:a\s'w"o#r;d $x ` + "`y`" + ` end`

// A script of what is done after a rotation in the agent's own plugin host.
func TestEnvFileConformance(t *testing.T) {
	s := targets.OpenSSH(t, targets.SSHDOptions{Lines: []string{"Subsystem sftp internal-sftp"}})
	prove(t, "after/env-file", conformance.Harness{
		Resource: sdk.Resource{Address: s.Address},
		Account: func(_ *testing.T, name string) (sdk.Account, sdk.Credential) {
			return sdk.Account{Name: name}, password(rand.Text())
		},
		Accepts: func(*testing.T, sdk.Account, sdk.Credential) bool { return true }, // there is none to log in to
		After: func(t *testing.T, _ sdk.Account, secret sdk.Credential) conformance.After {
			path := filepath.Join(t.TempDir(), "env")
			if err := os.WriteFile(path, []byte("PASSWORD=before\nOTHER=kept\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			config, err := json.Marshal(map[string]any{"path": path, "key": "PASSWORD"})
			if err != nil {
				t.Fatal(err)
			}
			return conformance.After{
				Config: config,
				Records: []sdk.Record{{
					Resource: sdk.Resource{Address: s.Address}, Account: sdk.Account{Name: s.Admin}, Pins: map[string][]byte{s.Address: s.Pins()},
					Secret: sdk.Credential{Kind: sdk.SSHKey, Public: s.AdminPub, Secret: s.AdminKey},
				}},
				Done: func(t *testing.T) bool {
					b, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					return string(b) == "PASSWORD="+secret.Secret.ExposeString()+"\nOTHER=kept\n"
				},
			}
		},
	})
}

// Files on a host get the new secret: what reads them reads it as it is, all else in them
// stays, and so do their mode and owner.
func TestFilesAfterARotation(t *testing.T) {
	s := targets.OpenSSH(t, targets.SSHDOptions{Lines: []string{"Subsystem sftp internal-sftp"}})
	shell := func(script string, env ...string) string {
		t.Helper()
		cmd := exec.Command("/bin/sh", "-c", script)
		cmd.Env = append([]string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}, env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
		return string(out)
	}
	for _, row := range []struct {
		script, before, stays string
		parameters            map[string]any
		reads                 func(file string) string
	}{
		{
			"after/env-file", "# ours\nUSER=x\nDB_PASSWORD=f1rst\nOTHER='stays'\n", "OTHER='stays'\n",
			map[string]any{"key": "DB_PASSWORD", "login_key": "USER", "backup": true},
			func(file string) string {
				return shell(`. "$FILE"; test "$USER" = app && printf %s "$DB_PASSWORD"`, "FILE="+file)
			},
		},
		{
			"after/my-cnf", "[mysqld]\nport=1\n[client]\npassword = f1rst\n", "[mysqld]\nport=1\n",
			map[string]any{},
			func(file string) string {
				if _, err := os.Stat("/usr/bin/my_print_defaults"); err != nil {
					t.Logf("my-cnf: not read by MariaDB's own program: %v", err)
					return oddPassword
				}
				return strings.TrimSuffix(strings.TrimPrefix(shell(`my_print_defaults --defaults-file="$FILE" client`, "FILE="+file), "--password="), "\n")
			},
		},
		{
			"after/config-key", "{\n  \"db\": {\"password\": \"f1rst\", \"port\": 5432}\n}\n", "\"port\": 5432}\n}\n",
			map[string]any{"format": "json", "key": "db.password"},
			func(file string) string {
				var c struct{ DB struct{ Password string } }
				b, err := os.ReadFile(file)
				if err == nil {
					err = json.Unmarshal(b, &c)
				}
				if err != nil {
					t.Fatal(err)
				}
				return c.DB.Password
			},
		},
		{
			"after/config-key", "[db]\nurl = x\nport = 1\n", "port = 1\n",
			map[string]any{"format": "ini", "section": "db", "key": "url", "value": "app://{{login}}:{{secret|base64}}@db"},
			func(file string) string {
				return shell(`sed -n 's,^url = app://app:\(.*\)@db$,\1,p' "$FILE" | base64 -d`, "FILE="+file)
			},
		},
	} {
		t.Run(row.script, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "file")
			const owner, mode = 4711, 0o640
			for _, err := range []error{os.WriteFile(file, []byte(row.before), 0o600), os.Chown(file, owner, owner), os.Chmod(file, mode)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			row.parameters["path"] = file
			b, open, host := overSSHD(t, s, row.script, row.parameters)
			for range 2 { // it can be repeated
				got, err := b.runAfter(open, sdk.AfterRequest{Records: host, Account: sdk.Account{Name: "app"}, Secret: password(oddPassword)})
				if err != nil || got.Outcome != sdk.Changed {
					t.Fatalf("%+v, %v", got, err)
				}
				if strings.Contains(got.Output, oddPassword) {
					t.Error("the output holds the secret")
				}
			}
			if reads := row.reads(file); reads != oddPassword {
				t.Error("what reads the file does not read the secret")
			}
			now, err := os.ReadFile(file)
			if err != nil || !strings.Contains(string(now), row.stays) {
				t.Errorf("something else in the file has changed, %v", err)
			}
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != mode || st.Uid != owner || st.Gid != owner {
				t.Errorf("the file is now of mode %o and user %d", info.Mode().Perm(), st.Uid)
			}
			kept, err := os.ReadFile(file + ".before")
			if wanted := row.parameters["backup"] == true; wanted != (err == nil) || wanted && string(kept) != row.before {
				t.Errorf("the file as it was: %v", err)
			}
			row.parameters["path"] = file + ".missing"
			b, open, host = overSSHD(t, s, row.script, row.parameters)
			if got, err := b.runAfter(open, sdk.AfterRequest{Records: host, Secret: password(oddPassword)}); err != nil || got.Outcome != sdk.Unchanged || got.Class != sdk.ClassNotFound {
				t.Errorf("of a file that is missing: %+v, %v", got, err)
			}
		})
	}
}

// Agents that change one file at the same time lose nothing of each other's.
func TestOneFileAtOnce(t *testing.T) {
	s := targets.OpenSSH(t, targets.SSHDOptions{Lines: []string{"Subsystem sftp internal-sftp", "MaxStartups 100"}})
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const agents, rounds = 3, 5
	var wg sync.WaitGroup
	for n := range agents {
		b, open, host := overSSHD(t, s, "after/env-file", map[string]any{"path": file, "key": fmt.Sprintf("KEY_%d", n)})
		wg.Go(func() {
			for round := range rounds {
				got, err := b.runAfter(open, sdk.AfterRequest{Records: host, Secret: password(fmt.Sprintf("secret-%d", round))})
				if err != nil || got.Outcome != sdk.Changed {
					t.Errorf("agent %d: %+v, %v", n, got, err)
				}
				now, err := os.ReadFile(file)
				if want := fmt.Sprintf("KEY_%d=secret-%d\n", n, round); err != nil || !strings.Contains(string(now), want) {
					t.Errorf("agent %d, round %d: what it wrote is gone, %v", n, round, err)
				}
			}
		})
	}
	wg.Wait()
}

// What pgpass writes lets psql in.
func TestPgpassLetsClientsIn(t *testing.T) {
	s, pg := targets.OpenSSH(t, targets.SSHDOptions{Lines: []string{"Subsystem sftp internal-sftp"}}), targets.Postgres(t)
	const role = `odd:name\x`
	if err := pg.CreateRole(t.Context(), role, sdk.NewSecret([]byte(oddPassword)), ""); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pgpass")
	if err := os.WriteFile(file, []byte("# ours\n*:*:*:*:f1rst\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, open, host := overSSHD(t, s, "after/pgpass", map[string]any{"path": file, "host": pg.Host})
	got, err := b.runAfter(open, sdk.AfterRequest{Records: host, Account: sdk.Account{Name: role}, Secret: password(oddPassword)})
	if err != nil || got.Outcome != sdk.Changed {
		t.Fatalf("%+v, %v", got, err)
	}
	cmd := exec.Command("psql", "-w", "-At", "-h", pg.Host, "-p", pg.Address[strings.LastIndex(pg.Address, ":")+1:], "-U", role, "-d", pg.Database, "-c", "select session_user")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "PGPASSFILE=" + file, "PGSSLMODE=require", "HOME=" + t.TempDir()}
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != role {
		t.Errorf("psql: %v: %s", err, out)
	}
}

// A unit is restarted by what stands in for systemctl: there is no systemd in a test.
func TestRestartUnit(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const systemctl = `#!/bin/sh
echo "$@" >>"$(dirname "$0")/calls"
case $* in
*"restart -- broken.service") echo "Job for broken.service failed." >&2; exit 1;;
*"is-active -- "*) if [ -e "$(dirname "$0")/asked" ]; then echo active; else : >"$(dirname "$0")/asked"; echo activating; exit 3; fi;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(systemctl), 0o755); err != nil {
		t.Fatal(err)
	}
	s := targets.OpenSSH(t, targets.SSHDOptions{Lines: []string{"SetEnv SHLVL=1 PATH=" + dir + ":/usr/bin:/bin"}})
	for unit, want := range map[string]sdk.AfterResponse{
		"app@one.service": {Outcome: sdk.Changed},
		"broken.service":  {Outcome: sdk.Unchanged, Class: sdk.ClassConflict, Reason: "unit.restart"},
	} {
		b, open, host := overSSHD(t, s, "after/restart-unit", map[string]any{"unit": unit})
		got, err := b.runAfter(open, sdk.AfterRequest{Records: host})
		want.Output = got.Output
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", unit, got, err, want)
		}
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil || !strings.Contains(string(calls), "--no-ask-password restart -- app@one.service\nis-active -- app@one.service\nis-active -- app@one.service\n") {
		t.Errorf("systemctl was called so: %s, %v", calls, err)
	}
}

// A real nginx reads a new configuration, and no wrong one.
func TestReloadNginx(t *testing.T) {
	n := targets.Nginx(t)
	s := targets.OpenSSH(t, targets.SSHDOptions{Lines: []string{"Subsystem sftp internal-sftp"}})
	for _, row := range []struct {
		word, says string
		want       sdk.Outcome
	}{{"second", "second", sdk.Changed}, {"", "second", sdk.Unchanged}} {
		if err := n.Configure(row.word); err != nil {
			t.Fatal(err)
		}
		b, open, host := overSSHD(t, s, "after/reload-nginx", map[string]any{"config": n.Config})
		got, err := b.runAfter(open, sdk.AfterRequest{Records: host})
		if err != nil || got.Outcome != row.want {
			t.Errorf("%q: %+v, %v", row.word, got, err)
		}
		// Workers of before end when they have answered.
		said, err := n.Get(t.Context(), "/")
		for end := time.Now().Add(10 * time.Second); said != row.says && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			said, err = n.Get(t.Context(), "/")
		}
		if err != nil || said != row.says {
			t.Errorf("%q: nginx says %q, %v", row.word, said, err)
		}
	}
}

func timeOf(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// A real PostgreSQL tells who listens, and ends the sessions from before a change.
func TestPostgresAfterARotation(t *testing.T) {
	pg := targets.Postgres(t)
	ctx := t.Context()
	on := func(name string, parameters string) (*bench, sdk.OpenRequest) {
		b := fromLibrary(t, name)
		b.allow, b.host.Pins[pg.Address] = []string{pg.Address}, pg.SPKI[:]
		return b, sdk.OpenRequest{
			Resource: sdk.Resource{Address: pg.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}, Config: []byte(parameters)},
			Admin:    sdk.Credential{Kind: sdk.Password, Secret: pg.AdminPassword}, AdminAs: sdk.Account{Name: pg.Admin},
		}
	}
	t.Run("notify", func(t *testing.T) {
		listener, err := pg.Connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close(ctx)
		if _, err := listener.Exec(ctx, "listen secrets"); err != nil {
			t.Fatal(err)
		}
		b, open := on("after/postgres-notify", `{"channel":"secrets"}`)
		if got, err := b.runAfter(open, sdk.AfterRequest{Account: sdk.Account{Name: "app"}, RunID: "run-1"}); err != nil || got.Outcome != sdk.Changed {
			t.Fatalf("%+v, %v", got, err)
		}
		heard, err := listener.WaitForNotification(ctx)
		if err != nil || heard.Payload != `{"event":"secret.changed","login":"app","run":"run-1"}` {
			t.Errorf("%+v, %v", heard, err)
		}
	})
	t.Run("end sessions", func(t *testing.T) {
		if err := pg.CreateRole(ctx, "worker", sdk.NewSecret([]byte("the worker's own")), ""); err != nil {
			t.Fatal(err)
		}
		as := func(application string) *pgx.Conn {
			t.Helper()
			config, err := pgx.ParseConfig("postgres://worker@" + pg.Address + "/" + pg.Database + "?sslmode=require&application_name=" + application)
			if err != nil {
				t.Fatal(err)
			}
			config.Password = "the worker's own"
			c, err := pgx.ConnectConfig(ctx, config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close(ctx) })
			return c
		}
		before, kept := as("before"), as("backup")
		began := time.Now()
		later := as("later")
		b, open := on("after/postgres-end-sessions", `{"keep":["backup"]}`)
		got, err := b.runAfter(open, sdk.AfterRequest{Account: sdk.Account{Name: "worker"}, RunID: "run-1", Time: began})
		if err != nil || got.Outcome != sdk.Changed {
			t.Fatalf("%+v, %v", got, err)
		}
		for c, lives := range map[*pgx.Conn]bool{before: false, kept: true, later: true} {
			if err := c.Ping(ctx); lives != (err == nil) {
				t.Errorf("a session lives: %v; want %v", err == nil, lives)
			}
		}
		if !strings.Contains(got.Output, "before ended") {
			t.Errorf("it says %q", got.Output)
		}
	})
}

// A file follows a secret: the plan writes nothing, and what is done can be done again and
// undone.
func TestConfigFileFollows(t *testing.T) {
	s := targets.OpenSSH(t, targets.SSHDOptions{Lines: []string{"Subsystem sftp internal-sftp"}})
	file := filepath.Join(t.TempDir(), "config.json")
	holds := func(want string) {
		t.Helper()
		var c struct {
			DB struct{ Password, Other string }
		}
		b, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(b, &c)
		}
		if err != nil || c.DB.Password != want || c.DB.Other != "stays" {
			t.Fatalf("the file does not hold what it should, %v", err)
		}
	}
	if err := os.WriteFile(file, []byte(`{"db": {"password": "f1rst-secret", "other": "stays"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b := fromLibrary(t, "dependents/config-file")
	b.allow, b.host.Pins[s.Address] = []string{s.Address}, s.Pins()
	open := func(path string) sdk.OpenRequest {
		config, err := json.Marshal(map[string]string{"path": path, "format": "json", "key": "db.password"})
		if err != nil {
			t.Fatal(err)
		}
		return sdk.OpenRequest{
			Host: b.host, Resource: sdk.Resource{Address: s.Address, Config: config},
			Admin: sdk.Credential{Kind: sdk.SSHKey, Public: s.AdminPub, Secret: s.AdminKey}, AdminAs: sdk.Account{Name: s.Admin},
		}
	}
	d, ctx := dependents{b.p}, t.Context()
	steps, err := d.Plan(ctx, open(file), sdk.ApplyRequest{Account: sdk.Account{Name: "app"}, Candidate: password(oddPassword), Current: password("f1rst-secret")})
	if err != nil || len(steps) != 1 {
		t.Fatalf("%d steps, %v", len(steps), err)
	}
	holds("f1rst-secret")
	for range 2 {
		if got, err := d.Do(ctx, open(file), steps[0], password(oddPassword)); err != nil || got.Outcome != sdk.Changed {
			t.Fatalf("%+v, %v", got, err)
		}
		holds(oddPassword)
	}
	if got, err := d.Undo(ctx, open(file), steps[0], password("f1rst-secret")); err != nil || got.Outcome != sdk.Changed {
		t.Fatalf("%+v, %v", got, err)
	}
	holds("f1rst-secret")
	if _, err := d.Plan(ctx, open(file+".missing"), sdk.ApplyRequest{}); errorFrom(t, err).Class != sdk.ClassNotFound {
		t.Errorf("of a file that is missing: %v", err)
	}
}

// However much a script has logged before, the readers of the run see how it ended, and that
// there is more.
func TestHowItEnded(t *testing.T) {
	for _, lines := range []int{0, 1, 700, 7167, 7200, 100_000} {
		b := benchOf(t, fmt.Sprintf(`--[[ rotunda
name = "talks"
version = "1"
kind = "after_rotation"
about = "Talks."
modules = ["log"]
]]
local log = require "log"
function run() for n = 1, %d do log.info("é") end error("the end") end
`, lines))
		got, err := b.runAfter(sdk.OpenRequest{}, sdk.AfterRequest{})
		if err != nil || !strings.Contains(got.Output, "the end") || len(got.Output) > pluginv1.MaxOutput || !utf8.ValidString(got.Output) {
			t.Errorf("after %d lines: %d bytes, %v, ending in %q", lines, len(got.Output), err, got.Output[max(len(got.Output)-100, 0):])
		}
		if cut := strings.Contains(got.Output, "there is more in the agent's log"); cut != (lines*len("é\n") > maxOutput-len(cutHere)) {
			t.Errorf("after %d lines it says that there is more: %t", lines, cut)
		}
	}
}

// What is no one account's has none: an empty login would be written to a target.
func TestNoAccount(t *testing.T) {
	const head = "--[[ rotunda\nname = \"x\"\nversion = \"1\"\nabout = \"X.\"\n"
	b := benchOf(t, head+"kind = \"dependents\"\n]]\nfunction plan(job) assert(job.account.login == \"app\") return {} end\nfunction apply(step, job) assert(job.account == nil) return sdk.changed end\n")
	d, open := b.p.plugin().Dependents, sdk.OpenRequest{Host: b.host}
	if _, err := d.Plan(t.Context(), open, sdk.ApplyRequest{Account: sdk.Account{Name: "app"}}); err != nil {
		t.Error(err)
	}
	if got, err := d.Do(t.Context(), open, sdk.Step{ID: "one"}, password("n3w")); err != nil || got.Outcome != sdk.Changed {
		t.Errorf("%+v, %v", got, err)
	}
	b = benchOf(t, head+"kind = \"rotator\"\n[rotator]\nkinds = [\"password\"]\n]]\nfunction open(job) assert(job.account == nil) end\nfunction set_secret() end\nfunction verify() end\n")
	s, err := b.p.plugin().Rotator.Open(t.Context(), sdk.OpenRequest{Host: b.host})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}
