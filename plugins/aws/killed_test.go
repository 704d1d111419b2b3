package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/run"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/sdk"
)

// keysAtOnce is how many accounts share a resource of this test: as many as it takes runs
// at once, so that each can stand at a step while the others do.
const keysAtOnce = concurrency

// An agent is killed while a run stands at each step, those between which the service makes
// a key among them. No account is without a key, none has one that nobody knows, and the
// vault has the one that works: over the real server, agent and command line.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel() // most of it is waiting
	ctx, must := t.Context(), func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "rotunda-keys-")
	must(err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin := filepath.Join(dir, "bin")
	must(installation.Build(bin, "fault"))
	for _, d := range []string{dir, bin} {
		must(os.Chmod(d, 0o755)) // plugins' users must pass through
	}
	s := newIAM(t)
	world, err := installation.Start(ctx, installation.Options{Bin: bin, Dir: filepath.Join(dir, "world")})
	must(err)
	t.Cleanup(world.Close)
	must(os.Chmod(filepath.Join(dir, "world"), 0o711))
	agent, err := world.AddAgent(ctx, "gw1", installation.Pool)
	must(err)
	must(world.AddFolder(ctx))
	cli := func(secret sdk.Secret, args ...string) {
		t.Helper()
		_, err := world.CLI(ctx, secret.Expose(), args...)
		must(err)
	}
	account := func(title, resource, user string) {
		t.Helper()
		key := s.key(user)
		cli(key.Secret, "record", "add", title, "--folder", installation.Folder, "--resource", resource, "--login", user,
			"--kind", "api_key", "--key-id", key.ID, "--password-stdin")
	}
	host, port, err := net.SplitHostPort(s.Listener.Addr().String())
	must(err)
	settings := filepath.Join(dir, "settings")
	must(os.WriteFile(settings, s.resource("").Config, 0o600))

	rounds := [][]string{nil, nil} // before each step, and after it
	for _, point := range append(run.FaultPoints(), "before-mint", "after-mint") {
		if strings.HasSuffix(point, "-apply") {
			continue // the service has applied what it made
		}
		round := 0
		if strings.HasPrefix(point, "after-") {
			round = 1
		}
		rounds[round] = append(rounds[round], point)
	}
	var titles []string
	for n, point := range rounds[0] {
		resource := fmt.Sprint("iam", n/keysAtOnce)
		if n%keysAtOnce == 0 {
			cli(sdk.Secret{}, "resource", "add", resource, "--folder", installation.Folder, "--pool", installation.Pool, "--plugin", "aws",
				"--host", host, "--port", port, "--tls", "pin", "--tls-key", hex.EncodeToString(s.spki[:]), "--config-file", settings)
			admin := resource + "-admin"
			s.add(admin, &iamUser{admin: true})
			account(admin, resource, admin)
			cli(sdk.Secret{}, "resource", "edit", resource, "--admin", admin, "--yes")
		}
		title := strings.Replace(point, "before", "key", 1)
		s.add(title, &iamUser{})
		account(title, resource, title)
		titles = append(titles, title)
	}

	// holds says of every account whether the vault has its key, and the service no other one.
	holds := func(when string) {
		t.Helper()
		for _, title := range titles {
			secret, err := world.Secret(ctx, title)
			must(err)
			id, err := world.CLI(ctx, nil, "record", "get", title, "--field", "key_id")
			must(err)
			key := sdk.Credential{Kind: sdk.APIKey, ID: string(bytes.TrimSpace(id)), Secret: secret}
			if !s.accepts(key) {
				t.Errorf("%s: %s: LOST: the service does not take the vault's key %q", when, title, key.ID)
			}
			if ids := s.ids(title); !slices.Equal(ids, []string{key.ID}) {
				t.Errorf("%s: %s: the service has the keys %q; the vault has %q", when, title, ids, key.ID)
			}
		}
	}
	rotated := func(when string) {
		t.Helper()
		for _, title := range titles {
			if o, err := world.Rotate(ctx, title); err != nil || o.Credential != "done" {
				t.Errorf("%s: %s: %+v, %v", when, title, o, err)
			}
		}
		holds(when)
	}
	rotated("the honest case")

	for _, points := range rounds {
		for n, point := range points {
			armed := filepath.Join(agent.Fault, point)
			must(os.WriteFile(armed, []byte("block"), 0o600))
			if o, err := world.Rotate(ctx, titles[n], "--no-wait"); err != nil {
				t.Fatalf("%s: %v: %+v", titles[n], err, o)
			}
			for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) { // a file gives no signal
				if _, err := os.Stat(armed); errors.Is(err, fs.ErrNotExist) {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("%s was not reached: %s", point, agent.Tail())
				}
			}
		}
		agent.Kill()
		for _, point := range points {
			must(os.Remove(filepath.Join(agent.Fault, point+".hit")))
		}
		must(agent.Start(ctx))
		settled(t, world)
		holds("killed at " + points[0] + " and the like")
		rotated("the next rotation")
	}
	t.Logf("killed at %d points", len(rounds[0])+len(rounds[1]))
}

// settled waits until no run is unfinished.
func settled(t *testing.T, world *installation.Installation) {
	t.Helper()
	for pause, end := 100*time.Millisecond, time.Now().Add(5*time.Minute); ; pause = min(2*pause, 2*time.Second) {
		var list struct {
			Runs []struct{ Title, State, Phase, Reason, Action string }
		}
		if err := world.JSON(t.Context(), &list, nil, "run", "list", "--unfinished", "--all"); err != nil {
			t.Fatal(err)
		}
		if len(list.Runs) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("STUCK: %+v", list.Runs)
		}
		time.Sleep(pause) // asked of a program
	}
}
