package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"

	"github.com/gomodule/redigo/redis"

	"github.com/rotunda-pam/rotunda/sdk"
)

// user is what the server stores of a user.
type user struct {
	found     bool
	on        bool
	anything  bool     // nopass: every password opens it
	passwords []string // SHA-256, in hexadecimal
}

func (u user) has(digest string) bool { return slices.Contains(u.passwords, digest) }

// readUser reads the answer to ACL GETUSER: names and values by turns.
func readUser(reply any) (user, error) {
	if reply == nil {
		return user{}, nil
	}
	fields, err := redis.Values(reply, nil)
	if err != nil {
		return user{}, err
	}
	u := user{found: true}
	var seen int
	for i := 0; i+1 < len(fields); i += 2 {
		name, err := redis.String(fields[i], nil)
		if err != nil {
			return user{}, err
		}
		switch name {
		case "flags":
			flags, err := redis.Strings(fields[i+1], nil)
			if err != nil {
				return user{}, err
			}
			u.on, u.anything = slices.Contains(flags, "on"), slices.Contains(flags, "nopass")
			seen++
		case "passwords":
			if u.passwords, err = redis.Strings(fields[i+1], nil); err != nil {
				return user{}, err
			}
			seen++
		}
	}
	if seen != 2 {
		return user{}, errors.New("server's answer to ACL GETUSER has not both flags and passwords")
	}
	return u, nil
}

// digest is the form in which the server keeps a password and takes it over
// (https://redis.io/docs/latest/commands/acl-setuser: #<hash>).
func digest(s sdk.Secret) string {
	password := s.Expose()
	defer clear(password)
	sum := sha256.Sum256(password)
	return hex.EncodeToString(sum[:])
}
