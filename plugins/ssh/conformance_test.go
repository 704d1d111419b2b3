package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func TestConformance(t *testing.T) {
	s := targets.OpenSSH(t, targets.SSHDOptions{})
	var pins [][sha256.Size]byte
	for pin := range slices.Chunk(s.Pins(), sha256.Size) {
		pins = append(pins, [sha256.Size]byte(pin))
	}
	tag := strings.ToLower(rand.Text()[:8])
	groups := []string{"rotunda-a-" + tag, "rotunda-b-" + tag}
	for _, g := range groups {
		makeGroup(t, g)
	}
	h := conformance.Harness{
		Binary: conformance.Build(t, "."), Name: "ssh", Calls: targets.Calls(),
		Resource: sdk.Resource{Address: s.Address}, Pins: pins,
		Admin:   sdk.Credential{Kind: sdk.SSHKey, Public: s.AdminPub, Secret: s.AdminKey},
		AdminAs: sdk.Account{Name: s.Admin},
		Accepts: func(t *testing.T, a sdk.Account, c sdk.Credential) bool {
			t.Helper()
			ok, err := s.Accepts(t.Context(), a.Name, c)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		},
		// A user like any other, who has no sudo.
		Powerless: func(t *testing.T) (sdk.Account, sdk.Credential) {
			own := newKey(t)
			u, err := s.CreateUser(t.Context(), targets.UserOptions{AuthorizedKeys: own.Public})
			if err != nil {
				t.Fatal(err)
			}
			return sdk.Account{Name: u.Name}, own
		},
		// sshd lets nobody in whose password is locked, by a key either.
		Lock: func(t *testing.T, a sdk.Account) {
			if out, err := exec.CommandContext(t.Context(), "usermod", "-L", a.Name).CombinedOutput(); err != nil {
				t.Fatalf("lock %s: %v, %s", a.Name, err, out)
			}
		},
		Groups: groups,
		Rights: func(t *testing.T, a sdk.Account, groups []string, until time.Time) bool {
			has, end := guestOf(t, a.Name)
			if until.IsZero() {
				return slices.Equal(has, groups) && end == ""
			}
			// The first day on which it is no longer good, counted from 1970.
			return slices.Equal(has, groups) && end == strconv.FormatInt(until.Unix()/86400+1, 10)
		},
	}
	// file makes a file for the plugin to write, in a folder of root's.
	file := func(t *testing.T, name, content string) string {
		t.Helper()
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, []byte(content), 0o640)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Run("password", func(t *testing.T) {
		t.Parallel()
		h := h
		h.Account = func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			first := password("first-" + rand.Text())
			u, err := s.CreateUser(t.Context(), targets.UserOptions{Name: name, Password: first.Secret})
			if err != nil {
				t.Skipf("left out: %v", err)
			}
			return sdk.Account{Name: u.Name}, first
		}
		h.Dependent = func(t *testing.T, a sdk.Account, first sdk.Credential) conformance.Dependent {
			lines := func(c sdk.Credential) string {
				return "# kept\nUSER=" + a.Name + "\nPASSWORD=" + c.Secret.ExposeString() + "\nOTHER=kept\n"
			}
			one, two := file(t, "one.env", lines(first)), file(t, "two.env", lines(first))
			settings, err := json.Marshal(map[string]any{"files": []string{one, two}, "key": "PASSWORD", "login_key": "USER"})
			if err != nil {
				t.Fatal(err)
			}
			return conformance.Dependent{Config: settings, Cannot: bytes.ReplaceAll(settings, []byte("two.env"), []byte("gone/two.env")), Uses: func(t *testing.T, c sdk.Credential) bool {
				return string(mustRead(t, one)) == lines(c) && string(mustRead(t, two)) == lines(c)
			}}
		}
		conformance.Run(t, h)
	})
	t.Run("key", func(t *testing.T) {
		t.Parallel()
		h := h
		h.Kind, h.Candidate = sdk.SSHKey, newKey
		h.Account = func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			first := newKey(t)
			u, err := s.CreateUser(t.Context(), targets.UserOptions{Name: name, AuthorizedKeys: lines([]byte("# kept"), first.Public)})
			if err != nil {
				t.Skipf("left out: %v", err)
			}
			return sdk.Account{Name: u.Name}, first
		}
		h.Dependent = func(t *testing.T, _ sdk.Account, first sdk.Credential) conformance.Dependent {
			path := file(t, "id_ed25519", first.Secret.ExposeString())
			settings, err := json.Marshal(map[string]any{"files": []string{path}})
			if err != nil {
				t.Fatal(err)
			}
			return conformance.Dependent{Config: settings, Cannot: []byte(`{"files":["/gone/id_ed25519"]}`), Uses: func(t *testing.T, c sdk.Credential) bool {
				return string(mustRead(t, path)) == c.Secret.ExposeString()
			}}
		}
		conformance.Run(t, h)
	})
}
