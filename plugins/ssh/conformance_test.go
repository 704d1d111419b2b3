package main

import (
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func TestConformance(t *testing.T) {
	s := targets.OpenSSH(t, targets.SSHDOptions{})
	var pins [][sha256.Size]byte
	for pin := range slices.Chunk(s.Pins(), sha256.Size) {
		pins = append(pins, [sha256.Size]byte(pin))
	}
	h := conformance.Harness{
		Binary: conformance.Build(t, "."), Name: "ssh",
		Resource: sdk.Resource{Address: s.Address}, Pins: pins,
		Admin:   sdk.Credential{Kind: sdk.SSHKey, Public: s.AdminPub, Secret: s.AdminKey},
		AdminAs: sdk.Account{Name: s.Admin},
		Accepts: func(t *testing.T, a sdk.Account, c sdk.Credential) bool {
			t.Helper()
			ok, err := s.Accepts(t.Context(), a.Name, c)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		},
	}
	t.Run("password", func(t *testing.T) {
		t.Parallel()
		h := h
		h.Account = func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			first := password("first-" + rand.Text())
			u, err := s.CreateUser(t.Context(), targets.UserOptions{Name: name, Password: first.Secret})
			if err != nil {
				t.Skipf("left out: %v", err)
			}
			return sdk.Account{Name: u.Name}, first
		}
		conformance.Run(t, h)
	})
	t.Run("key", func(t *testing.T) {
		t.Parallel()
		h := h
		h.Kind, h.Candidate = sdk.SSHKey, newKey
		h.Account = func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			first := newKey(t)
			u, err := s.CreateUser(t.Context(), targets.UserOptions{Name: name, AuthorizedKeys: lines([]byte("# kept"), first.Public)})
			if err != nil {
				t.Skipf("left out: %v", err)
			}
			return sdk.Account{Name: u.Name}, first
		}
		conformance.Run(t, h)
	})
}
