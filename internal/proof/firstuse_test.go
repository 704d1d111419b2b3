package proof

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Where a statement says trust on first use, the agent goes by the host key that it
// saw first: another one later is refused, shown, and accepted by a person alone.
func TestTrustOnFirstUse(t *testing.T) {
	beside(t)
	if os.Geteuid() != 0 {
		t.Skip("Unix accounts need root")
	}
	w := newWorld(t)
	ctx := t.Context()
	sshd := targets.OpenSSH(t, targets.SSHDOptions{})
	first := sdk.NewSecret([]byte("first-" + random()))
	user, err := sshd.CreateUser(ctx, targets.UserOptions{Password: first, SudoNoPassword: true})
	if err != nil {
		t.Fatal(err)
	}
	must := func(args ...string) {
		t.Helper()
		if _, err := w.CLI(ctx, nil, args...); err != nil {
			t.Fatal(err)
		}
	}
	must("resource", "add", "web", "--folder", installation.Folder, "--pool", installation.Pool, "--plugin", "ssh",
		"--host", sshd.Host, "--port", strconv.Itoa(sshd.Port), "--trust-first-key")
	admin := sdk.Credential{Kind: sdk.SSHKey, Public: sshd.AdminPub, Secret: sshd.AdminKey}
	if err := w.AddUser(ctx, "web", "root", "root", admin); err != nil {
		t.Fatal(err)
	}
	must("resource", "edit", "web", "--admin", "root", "--yes")
	if err := w.AddUser(ctx, "web", "user", user.Name, sdk.Credential{Kind: sdk.Password, Secret: first}); err != nil {
		t.Fatal(err)
	}
	if o, err := w.Rotate(ctx, "user"); err != nil {
		t.Fatalf("%v: %+v", err, o)
	}

	if err := sshd.Down(); err != nil {
		t.Fatal(err)
	}
	if err := sshd.NewHostKeys(); err != nil {
		t.Fatal(err)
	}
	if err := sshd.Up(ctx); err != nil {
		t.Fatal(err)
	}
	// The session on the former connection may still stand; a new agent process opens its own.
	w.agent.Kill()
	if err := w.agent.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if o, err := w.Rotate(ctx, "user"); err == nil || o.Reason != "target_identity" || o.Class != string(sdk.ClassAuth) {
		t.Fatalf("a server with another key: %v: %+v", err, o)
	}
	var probe struct {
		First string `json:"first_ssh_host_key"`
	}
	if err := w.JSON(ctx, &probe, nil, "resource", "probe", "web"); err != nil || probe.First == "" {
		t.Fatalf("probe: %v: %+v", err, probe)
	}
	shown, err := w.CLI(ctx, nil, "resource", "probe", "web")
	if err != nil || !strings.Contains(string(shown), "somebody stands in between") {
		t.Errorf("probe does not warn: %v: %s", err, shown)
	}
	must("resource", "probe", "web", "--pin", "--yes")
	if o, err := w.Rotate(ctx, "user"); err != nil {
		t.Fatalf("after the key was pinned: %v: %+v", err, o)
	}
	c, err := w.Credential(ctx, "user", sdk.Password)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := sshd.Accepts(ctx, user.Name, c); err != nil || !ok {
		t.Errorf("the vault's secret does not open the target: %v", err)
	}
}
