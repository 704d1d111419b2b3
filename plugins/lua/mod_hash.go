package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/go-crypt/x/crypt"
	lua "github.com/yuin/gopher-lua"
	"golang.org/x/crypto/bcrypt"
)

var hashModule = module{
	about: "Digests, and passwords as password files and directories keep them. What is made of a secret is a secret: a digest lets anybody try passwords on his own machine. Apache's $apr1$ is not among them: Apache reads bcrypt and $6$ as well, nginx $6$ and {SSHA}.",
	functions: []function{
		digest("sha256", "The SHA-256 of bytes.", `assert(hash.sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")`, sha256.New),
		digest("sha512", "The SHA-512 of bytes.", `assert(#hash.sha512("abc") == 128 and #hash.sha512("abc", "raw") == 64)`, sha512.New),
		digest("sha1", "The SHA-1 of bytes, for what still asks for it: it proves nothing against anybody who means harm.", `assert(hash.sha1("abc") == "a9993e364706816aba3e25717850c26c9cd0d89d")`, sha1.New),
		digest("md5", "The MD5 of bytes, as a checksum only: anybody can make two texts that have the same.", `assert(hash.md5("abc", "base64") == "kAFQmDzST7DWlj99KOF/cg==")`, md5.New),
		{
			name: "hmac", takes: `algorithm: "sha256"|"sha512"|"sha1", key: string|secret, bytes: string|secret, as?: "hex"|"base64"|"raw"`, gives: "string|secret",
			about:   "The HMAC of bytes under a key.",
			example: `assert(hash.hmac("sha256", "Jefe", "what do ya want for nothing?") == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")`,
			do: func(a *args) int {
				of, ok := map[string]func() hash.Hash{"sha256": sha256.New, "sha512": sha512.New, "sha1": sha1.New}[a.text(1)]
				if !ok {
					a.bad(1, "want sha256, sha512 or sha1")
				}
				key, one := a.bytes(2)
				b, other := a.bytes(3)
				h := hmac.New(of, key)
				h.Write(b)
				return a.give(a.written(4, h.Sum(nil)), one || other)
			},
		},
		{
			name: "bcrypt", takes: "password: string|secret, cost?: integer", gives: "string|secret",
			about:   "A password as bcrypt ($2y$), of cost 4 to 14, else 10; each step doubles the time. A password of more than 72 bytes is an error: bcrypt does not look at the rest.",
			example: `assert(hash.verify("p", hash.bcrypt("p", 4)) and hash.bcrypt("p", 4):match("^%$2y%$04%$"))`,
			do: func(a *args) int {
				password, isSecret := a.password(1, 72)
				out, err := bcrypt.GenerateFromPassword(password, a.optInteger(2, 10, 4, 14))
				if err != nil {
					a.wrong("it could not be made")
				}
				out[2] = 'y' // what it is: of $2a$ the crypt of libc makes another hash where bytes are no ASCII
				return a.give(out, isSecret)
			},
		},
		{
			name: "sha512_crypt", takes: "password: string|secret, rounds?: integer", gives: "string|secret",
			about:   "A password as /etc/shadow has it ($6$), of 1,000 to 500,000 rounds, else 5,000.",
			example: `assert(hash.verify("p", hash.sha512_crypt("p", 1000)))`,
			do: func(a *args) int {
				password, isSecret := a.password(1, maxCrypt)
				return a.give([]byte(sha512Crypt(password, salt(16), a.optInteger(2, 5000, 1000, maxRounds))), isSecret)
			},
		},
		{
			name: "ssha", takes: `password: string|secret, algorithm?: "sha1"|"sha256"|"sha512"`, gives: "string|secret",
			about:   "A password as directories keep it: {SSHA} of sha1, unless {SSHA256} or {SSHA512} is asked for. It is a digest of one round: use it where nothing better is understood.",
			example: `assert(text.starts_with(hash.ssha("p"), "{SSHA}") and hash.verify("p", hash.ssha("p", "sha512")))`,
			do: func(a *args) int {
				password, isSecret := a.password(1, maxCrypt)
				scheme, ok := map[string]string{"sha1": "{SSHA}", "sha256": "{SSHA256}", "sha512": "{SSHA512}"}[a.optText(2, "sha1")]
				if !ok {
					a.bad(2, "want sha1, sha256 or sha512")
				}
				return a.give([]byte(ssha(scheme, password, salt(16))), isSecret)
			},
		},
		{
			name: "verify", takes: "password: string|secret, stored: string|secret", gives: "boolean",
			about:   "Whether a password is the one that bcrypt, $6$, {SSHA}, {SSHA256} or {SSHA512} keeps; false for what is kept in any other way. It is one of the 32 questions about secrets that a call may ask.",
			example: `assert(hash.verify("secret", "{SSHA}3EEfRoaSSwp32+V4S2c6gDZ7sJhjzxAe") == false)`,
			do: func(a *args) int {
				password, one := a.password(1, maxCrypt)
				stored, other := a.bytes(2)
				if one || other {
					a.ask()
				}
				return a.push(lua.LBool(keeps(string(stored), password)))
			},
		},
	},
}

