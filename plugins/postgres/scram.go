package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/xdg-go/stringprep"
	"golang.org/x/text/secure/precis"
	"golang.org/x/text/unicode/norm"
)

const (
	defaultIterations = 4096
	// maxIterations bounds the work that a server can make us do by what it stores.
	maxIterations = 1_000_000
	saltLen       = 16
)

// verifier is what PostgreSQL stores of a password (pg_authid.rolpassword):
// SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey, the last three in base64
// (RFC 5803 in spirit, src/common/scram-common.c in the letter).
type verifier struct {
	iterations           int
	salt                 []byte
	storedKey, serverKey []byte
}

func newVerifier(password []byte, iterations int) (verifier, error) {
	salt := make([]byte, saltLen)
	rand.Read(salt)
	return derive(password, salt, iterations)
}

// derive computes the keys of RFC 5802, section 3, from a password as typed.
func derive(password, salt []byte, iterations int) (verifier, error) {
	if iterations < 1 || iterations > maxIterations {
		return verifier{}, fmt.Errorf("%d scram iterations: more than %d are not served", iterations, maxIterations)
	}
	prepared := saslPrep(password)
	salted, err := pbkdf2.Key(sha256.New, string(prepared), salt, iterations, sha256.Size)
	if err != nil {
		return verifier{}, fmt.Errorf("derive the scram keys: %w", err)
	}
	defer clear(salted)
	mac := func(name string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(name))
		return h.Sum(nil)
	}
	client := mac("Client Key")
	stored := sha256.Sum256(client)
	clear(client)
	return verifier{iterations: iterations, salt: salt, storedKey: stored[:], serverKey: mac("Server Key")}, nil
}

// String has letters, digits and "+/=:$-" only, so that it needs no quoting.
func (v verifier) String() string {
	b := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", v.iterations, b(v.salt), b(v.storedKey), b(v.serverKey))
}

func parseVerifier(s string) (verifier, error) {
	fail := func() (verifier, error) {
		return verifier{}, errors.New("stored password is not a scram-sha-256 verifier")
	}
	rest, ok := strings.CutPrefix(s, "SCRAM-SHA-256$")
	if !ok {
		return fail()
	}
	params, keys, ok := strings.Cut(rest, "$")
	iterations, salt, ok1 := strings.Cut(params, ":")
	stored, server, ok2 := strings.Cut(keys, ":")
	if !ok || !ok1 || !ok2 {
		return fail()
	}
	n, err := strconv.Atoi(iterations)
	if err != nil || n < 1 {
		return fail()
	}
	v := verifier{iterations: n}
	for from, to := range map[string]*[]byte{salt: &v.salt, stored: &v.storedKey, server: &v.serverKey} {
		if *to, err = base64.StdEncoding.Strict().DecodeString(from); err != nil {
			return fail()
		}
	}
	if len(v.storedKey) != sha256.Size || len(v.serverKey) != sha256.Size || len(v.salt) == 0 {
		return fail()
	}
	return v, nil
}

// storedMatches tells whether what the server stores for role was made from password.
func storedMatches(stored, role string, password []byte) (bool, error) {
	if digest, ok := strings.CutPrefix(stored, "md5"); ok && len(digest) == 2*md5.Size {
		sum := md5.Sum(append(bytes.Clone(password), role...))
		return subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(digest)) == 1, nil
	}
	v, err := parseVerifier(stored)
	if err != nil {
		return false, err
	}
	mine, err := derive(password, v.salt, v.iterations)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(mine.storedKey, v.storedKey)&subtle.ConstantTimeCompare(mine.serverKey, v.serverKey) == 1, nil
}

// prohibited are the tables of RFC 4013, section 2.3, and the code points that
// Unicode 3.2 does not assign.
var prohibited = []stringprep.Set{
	stringprep.TableC1_2, stringprep.TableC2_1, stringprep.TableC2_2, stringprep.TableC3, stringprep.TableC4,
	stringprep.TableC5, stringprep.TableC6, stringprep.TableC7, stringprep.TableC8, stringprep.TableC9,
	stringprep.TableA1,
}

// saslPrep prepares a password as PostgreSQL and libpq do, which is RFC 4013 with
// three liberties: plain ASCII is taken as it is; a password that the profile refuses
// is taken as it is too; and what is refused is looked for before the normalization,
// not after it.
func saslPrep(password []byte) []byte {
	ascii := true
	for _, c := range password {
		ascii = ascii && c < utf8.RuneSelf
	}
	if ascii || !utf8.Valid(password) {
		return password
	}
	var mapped []rune
	for _, r := range string(password) {
		if stringprep.TableC1_2.Contains(r) {
			mapped = append(mapped, ' ')
		} else if _, nothing := stringprep.TableB1.Map(r); !nothing {
			mapped = append(mapped, r)
		}
	}
	if len(mapped) == 0 {
		return password
	}
	for _, r := range mapped {
		for _, table := range prohibited {
			if table.Contains(r) {
				return password
			}
		}
	}
	if !directionOK(mapped) {
		return password
	}
	return norm.NFKC.Bytes([]byte(string(mapped)))
}

// directionOK is RFC 3454, section 6: right-to-left text has no left-to-right
// characters, and starts and ends right-to-left.
func directionOK(s []rune) bool {
	var right, left bool
	for _, r := range s {
		right = right || stringprep.TableD1.Contains(r)
		left = left || stringprep.TableD2.Contains(r)
	}
	return !right || !left && stringprep.TableD1.Contains(s[0]) && stringprep.TableD1.Contains(s[len(s)-1])
}

// driverPassword is what the driver must be given so that the password arrives as
// PostgreSQL prepares it: the driver prepares by RFC 8265, which leaves out
// compatibility forms, but keeps what is prepared already. It is false for the few
// that the driver would change nevertheless.
func driverPassword(password []byte) (string, bool) {
	prepared := string(saslPrep(password))
	for _, r := range prepared {
		if stringprep.TableA1.Contains(r) {
			return prepared, true // the driver leaves those alone
		}
	}
	again, err := precis.OpaqueString.String(prepared)
	return prepared, err != nil || again == prepared
}

// sendable tells whether a password can be set and can be logged in with: neither the
// server nor its clients can pass a zero byte or an empty password.
func sendable(password []byte) bool {
	_, ok := driverPassword(password)
	return ok && len(password) > 0 && !bytes.ContainsRune(password, 0) && utf8.Valid(password)
}
