package agent

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// FuzzIdentity: whatever stands in the agent's key file. What loads has all three keys
// and comes back as it was; no error quotes the file.
func FuzzIdentity(f *testing.F) {
	keys, err := enrol.MakeKeys(trustv1.EntryKind_ENTRY_KIND_AGENT)
	if err != nil {
		f.Fatal(err)
	}
	stored, err := keys.Store()
	if err != nil {
		f.Fatal(err)
	}
	k := keyFile{OrgID: seal.Hash([]byte("org")), Entry: seal.ID{1}, Name: "one", Pool: seal.ID{2}, Server: "h:1", Keys: stored}
	whole, err := json.Marshal(k)
	if err != nil {
		f.Fatal(err)
	}
	k.Keys.Device = nil
	device, err := json.Marshal(k)
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{whole, device, []byte(`{"keys":{"sign":"AAAA"}}`), []byte("rotunda-locked-1\n"), {}, []byte("null")} {
		f.Add(b)
	}
	errLocked := errors.New("no passphrase here")
	path := filepath.Join(f.TempDir(), "agent.key")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		id, err := LoadIdentity(path, func() ([]byte, error) { return nil, errLocked })
		if err != nil {
			if len(b) >= 16 && strings.Contains(err.Error(), string(b)) {
				t.Fatalf("the error quotes the file: %v", err)
			}
			if seal.IsLocked(b) != errors.Is(err, errLocked) {
				t.Fatalf("locked %v, and %v", seal.IsLocked(b), err)
			}
			return
		}
		if id.Device() == nil || id.Keys.Seal == nil || len(id.Keys.Sign) == 0 {
			t.Fatal("loaded without a key")
		}
		err = SaveIdentity(path, &enrol.Identity{OrgID: id.OrgID, Entry: id.Entry, Name: id.Name, Owner: id.Pool, Server: id.Server, CAPin: id.CAPin, Keys: id.Keys}, nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := LoadIdentity(path, nil)
		if err != nil || again.OrgID != id.OrgID || again.Entry != id.Entry || again.Server != id.Server || again.Pool != id.Pool || !again.Keys.Sign.Equal(id.Keys.Sign) || !again.Keys.Device.Equal(id.Keys.Device) {
			t.Fatalf("came back changed: %v", err)
		}
	})
}
