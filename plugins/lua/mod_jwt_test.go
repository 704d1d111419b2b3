package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/crypto/ssh"
)

// pemOf writes a key as people have it.
func pemOf(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// What is signed is accepted with the public key, by its algorithm only.
func TestSignedTokens(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	block, err := ssh.MarshalPrivateKey(edKey, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, alg, key string
		public         any
	}{
		{"a shared secret", "HS256", "0123456789abcdef", []byte("0123456789abcdef")},
		{"RSA", "RS256", pemOf(t, rsaKey), rsaKey.Public()},
		{"P-256", "ES256", pemOf(t, ecKey), ecKey.Public()},
		{"Ed25519", "EdDSA", pemOf(t, edKey), edKey.Public()},
		{"Ed25519 of OpenSSH", "EdDSA", string(pem.EncodeToMemory(block)), edKey.Public()},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := shownSecret(t, []string{"jwt", "secret"}, fmt.Sprintf(`return jwt.sign({sub = "svc", exp = 4e9, n = {1, "x"}}, secret.of(%q), {alg = %q, kid = "k1"})`, c.key, c.alg))
			token, err := jwt.Parse(text, func(tok *jwt.Token) (any, error) {
				if p, ok := c.public.(crypto.PublicKey); ok {
					return p, nil
				}
				return c.public, nil
			}, jwt.WithValidMethods([]string{c.alg}))
			if err != nil {
				t.Fatal(err)
			}
			if sub, _ := token.Claims.GetSubject(); sub != "svc" || token.Header["kid"] != "k1" || token.Header["typ"] != "JWT" {
				t.Errorf("the token says %v, %v", token.Header, token.Claims)
			}
		})
	}
	for _, c := range []luaCase{
		{"a key of another kind", fmt.Sprintf(`jwt.sign({}, secret.of(%q), {alg = "RS256"})`, pemOf(t, ecKey)), "none for RS256"},
		{"a key as a shared secret", fmt.Sprintf(`jwt.sign({}, secret.of(%q), {alg = "HS256"})`, pemOf(t, ecKey)), "no key in PEM"},
	} {
		luaCases(t, []string{"jwt", "secret"}, []luaCase{c})
	}
}

func TestTokens(t *testing.T) {
	luaCases(t, []string{"jwt", "secret", "text"}, []luaCase{
		{"a short secret", `jwt.sign({}, secret.of("short"), {alg = "HS256"})`, "at least 16"},
		{"no algorithm", `jwt.sign({}, secret.of("0123456789abcdef"))`, "options.alg"},
		{"none", `jwt.sign({}, secret.of("0123456789abcdef"), {alg = "none"})`, "options.alg"},
		{"no claims", `jwt.sign("x", secret.of("0123456789abcdef"), {alg = "HS256"})`, "table of claims"},
		{"a key that is none tells nothing of itself", `local ok, err = pcall(jwt.sign, {}, secret.of("hunter2"), {alg = "ES256"}) assert(not ok and not text.contains(err, "hunter2"))`, ""},
		{"a placeholder as a claim", `jwt.sign({a = tostring(secret.of("pass"))}, secret.of("0123456789abcdef"), {alg = "HS256"})`, "placeholder"},
		{"a secret token is not shown", `jwt.decode_unverified(jwt.sign({}, secret.of("0123456789abcdef"), {alg = "HS256"}))`, "got a secret"},
		{"two parts", `local v, err = jwt.decode_unverified("e30.e30") assert(v == nil and err.reason == "jwt.malformed")`, ""},
		{"a part that is no object", `assert(jwt.decode_unverified("W10.e30.") == nil)`, ""},
		{"a part that is no base64", `assert(jwt.decode_unverified("e30.+.") == nil)`, ""},
		{"too long", `assert(jwt.decode_unverified("e30." .. string.rep("e", 70000) .. ".") == nil)`, ""},
	})
}

func FuzzDecodeToken(f *testing.F) {
	f.Add("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiZXhwIjo3fQ.")
	f.Add("e30.W10.x")
	f.Fuzz(func(t *testing.T, text string) {
		header, claims, err := decodeToken(text)
		_, h := header.(map[string]any)
		_, c := claims.(map[string]any)
		if err == nil && !(h && c) {
			t.Fatalf("%q is %v and %v", text, header, claims)
		}
	})
}
