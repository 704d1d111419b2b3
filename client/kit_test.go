package client

import (
	"bytes"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk"
)

func exampleKit() kitKeys {
	return kitKeys{V: 1, OrgID: seal.Hash([]byte("org")), Recovery: seal.NewID(), Root: bytes.Repeat([]byte{7}, 32), Seal: bytes.Repeat([]byte{9}, 32)}
}

func sameKit(a, b kitKeys) bool {
	return a.V == b.V && a.OrgID == b.OrgID && a.Recovery == b.Recovery && bytes.Equal(a.Root, b.Root) && bytes.Equal(a.Seal, b.Seal)
}

// What a person types from the paper is read in any order, small or large, with the
// letters that digits are taken for; a slip of the pen is found in its line.
func TestPaper(t *testing.T) {
	k := exampleKit()
	text := k.paper().ExposeString()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	reversed := bytes.Buffer{}
	for i := range lines {
		reversed.WriteString(strings.ToLower(lines[len(lines)-1-i]) + "\r\n")
	}
	for name, typed := range map[string]string{
		"as it is": text, "in reverse, small": reversed.String(), "without groups": squeeze(lines),
	} {
		got, err := readPaper(sdk.NewSecret([]byte(typed)))
		if err != nil || !sameKit(got, k) {
			t.Errorf("%s: %v", name, err)
		}
	}
	first := -1
	for i, l := range lines {
		if strings.HasPrefix(l, "03 ") {
			first = i
		}
	}
	slip := []byte(lines[first])
	slip[5] = map[bool]byte{true: 'B', false: 'A'}[slip[5] == 'A']
	for name, c := range map[string]struct{ typed, says string }{
		"nothing":           {"", "line 01 is missing"},
		"a slip":            {strings.Join(append(append(append([]string{}, lines[:first]...), string(slip)), lines[first+1:]...), "\n"), "line 03 has a slip in it"},
		"a line left out":   {strings.Join(append(append([]string{}, lines[:first]...), lines[first+1:]...), "\n"), "line 03 is missing"},
		"a line of another": {text + "\n99 AAAA AAAA AAAA AAAA AAAA AAAA AAAA", "there is no line 99"},
		"a line cut short":  {text + "\n03 AAAA", "line 03 has 4 characters after its number, not 28"},
		"more than a paper": {strings.Repeat("x ", 1<<20), "too long"},
	} {
		_, err := readPaper(sdk.NewSecret([]byte(c.typed)))
		if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

func squeeze(lines []string) string {
	var out strings.Builder
	for _, l := range lines {
		if n, rest, ok := strings.Cut(l, " "); ok && len(n) == 2 {
			out.WriteString(n + " " + strings.ReplaceAll(rest, " ", "") + "\n")
		}
	}
	return out.String()
}

// Whatever is typed is a kit, or an error.
func FuzzReadPaper(f *testing.F) {
	k := exampleKit()
	f.Add(k.paper().ExposeString())
	f.Add("01 AAAA AAAA AAAA AAAA AAAA AAAA AAAA")
	f.Add("1 ========================AAAA\n")
	f.Add("-1 x\n00 x\n")
	f.Add(strings.ToLower(k.paper().ExposeString()))
	f.Fuzz(func(t *testing.T, text string) {
		got, err := readPaper(sdk.NewSecret([]byte(text)))
		if err == nil {
			if again, err := readPaper(got.paper()); err != nil || !sameKit(got, again) {
				t.Errorf("%q is a kit whose paper is none: %v", text, err)
			}
			if err := got.check(); err != nil {
				t.Errorf("%q is taken for a kit: %v", text, err)
			}
		}
	})
}

// Which file is a kit, and by what it is opened, is read from its first lines; one that was
// armored since is the same kit.
func TestKitFiles(t *testing.T) {
	k := exampleKit()
	phrase := sdk.NewSecret([]byte("a passphrase of the kit"))
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	made := func(recipients ...string) []byte {
		to, err := openers(phrase, recipients)
		if err != nil {
			t.Fatal(err)
		}
		kit, err := sealKit(k, to)
		if err != nil {
			t.Fatal(err)
		}
		return kit.File
	}
	armored := func(file []byte) []byte {
		var text bytes.Buffer
		w := armor.NewWriter(&text)
		if _, err := w.Write(file); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return append([]byte("\r\n"), text.Bytes()...)
	}
	key, word := made(id.Recipient().String()), made()
	for name, c := range map[string]struct {
		file         []byte
		needs, isKit bool
	}{
		"for a key":                 {key, true, true},
		"for a key, armored":        {armored(key), true, true},
		"for a passphrase":          {word, false, true},
		"for a passphrase, armored": {armored(word), false, true},
		"nothing":                   {nil, true, false},
		"text":                      {[]byte("once upon a time"), true, false},
		"text that quotes one":      {append([]byte("see "), word...), true, false},
		"a certificate":             {[]byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"), true, false},
		"another file, armored":     {armored([]byte("once upon a time")), true, false},
		"no more than age's name":   {[]byte("age-encryption.org/v1\n"), true, false},
	} {
		if needs, isKit := KitNeedsKey(c.file); isKit != c.isKit || isKit && needs != c.needs {
			t.Errorf("%s: needs a key %v, is a kit %v", name, needs, isKit)
		}
		if !c.isKit {
			continue
		}
		identity := sdk.Secret{}
		if c.needs {
			identity = sdk.NewSecret([]byte(id.String()))
		}
		if got, err := openKit(c.file, phrase, identity); err != nil || !sameKit(got, k) {
			t.Errorf("%s does not open: %v", name, err)
		}
	}
}

// A file that somebody gives for a kit, and is no age file.
func TestKitsThatAreNone(t *testing.T) {
	for _, file := range []string{"", "hello", "age-encryption.org/v1\n", "age-encryption.org/v1\n-> X25519 AAAA\nAAAA\n--- AAAA\n"} {
		if _, err := openKit([]byte(file), sdk.NewSecret([]byte("a passphrase of the kit")), sdk.Secret{}); err == nil || !strings.Contains(err.Error(), "no age file") {
			t.Errorf("%q: %v", file, err)
		}
	}
	if _, err := openKit(nil, sdk.Secret{}, sdk.Secret{}); err == nil || !strings.Contains(err.Error(), "the passphrase is empty") {
		t.Errorf("no passphrase: %v", err)
	}
}
