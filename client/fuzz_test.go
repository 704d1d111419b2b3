package client

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk"
)

// FuzzProfile: whatever stands in the files of a device's folder, and in the one that
// keeps it unlocked. The keys stay shut, an unlock past its time or too far ahead counts
// for nothing, and no error quotes what may be a key.
func FuzzProfile(f *testing.F) {
	run := filepath.Join(f.TempDir(), "run")
	if err := os.Mkdir(run, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Setenv("XDG_RUNTIME_DIR", run)
	p, err := OpenProfile(f.TempDir(), "")
	if err != nil {
		f.Fatal(err)
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		f.Fatal(err)
	}
	unlock, err := p.unlockPath()
	if err != nil {
		f.Fatal(err)
	}
	good, err := json.Marshal(facts{V: 1, Server: "h:1", OrgID: seal.Hash([]byte("org")), Entry: seal.ID{1}})
	if err != nil {
		f.Fatal(err)
	}
	key := make([]byte, 32)
	for _, u := range []unlockState{{1, 1 << 42, key}, {1, 0, key}, {1, -1 << 63, nil}, {2, 1 << 62, key[:5]}} {
		b, err := json.Marshal(u)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(good, []byte(`{"v":1,"locked":"AAAA","keys":"AAAA"}`), b)
	}
	f.Add([]byte(`{"v":2}`), []byte(`[]`), []byte(`null`))
	f.Fuzz(func(t *testing.T, facts, device, unlocked []byte) {
		if strings.Contains(string(device), "cm90dW5kYS1sb2NrZWQt") {
			t.Skip("a locked file, in base64: to try the passphrase takes its time")
		}
		p := &Profile{name: p.name, dir: p.dir}
		for path, b := range map[string][]byte{p.path(profileFile): facts, p.path(deviceFile): device, unlock: unlocked} {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		quotes := func(err error) {
			t.Helper()
			for _, b := range [][]byte{device, unlocked} {
				if err != nil && len(b) >= 16 && strings.Contains(err.Error(), string(b)) {
					t.Fatalf("the error quotes the file: %v", err)
				}
			}
		}
		info, err := p.Info()
		quotes(err)
		if err != nil && info.Unlocked {
			t.Fatal("unlocked, and an error")
		}
		if left := time.Until(info.UnlockedUntil); info.Unlocked && (left < -time.Minute || left > MaxUnlock+2*time.Minute) {
			t.Fatalf("unlocked for %s", left)
		}
		clear, err := p.facts()
		if err != nil {
			return
		}
		if clear.V != 1 {
			t.Fatalf("took version %d", clear.V)
		}
		if _, err = p.keys(clear); err == nil {
			t.Fatal("opened keys that nobody locked")
		}
		quotes(err)
		if _, err = p.openStore(sdk.NewSecret([]byte("a passphrase"))); err == nil {
			t.Fatal("opened a store that nobody locked")
		}
		quotes(err)
	})
}
