package password_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"

	"github.com/rotunda-pam/rotunda/internal/password"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

func TestEveryPasswordKeepsItsPolicy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &trustv1.PasswordPolicy{
			Length:    rapid.Uint32Range(8, 256).Draw(t, "length"),
			MinLower:  rapid.Uint32Range(0, 2).Draw(t, "lower"),
			MinUpper:  rapid.Uint32Range(0, 2).Draw(t, "upper"),
			MinDigit:  rapid.Uint32Range(0, 2).Draw(t, "digit"),
			MinSymbol: rapid.Uint32Range(0, 2).Draw(t, "symbol"),
			Symbols:   rapid.SampledFrom([]string{"", "%&", `'"\ $`, "äöü€"}).Draw(t, "symbols"),
			Exclude:   rapid.SampledFrom([]string{"", "0O1lI"}).Draw(t, "exclude"),
		}
		forbid := rapid.SampledFrom([]string{"", "abc%"}).Draw(t, "forbid")
		pw, err := password.Generate(p, forbid)
		if err != nil {
			t.Fatal(err)
		}
		s := string(pw)
		count := func(f func(rune) bool) uint32 {
			var n uint32
			for _, r := range s {
				if f(r) {
					n++
				}
			}
			return n
		}
		isSymbol := func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", r)
		}
		switch {
		case utf8.RuneCountInString(s) != int(p.Length):
			t.Fatalf("length %d, want %d", utf8.RuneCountInString(s), p.Length)
		case strings.ContainsAny(s, p.Exclude+forbid):
			t.Fatal("holds a character that is excluded or forbidden")
		case count(func(r rune) bool { return r >= 'a' && r <= 'z' }) < p.MinLower,
			count(func(r rune) bool { return r >= 'A' && r <= 'Z' }) < p.MinUpper,
			count(func(r rune) bool { return r >= '0' && r <= '9' }) < p.MinDigit,
			count(isSymbol) < p.MinSymbol:
			t.Fatal("a class is short")
		case p.Symbols == "" && p.MinSymbol == 0 && count(isSymbol) > 0:
			t.Fatal("a symbol that nobody asked for")
		}
	})
}

func TestPoliciesThatCannotBe(t *testing.T) {
	for name, p := range map[string]*trustv1.PasswordPolicy{
		"too short":           {Length: 7},
		"too long":            {Length: 257},
		"classes over length": {Length: 8, MinDigit: 5, MinLower: 4},
		"counts overflow":     {Length: 8, MinDigit: 1 << 31, MinLower: 1 << 31},
		"all excluded":        {MinDigit: 1, Exclude: "0123456789"},
		"one megabyte":        {Symbols: strings.Repeat("!", 1<<20)},
		"not text":            {Symbols: "\xff"},
		"too few characters":  {Exclude: "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0"},
	} {
		if _, err := password.Generate(p, ""); !errors.Is(err, password.ErrPolicy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Each character of a class comes equally often. With 40,000 draws from 10 digits
// a count has a standard deviation of 60; six of them are never seen by chance.
func TestDrawsAreEven(t *testing.T) {
	counts := map[byte]int{}
	p := &trustv1.PasswordPolicy{Length: 200, Exclude: "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"}
	for range 200 {
		pw, err := password.Generate(p, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range pw {
			counts[c]++
		}
	}
	if len(counts) != 10 {
		t.Fatalf("%d different digits", len(counts))
	}
	for c, n := range counts {
		if n < 3640 || n > 4360 {
			t.Errorf("%q came %d times of 40000", c, n)
		}
	}
}

func TestSSHKeyFits(t *testing.T) {
	pub, priv, err := password.SSHKey()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	if got != string(pub) {
		t.Fatalf("public key %q does not belong to the private one", pub)
	}
}

func TestSSHPublic(t *testing.T) {
	public, private, err := password.SSHKey()
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := password.SSHKey()
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte("a passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		private []byte
		want    string
		err     error
	}{
		"its own":                    {private: private, want: string(public)},
		"without the last line end":  {private: bytes.TrimSpace(private), want: string(public)},
		"with a passphrase":          {private: pem.EncodeToMemory(locked), err: password.ErrPassphrase},
		"a public key":               {private: public},
		"a password":                 {private: []byte("hunter2")},
		"nothing":                    {},
		"a private key cut in half":  {private: private[:len(private)/2]},
		"a private key within noise": {private: append([]byte("my key:\n"), private...), want: string(public)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := password.SSHPublic(c.private)
			switch {
			case string(got) != c.want:
				t.Errorf("%q, want %q", got, c.want)
			case (err == nil) != (c.want != ""), c.err != nil && !errors.Is(err, c.err):
				t.Errorf("error %v, want %v", err, c.err)
			case err != nil && strings.Contains(err.Error(), "hunter2"):
				t.Errorf("the error tells what was given: %v", err)
			}
		})
	}
	for name, c := range map[string]struct {
		other []byte
		same  bool
	}{
		"the same":                {public, true},
		"with a comment":          {append(slices.Clone(public), " ada@laptop\n"...), true},
		"with options":            {append([]byte(`from="10.0.0.1" `), public...), true},
		"another key":             {other, false},
		"no key":                  {[]byte("ssh-ed25519"), false},
		"the private one instead": {private, false},
	} {
		if got := password.SameSSHPublic(public, c.other); got != c.same {
			t.Errorf("%s: %v, want %v", name, got, c.same)
		}
	}
}
