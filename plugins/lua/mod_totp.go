package main

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"hash"
	"math"
	"strings"
	"time"

	lua "github.com/yuin/gopher-lua"
)

var totpModule = module{
	about: "One-time codes of a seed (RFC 6238), for a target that asks an administrator for one.",
	functions: []function{
		{
			name: "code", takes: `seed: string|secret, options?: {time?: number, digits?: integer, period?: integer, hash?: "sha1"|"sha256"|"sha512"}`, gives: "secret",
			about:   "The code at a time, now unless one is given: of 6 digits (to 8), a period of 30 seconds (to 300) and sha1, unless said otherwise. The seed is base32, as it is shown to people: spaces, small letters and a lack of padding are taken.",
			example: `assert(secret.equal(totp.code("GEZDGNBVGY3TQOJQ GEZDGNBVGY3TQOJQ", {time = 59, digits = 8}), "94287082"))`,
			do: func(a *args) int {
				text, _ := a.bytes(1)
				seed, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.TrimRight(strings.ToUpper(strings.NewReplacer(" ", "", "-", "").Replace(string(text))), "="))
				if err != nil || len(seed) == 0 {
					a.bad(1, "the seed is no base32")
				}
				o := a.options(2, "time", "digits", "period", "hash")
				at := float64(time.Now().Unix())
				if o.has("time") {
					v, ok := o.get("time").(lua.LNumber)
					if at = float64(v); !ok || !(at >= 0 && at < 1e11) {
						a.bad(2, "time: want seconds since 1970")
					}
				}
				of, ok := map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New}[o.text("hash", "sha1")]
				if !ok {
					a.bad(2, "hash: want sha1, sha256 or sha512")
				}
				counter := uint64(math.Floor(at)) / uint64(o.integer("period", 30, 1, 300))
				return a.give([]byte(oneTimeCode(of, seed, counter, o.integer("digits", 6, 6, 8))), true)
			},
		},
	},
}

// oneTimeCode is HOTP of RFC 4226, section 5.3.
func oneTimeCode(of func() hash.Hash, seed []byte, counter uint64, digits int) string {
	h := hmac.New(of, seed)
	h.Write(binary.BigEndian.AppendUint64(nil, counter))
	sum := h.Sum(nil)
	code := binary.BigEndian.Uint32(sum[sum[len(sum)-1]&15:]) & (1<<31 - 1)
	return fmt.Sprintf("%0*d", digits, code%uint32(math.Pow10(digits)))
}
