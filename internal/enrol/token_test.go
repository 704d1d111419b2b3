package enrol

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk"
)

func exampleToken(t testing.TB) Token {
	t.Helper()
	tok, err := NewToken("rotunda.example:8443", seal.Digest(bytes.Repeat([]byte{2}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	tok.Head = seal.Digest(bytes.Repeat([]byte{3}, 32))
	return tok
}

func TestTokenComesBackAsItWas(t *testing.T) {
	for _, server := range []string{"rotunda.example:8443", "127.0.0.1:1", "[::1]:65535", "a:443"} {
		tok := exampleToken(t)
		tok.Server = server
		got, err := ParseToken(tok.Text())
		if err != nil {
			t.Fatalf("%s: %v", server, err)
		}
		if !got.Seed.Equal(tok.Seed) || got.Head != tok.Head || got.CAPin != tok.CAPin || got.Server != server {
			t.Errorf("%s: came back changed", server)
		}
	}
	// What a paste brings along.
	tok := exampleToken(t)
	text := tok.Text().Expose()
	if _, err := ParseToken(sdk.NewSecret([]byte(" \t" + string(text) + "\r\n"))); err != nil {
		t.Errorf("white space around the token: %v", err)
	}
}

func TestTokenDoesNotPrint(t *testing.T) {
	tok := exampleToken(t)
	text := tok.Text().ExposeString()
	code := text[len(Prefix) : len(Prefix)+43]
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
		if out := fmt.Sprintf(format, tok); strings.Contains(out, code) || strings.Contains(out, fmt.Sprintf("%x", tok.Seed.Expose())) {
			t.Errorf("%s prints the seed", format)
		}
	}
}

func TestTokenIsReadStrictly(t *testing.T) {
	good := exampleToken(t).Text().ExposeString()
	code, server, _ := strings.Cut(good, "@")
	cases := map[string]string{
		"empty":              "",
		"other prefix":       "rot2." + good[len(Prefix):],
		"no server":          code,
		"empty server":       code + "@",
		"no port":            code + "@rotunda.example",
		"port 0":             code + "@rotunda.example:0",
		"port too big":       code + "@rotunda.example:65536",
		"port spelled twice": code + "@rotunda.example:08443",
		"two servers":        good + "@" + server,
		"path":               good + "/x",
		"user":               code + "@me@rotunda.example:1",
		"space inside":       code + "@rotunda .example:1",
		"a byte short":       code[:len(code)-1] + "@" + server,
		"a byte long":        code + "A@" + server,
		"padded":             code + "=@" + server,
		"standard alphabet":  code[:20] + "+" + code[21:] + "@" + server,
		"line break inside":  code[:20] + "\n" + code[21:] + "@" + server,
		"very long":          good + strings.Repeat("a", 10000),
		"bytes of no text":   code + "@\xff\xfe:1",
	}
	for name, text := range cases {
		_, err := ParseToken(sdk.NewSecret([]byte(text)))
		if !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v, want ErrToken", name, err)
		}
	}
}

// What parses has one spelling: it comes out as it went in.
func FuzzParseToken(f *testing.F) {
	f.Add(exampleToken(f).Text().Expose())
	f.Add([]byte("rot1.AAAA@h:1"))
	f.Add([]byte("rot1." + strings.Repeat("A", 128) + "@[::1]:443"))
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := ParseToken(sdk.NewSecret(b))
		if err != nil {
			return
		}
		if got := tok.Text().Expose(); !bytes.Equal(got, bytes.TrimSpace(b)) {
			t.Errorf("%q came back as %q", b, got)
		}
	})
}

// What was under a token is keys of the right length, or an error that quotes none.
func FuzzOpenBlob(f *testing.F) {
	org, seed, entry := seal.Hash([]byte("org")), seal.NewKey(), seal.NewID()
	f.Add([]byte(`{"keys":[{"folder":"AAAAAAAAAAAAAAAAAAAAAA","version":1,"key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]}`))
	f.Add([]byte(`{"keys":[{}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Add([]byte("\xff"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		b, err := OpenBlob(org, seed, entry, seal.SealEnrolBlob(org, seed, entry, plain))
		for _, k := range b.Keys {
			if len(k.Key) != 32 {
				t.Errorf("a key of %d bytes", len(k.Key))
			}
		}
		if err != nil && len(b.Keys) > 0 {
			t.Errorf("%d keys, and %v", len(b.Keys), err)
		}
		if _, err := OpenBlob(org, seed, entry, plain); err == nil {
			t.Error("what nobody sealed opens")
		}
	})
}
