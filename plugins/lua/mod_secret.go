package main

import (
	"crypto/rand"
	"crypto/subtle"
	"regexp"

	lua "github.com/yuin/gopher-lua"
)

var secretModule = module{
	about: "Makes secrets and compares them.",
	functions: []function{
		{
			name: "of", takes: "text: string|secret", gives: "secret",
			about:   "Takes a text for a secret from here on, such as a token that a target answered: it is taken out of whatever leaves the script.",
			example: `local token = secret.of("s3cr3t") assert(tostring(token) == "[secret]")`,
			do: func(a *args) int {
				b, _ := a.bytes(1)
				return a.give(b, true)
			},
		},
		{
			name: "equal", takes: "a: string|secret, b: string|secret", gives: "boolean",
			about:   "Compares two texts or secrets. Where one is a secret it is one of the 32 questions about secrets that a call may ask.",
			example: `assert(secret.equal(secret.of("a"), "a"))`,
			do: func(a *args) int {
				b, one := a.bytes(1)
				c, other := a.bytes(2)
				if one || other {
					a.ask()
				}
				return a.push(lua.LBool(subtle.ConstantTimeCompare(b, c) == 1))
			},
		},
		{
			name: "matches", takes: "value: string|secret, pattern: string", gives: "boolean",
			about: "Whether a regular expression (RE2) matches the whole of a text or secret, of at most 64 KiB: a target may not take every character. " +
				"Of a secret it is one of the 32 questions about secrets that a call may ask.",
			example: `assert(secret.matches(secret.of("p-1"), "[!-~]+") and not secret.matches(secret.of("p 1"), "[!-~]+"))`,
			do:      secretMatches,
		},
		{
			name: "random", takes: "n: integer, alphabet?: string", gives: "secret",
			about:   "Makes a secret of n characters of the alphabet (letters and digits), at most 4,096, without bias.",
			example: `assert(not secret.equal(secret.random(20), secret.random(20)))`,
			do:      randomSecret,
		},
	},
}

func secretMatches(a *args) int {
	b, isSecret := a.bytes(1)
	pattern := a.text(2)
	if len(b) > 64<<10 {
		a.bad(1, "it has more than %d bytes", 64<<10)
	}
	if _, err := regexp.Compile(pattern); err != nil || len(pattern) > 1000 {
		a.bad(2, "want a regular expression of at most 1,000 bytes")
	}
	whole, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	if err != nil {
		a.bad(2, "want a regular expression of at most 1,000 bytes")
	}
	if isSecret {
		a.ask()
	}
	return a.push(lua.LBool(whole.Match(b)))
}

func randomSecret(a *args) int {
	n, from := a.integer(1, 1, 4096), []rune(a.optText(2, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"))
	if len(from) < 2 || len(from) > 256 {
		a.bad(2, "want an alphabet of 2 to 256 characters")
	}
	out := make([]rune, 0, n)
	for one := make([]byte, 1); len(out) < n; {
		_, _ = rand.Read(one)
		if k := int(one[0]); k < 256-256%len(from) {
			out = append(out, from[k%len(from)])
		}
	}
	return a.give([]byte(string(out)), true)
}
