package proof

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// TestJumpHosts rotates on PostgreSQL and by SSH behind one and two real SSH hosts, and
// says which of them failed.
func TestJumpHosts(t *testing.T) {
	beside(t)
	if os.Geteuid() != 0 {
		t.Skip("an sshd that logs other users in needs root")
	}
	w := newWorld(t)
	pg, outer, inner, behind := targets.Postgres(t), targets.OpenSSH(t, targets.SSHDOptions{}), targets.OpenSSH(t, targets.SSHDOptions{}), targets.OpenSSH(t, targets.SSHDOptions{})
	do := func(args ...string) {
		t.Helper()
		if _, err := w.CLI(t.Context(), nil, args...); err != nil {
			t.Fatal(err)
		}
	}
	for name, s := range map[string]*targets.SSHD{"outer": outer, "inner": inner, "web": behind} {
		if err := w.AddSSHD(t.Context(), name, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.AddPostgres(t.Context(), "db", pg); err != nil {
		t.Fatal(err)
	}
	do("resource", "edit", "inner", "--via", "outer")
	do("resource", "edit", "db", "--via", "inner")
	do("resource", "edit", "web", "--via", "outer")

	// On the outer host agents are nobody's administrator.
	pw := sdk.NewSecret([]byte("first-" + random()))
	passing, err := outer.CreateUser(t.Context(), targets.UserOptions{Password: pw})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AddUser(t.Context(), "outer", "passing", passing.Name, sdk.Credential{Kind: sdk.Password, Secret: pw}); err != nil {
		t.Fatal(err)
	}
	do("resource", "edit", "outer", "--extra", "jump=passing")

	if _, err := w.AddRole(t.Context(), pg, "db", "app", "app"); err != nil {
		t.Fatal(err)
	}
	first := sdk.NewSecret([]byte("first-" + random()))
	user, err := behind.CreateUser(t.Context(), targets.UserOptions{Password: first})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AddUser(t.Context(), "web", "deploy", user.Name, sdk.Credential{Kind: sdk.Password, Secret: first}); err != nil {
		t.Fatal(err)
	}
	works := func(title string) {
		t.Helper()
		if o, err := w.Rotate(t.Context(), title); err != nil {
			t.Fatalf("%s: %v: %+v: %s", title, err, o, w.agent.Tail())
		}
		c, err := w.Credential(t.Context(), title, sdk.Password)
		if err != nil {
			t.Fatal(err)
		}
		ok := false
		if title == "app" {
			ok, err = pg.Accepts(t.Context(), "app", c.Secret)
		} else {
			ok, err = behind.Accepts(t.Context(), user.Name, c)
		}
		if err != nil || !ok {
			t.Fatalf("%s: the target does not take what the vault has: %v", title, err)
		}
	}
	works("app")
	works("deploy")
	do("resource", "test", "db")
	out, err := w.CLI(t.Context(), nil, "resource", "probe", "db", "--json")
	if err != nil || !strings.Contains(string(out), hex.EncodeToString(pg.SPKI[:])) {
		t.Errorf("probe through both hosts: %v: %s", err, out)
	}

	// The password of the login on the way is rotated like any other, and used from then on.
	if o, err := w.Rotate(t.Context(), "passing"); err != nil {
		t.Fatalf("passing: %v: %+v", err, o)
	}
	works("app")

	fails := func(title, reason, host string) {
		t.Helper()
		o, err := w.Rotate(t.Context(), title)
		if err == nil || o.Reason != reason || !strings.Contains(o.Detail, host) {
			t.Errorf("%s: %v, %+v; want %s of %s", title, err, o, reason, host)
		}
	}
	// A new agent process knows no connection that is open.
	restart := func() {
		t.Helper()
		w.agent.Stop()
		if err := w.agent.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.agent.Stop()
	if err := inner.Down(); err != nil {
		t.Fatal(err)
	}
	restart()
	fails("app", "dial.unreachable", "jump host 1 ("+outer.Address+")")
	works("deploy") // which only passes the outer one
	if err := inner.NewHostKeys(); err != nil {
		t.Fatal(err)
	}
	if err := inner.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	fails("app", "target_identity", "jump host 2 ("+inner.Address+")")
	var keys []string
	for _, k := range inner.HostKeys {
		keys = append(keys, "--host-key", hex.EncodeToString(k[:]))
	}
	do(append([]string{"resource", "edit", "inner"}, keys...)...)
	works("app")

	// The local policy is asked of every host and of the target.
	if err := os.WriteFile(filepath.Join(w.agent.Dir, "policy.toml"), []byte("[networks]\nallow = [\"127.0.0.1\"]\ndeny = [\"127.0.0.2\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	restart()
	works("app")
	do("resource", "edit", "db", "--host", "127.0.0.2", "--port", strconv.Itoa(pg.Port))
	fails("app", "local_policy", "127.0.0.2")
}
