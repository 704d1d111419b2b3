package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// planFile has the plugin plan for files on the fixture's host.
func (f *fixture) planFiles(t *testing.T, settings map[string]any, a sdk.Account, candidate sdk.Credential) (sdk.OpenRequest, []sdk.Step, error) {
	t.Helper()
	config, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	h, r := f.here()
	r.Config = config
	at := sdk.OpenRequest{Host: h, Resource: r, Admin: f.admin(), AdminAs: sdk.Account{Name: f.Admin}}
	steps, err := files{}.Plan(t.Context(), at, sdk.ApplyRequest{Account: a, Candidate: candidate})
	return at, steps, err
}

// What the file was stays, but for the secret: owner, mode, other lines.
func TestFiles(t *testing.T) {
	f := newFixture(t)
	owner := f.user(t, targets.UserOptions{})
	var info syscall.Stat_t
	if err := syscall.Stat(owner.Home, &info); err != nil {
		t.Fatal(err)
	}
	next := password(`p"a'$(id)\1&\\n word`)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	account := sdk.Account{Name: "app_b", Attrs: map[string]string{sdk.PairAttr: "app_a"}}
	for name, c := range map[string]struct {
		before, after, undone string
		settings              map[string]any
	}{
		"whole":           {"old\n", next.Secret.ExposeString(), "old", nil},
		"line":            {"A=1\nPW=old\nPWD=2\n", "A=1\nPW=" + next.Secret.ExposeString() + "\nPWD=2\n", "A=1\nPW=old\nPWD=2\n", map[string]any{"key": "PW"}},
		"line, not there": {"A=1", "A=1\nPW=" + next.Secret.ExposeString() + "\n", "A=1\nPW=old\n", map[string]any{"key": "PW"}},
		"line, twice":     {"PW=x\nPW=y\n", "PW=" + next.Secret.ExposeString() + "\n", "PW=old\n", map[string]any{"key": "PW"}},
		"login too": {
			"U=app_a\nPW=old\n", "U=app_b\nPW=" + next.Secret.ExposeString() + "\n", "U=app_a\nPW=old\n",
			map[string]any{"key": "PW", "login_key": "U"},
		},
	} {
		for who, uid := range map[string]int{"root's": 0, "its owner's": int(info.Uid)} {
			path := filepath.Join(dir, "secret of $(id)")
			if uid != 0 {
				path = filepath.Join(owner.Home, "secret of $(id)")
			}
			if err := errors.Join(os.WriteFile(path, []byte(c.before), 0o640), os.Chmod(path, 0o640), os.Chown(path, int(info.Uid), int(info.Gid))); err != nil {
				t.Fatal(err)
			}
			settings := map[string]any{"files": []string{path}}
			for k, v := range c.settings {
				settings[k] = v
			}
			at, steps, err := f.planFiles(t, settings, account, next)
			if err != nil || len(steps) != 1 {
				t.Fatalf("%s, in %s folder: plan: %d steps, %v", name, who, len(steps), err)
			}
			if got := string(mustRead(t, path)); got != c.before {
				t.Fatalf("%s: the plan has changed the file to %q", name, got)
			}
			for range 2 {
				if out, err := (files{}).Do(t.Context(), at, steps[0], next); err != nil || out.Outcome != sdk.Changed {
					t.Fatalf("%s, in %s folder: do: %+v, %v", name, who, out, err)
				}
				if got := string(mustRead(t, path)); got != c.after {
					t.Errorf("%s, in %s folder: %q, want %q", name, who, got, c.after)
				}
			}
			var is syscall.Stat_t
			if err := syscall.Stat(path, &is); err != nil || is.Uid != info.Uid || is.Gid != info.Gid || is.Mode&0o777 != 0o640 {
				t.Errorf("%s, in %s folder: owner %d:%d, mode %o, %v", name, who, is.Uid, is.Gid, is.Mode&0o777, err)
			}
			if out, err := (files{}).Undo(t.Context(), at, steps[0], password("old")); err != nil || out.Outcome != sdk.Changed {
				t.Fatalf("%s: undo: %+v, %v", name, out, err)
			}
			if got := string(mustRead(t, path)); got != c.undone {
				t.Errorf("%s, in %s folder, undone: %q, want %q", name, who, got, c.undone)
			}
		}
	}
	for _, where := range []string{dir, owner.Home} {
		left, err := filepath.Glob(filepath.Join(where, ".secret*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// What cannot be written is said by the plan.
func TestFilesThatCannotBeWritten(t *testing.T) {
	f := newFixture(t)
	owner := f.user(t, targets.UserOptions{})
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	open := filepath.Join(dir, "open")
	link := filepath.Join(dir, "link")
	foreign := filepath.Join(owner.Home, "foreign")
	err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(file, []byte("x"), 0o600), os.Mkdir(open, 0o777), os.Chmod(open, 0o777),
		os.WriteFile(filepath.Join(open, "secret"), nil, 0o600), os.Symlink(file, link), os.WriteFile(foreign, nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	one := func(path string) map[string]any { return map[string]any{"files": []string{path}} }
	key := newKey(t)
	for name, c := range map[string]struct {
		settings  map[string]any
		candidate sdk.Credential
		class     sdk.Class
		reason    string
	}{
		"no such file":                     {one(filepath.Join(dir, "nothing")), password("x"), sdk.ClassNotFound, "file.missing"},
		"no such folder":                   {one("/nowhere/at/all"), password("x"), sdk.ClassNotFound, "file.missing"},
		"a link":                           {one(link), password("x"), sdk.ClassNotFound, "file.missing"},
		"a folder":                         {one(dir), password("x"), sdk.ClassNotFound, "file.missing"},
		"a folder that everybody writes":   {one(filepath.Join(open, "secret")), password("x"), sdk.ClassConflict, "file.folder"},
		"another's in the owner's folder":  {one(foreign), password("x"), sdk.ClassConflict, "file.unwritable"},
		"no absolute path":                 {one("etc/secret"), password("x"), sdk.ClassInvalid, "config"},
		"a path of two lines":              {one("/etc/a\nb"), password("x"), sdk.ClassInvalid, "config"},
		"no file":                          {map[string]any{"files": []string{}}, password("x"), sdk.ClassInvalid, "config"},
		"a login without a key":            {map[string]any{"files": []string{file}, "login_key": "U"}, password("x"), sdk.ClassInvalid, "config"},
		"a key with a line break":          {map[string]any{"files": []string{file}, "key": "A\nB"}, password("x"), sdk.ClassInvalid, "config"},
		"a secret of several lines by key": {map[string]any{"files": []string{file}, "key": "A"}, key, sdk.ClassInvalid, "file.lines"},
	} {
		_, _, err := f.planFiles(t, c.settings, sdk.Account{Name: "app"}, c.candidate)
		mustFail(t, err, c.class, c.reason)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	nobody := f.user(t, targets.UserOptions{Password: secret("a password of nobody's")})
	h, r := f.here()
	r.Config = []byte(`{"files":["` + strings.ReplaceAll(file, `"`, ``) + `"]}`)
	_, err = files{}.Plan(t.Context(), sdk.OpenRequest{Host: h, Resource: r, Admin: password("a password of nobody's"), AdminAs: sdk.Account{Name: nobody.Name}}, sdk.ApplyRequest{Account: sdk.Account{Name: "app"}, Candidate: password("x")})
	mustFail(t, err, sdk.ClassPermission, "admin.sudo")
}
