package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

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
	// Whoever can put another folder in the place of one on the way would have root write, or
	// hand out, what he likes.
	shared, app, led := filepath.Join(dir, "shared"), filepath.Join(dir, "shared", "app"), filepath.Join(dir, "led")
	err = errors.Join(os.Mkdir(shared, 0o755), os.Mkdir(app, 0o700), os.WriteFile(filepath.Join(app, "f"), nil, 0o600), os.Symlink(app, led))
	if err != nil {
		t.Fatal(err)
	}
	for name, before := range map[string]func() error{
		"a folder on the way that everybody writes": func() error { return os.Chmod(shared, 0o777) },
		"a folder on the way that is a stranger's": func() error {
			return errors.Join(os.Chmod(shared, 0o755), os.Chown(shared, int(uid(t, owner.Home)), 0))
		},
	} {
		if err := before(); err != nil {
			t.Fatal(err)
		}
		_, _, err := f.planFiles(t, one(filepath.Join(app, "f")), sdk.Account{Name: "app"}, password("x"))
		mustFail(t, err, sdk.ClassConflict, "file.folder")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	if err := errors.Join(os.Chown(shared, 0, 0), os.Chmod(shared, 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.planFiles(t, one(filepath.Join(app, "f")), sdk.Account{Name: "app"}, password("x")); err != nil {
		t.Errorf("folders of root's alone: %v", err)
	}
	_, _, err = f.planFiles(t, one(filepath.Join(led, "f")), sdk.Account{Name: "app"}, password("x"))
	mustFail(t, err, sdk.ClassConflict, "file.folder")

	nobody := f.user(t, targets.UserOptions{Password: secret("a password of nobody's")})
	h, r := f.here()
	r.Config = []byte(`{"files":["` + strings.ReplaceAll(file, `"`, ``) + `"]}`)
	_, err = files{}.Plan(t.Context(), sdk.OpenRequest{Host: h, Resource: r, Admin: password("a password of nobody's"), AdminAs: sdk.Account{Name: nobody.Name}}, sdk.ApplyRequest{Account: sdk.Account{Name: "app"}, Candidate: password("x")})
	mustFail(t, err, sdk.ClassPermission, "admin.sudo")
}

func uid(t *testing.T, path string) uint32 {
	t.Helper()
	var is syscall.Stat_t
	if err := syscall.Stat(path, &is); err != nil {
		t.Fatal(err)
	}
	return is.Uid
}

// A file for several accounts: of two runs that write it at the same time each has its own.
func TestFilesAtOnce(t *testing.T) {
	f := newFixture(t)
	path := filepath.Join(t.TempDir(), "env")
	if err := errors.Join(os.Chmod(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("A=0\nB=0\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	var at [2]sdk.OpenRequest
	var steps [2]sdk.Step
	for i, key := range []string{"A", "B"} {
		where, planned, err := f.planFiles(t, map[string]any{"files": []string{path}, "key": key}, sdk.Account{Name: "app"}, password("x"))
		if err != nil {
			t.Fatal(err)
		}
		at[i], steps[i] = where, planned[0]
	}
	for round := range 10 {
		var all sync.WaitGroup
		for i := range 2 {
			all.Go(func() {
				out, err := files{}.Do(t.Context(), at[i], steps[i], password(strconv.Itoa(round+1)))
				if err != nil || out.Outcome != sdk.Changed {
					t.Errorf("%+v, %v", out, err)
				}
			})
		}
		all.Wait()
		if got, want := string(mustRead(t, path)), fmt.Sprintf("A=%d\nB=%[1]d\n", round+1); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
}

// Group and access lists stay, too, so that whoever reads the file goes on to, and nobody
// else does; where the folder's owner cannot give them, the plan says so.
func TestFilesKeepTheirReaders(t *testing.T) {
	f := newFixture(t)
	owner := f.user(t, targets.UserOptions{})
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "f"), filepath.Join(owner.Home, "f")
	err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(ours, []byte("old"), 0o600), os.Chown(ours, int(uid(t, owner.Home)), 33), os.Chmod(ours, 0o640),
		os.WriteFile(theirs, []byte("old"), 0o600), os.Chown(theirs, int(uid(t, owner.Home)), 33))
	if err != nil {
		t.Fatal(err)
	}
	// POSIX access lists as the kernel keeps them (acl(5)): a version, and entries of tag,
	// rights and id: owner rw, user 33 r, group none, mask r, others none.
	const acl = "system.posix_acl_access"
	list := []byte("\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x21\x00\x00\x00" +
		"\x04\x00\x00\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff")
	lists := unix.Setxattr(ours, acl, list, 0)
	if lists != nil {
		t.Logf("access lists are left out: the file system of %s has none: %v", dir, lists)
	}
	at, steps, err := f.planFiles(t, map[string]any{"files": []string{ours}}, sdk.Account{Name: "app"}, password("x"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := (files{}).Do(t.Context(), at, steps[0], password("x")); err != nil || out.Outcome != sdk.Changed {
		t.Fatalf("%+v, %v", out, err)
	}
	var is syscall.Stat_t
	if err := syscall.Stat(ours, &is); err != nil || is.Uid != uid(t, owner.Home) || is.Gid != 33 || is.Mode&0o777 != 0o640 {
		t.Errorf("owner %d:%d, mode %o, %v", is.Uid, is.Gid, is.Mode&0o777, err)
	}
	got := make([]byte, 2*len(list))
	if n, err := unix.Getxattr(ours, acl, got); lists == nil && (err != nil || !bytes.Equal(got[:n], list)) {
		t.Errorf("access list %x, want %x: %v", got[:max(n, 0)], list, err)
	}
	_, _, err = f.planFiles(t, map[string]any{"files": []string{theirs}}, sdk.Account{Name: "app"}, password("x"))
	mustFail(t, err, sdk.ClassConflict, "file.unwritable")
}

// A line that breaks off within the secret leaves the file as it was, and nothing beside
// it; what a killed program has left is removed by the next, and nothing else is.
func TestFilesWhole(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "env")
	backup, left := filepath.Join(dir, ".env.backup"), filepath.Join(dir, ".rotunda-new.env.aB3dE9")
	err := os.Chmod(dir, 0o755)
	for _, name := range []string{path, backup, left} {
		err = errors.Join(err, os.WriteFile(name, []byte("A=1\nPW=old\n"), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, settings := range map[string]map[string]any{"whole": {}, "line": {"key": "PW"}} {
		settings["files"] = []string{path}
		at, steps, err := f.planFiles(t, settings, sdk.Account{Name: "app"}, password("x"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := openFiles(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		var d fileData
		if err := json.Unmarshal(steps[0].Data, &d); err != nil {
			t.Fatal(err)
		}
		for _, came := range []string{"", "a sec", "a secret of more"} {
			input := strings.Join([]string{d.Key, "", "", "8"}, "\n") + "\n" + came
			answer, err := s.feed(t.Context(), fileWriter, path, []byte(input))
			if err != nil || answer.exit != exitBusy || string(mustRead(t, path)) != "A=1\nPW=old\n" {
				t.Errorf("%s: of 8 bytes came %q: exit %d, %v, the file is %q", name, came, answer.exit, err, mustRead(t, path))
			}
		}
		s.Close()
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 || entries[0].Name() != ".env.backup" {
		t.Errorf("beside the file: %v, %v", entries, err)
	}
}
