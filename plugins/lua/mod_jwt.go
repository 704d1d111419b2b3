package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"strings"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/crypto/ssh"
)

var jwtModule = module{
	about: "Signs JSON web tokens, and shows what one claims.",
	functions: []function{
		{
			name: "sign", takes: `claims: table, key: string|secret, options: {alg: "HS256"|"RS256"|"ES256"|"EdDSA", kid?: string, typ?: string}`, gives: "secret",
			about:   "Makes a token. The key is the shared secret for HS256, at least 16 bytes; for the others a private key in PEM (PKCS #1, #8, SEC 1 or OpenSSH) without a passphrase. Whoever has the token is let in, so it is a secret.",
			example: `local token = jwt.sign({sub = "svc", exp = 1700000000}, secret.of("0123456789abcdef"), {alg = "HS256"}) assert(tostring(token) == "[secret]")`,
			do:      signToken,
		},
		{
			name: "decode_unverified", takes: "token: string", gives: "{header: table, claims: table}|nil, sdk.error?",
			about:   "What a token says, WITHOUT a look at its signature: anybody could have written it. Use it to see when a token ends that a target has just answered. A secret is refused.",
			example: `local t = jwt.decode_unverified("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiZXhwIjo3fQ.") assert(t.claims.exp == 7 and t.header.alg == "none")`,
			do: func(a *args) int {
				header, claims, err := decodeToken(a.text(1))
				if err != nil {
					return a.fail(malformed("JWT", false, err))
				}
				t := a.L.NewTable()
				t.RawSetString("header", a.decoded(header))
				t.RawSetString("claims", a.decoded(claims))
				return a.push(t)
			},
		},
	},
}

func signToken(a *args) int {
	v, _ := a.value(1)
	claims, ok := v.(map[string]any)
	if !ok {
		a.bad(1, "want a table of claims")
	}
	raw, _ := a.bytes(2)
	o := a.options(3, "alg", "kid", "typ")
	method, key, why := signingKey(o.text("alg", ""), raw)
	if why != "" {
		a.bad(2, "%s", why)
	}
	token := jwt.NewWithClaims(method, jwt.MapClaims(claims))
	token.Header["typ"] = o.text("typ", "JWT")
	if o.has("kid") {
		token.Header["kid"] = o.text("kid", "")
	}
	signed, err := token.SignedString(key)
	if err != nil { // its text may quote a claim
		a.wrong("the token cannot be signed: the key does not fit %s", method.Alg())
	}
	return a.give([]byte(signed), true)
}

// signingKey is a key for one algorithm. The algorithm is said by the script, never by
// what the key looks like: a public key's text must not become a shared secret.
func signingKey(alg string, raw []byte) (method jwt.SigningMethod, key any, why string) {
	isPEM := strings.Contains(string(raw), "-----BEGIN ")
	if alg == "HS256" {
		if isPEM || len(raw) < 16 {
			return nil, nil, "HS256 wants a shared secret of at least 16 bytes, which is no key in PEM"
		}
		return jwt.SigningMethodHS256, raw, ""
	}
	if alg != "RS256" && alg != "ES256" && alg != "EdDSA" {
		return nil, nil, "options.alg is HS256, RS256, ES256 or EdDSA"
	}
	parsed, err := ssh.ParseRawPrivateKey(raw)
	if err != nil {
		return nil, nil, "want a private key in PEM without a passphrase"
	}
	switch k := parsed.(type) {
	case *rsa.PrivateKey:
		if alg == "RS256" {
			return jwt.SigningMethodRS256, k, ""
		}
	case *ecdsa.PrivateKey:
		if alg == "ES256" && k.Curve.Params().BitSize == 256 {
			return jwt.SigningMethodES256, k, ""
		}
	case *ed25519.PrivateKey:
		if alg == "EdDSA" {
			return jwt.SigningMethodEdDSA, *k, ""
		}
	case ed25519.PrivateKey:
		if alg == "EdDSA" {
			return jwt.SigningMethodEdDSA, k, ""
		}
	}
	return nil, nil, "the key is none for " + alg
}

// decodeToken reads a token's two parts and passes its signature by.
func decodeToken(text string) (header, claims any, err error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 || len(text) > 64<<10 {
		return nil, nil, errors.New("want three parts with a dot between them, at most 64 KiB")
	}
	for n, into := range []*any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[n])
		if err != nil {
			return nil, nil, errors.New("a part is no base64")
		}
		if *into, err = decodeJSON(raw); err != nil {
			return nil, nil, err
		}
		if _, ok := (*into).(map[string]any); !ok {
			return nil, nil, errors.New("a part is no object")
		}
	}
	return header, claims, nil
}
