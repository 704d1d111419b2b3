package main

import (
	"crypto/rand"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func (f *fixture) asRoot() sdk.OpenRequest {
	h, r := f.here()
	return sdk.OpenRequest{Host: h, Resource: r, Admin: f.admin(), AdminAs: sdk.Account{Name: f.Admin}}
}

func (f *fixture) provision(t *testing.T, name string, c sdk.Credential) (sdk.ApplyResponse, error) {
	t.Helper()
	return provisioner{}.Provision(t.Context(), f.asRoot(), sdk.ApplyRequest{Account: sdk.Account{Name: name}, Candidate: c})
}

func (f *fixture) mustDeprovision(t *testing.T, name string, want sdk.ApplyResponse) {
	t.Helper()
	if got, err := (provisioner{}).Deprovision(t.Context(), f.asRoot(), sdk.Account{Name: name}); err != nil || got != want {
		t.Errorf("deprovision %q: %+v, %v, want %+v", name, got, err, want)
	}
}

// A name that tools take for another account's, or for an option, is refused by both verbs:
// neither says that it made or removed what it has not even looked for.
func TestProvisionNames(t *testing.T) {
	f := newFixture(t)
	c := password("first-" + rand.Text())
	// Useradd takes it; and whoever made it, it must not be called gone.
	digits := f.user(t, targets.UserOptions{Name: strconv.FormatInt(2e9+time.Now().UnixNano()%1e9, 10), Password: c.Secret})
	f.root(t, "usermod", "-c", "made by rotunda", "--", digits.Name)
	want := unchanged(sdk.ClassInvalid, "account.name")
	for _, name := range []string{digits.Name, "", "-guest", "guest:x", "guest\nx"} {
		if got, err := f.provision(t, name, password(rand.Text())); err != nil || got != want {
			t.Errorf("provision %q: %+v, %v, want %+v", name, got, err, want)
		}
		f.mustDeprovision(t, name, want)
	}
	f.mustAccept(t, digits.Name, c, true)
}

// Where an account was made nothing says that nothing was changed, and another try goes on
// from there; what no account takes makes none.
func TestProvisionInPart(t *testing.T) {
	f := newFixture(t)
	good := password("first-" + rand.Text())
	type failure struct {
		class  sdk.Class
		reason string
	}
	for name, one := range map[string]struct {
		candidate sdk.Credential
		noHome    bool
		made      bool
		want      sdk.ApplyResponse
		err       failure // of an outcome that is not known
	}{
		"no home":              {good, true, true, sdk.ApplyResponse{}, failure{sdk.ClassConflict, "account.half_made"}},
		"chpasswd refuses":     {password(strings.Repeat("long", 4096)), false, true, sdk.ApplyResponse{}, failure{sdk.ClassConflict, "chpasswd.refused"}},
		"no password":          {password("two\nlines"), false, false, unchanged(sdk.ClassPolicy, "policy.charset"), failure{}},
		"a key that cannot be": {sdk.Credential{Kind: sdk.SSHKey, Secret: secret("none")}, false, false, sdk.ApplyResponse{}, failure{sdk.ClassInvalid, "key.private"}},
	} {
		t.Run(name, func(t *testing.T) {
			guest := "guest" + strings.ToLower(rand.Text()[:8])
			home := filepath.Join("/home", guest)
			defer func() {
				f.mustDeprovision(t, guest, changed)
				_ = os.Remove(home)
			}()
			if one.noHome { // a link to nowhere, in whose place no folder can be made
				if err := os.Symlink(filepath.Join(t.TempDir(), "none"), home); err != nil {
					t.Fatal(err)
				}
			}
			got, err := f.provision(t, guest, one.candidate)
			if got != one.want || (err == nil) != (one.err == failure{}) {
				t.Errorf("provision: %+v, %v, want %+v, %+v", got, err, one.want, one.err)
			}
			if e := (*sdk.Error)(nil); err != nil && (!errors.As(err, &e) || (failure{e.Class, e.Reason}) != one.err || e.NotSent == one.made) {
				t.Errorf("provision: %v, want %+v, and not sent: %t", err, one.err, !one.made)
			}
			if _, err := user.Lookup(guest); (err == nil) != one.made {
				t.Errorf("the account: %v, want it there: %t", err, one.made)
			}
			if one.noHome {
				if err := os.Remove(home); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := f.provision(t, guest, good); err != nil || got != changed {
				t.Fatalf("provision again: %+v, %v", got, err)
			}
			f.mustAccept(t, guest, good, true)
		})
	}
}
