package main

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"os/exec"
	"strings"
	"testing"
)

// What crypt(3) and other programs made is known, and what is made here is made so.
func TestPasswordHashes(t *testing.T) {
	const long = "$6$rounds=1400$anotherlongsalts$"
	for _, c := range []struct {
		name, stored, password string
		want                   bool
	}{
		{"openssl passwd -6", "$6$saltsalt$pn.eNCAqRIao3pxsOGdjVa9wVR7Rb/3WnbxOluoQKVZPzLuyetx3yF6VIZDfQnn/arrFVfrq3BqRb9gLqhI5z0", "Hello world!", true},
		{"crypt(3) with rounds", "$6$rounds=1000$ab$r9xV3b60Ek5eCaEfRobSELItYA1esrGtITLf1fK6KGP616RfsjYQIjuJ7tmG6oGhmUqE19Ib1dtzwxPEcHyeH0", "p", true},
		{"another password", "$6$rounds=1000$ab$r9xV3b60Ek5eCaEfRobSELItYA1esrGtITLf1fK6KGP616RfsjYQIjuJ7tmG6oGhmUqE19Ib1dtzwxPEcHyeH0", "q", false},
		{"bcrypt of the reference", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U", true},
		{"bcrypt of htpasswd", "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U", true},
		{"bcrypt of too high a cost", "$2a$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U", false},
		{"rounds without end", "$6$rounds=999999999$ab$x", "p", false},
		{"rounds that are named and are the usual ones", "$6$rounds=5000$" + strings.TrimPrefix(sha512Crypt([]byte("p"), []byte("ab"), 5000), "$6$"), "p", true},
		{"no salt's end", long, "p", false},
		{"SSHA", ssha("{SSHA}", []byte("p"), []byte("salt")), "p", true},
		{"SSHA of another", ssha("{SSHA512}", []byte("p"), []byte("salt")), "q", false},
		{"SSHA without a salt", "{SSHA}C+7Hteo/D9vJXQ3UfzxbwnXaijM=", "p", false},
		{"a clear text", "p", "p", false},
		{"nothing", "", "p", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := keeps(c.stored, []byte(c.password)); got != c.want {
				t.Errorf("%q keeps %q: %v", c.stored, c.password, got)
			}
		})
	}
}

func TestOpensslMakesTheSame(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("left out: there is no openssl")
	}
	cmd := exec.CommandContext(t.Context(), openssl, "passwd", "-6", "-salt", "abcdefghijklmnop", "-stdin")
	cmd.Stdin = strings.NewReader("it's a längeres password\n")
	out, err := cmd.Output()
	if got := sha512Crypt([]byte("it's a längeres password"), []byte("abcdefghijklmnop"), 5000); err != nil || strings.TrimSpace(string(out)) != got {
		t.Errorf("openssl makes %s of it, this is %s: %v", out, got, err)
	}
}

func TestHash(t *testing.T) {
	luaCases(t, []string{"hash", "secret", "base64", "hex"}, []luaCase{
		{"a secret's digest is one", `assert(type(hash.sha256(secret.of("pass"))) == "userdata" and type(hash.hmac("sha256", secret.of("pass"), "x")) == "userdata" and type(hash.bcrypt(secret.of("pass"), 4)) == "userdata")`, ""},
		{"a way to write it that is not there", `hash.sha256("x", "base32")`, "hex, base64 or raw"},
		{"an algorithm that is not there", `hash.hmac("md4", "k", "x")`, "want sha256"},
		{"bcrypt of 73 bytes", `hash.bcrypt(string.rep("x", 73))`, "1 to 72"},
		{"bcrypt of too high a cost", `hash.bcrypt("x", 15)`, "4 to 14"},
		{"rounds without end", `hash.sha512_crypt("x", 1e9)`, "500000"},
		{"an empty password", `hash.sha512_crypt("")`, "1 to 1024"},
		{"a zero byte", `hash.bcrypt("a\0b")`, "zero byte"},
		{"a placeholder", `hash.sha256(tostring(secret.of("pass")))`, "placeholder"},
		{"two salts", `assert(hash.ssha("p") ~= hash.ssha("p"))`, ""},
		{"too many questions", `local s, h = secret.of("pass"), hash.ssha("x") for i = 1, 40 do hash.verify(s, h) end`, "questions"},
		{"base64 of a secret that is none", `local v, err = base64.decode(secret.of("-----")) assert(v == nil and err.reason == "base64.malformed")`, ""},
		{"base64 with the other alphabet", `assert(base64.decode("_-8=") == nil and base64.decode_url("_-8=") ~= nil)`, ""},
		{"hex of an odd length", `assert(hex.decode("abc") == nil)`, ""},
	})
}

// RFC 6238, appendix B.
func TestOneTimeCodes(t *testing.T) {
	seeds := map[string]func() hash.Hash{"12345678901234567890": sha1.New, "12345678901234567890123456789012": sha256.New, "1234567890123456789012345678901234567890123456789012345678901234": sha512.New}
	for at, want := range map[uint64][3]string{
		59:          {"94287082", "46119246", "90693936"},
		1111111109:  {"07081804", "68084774", "25091201"},
		1111111111:  {"14050471", "67062674", "99943326"},
		1234567890:  {"89005924", "91819424", "93441116"},
		2000000000:  {"69279037", "90698825", "38618901"},
		20000000000: {"65353130", "77737706", "47863826"},
	} {
		for seed, of := range seeds {
			w := want[map[int]int{20: 0, 32: 1, 64: 2}[len(seed)]]
			if got := oneTimeCode(of, []byte(seed), at/30, 8); got != w {
				t.Errorf("at %d with %d bytes it is %s, want %s", at, len(seed), got, w)
			}
		}
	}
	luaCases(t, []string{"totp", "secret"}, []luaCase{
		{"as a person types it", `assert(secret.equal(totp.code(secret.of("gezd gnbv-gy3t qojq gezd gnbv gy3t qojq===="), {time = 59.9}), "287082"))`, ""},
		{"now", `assert(tostring(totp.code("GEZDGNBVGY3TQOJQ")) == "[secret]")`, ""},
		{"no seed", `totp.code("")`, "base32"},
		{"no base32", `totp.code("01")`, "base32"},
		{"digits that nobody has", `totp.code("GEZDGNBV", {digits = 12})`, "from 6 to 8"},
		{"a time that is none", `totp.code("GEZDGNBV", {time = -1})`, "seconds"},
	})
}
