package main

import (
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"slices"

	"github.com/xdg-go/scram"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/rotunda-pam/rotunda/sdk"
)

// user is what the server stores of a user.
type user struct {
	found      bool
	mechanisms []string // of SCRAM, in the server's order
	stored     map[string]stored
}

// stored are the credentials of one mechanism.
type stored struct {
	Iterations int    `bson:"iterationCount"`
	Salt       string `bson:"salt"`
	Key        string `bson:"storedKey"`
}

// usersInfo asks for a user.
func usersInfo(who account, credentials bool) bson.D {
	q := bson.D{{Key: "usersInfo", Value: bson.D{{Key: "user", Value: who.name}, {Key: "db", Value: who.db}}}}
	if credentials {
		q = append(q, bson.E{Key: "showCredentials", Value: true})
	}
	return q
}

// readUser reads the answer to usersInfo.
func readUser(who account, reply bson.Raw) (user, error) {
	var a struct {
		Users []struct {
			User       string                   `bson:"user"`
			DB         string                   `bson:"db"`
			Mechanisms []string                 `bson:"mechanisms"`
			Stored     map[string]bson.RawValue `bson:"credentials"`
		} `bson:"users"`
	}
	if err := bson.Unmarshal(reply, &a); err != nil {
		return user{}, fmt.Errorf("read a user: %w", err)
	}
	for _, one := range a.Users {
		if one.User != who.name || one.DB != who.db {
			continue
		}
		u := user{found: true, stored: map[string]stored{}}
		for _, m := range one.Mechanisms {
			if m == sha1 || m == sha256 {
				u.mechanisms = append(u.mechanisms, m)
			}
		}
		for m, raw := range one.Stored {
			if m != sha1 && m != sha256 {
				continue // external: true
			}
			var s stored
			if err := raw.Unmarshal(&s); err != nil {
				return user{}, fmt.Errorf("read the credentials of a user: %w", err)
			}
			u.stored[m] = s
			if !slices.Contains(u.mechanisms, m) {
				u.mechanisms = append(u.mechanisms, m)
			}
		}
		return u, nil
	}
	return user{}, nil
}

// judge compares a password with what is stored for the mechanism that a login would take.
func (u user) judge(who account, secret sdk.Secret) sdk.VerifyResponse {
	undecided := sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "not_judged"}
	by := best(u.mechanisms)
	s, ok := u.stored[by]
	salt, err := base64.StdEncoding.DecodeString(s.Salt)
	key, keyErr := base64.StdEncoding.DecodeString(s.Key)
	if !ok || err != nil || keyErr != nil || s.Iterations < 1 || s.Iterations > maxIterations || len(key) == 0 {
		return undecided
	}
	maker, err := client(by, who, secret)
	if err != nil {
		return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"} // no password of any user
	}
	got, err := maker.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: s.Iterations})
	switch {
	case err != nil:
		return undecided
	case subtle.ConstantTimeCompare(got.StoredKey, key) == 1:
		return sdk.VerifyResponse{Verdict: sdk.Accepted}
	}
	return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}
}
