package proof

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// A Unix account that nobody administers rotates itself by its own password, which ends with
// the change: whatever a killed agent has left, the next start finds out which one is in force.
func TestUnixAccountItself(t *testing.T) {
	beside(t)
	if os.Geteuid() != 0 {
		t.Skip("Unix accounts need root")
	}
	w := newWorld(t, "fault")
	sshd := targets.OpenSSH(t, targets.SSHDOptions{Quick: true})
	first := sdk.NewSecret([]byte("first-" + random()))
	user, err := sshd.CreateUser(t.Context(), targets.UserOptions{Password: first})
	must(t, err)
	cli := func(args ...string) {
		t.Helper()
		_, err := w.CLI(t.Context(), nil, args...)
		must(t, err)
	}
	cli("resource", "add", "web", "--folder", installation.Folder, "--pool", installation.Pool, "--plugin", "ssh",
		"--host", sshd.Host, "--port", strconv.Itoa(sshd.Port), "--trust-first-key")
	must(t, w.AddUser(t.Context(), "web", "user", user.Name, sdk.Credential{Kind: sdk.Password, Secret: first}))
	opens := func(what string) (now sdk.Secret) {
		t.Helper()
		c, err := w.Credential(t.Context(), "user", sdk.Password)
		must(t, err)
		if ok, err := sshd.Accepts(t.Context(), user.Name, c); err != nil || !ok {
			t.Fatalf("%s: the vault's secret does not open the target: %v: %s", what, err, w.agent.Tail())
		}
		return c.Secret
	}
	before := first
	for _, point := range []string{"before-apply", "after-apply", "before-commit"} {
		must(t, os.WriteFile(filepath.Join(w.agent.Fault, point), []byte("kill"), 0o600))
		o, err := w.Rotate(t.Context(), "user", "--no-wait")
		must(t, err)
		<-w.agent.Done()
		must(t, w.agent.Start(t.Context()))
		cli("run", "watch", o.RunID)
		now := opens(point)
		if now.Equal(before) {
			t.Errorf("%s: the secret is the former one", point)
		}
		if ok, err := sshd.Accepts(t.Context(), user.Name, sdk.Credential{Kind: sdk.Password, Secret: before}); err != nil || ok {
			t.Errorf("%s: the former one opens the target: %v", point, err)
		}
		before = now
	}
	must(t, exec.CommandContext(t.Context(), "passwd", "-n", "5", user.Name).Run())
	o, err := w.Rotate(t.Context(), "user")
	if err == nil || o.Reason != "policy.too_soon" {
		t.Errorf("too soon: %v: %+v", err, o)
	}
	if !opens("too soon").Equal(before) {
		t.Error("too soon, and the secret is another")
	}
	must(t, exec.CommandContext(t.Context(), "passwd", "-n", "0", user.Name).Run())
	cli("rotate", "user")
	if opens("soon enough").Equal(before) {
		t.Error("the secret is the former one")
	}
}
