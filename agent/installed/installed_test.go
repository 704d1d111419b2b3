package installed

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/exitcode"
	"github.com/rotunda-pam/rotunda/internal/release"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

func keyOf(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

// publish writes a release into a folder of its own, and gives its manifest.
func publish(t *testing.T, name, version, program string, by byte) string {
	t.Helper()
	dir := t.TempDir()
	r := release.Release{Name: name, Version: version, Published: time.Unix(1, 0), Files: []release.File{{
		OS: runtime.GOOS, Arch: runtime.GOARCH, Name: name, Size: int64(len(program)), SHA256: seal.Hash([]byte(program)),
	}}}
	manifest, err := release.Sign(r, keyOf(by))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "manifest.json")
	write(t, path, string(manifest))
	write(t, filepath.Join(dir, name), program)
	return path
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// files lists a folder.
func files(t *testing.T, dir string) string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range all {
		names = append(names, f.Name())
	}
	return strings.Join(names, " ")
}

// What is taken over, and what is refused and changes nothing. Each row stands on a folder
// that has acme 1.1.0 and 1.2.0 of the first publisher, the latter in use.
func TestInstall(t *testing.T) {
	first := release.PublisherOf(keyOf(1))
	second := release.PublisherOf(keyOf(2))
	for name, row := range map[string]struct {
		manifest func(t *testing.T) string
		o        Options
		says     string // empty: it is taken over
		code     exitcode.Code
	}{
		"another plugin, its publisher named": {func(t *testing.T) string { return publish(t, "other", "1.0", "x", 2) }, Options{Publisher: second}, "", 0},
		"its publisher not named":             {func(t *testing.T) string { return publish(t, "other", "1.0", "x", 2) }, Options{}, "signed by " + second.String(), exitcode.Denied},
		"another publisher named":             {func(t *testing.T) string { return publish(t, "other", "1.0", "x", 2) }, Options{Publisher: first}, "and not by " + first.String(), exitcode.Denied},
		"a newer version":                     {func(t *testing.T) string { return publish(t, "acme", "1.3.0", "three", 1) }, Options{Upgrade: true}, "", 0},
		"a newer version as a first one":      {func(t *testing.T) string { return publish(t, "acme", "1.3.0", "three", 1) }, Options{Publisher: first}, "is installed, version 1.2.0", exitcode.Conflict},
		"of another publisher":                {func(t *testing.T) string { return publish(t, "acme", "1.3.0", "three", 2) }, Options{Upgrade: true}, "another publisher's", exitcode.Denied},
		"of another, whom the operator names": {func(t *testing.T) string { return publish(t, "acme", "1.3.0", "three", 2) }, Options{Upgrade: true, Publisher: second}, "", 0},
		"an upgrade of what is not there":     {func(t *testing.T) string { return publish(t, "other", "1.3.0", "x", 1) }, Options{Upgrade: true}, "is not installed", exitcode.NotFound},
		"an older version":                    {func(t *testing.T) string { return publish(t, "acme", "1.0.0", "zero", 1) }, Options{Upgrade: true}, "older than 1.2.0", exitcode.Conflict},
		"an older version, asked for":         {func(t *testing.T) string { return publish(t, "acme", "1.0.0", "zero", 1) }, Options{Upgrade: true, Older: true}, "", 0},
		"the same again":                      {func(t *testing.T) string { return publish(t, "acme", "1.2.0", "two", 1) }, Options{Upgrade: true}, "", 0},
		"the same version with other bytes":   {func(t *testing.T) string { return publish(t, "acme", "1.2.0", "TWO", 1) }, Options{Upgrade: true}, "another checksum", exitcode.Denied},
		"spelled otherwise, with other bytes": {func(t *testing.T) string { return publish(t, "acme", "1.2", "TWO", 1) }, Options{Upgrade: true}, "another checksum", exitcode.Denied},
		"an older one, and so":                {func(t *testing.T) string { return publish(t, "acme", "1.1", "ONE", 1) }, Options{Upgrade: true, Older: true}, "another checksum", exitcode.Denied},
		"with more zeros":                     {func(t *testing.T) string { return publish(t, "acme", "1.2.0.0", "TWO", 1) }, Options{Upgrade: true}, "another checksum", exitcode.Denied},
		"a name of the agent's own":           {func(t *testing.T) string { return publish(t, "postgres", "9.0.0", "x", 1) }, Options{Publisher: first}, "came with this agent", exitcode.Conflict},
		"a file that was changed": {func(t *testing.T) string {
			m := publish(t, "acme", "1.3.0", "three", 1)
			write(t, filepath.Join(filepath.Dir(m), "acme"), "THREE")
			return m
		}, Options{Upgrade: true}, "not the file that was signed", exitcode.Denied},
		"a file that has more": {func(t *testing.T) string {
			m := publish(t, "acme", "1.3.0", "three", 1)
			write(t, filepath.Join(filepath.Dir(m), "acme"), "three and more")
			return m
		}, Options{Upgrade: true}, "not the file that was signed", exitcode.Denied},
		"no file": {func(t *testing.T) string {
			m := publish(t, "acme", "1.3.0", "three", 1)
			if err := os.Remove(filepath.Join(filepath.Dir(m), "acme")); err != nil {
				t.Fatal(err)
			}
			return m
		}, Options{Upgrade: true}, "beside its manifest", 0},
		"a manifest that was changed": {func(t *testing.T) string {
			m := publish(t, "acme", "1.3.0", "three", 1)
			b, err := os.ReadFile(m)
			if err != nil {
				t.Fatal(err)
			}
			write(t, m, strings.Replace(string(b), "1.3.0", "9.3.0", 1))
			return m
		}, Options{Upgrade: true}, "changed after it was signed", exitcode.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			row.o.Now, row.o.BuiltIn = time.Unix(2, 0), []string{"postgres"}
			if _, _, _, err := Install(dir, publish(t, "acme", "1.1.0", "one", 1), Options{Publisher: first}); err != nil {
				t.Fatal(err)
			}
			if _, _, before, err := Install(dir, publish(t, "acme", "1.2.0", "two", 1), Options{Upgrade: true}); err != nil || before != "1.1.0" {
				t.Fatal(before, err)
			}
			write(t, filepath.Join(dir, newPrefix+"left"), "of a command that was killed")
			r, file, _, err := Install(dir, row.manifest(t), row.o)
			all, readErr := Read(dir)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if row.says != "" {
				if err == nil || !strings.Contains(err.Error(), row.says) || row.code != 0 && exitcode.Of(err, 0) != row.code {
					t.Errorf("%v (%d), want %q (%d)", err, exitcode.Of(err, 0), row.says, row.code)
				}
				if len(all) != 1 || all["acme"].Current != "1.2.0" || all["acme"].Publisher != first || len(all["acme"].Versions) != 2 {
					t.Errorf("it was refused, and changed what is installed: %+v", all["acme"])
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, FileName(r.Name, file.SHA256))
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("%v, %v", info, err)
			}
			if p := all[r.Name]; p.Current != r.Version || p.InUse().SHA256 != file.SHA256 {
				t.Errorf("in use is %s", p.Current)
			}
			for _, kept := range []string{"one", "two"} {
				if sum := seal.Hash([]byte(kept)); !strings.Contains(files(t, dir), sum.String()) {
					t.Errorf("%s is gone: %s", kept, files(t, dir))
				}
			}
			if strings.Contains(files(t, dir), newPrefix) {
				t.Errorf("left behind: %s", files(t, dir))
			}
		})
	}
}

