package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
)

// meanwhile is a person at the terminal who says yes to everything, and takes so long
// for the first answer that something happens meanwhile.
type meanwhile struct {
	happens func()
	answers *strings.Reader
}

func (m *meanwhile) Read(b []byte) (int, error) {
	if m.happens != nil {
		m.happens()
		m.happens = nil
	}
	return m.answers.Read(b)
}

// What the one to be removed signs while the administrator looks at the plan never gets
// the administrator's signature.
func TestSignedBetweenPlanAndYes(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts the server")
	}
	i, err := installation.Start(t.Context(), installation.Options{Bin: programsDir(t), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	pass := filepath.Join(i.Dir, "passphrase")
	token := filepath.Join(i.Dir, "grace.token")
	do := func(args ...string) string {
		t.Helper()
		out, err := i.CLI(t.Context(), []byte("the-secret\n"), args...)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	do("folder", "add", "Databases")
	do("agent", "token", "gw1", "--pool", "dc1", "--no-wait")
	do("folder", "grant", "Databases", "dc1", "read", "--yes")
	do("resource", "add", "db1", "--folder", "Databases", "--type", "database", "--pool", "dc1", "--plugin", "postgres", "--host", "db1.internal", "--port", "5432", "--tls", "system")
	do("record", "add", "app", "--folder", "Databases", "--resource", "db1", "--login", "app", "--password-stdin")
	do("member", "add", "Grace", "--out", token, "--no-wait")
	do("join", token, "--profile", "grace", "--passphrase-file", pass, "--unlock-for", "12h")
	do("folder", "grant", "Databases", "Grace", "read,edit,operate")
	do("folder", "list", "--profile", "grace")

	for name, c := range map[string]struct {
		before, meanwhile []string
		record, signer    string
	}{
		"a resource's target": {
			[]string{"resource", "edit", "db1", "--host", "db2.internal"},
			[]string{"resource", "edit", "db1", "--host", "evil.example.net"},
			"db1", "Grace / first device",
		},
		"a resource's target, which said what it had said": {
			[]string{"resource", "edit", "db1", "--host", "db1.internal"},
			[]string{"resource", "edit", "db1", "--host", "evil.example.net"},
			"db1", "Grace / first device",
		},
		"an account's value": {
			[]string{"record", "edit", "app", "--password-stdin"},
			[]string{"record", "edit", "app", "--password-stdin"},
			"app", "Ada / laptop",
		},
	} {
		t.Run(name, func(t *testing.T) {
			do(append(c.before, "--profile", "grace")...)
			p, _, stderr := fakeProcess(t, "member", "remove", "Grace")
			p.getenv = func(name string) string {
				return map[string]string{"ROTUNDA_HOME": filepath.Join(i.Dir, "home"), "XDG_RUNTIME_DIR": filepath.Join(i.Dir, "home"), "ROTUNDA_PASSPHRASE_FILE": pass}[name]
			}
			p.now, p.stdinTerminal = time.Now, true
			p.stdin = &meanwhile{func() { do(append(c.meanwhile, "--profile", "grace")...) }, strings.NewReader(strings.Repeat("yes\n", 5))}
			if code := run(p); code != exitConflict || !strings.Contains(stderr.String(), "plan_stale") {
				t.Fatalf("exit %d, want %d: %s", code, exitConflict, stderr)
			}
			if members := do("member", "list", "--json"); !strings.Contains(members, "Grace") {
				t.Error("she was removed all the same")
			}
			if shown := do("record", "get", c.record, "--json"); !strings.Contains(shown, `"signed_by":"`+c.signer+`"`) {
				t.Errorf("signed by somebody else: %s", shown)
			}
		})
	}
}

// programsDir is where the built programs are.
func programsDir(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("ROTUNDA_BIN"); bin != "" {
		return bin
	}
	bin := filepath.Join(t.TempDir(), "bin")
	if err := installation.Build(bin); err != nil {
		t.Fatal(err)
	}
	return bin
}
