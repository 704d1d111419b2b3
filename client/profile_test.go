package client

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

var passphrase = sdk.NewSecret([]byte("correct horse"))

func newProfile(t *testing.T) (*Profile, enrol.Keys) {
	t.Helper()
	runtimeDir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(runtimeDir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", runtimeDir)
	p, err := OpenProfile(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := enrol.MakeKeys(trustv1.EntryKind_ENTRY_KIND_DEVICE)
	if err != nil {
		t.Fatal(err)
	}
	f := facts{Server: "h:1", OrgID: seal.Hash([]byte("org")), Entry: seal.NewID()}
	if err := p.create(f, keys, passphrase, [][]byte{[]byte("one"), []byte("two")}); err != nil {
		t.Fatal(err)
	}
	return p, keys
}

// again is the profile as another process sees it.
func again(t *testing.T, p *Profile) *Profile {
	t.Helper()
	q, err := OpenProfile(filepath.Dir(p.dir), p.name)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func wantKeys(t *testing.T, p *Profile, keys enrol.Keys) {
	t.Helper()
	f, err := p.facts()
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.keys(f)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Sign.Equal(keys.Sign) || !bytes.Equal(got.Seal.Public(), keys.Seal.Public()) {
		t.Error("the keys came back changed")
	}
}

func wantLocked(t *testing.T, p *Profile) {
	t.Helper()
	f, err := p.facts()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.keys(f); ClassOf(err) != Locked {
		t.Errorf("keys: %v, want class locked", err)
	}
}

func TestStoreIsLockedToOtherProcesses(t *testing.T) {
	p, keys := newProfile(t)
	wantKeys(t, p, keys)
	q := again(t, p)
	wantLocked(t, q)
	if err := q.Unlock(sdk.NewSecret([]byte("wrong")), time.Hour); ClassOf(err) != Denied || ReasonOf(err) != "passphrase" {
		t.Errorf("wrong passphrase: %v", err)
	}
	wantLocked(t, q)
	if err := q.Unlock(passphrase, 0); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, q, keys)
	wantLocked(t, again(t, p))
}

func TestKeepOpenIsForWhoHasItOpen(t *testing.T) {
	p, keys := newProfile(t)
	for _, ttl := range []time.Duration{-time.Second, 0, MaxUnlock + time.Second} {
		if err := p.KeepOpen(ttl); ClassOf(err) != Invalid {
			t.Errorf("for %v: %v", ttl, err)
		}
	}
	if err := again(t, p).KeepOpen(time.Hour); ClassOf(err) != Locked {
		t.Errorf("a locked one: %v, want class locked", err)
	}
	wantLocked(t, again(t, p))
	if err := p.KeepOpen(time.Hour); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, again(t, p), keys)
	if err := p.Lock(); err != nil {
		t.Fatal(err)
	}
	wantLocked(t, again(t, p))
}

func TestUnlockServesOtherProcessesUntilItsTime(t *testing.T) {
	p, keys := newProfile(t)
	if err := again(t, p).Unlock(passphrase, time.Hour); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, again(t, p), keys)
	info, err := again(t, p).Info()
	if err != nil || !info.Unlocked || time.Until(info.UnlockedUntil) > time.Hour || time.Until(info.UnlockedUntil) < 59*time.Minute {
		t.Errorf("info %+v, %v", info, err)
	}
	if err := again(t, p).Lock(); err != nil {
		t.Fatal(err)
	}
	wantLocked(t, again(t, p))

	// An unlock past its time is none, and its file goes away.
	q := again(t, p)
	if err := q.Unlock(passphrase, 0); err != nil {
		t.Fatal(err)
	}
	if err := q.writeUnlock(*q.store, time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	wantLocked(t, again(t, p))
	path, _ := q.unlockPath()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the unlock file past its time is still there: %v", err)
	}
	// One that is too far ahead was written under another clock.
	if err := q.writeUnlock(*q.store, time.Now().Add(48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	wantLocked(t, again(t, p))
}

// Who locks a profile need not have the environment, nor the spelling of its folder, that
// it was unlocked with.
func TestLockEndsEveryUnlock(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("links need a right of their own there")
	}
	p, keys := newProfile(t)
	home := filepath.Join(t.TempDir(), "home")
	if err := os.Symlink(filepath.Dir(p.dir), home); err != nil {
		t.Fatal(err)
	}
	in := func(home, dir string) *Profile {
		t.Helper()
		q, err := OpenProfile(home, p.name)
		if err != nil {
			t.Fatal(err)
		}
		q.KeepUnlocked(dir)
		return q
	}
	plain, one, two := filepath.Dir(p.dir), t.TempDir(), t.TempDir()
	unlocked := []*Profile{in(plain, one), in(home, two)}
	var files []string
	for _, q := range unlocked {
		if err := q.Unlock(passphrase, time.Hour); err != nil {
			t.Fatal(err)
		}
		path, err := q.unlockPath()
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	wantKeys(t, in(home, one), keys)
	wantKeys(t, in(plain, two), keys)

	// What a process left that died while it wrote, and what is another profile's.
	dir, name := filepath.Dir(files[1]), filepath.Base(files[1])
	left, others := filepath.Join(dir, newPrefix(name)+"1"), filepath.Join(dir, newPrefix("other"+unlockExt)+"1")
	for _, path := range []string{left, others} {
		if err := os.WriteFile(path, []byte("a key"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	still := filepath.Join(t.TempDir(), "still") // the same file by another name
	if err := os.Link(files[0], still); err != nil {
		t.Fatal(err)
	}

	if err := in(plain, t.TempDir()).Lock(); err != nil {
		t.Fatal(err)
	}
	for _, q := range unlocked {
		wantLocked(t, in(filepath.Dir(q.dir), q.run))
	}
	for _, path := range append(files, left, p.path(unlockedFile)) {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	if _, err := os.Lstat(others); err != nil {
		t.Errorf("what is another profile's: %v", err)
	}
	if b, err := os.ReadFile(still); err != nil || len(b) == 0 || len(bytes.Trim(b, "\x00")) > 0 {
		t.Errorf("the key was not overwritten: %d bytes, %v", len(b), err)
	}
}

// Where a key cannot be removed, or a note of it is damaged, the profile is not said to be
// locked, and what is left is known the next time.
func TestLockThatCannotEndAnUnlock(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows guards by the folder's access list, not by mode bits")
	}
	p, _ := newProfile(t)
	elsewhere := again(t, p)
	elsewhere.KeepUnlocked(t.TempDir())
	if err := elsewhere.Unlock(passphrase, time.Hour); err != nil {
		t.Fatal(err)
	}
	path, err := elsewhere.unlockPath()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		mode os.FileMode
		want string
	}{{0o755, "folder_not_private"}, {0o700, ""}} {
		if err := os.Chmod(filepath.Dir(path), row.mode); err != nil {
			t.Fatal(err)
		}
		if err := again(t, p).Lock(); ReasonOf(err) != row.want {
			t.Errorf("a folder of mode %v: %v", row.mode, err)
		}
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the key is still there: %v", err)
	}
	for _, note := range []string{"", "{}", `{"v":1,"files":["relative.unlock"]}`, `{"v":1,"files":["/etc/passwd"]}`} {
		if err := os.WriteFile(p.path(unlockedFile), []byte(note), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := again(t, p).Lock(); ReasonOf(err) != "profile_damaged" {
			t.Errorf("the note %q: %v", note, err)
		}
	}
}

func TestCloseWipesKeys(t *testing.T) {
	_, keys := newProfile(t) // and where keys are kept unlocked
	p, err := OpenProfile(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	f := facts{Server: "h:1", CAPin: seal.Hash([]byte("ca")), OrgID: seal.Hash([]byte("org")), Entry: seal.NewID()}
	if err := p.create(f, keys, passphrase, nil); err != nil {
		t.Fatal(err)
	}
	c, err := Open(t.Context(), p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	folder, store := seal.NewKey(), *p.store
	c.folders.put(seal.NewID(), 1, folder)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string][]byte{"signing": c.keys.Sign, "store's": store.Expose(), "folder's": folder.Expose()} {
		if len(key) == 0 || len(bytes.Trim(key, "\x00")) > 0 {
			t.Errorf("the %s key is not wiped", name)
		}
	}
	wantLocked(t, p)
}

func TestPassphraseChanges(t *testing.T) {
	p, keys := newProfile(t)
	next := sdk.NewSecret([]byte("battery staple"))
	if err := again(t, p).ChangePassphrase(next, next); ClassOf(err) != Denied {
		t.Errorf("change with a wrong passphrase: %v", err)
	}
	if err := again(t, p).ChangePassphrase(passphrase, next); err != nil {
		t.Fatal(err)
	}
	if err := again(t, p).Unlock(passphrase, 0); ClassOf(err) != Denied {
		t.Errorf("the old passphrase still opens: %v", err)
	}
	q := again(t, p)
	if err := q.Unlock(next, 0); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, q, keys)
}

func TestProfileFilesAreTheOwnersAlone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows guards by the folder's access list, not by mode bits")
	}
	p, keys := newProfile(t)
	if err := p.Unlock(passphrase, time.Hour); err != nil {
		t.Fatal(err)
	}
	unlock, err := p.unlockPath()
	if err != nil {
		t.Fatal(err)
	}
	secret := keys.Sign.Seed()
	for _, path := range []string{p.path(profileFile), p.path(deviceFile), p.path(memoryFile), p.path(unlockedFile), unlock} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		b, _ := os.ReadFile(path)
		if bytes.Contains(b, secret) {
			t.Errorf("%s holds the signing key in clear", path)
		}
	}
	if err := os.Chmod(filepath.Dir(unlock), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := p.Unlock(passphrase, time.Hour); ReasonOf(err) != "folder_not_private" {
		t.Errorf("unlock into a folder that others may enter: %v", err)
	}
}

func TestProfileNames(t *testing.T) {
	for _, name := range []string{"..", ".hidden", "-x", "a/b", `a\b`, "a b", "ä", string(make([]byte, 65))} {
		if _, err := OpenProfile(t.TempDir(), name); ClassOf(err) != Invalid {
			t.Errorf("%q: %v, want class invalid", name, err)
		}
	}
}