// A version is one, however it is spelled.
func TestInstallSpelledOtherwise(t *testing.T) {
	dir, o := t.TempDir(), Options{Publisher: release.PublisherOf(keyOf(1))}
	for _, v := range []string{"1.2.0", "1.2", "1.2.0.0"} {
		if _, _, _, err := Install(dir, publish(t, "acme", v, "one", 1), o); err != nil {
			t.Fatal(err)
		}
		if all, err := Read(dir); err != nil || all["acme"].Current != "1.2.0" || len(all["acme"].Versions) != 1 {
			t.Errorf("%s: %+v, %v", v, all["acme"], err)
		}
		o.Upgrade = true
	}
}

// What stands under a release's name and would not start is replaced, and stays where the
// index cannot be written: it was there before.
func TestInstallReplacesWhatWouldNotStart(t *testing.T) {
	sum := seal.Hash([]byte("one"))
	for name, put := range map[string]func(t *testing.T, path string){
		"a link to the same bytes": func(t *testing.T, path string) {
			elsewhere := filepath.Join(t.TempDir(), "elsewhere")
			write(t, elsewhere, "one")
			if err := errors.Join(os.Chmod(elsewhere, 0o755), os.Symlink(elsewhere, path)); err != nil {
				t.Skipf("no links here: %v", err)
			}
		},
		"the same bytes, no program": func(t *testing.T, path string) { write(t, path, "one") },
		"other bytes":                func(t *testing.T, path string) { write(t, path, "two") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, FileName("acme", sum))
			put(t, path)
			o := Options{Publisher: release.PublisherOf(keyOf(1))}
			if _, _, _, err := Install(dir, publish(t, "acme", "1.0.0", "one", 1), o); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || runtime.GOOS != "windows" && info.Mode() != 0o755 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
			if err := Check(path, sum); err != nil {
				t.Error(err)
			}
			// As before, and only what was not there is removed again.
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			put(t, path)
			src, _ := filepath.Split(publish(t, "acme", "1.0.0", "one", 1))
			if taken, err := take(filepath.Join(src, "acme"), release.File{Size: 3, SHA256: sum}, path); err != nil || taken {
				t.Errorf("it was there from before: %v, %v", taken, err)
			}
		})
	}
}

