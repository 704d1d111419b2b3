package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"filippo.io/edwards25519"
	"github.com/go-crypt/x/crypt"
)

// The methods whose digests can be computed here, by the names that servers give them.
const (
	native  = "mysql_native_password"
	ed25519 = "ed25519"               // MariaDB
	sha2    = "caching_sha2_password" // MySQL
)

// maxPassword is the longest that caching_sha2_password takes.
const maxPassword = 255

// method is one way in which an account may log in: what the server calls it, and what it
// stores for it.
type method struct{ plugin, stored string }

// password says whether the method is a password whose digest can be computed here.
func (m method) password() bool { return m.plugin == native || m.plugin == ed25519 || m.plugin == sha2 }

// harmless says whether no password whatsoever opens an account by this method.
func (m method) harmless() bool { return m.plugin == "unix_socket" || m.plugin == "auth_socket" }

// set says whether there is a password: a stored value that is empty lets in whoever sends
// none, and one that is no digest lets nobody in.
func (m method) set() bool {
	switch m.plugin {
	case native:
		return len(m.stored) == 1+2*sha1.Size && m.stored[0] == '*'
	case ed25519:
		return len(m.stored) == base64.RawStdEncoding.EncodedLen(32)
	case sha2:
		_, _, err := parseSHA2(m.stored)
		return err == nil
	}
	return false
}

// matches tells whether what is stored was made from password.
func (m method) matches(password []byte) bool {
	if !m.set() {
		return false
	}
	var mine string
	switch m.plugin {
	case native:
		mine = nativeDigest(password)
		return subtle.ConstantTimeCompare([]byte(mine), []byte(strings.ToUpper(m.stored))) == 1
	case ed25519:
		mine = ed25519Digest(password)
	case sha2:
		rounds, salt, _ := parseSHA2(m.stored)
		mine = sha2Digest(password, rounds, salt)
	}
	return subtle.ConstantTimeCompare([]byte(mine), []byte(m.stored)) == 1
}

// next is the same method for another password.
func (m method) next(password []byte) (method, error) {
	switch m.plugin {
	case native:
		return method{native, nativeDigest(password)}, nil
	case ed25519:
		return method{ed25519, ed25519Digest(password)}, nil
	case sha2:
		rounds, _, err := parseSHA2(m.stored) // as many as it had
		if err != nil {
			rounds = sha2Rounds
		}
		// 120 bits of letters and digits: MySQL takes no zero byte and no dollar in a salt,
		// and what is plain text needs no thought about character sets.
		return method{sha2, sha2Digest(password, rounds, []byte(rand.Text()[:sha2Salt]))}, nil
	}
	return method{}, fmt.Errorf("digest of %s is not known", m.plugin)
}

// nativeDigest is the SHA-1 of the SHA-1 (MySQL source documentation, "Native
// Authentication"): an old form, which the account has chosen.
func nativeDigest(password []byte) string {
	once := sha1.Sum(password)
	twice := sha1.Sum(once[:])
	clear(once[:])
	return "*" + strings.ToUpper(hex.EncodeToString(twice[:]))
}

// ed25519Digest is the public key whose secret key is the password, of whatever length
// (MariaDB's auth_ed25519). The standard library takes seeds of 32 bytes only.
func ed25519Digest(password []byte) string {
	h := sha512.Sum512(password)
	defer clear(h[:])
	s, err := edwards25519.NewScalar().SetBytesWithClamping(h[:32])
	if err != nil {
		panic(err) // half of a SHA-512 digest is 32 bytes long
	}
	return base64.RawStdEncoding.EncodeToString(new(edwards25519.Point).ScalarBaseMult(s).Bytes())
}

const (
	sha2Rounds  = 5000 // MySQL's default
	sha2Unit    = 1000 // rounds are stored in thousands
	sha2Salt    = 20
	sha2Encoded = 43
	sha2Prefix  = "$A$"
)

// sha2Digest is SHA-crypt with a salt of 20 bytes, where others cut it at 16:
// $A$<thousands of rounds, in hexadecimal>$<salt><digest>.
func sha2Digest(password []byte, rounds int, salt []byte) string {
	return fmt.Sprintf("%s%03X$%s%s", sha2Prefix, rounds/sha2Unit, salt, crypt.KeySHACrypt(sha256.New, password, salt, rounds))
}

func parseSHA2(stored string) (rounds int, salt []byte, err error) {
	rest, ok := strings.CutPrefix(stored, sha2Prefix)
	if !ok || len(rest) != 3+1+sha2Salt+sha2Encoded || rest[3] != '$' {
		return 0, nil, errors.New("stored password is not one of caching_sha2_password")
	}
	n, err := strconv.ParseUint(rest[:3], 16, 16)
	if err != nil || n == 0 {
		return 0, nil, errors.New("stored password has no number of rounds")
	}
	return int(n) * sha2Unit, []byte(rest[4 : 4+sha2Salt]), nil
}

// sendable tells whether a password can be set and can be logged in with: clients end it
// at a zero byte, and an empty one is none.
func sendable(password []byte) bool {
	return len(password) > 0 && len(password) <= maxPassword && !bytes.ContainsRune(password, 0)
}
