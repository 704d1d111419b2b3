package main

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
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

// guestOf is what the system has of an account: the groups beside its own, sorted, and the
// day on which it ends.
func guestOf(t *testing.T, name string) (groups []string, end string) {
	t.Helper()
	for line := range strings.Lines(string(mustRead(t, "/etc/group"))) {
		if f := strings.Split(strings.TrimSpace(line), ":"); slices.Contains(strings.Split(f[3], ","), name) {
			groups = append(groups, f[0])
		}
	}
	for line := range strings.Lines(string(mustRead(t, "/etc/shadow"))) {
		if f := strings.Split(line, ":"); f[0] == name {
			slices.Sort(groups)
			return groups, f[7]
		}
	}
	t.Fatalf("there is no account %s", name)
	return nil, ""
}

// makeGroup makes one that ends with the test.
func makeGroup(t *testing.T, name string) {
	t.Helper()
	root := func(ctx context.Context, argv ...string) {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v: %s", argv, err, out)
		}
	}
	root(t.Context(), "groupadd", "--", name)
	t.Cleanup(func() { root(context.Background(), "groupdel", "--", name) })
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

// Whatever its holder may say of himself by chfn, an account that was made is removed; one that
// somebody else made is not, whatever stands beside its name.
func TestProvisionMark(t *testing.T) {
	f := newFixture(t)
	c := password("first-" + rand.Text())
	guest := "guest" + strings.ToLower(rand.Text()[:8])
	if got, err := f.provision(t, guest, c); err != nil || got != changed {
		t.Fatalf("provision: %+v, %v", got, err)
	}
	defer func() {
		f.mustDeprovision(t, guest, changed)
		if _, err := user.Lookup(guest); err == nil {
			t.Error("the account is still there")
		}
	}()
	h, r := f.here()
	client, err := login(t.Context(), h, r, guest, c)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	said, err := run(t.Context(), client, "exec chfn -r 7 -w 1-2-3 -h 4-5-6", lines([]byte(c.Secret.ExposeString())))
	if err != nil || said.exit != 0 {
		t.Fatalf("chfn: %+v, %v", said, err)
	}
	if got, want := gecos(t, guest), "made by rotunda,7,1-2-3,4-5-6"; got != want {
		t.Fatalf("the holder left %q, want %q", got, want)
	}
	if got, err := f.provision(t, guest, c); err != nil || got != changed {
		t.Errorf("provision again: %+v, %v", got, err)
	}
	f.mustAccept(t, guest, c, true)

	for _, comment := range []string{"", "Somebody,made by rotunda", "made by rotunda too,7", ",made by rotunda"} {
		u := f.user(t, targets.UserOptions{Password: c.Secret})
		f.root(t, "usermod", "-c", comment, "--", u.Name)
		want := unchanged(sdk.ClassConflict, "account.exists")
		if got, err := f.provision(t, u.Name, password(rand.Text())); err != nil || got != want {
			t.Errorf("provision of %q: %+v, %v, want %+v", comment, got, err, want)
		}
		f.mustDeprovision(t, u.Name, want)
		f.mustAccept(t, u.Name, c, true)
	}
}

// gecos is what the system has of a person.
func gecos(t *testing.T, name string) string {
	t.Helper()
	for line := range strings.Lines(string(mustRead(t, "/etc/passwd"))) {
		if f := strings.Split(line, ":"); f[0] == name {
			return f[4]
		}
	}
	t.Fatalf("there is no account %s", name)
	return ""
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

// An account has the groups and the end of its attributes, and no others; where there is no
// such group it is not made.
func TestProvisionRights(t *testing.T) {
	f := newFixture(t)
	guest, tag := "guest"+strings.ToLower(rand.Text()[:8]), strings.ToLower(rand.Text()[:8])
	one, two := "rotunda-a-"+tag, "rotunda-b-"+tag
	makeGroup(t, one)
	makeGroup(t, two)
	defer f.mustDeprovision(t, guest, changed)
	day := strconv.FormatInt(time.Date(2091, 3, 6, 0, 0, 0, 0, time.UTC).Unix()/86400, 10)
	for _, step := range []struct {
		what, groups, until string
		want                sdk.ApplyResponse
		has                 []string
		end                 string
		missing             bool
	}{
		{"no such group", one + ",rotunda-none-" + tag, "", unchanged(sdk.ClassConflict, "account.refused"), nil, "", true},
		{"made", one + "," + two, "2091-03-04T23:30:00-05:00", changed, []string{one, two}, day, false},
		{"again", one + "," + two, "2091-03-05T00:00:00Z", changed, []string{one, two}, day, false},
		{"no such group, made before", one + ",rotunda-none-" + tag, "", unchanged(sdk.ClassConflict, "account.refused"), []string{one, two}, day, false},
		{"one group fewer", two, "2091-03-05T23:59:59Z", changed, []string{two}, day, false},
		{"another, for ever", one, "", changed, []string{one}, "", false},
		{"none", "", "", changed, nil, "", false},
	} {
		got, err := provisioner{}.Provision(t.Context(), f.asRoot(), sdk.ApplyRequest{
			Account:   sdk.Account{Name: guest, Attrs: map[string]string{sdk.GroupsAttr: step.groups, sdk.UntilAttr: step.until}},
			Candidate: password("first-" + rand.Text()),
		})
		if err != nil || got != step.want {
			t.Fatalf("%s: %+v, %v, want %+v", step.what, got, err, step.want)
		}
		if _, err := user.Lookup(guest); (err == nil) == step.missing {
			t.Errorf("%s: the account: %v, want it missing: %t", step.what, err, step.missing)
		}
		if step.missing {
			continue
		}
		if has, end := guestOf(t, guest); !slices.Equal(has, step.has) || end != step.end {
			t.Errorf("%s: in %q until %q, want %q until %q", step.what, has, end, step.has, step.end)
		}
	}
}