// A folder that cannot be synced takes no file from under an index that names it: an older
// version would run in its place.
func TestInstallKeepsWhatTheIndexNames(t *testing.T) {
	var fails func(dir string) bool
	real := syncFolder
	syncFolder = func(dir string) error {
		if fails(dir) {
			return errors.New("input/output error")
		}
		return real(dir)
	}
	defer func() { syncFolder = real }()
	for name, row := range map[string]struct {
		fails func(dir string) bool
		now   string
		files int
	}{
		"after the program": {func(string) bool { return true }, "1.1.0", 1},
		"after the index": {func(dir string) bool {
			all, err := Read(dir)
			return err != nil || all["acme"].Current == "1.2.0"
		}, "1.2.0", 2},
	} {
		dir, o := t.TempDir(), Options{Publisher: release.PublisherOf(keyOf(1))}
		fails = func(string) bool { return false }
		if _, _, _, err := Install(dir, publish(t, "acme", "1.1.0", "one", 1), o); err != nil {
			t.Fatal(err)
		}
		fails, o.Upgrade = row.fails, true
		if _, _, _, err := Install(dir, publish(t, "acme", "1.2.0", "two", 1), o); err == nil || !strings.Contains(err.Error(), "input/output error") {
			t.Errorf("%s: %v", name, err)
		}
		all, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		if p := all["acme"]; p.Current != row.now {
			t.Errorf("%s: in use is %s, want %s", name, p.Current, row.now)
		} else if err := Check(filepath.Join(dir, FileName("acme", p.InUse().SHA256)), p.InUse().SHA256); err != nil {
			t.Errorf("%s: the version in use: %v", name, err)
		}
		if got, err := filepath.Glob(filepath.Join(dir, "acme@*")); err != nil || len(got) != row.files {
			t.Errorf("%s: %v, %v, want %d", name, got, err, row.files)
		}
	}
}