const (
	maxCrypt  = 1024 // bytes of a password: sha512-crypt's time grows with their square
	maxRounds = 500_000
)

func digest(name, about, example string, of func() hash.Hash) function {
	return function{
		name: name, takes: `bytes: string|secret, as?: "hex"|"base64"|"raw"`, gives: "string|secret",
		about: about + " It is written as hexadecimal unless base64 or raw bytes are asked for.", example: example,
		do: func(a *args) int {
			b, isSecret := a.bytes(1)
			h := of()
			h.Write(b)
			return a.give(a.written(2, h.Sum(nil)), isSecret)
		},
	}
}

// written is a digest as argument n wants it.
func (a *args) written(n int, sum []byte) []byte {
	switch a.optText(n, "hex") {
	case "hex":
		return []byte(hex.EncodeToString(sum))
	case "base64":
		return []byte(base64.StdEncoding.EncodeToString(sum))
	case "raw":
		return sum
	}
	a.bad(n, "want hex, base64 or raw")
	return nil
}

func (a *args) password(n, most int) ([]byte, bool) {
	b, isSecret := a.bytes(n)
	if len(b) == 0 || len(b) > most {
		a.bad(n, "a password has 1 to %d bytes", most)
	}
	if bytes.IndexByte(b, 0) >= 0 {
		a.bad(n, "a password with a zero byte would end there")
	}
	return b, isSecret
}

func (a *args) optInteger(n, otherwise, least, most int) int {
	if !a.has(n) {
		return otherwise
	}
	return a.integer(n, least, most)
}

// salt is of the letters that crypt knows; 16 have 96 bits.
func salt(n int) []byte {
	const letters = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	b := make([]byte, n)
	_, _ = rand.Read(b)
	for i := range b {
		b[i] = letters[b[i]&63]
	}
	return b
}

const defaultRounds = 5000

func sha512Crypt(password, salt []byte, rounds int) string {
	named := ""
	if rounds != defaultRounds {
		named = fmt.Sprintf("rounds=%d$", rounds)
	}
	return fmt.Sprintf("$6$%s%s$%s", named, salt, crypt.KeySHACrypt(sha512.New, password, salt, rounds))
}

var sshaOf = map[string]func() hash.Hash{"{SSHA}": sha1.New, "{SSHA256}": sha256.New, "{SSHA512}": sha512.New}

func ssha(scheme string, password, salt []byte) string {
	h := sshaOf[scheme]()
	h.Write(password)
	h.Write(salt)
	return scheme + base64.StdEncoding.EncodeToString(append(h.Sum(nil), salt...))
}

// keeps says whether stored was made from password.
func keeps(stored string, password []byte) bool {
	if strings.HasPrefix(stored, "$2") {
		cost, err := bcrypt.Cost([]byte(stored))
		return err == nil && cost <= 16 && bcrypt.CompareHashAndPassword([]byte(stored), password) == nil
	}
	mine := ""
	if rest, ok := strings.CutPrefix(stored, "$6$"); ok {
		rounds := defaultRounds
		if named, ok := strings.CutPrefix(rest, "rounds="); ok {
			var n string
			n, rest, _ = strings.Cut(named, "$")
			rounds, _ = strconv.Atoi(n)
		}
		salt, _, ok := strings.Cut(rest, "$")
		if !ok || len(salt) > 16 || rounds < 1000 || rounds > maxRounds {
			return false
		}
		mine = sha512Crypt(password, []byte(salt), rounds)
		if rounds == defaultRounds && strings.HasPrefix(stored, "$6$rounds=") {
			mine = "$6$rounds=5000$" + strings.TrimPrefix(mine, "$6$")
		}
	}
	for scheme, of := range sshaOf {
		if text, ok := strings.CutPrefix(stored, scheme); ok {
			raw, err := base64.StdEncoding.DecodeString(text)
			if size := of().Size(); err == nil && len(raw) > size && len(raw) <= size+64 {
				mine = ssha(scheme, password, raw[size:])
			}
		}
	}
	return mine != "" && subtle.ConstantTimeCompare([]byte(mine), []byte(stored)) == 1
}
