package password_test

import (
	"errors"
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