// Each version is of whoever signed it. After a publisher's key has changed nobody goes back
// to what the former one signed, unless he names it.
func TestVersionsOfAFormerKey(t *testing.T) {
	first, second := release.PublisherOf(keyOf(1)), release.PublisherOf(keyOf(2))
	for name, forget := range map[string]bool{"as it is written": false, "an index that had one publisher for all": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			install := func(version string, by byte, o Options) {
				t.Helper()
				if _, _, _, err := Install(dir, publish(t, "acme", version, "program "+version, by), o); err != nil {
					t.Fatal(err)
				}
			}
			signers := func(want ...release.Publisher) {
				t.Helper()
				all, err := Read(dir)
				if err != nil {
					t.Fatal(err)
				}
				var got []release.Publisher
				for _, v := range all["acme"].Versions {
					got = append(got, v.Publisher)
				}
				if !slices.Equal(got, want) {
					t.Errorf("signed by %v, want %v", got, want)
				}
			}
			install("1.0.0", 1, Options{Publisher: first})
			if forget {
				all, err := Read(dir)
				if err != nil {
					t.Fatal(err)
				}
				all["acme"].Versions[0].Publisher = release.Publisher{}
				if err := all.write(dir); err != nil {
					t.Fatal(err)
				}
			}
			install("1.1.0", 2, Options{Upgrade: true, Publisher: second})
			signers(first, second)
			if _, _, err := Rollback(dir, "acme", ""); exitcode.Of(err, 0) != exitcode.Denied || !strings.Contains(err.Error(), "is signed by "+first.String()+", and not by "+second.String()) {
				t.Errorf("%v", err)
			}
			if all, err := Read(dir); err != nil || all["acme"].Current != "1.1.0" {
				t.Errorf("it was refused, and changed what is in use: %+v, %v", all["acme"], err)
			}
			if _, now, err := Rollback(dir, "acme", "1.0.0"); err != nil || now.Version != "1.0.0" {
				t.Errorf("named: %s, %v", now.Version, err)
			}
			if all, err := Read(dir); err != nil || all["acme"].Publisher != second {
				t.Errorf("whose word is taken has changed: %+v, %v", all["acme"], err)
			}
			// The same version, which the publisher has signed anew.
			install("1.0.0", 2, Options{Upgrade: true})
			signers(second, second)
		})
	}
}

// Whoever goes back leaves what is newer, until he chooses it again.
func TestLeft(t *testing.T) {
	dir := t.TempDir()
	o := Options{Publisher: release.PublisherOf(keyOf(1))}
	upgrade := func(version string) {
		t.Helper()
		if _, _, _, err := Install(dir, publish(t, "acme", version, "program "+version, 1), o); err != nil {
			t.Fatal(err)
		}
		o = Options{Upgrade: true, Older: true}
	}
	rollback := func(to string) {
		t.Helper()
		if _, _, err := Rollback(dir, "acme", to); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		does string
		do   func()
		left string
	}{
		{"upgrades", func() { upgrade("1.0.0"); upgrade("1.1.0"); upgrade("1.2.0") }, ""},
		{"back", func() { rollback("") }, "1.2.0"},
		{"on to the next", func() { upgrade("1.3.0") }, "1.2.0"},
		{"back to the same", func() { rollback("1.1.0") }, "1.2.0 1.3.0"},
		{"forward", func() { rollback("1.3.0") }, "1.2.0"},
		{"back by more than one", func() { rollback("1.0.0") }, "1.1.0 1.2.0 1.3.0"},
		{"where it is", func() { rollback("1.0.0") }, "1.1.0 1.2.0 1.3.0"},
		{"an upgrade to what was left", func() { upgrade("1.2.0") }, "1.1.0 1.3.0"},
		{"an upgrade to an older one", func() { upgrade("1.0.0") }, "1.1.0 1.2.0 1.3.0"},
	} {
		step.do()
		all, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, v := range all["acme"].Versions {
			if v.Left != all["acme"].Left(v.SHA256) {
				t.Errorf("%s: %s is left: %v, its file is not", step.does, v.Version, v.Left)
			}
			if v.Left {
				left = append(left, v.Version)
			}
		}
		if got := strings.Join(left, " "); got != step.left {
			t.Errorf("%s: left are %q, want %q", step.does, got, step.left)
		}
	}
}

