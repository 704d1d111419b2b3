package main

import (
	"crypto/rand"
	"strconv"
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
