package release

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

func keyOf(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func example() Release {
	return Release{
		Name: "acme", Version: "1.2.0", Published: time.Unix(1_700_000_000, 0).UTC(),
		Files: []File{{"linux", "amd64", "acme-linux-amd64", 5, seal.Hash([]byte("bytes"))}, {"linux", "arm64", "acme-linux-arm64", 6, seal.Hash([]byte("others"))}},
	}
}

// A manifest is believed as its publisher wrote it, and tells who that is.
func TestSigned(t *testing.T) {
	manifest, err := Sign(example(), keyOf(1))
	if err != nil {
		t.Fatal(err)
	}
	r, by, err := Open(manifest)
	if err != nil || by != PublisherOf(keyOf(1)) {
		t.Fatalf("%v, %v", by, err)
	}
	if f, err := r.For("linux", "arm64"); err != nil || f != example().Files[1] {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := r.For("darwin", "arm64"); err == nil || !strings.Contains(err.Error(), "only for linux/amd64, linux/arm64") {
		t.Errorf("a platform that it has no file for: %v", err)
	}
	other, err := Sign(example(), keyOf(2))
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		edit func(s *signed)
		want error
	}{
		"another version":       {func(s *signed) { s.Release = bytes.Replace(s.Release, []byte("1.2.0"), []byte("1.3.0"), 1) }, ErrSignature},
		"a space more":          {func(s *signed) { s.Release = bytes.Replace(s.Release, []byte("{"), []byte("{ "), 1) }, ErrSignature},
		"another publisher":     {func(s *signed) { s.Publisher = PublisherOf(keyOf(2)) }, ErrSignature},
		"another's signature":   {func(s *signed) { var o signed; _ = json.Unmarshal(other, &o); s.Signature = o.Signature }, ErrSignature},
		"no signature":          {func(s *signed) { s.Signature = nil }, ErrSignature},
		"a key of small order":  {func(s *signed) { s.Publisher = Publisher{1} }, ErrManifest},
		"a field of the future": {resigned(`{"name":"acme","version":"1.2.0","files":[],"runs":"as root"}`), ErrManifest},
	} {
		var s signed
		if err := json.Unmarshal(manifest, &s); err != nil {
			t.Fatal(err)
		}
		row.edit(&s)
		// Put together by hand: encoding would make the release compact again.
		b := []byte(`{"release":` + string(s.Release) + `,"publisher":"` + s.Publisher.String() + `","signature":`)
		sig, _ := json.Marshal(s.Signature)
		b = append(append(b, sig...), '}')
		if _, _, err := Open(b); !errors.Is(err, row.want) {
			t.Errorf("%s: %v, want %v", name, err, row.want)
		}
	}
	for _, none := range []string{"{}", "null", "[]", `{"release":{}}`, `{"publisher":"` + PublisherOf(keyOf(1)).String() + `"}`} {
		if _, _, err := Open([]byte(none)); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v, want %v", none, err, ErrManifest)
		}
	}
	if _, _, err := Open(append(manifest, "{}"...)); !errors.Is(err, ErrManifest) {
		t.Errorf("with something behind it: %v", err)
	}
}

// resigned replaces what is signed, by the publisher himself.
func resigned(release string) func(*signed) {
	return func(s *signed) {
		s.Release = json.RawMessage(release)
		s.Signature = seal.SignRelease(keyOf(1), s.Release)
	}
}

// What is no release is not signed.
func TestReleasesThatAreNone(t *testing.T) {
	for name, edit := range map[string]func(*Release){
		"a name that agents refuse":   func(r *Release) { r.Name = "Acme" },
		"a name that is a path":       func(r *Release) { r.Name = "../acme" },
		"no version":                  func(r *Release) { r.Version = "" },
		"a version of words":          func(r *Release) { r.Version = "latest" },
		"a version spelled with a 0":  func(r *Release) { r.Version = "01.2.0" },
		"and in its middle":           func(r *Release) { r.Version = "1.02.0" },
		"no files":                    func(r *Release) { r.Files = nil },
		"two for one platform":        func(r *Release) { r.Files[1].Arch = "amd64" },
		"a file elsewhere":            func(r *Release) { r.Files[0].Name = "../acme" },
		"a file that would be hidden": func(r *Release) { r.Files[0].Name = ".acme" },
		"an empty file":               func(r *Release) { r.Files[0].Size = 0 },
		"a file that none starts":     func(r *Release) { r.Files[0].Size = 512<<20 + 1 },
		"a file for any machine":      func(r *Release) { r.Files[0].OS = "" },
	} {
		r := example()
		edit(&r)
		if _, err := Sign(r, keyOf(1)); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestCompare(t *testing.T) {
	ordered := []string{"0.9", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.2", "1.0.0-alpha.10", "1.0.0-alpha.99999999999999999999", "1.0.0-alpha.100000000000000000000", "1.0.0-alpha.x", "1.0.0-beta", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2", "1.10", "2"}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := Compare(a, b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%s and %s: %d", a, b, got)
			}
		}
	}
	for _, same := range [][2]string{{"1.0", "1.0.0"}, {"1.0.0-rc.01", "1.0.0-rc.1"}, {"1.0.0-000", "1.0.0-0"}} {
		if Compare(same[0], same[1]) != 0 || Compare(same[1], same[0]) != 0 {
			t.Errorf("%s is not %s", same[0], same[1])
		}
	}
}

func TestKeys(t *testing.T) {
	word := func(w string) func() ([]byte, error) { return func() ([]byte, error) { return []byte(w), nil } }
	stored := StoreKey(keyOf(1), []byte("a passphrase"))
	if got, err := LoadKey(stored, word("a passphrase")); err != nil || !got.Equal(keyOf(1)) {
		t.Errorf("%v", err)
	}
	if _, err := LoadKey(stored, word("another")); !errors.Is(err, seal.ErrPassphrase) {
		t.Errorf("another passphrase: %v", err)
	}
	if !seal.IsLocked(StoreKey(keyOf(1), nil)) {
		t.Error("without a passphrase it is not locked")
	}
	unlocked := keyPrefix + base64.RawURLEncoding.EncodeToString(keyOf(1).Seed()) + "\n"
	if bytes.Contains(stored, []byte(keyPrefix)) {
		t.Error("it is not locked")
	}
	for name, content := range map[string][]byte{
		"what is no key":            []byte("no key\n"),
		"a key that is not locked":  []byte(unlocked),
		"what is no key but locked": seal.Lock([]byte("a passphrase"), seal.LockedPublisher, []byte("no key\n")),
	} {
		if _, err := LoadKey(content, word("a passphrase")); !errors.Is(err, errNoKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, s := range []string{"", "ed25519:", "ed25519:AAAA", strings.TrimPrefix(PublisherOf(keyOf(1)).String(), publisherPrefix), Publisher{}.String()} {
		if _, err := ParsePublisher(s); err == nil {
			t.Errorf("%q is a publisher's key", s)
		}
	}
}

func FuzzOpen(f *testing.F) {
	manifest, err := Sign(example(), keyOf(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(manifest)
	f.Add([]byte(`{"release":{},"publisher":"ed25519:","signature":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, by, err := Open(b)
		if err == nil && (by != PublisherOf(keyOf(1)) || r.Name != "acme" || r.Version != "1.2.0") {
			t.Errorf("a manifest that nobody signed is believed: %+v by %s", r, by)
		}
	})
}