// Back to an older version, and forward again.
func TestRollback(t *testing.T) {
	dir := t.TempDir()
	for i, v := range []string{"1.0.0", "1.2.0", "1.10.0"} {
		o := Options{Upgrade: i > 0}
		if i == 0 {
			o.Publisher = release.PublisherOf(keyOf(1))
		}
		if _, _, _, err := Install(dir, publish(t, "acme", v, "program "+v, 1), o); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct{ to, now, says string }{
		{"", "1.2.0", ""},
		{"", "1.0.0", ""},
		{"", "1.0.0", "no version of acme is installed that is older than 1.0.0"},
		{"1.10.0", "1.10.0", ""},
		{"1.2", "1.2.0", ""},
		{"1.10", "1.10.0", ""},
		{"3", "1.10.0", "acme 3 is not installed"},
	} {
		_, now, err := Rollback(dir, "acme", row.to)
		if row.says == "" && (err != nil || now.Version != row.now) || row.says != "" && (err == nil || !strings.Contains(err.Error(), row.says)) {
			t.Errorf("to %q: %s, %v", row.to, now.Version, err)
		}
		if all, err := Read(dir); err != nil || all["acme"].Current != row.now {
			t.Errorf("to %q: in use is %s, %v", row.to, all["acme"].Current, err)
		}
	}
	if _, _, err := Rollback(dir, "other", ""); exitcode.Of(err, 0) != exitcode.NotFound {
		t.Errorf("what is not installed: %v", err)
	}
	// Its file was changed meanwhile.
	sum := seal.Hash([]byte("program 1.2.0"))
	write(t, filepath.Join(dir, "x"), "")
	if err := os.Rename(filepath.Join(dir, "x"), filepath.Join(dir, FileName("acme", sum))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Rollback(dir, "acme", ""); exitcode.Of(err, 0) != exitcode.Denied {
		t.Errorf("a file that was changed: %v", err)
	}
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	write(t, elsewhere, "program 1.2.0")
	if err := os.Remove(filepath.Join(dir, FileName("acme", sum))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Rollback(dir, "acme", ""); exitcode.Of(err, 0) != exitcode.NotFound {
		t.Errorf("a file that is gone: %v", err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(dir, FileName("acme", sum))); err != nil {
		t.Skipf("no links here: %v", err)
	}
	if _, _, err := Rollback(dir, "acme", ""); exitcode.Of(err, 0) != exitcode.Denied {
		t.Errorf("a link, which no agent starts: %v", err)
	}
}

// Two commands do not change the folder at once, and a damaged index is not built upon.
func TestIndexIsWhole(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, o := publish(t, "acme", "1.0.0", "one", 1), Options{Publisher: release.PublisherOf(keyOf(1))}
	if _, _, _, err := Install(dir, manifest, o); runtime.GOOS != "windows" && exitcode.Of(err, 0) != exitcode.Conflict {
		t.Errorf("beside another command: %v", err)
	}
	unlock()
	for _, index := range []string{"{", `{"acme":null}`, `{"acme":{"publisher":"` + o.Publisher.String() + `","current":"2","versions":[]}}`} {
		write(t, filepath.Join(dir, Index), index)
		if _, _, _, err := Install(dir, manifest, o); exitcode.Of(err, 0) != exitcode.Usage || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("%s: %v", index, err)
		}
	}
	if _, err := Read(filepath.Join(dir, "nowhere")); err != nil {
		t.Errorf("nothing is installed: %v", err)
	}
}
