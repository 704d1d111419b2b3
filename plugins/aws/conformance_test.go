package main

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// harness is of a server of the protocol, whose administrator may do all.
func harness(t *testing.T, s *iamServer, kind sdk.Kind) conformance.Harness {
	return conformance.Harness{
		Binary: conformance.Build(t, "."), Name: "aws", Kind: kind, Calls: targets.Calls(),
		Resource: s.resource(""), Pins: [][32]byte{s.spki},
		Admin: s.key("admin"), AdminAs: sdk.Account{Name: "admin"},
		Powerless: func(*testing.T) (sdk.Account, sdk.Credential) {
			s.add("clerk", &iamUser{})
			return sdk.Account{Name: "clerk"}, s.key("clerk")
		},
	}
}

// Access keys, of which a user has two at most, at a service that takes its time to come
// to know them.
func TestConformanceKeys(t *testing.T) {
	t.Parallel()
	s := newIAM(t)
	s.delay = 50 * time.Millisecond
	h := harness(t, s, sdk.APIKey)
	h.Account = func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
		if !iamNames.MatchString(name) {
			t.Skip("left out: IAM has no such names")
		}
		s.add(name, &iamUser{})
		return sdk.Account{Name: name}, s.key(name)
	}
	h.Accepts = func(_ *testing.T, _ sdk.Account, c sdk.Credential) bool { return s.accepts(c) }
	h.IDs = func(_ *testing.T, a sdk.Account) []string { return s.ids(a.Name) }
	conformance.Run(t, h)
}

func TestConformancePasswords(t *testing.T) {
	s := newIAM(t)
	h := harness(t, s, sdk.Password)
	h.NoLogin = true
	h.Account = func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
		if !iamNames.MatchString(name) {
			t.Skip("left out: IAM has no such names")
		}
		first := "First-" + rand.Text()
		s.add(name, &iamUser{console: true, password: first})
		return sdk.Account{Name: name}, sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(first))}
	}
	h.Accepts = func(_ *testing.T, a sdk.Account, c sdk.Credential) bool { return s.passwordIs(a.Name, c.Secret) }
	h.Refused = func(*testing.T) sdk.Credential {
		return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte("short"))}
	}
	conformance.Run(t, h)
}

// Access keys on a real server, whose IAM is of its own making: it has no keys that are
// switched off, tells no time, and has room for many. A key is tried at its S3.
func TestConformanceSeaweedFS(t *testing.T) {
	s := targets.Seaweed(t)
	conformance.Run(t, conformance.Harness{
		Binary: conformance.Build(t, "."), Name: "aws", Kind: sdk.APIKey,
		Resource: sdk.Resource{Address: s.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}, Config: []byte(`{"verify":"s3"}`)},
		Pins:     [][32]byte{s.SPKI},
		Admin:    s.Admin, AdminAs: sdk.Account{Name: "admin"},
		OneAtATime: "SeaweedFS keeps all users in one file, and loses changes that come together",
		Account: func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			first, err := s.CreateUser(t.Context(), name)
			if err != nil {
				t.Skipf("left out: %v", err)
			}
			return sdk.Account{Name: name}, first
		},
		Accepts: func(t *testing.T, _ sdk.Account, c sdk.Credential) bool {
			t.Helper()
			ok, err := s.Accepts(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		},
		IDs: func(t *testing.T, a sdk.Account) []string {
			t.Helper()
			ids, err := s.KeyIDs(t.Context(), a.Name)
			if err != nil {
				t.Fatal(err)
			}
			return ids
		},
	})
}
