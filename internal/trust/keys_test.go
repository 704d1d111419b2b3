package trust

import (
	"bytes"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

func TestFolderKeys(t *testing.T) {
	base := newWorld(t)
	for _, row := range []struct {
		name string
		do   func(w *world) error
		want Reason
	}{
		{"sealed to an agent and opened", func(w *world) error {
			box, err := SealFolderKey(w.log, w.folder, w.folderKey, w.one.id, w.one.keys, w.now)
			if err != nil {
				return err
			}
			k, err := OpenFolderKey(w.log, w.one.id, w.one.seal, w.folder, 1, box)
			if err == nil && !k.Equal(w.folderKey) {
				t.Error("another key came out")
			}
			return err
		}, ""},
		{"to recovery", func(w *world) error {
			_, err := SealFolderKey(w.log, w.folder, w.folderKey, w.recovery.id, w.recovery.keys, w.now)
			return err
		}, ""},
		{"to who may not read", func(w *world) error {
			_, err := SealFolderKey(w.log, w.folder, w.folderKey, w.dave.device.id, w.dave.device.keys, w.now)
			return err
		}, NotAllowed},
		{"to keys that are not the log's", func(w *world) error {
			_, err := SealFolderKey(w.log, w.folder, w.folderKey, w.one.id, w.two.keys, w.now)
			return err
		}, RecipientUnverified},
		{"to a removed agent", func(w *world) error {
			w.do(w.alice.device, RemoveOp(w.one.id))
			_, err := SealFolderKey(w.log, w.folder, w.folderKey, w.one.id, w.one.keys, w.now)
			return err
		}, RecipientUnverified},
		{"to a device past its time", func(w *world) error {
			_, err := SealFolderKey(w.log, w.folder, w.folderKey, w.carol.device.id, w.carol.device.keys, w.now.Add(301*day))
			return err
		}, RecipientUnverified},
		{"a key of the server's own", func(w *world) error {
			box, err := seal.SealTo(w.one.seal.Public(), folderRoute(w.org, w.folder, w.one.id), make([]byte, 32))
			if err != nil {
				return err
			}
			_, err = OpenFolderKey(w.log, w.one.id, w.one.seal, w.folder, 1, box)
			return err
		}, FolderKeySwapped},
		{"the sealed key of another folder", func(w *world) error {
			w.do(w.bob.device, NewFolderOps(w.org, id(61), w.bob.member, fixedKey(61))...)
			box, err := SealFolderKey(w.log, id(61), fixedKey(61), w.bob.device.id, w.bob.device.keys, w.now)
			if err != nil {
				return err
			}
			_, err = OpenFolderKey(w.log, w.bob.device.id, w.bob.device.seal, w.folder, 1, box)
			return err
		}, FolderKeySwapped},
		{"the former version", func(w *world) error {
			box, err := SealFolderKey(w.log, w.folder, w.folderKey, w.one.id, w.one.keys, w.now)
			if err != nil {
				return err
			}
			w.do(w.bob.device, FolderOp(w.org, w.folder, 2, fixedKey(2)))
			_, err = OpenFolderKey(w.log, w.one.id, w.one.seal, w.folder, 1, box)
			return err
		}, FolderKeySwapped},
		{"a folder of the server's own", func(w *world) error {
			_, err := OpenFolderKey(w.log, w.one.id, w.one.seal, id(61), 1, nil)
			return err
		}, FolderUnknown},
		{"an application's key", func(w *world) error { return CheckAppKey(w.log, w.app, w.appKey) }, ""},
		{"another application key", func(w *world) error { return CheckAppKey(w.log, w.app, fixedKey(1)) }, FolderKeySwapped},
	} {
		t.Run(row.name, func(t *testing.T) { wantReason(t, row.do(base.fork(t)), row.want) })
	}
}

func TestSigningIn(t *testing.T) {
	w := newWorld(t)
	challenge, exporter := [32]byte{1}, [32]byte{2}
	const host = "vault.example.org"
	session := func(p party, host string) []byte {
		return seal.SignSession(p.sign, seal.SessionInput(w.org, p.id, host, challenge, exporter))
	}
	check := func(as party, host string, sig []byte, now time.Time) error {
		_, err := CheckSession(w.log, as.id, host, challenge, exporter, sig, now)
		return err
	}
	bob := w.bob.device
	wantReason(t, check(bob, host, session(bob, host), w.now), "")
	wantReason(t, check(bob, host, session(bob, "other.example.org"), w.now), SignatureBad)
	wantReason(t, check(bob, host, session(w.carol.device, host), w.now), SignatureBad)
	wantReason(t, check(bob, host, session(bob, host), w.now.Add(301*day)), SignerUnknown)
	wantReason(t, check(w.one, host, session(w.one, host), w.now), SignerUnknown)
}

// An agent's device key is a point of the curve: another would be noticed at the agent's
// first sign-in alone.
func TestCheckKeysLooksAtThePoint(t *testing.T) {
	agent := newParty(t, 9, true)
	point, err := seal.DevicePub(agent.device)
	if err != nil {
		t.Fatal(err)
	}
	off := bytes.Clone(point)
	off[64] ^= 1
	compressed := append([]byte{2}, off[1:]...)
	for name, row := range map[string]struct {
		point []byte
		want  Reason
	}{
		"the agent's":           {point, ""},
		"not on the curve":      {off, Malformed},
		"not uncompressed":      {compressed, Malformed},
		"cut":                   {point[:33], Malformed},
		"the point at no place": {append([]byte{4}, make([]byte, 64)...), Malformed},
	} {
		keys := EncodeKeys(agent.seal.Public(), row.point)
		_, err := CheckKeys(Entry{Kind: trustv1.EntryKind_ENTRY_KIND_AGENT, KeysDigest: seal.Hash(keys)}, keys)
		if ReasonOf(err) != row.want {
			t.Errorf("%s: %v, want %q", name, err, row.want)
		}
	}
}
