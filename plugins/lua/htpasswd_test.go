package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// The script in the agent's own plugin host: the file on a real OpenSSH server, which a real
// nginx reads at each login.
func TestHtpasswdConformance(t *testing.T) {
	t.Parallel()
	n := targets.Nginx(t)
	s := targets.OpenSSH(t, targets.SSHDOptions{Lines: []string{"Subsystem sftp internal-sftp"}})
	config, err := json.Marshal(map[string]any{"path": n.Password, "url": n.URL + "/private", "cost": 4})
	if err != nil {
		t.Fatal(err)
	}
	var pins [][sha256.Size]byte
	for pin := range slices.Chunk(s.Pins(), sha256.Size) {
		pins = append(pins, [sha256.Size]byte(pin))
	}
	clerk := password("clerk-" + rand.Text())
	u, err := s.CreateUser(t.Context(), targets.UserOptions{Password: clerk.Secret})
	if err != nil {
		t.Fatal(err)
	}
	var file sync.Mutex
	prove(t, "rotators/htpasswd", conformance.Harness{
		Calls:    1000, // the kit of cisco-ios makes them all
		Resource: sdk.Resource{Address: s.Address, Config: config}, Pins: pins, Also: []string{n.Address},
		Admin: sdk.Credential{Kind: sdk.SSHKey, Public: s.AdminPub, Secret: s.AdminKey}, AdminAs: sdk.Account{Name: s.Admin},
		Account: func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			first := password("first-" + rand.Text())
			kept, err := bcrypt.GenerateFromPassword(first.Secret.Expose(), bcrypt.MinCost)
			if err != nil {
				t.Fatal(err)
			}
			file.Lock()
			defer file.Unlock()
			f, err := os.OpenFile(n.Password, os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteString(name + ":" + string(kept) + "\n")
				f.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			return sdk.Account{Name: name}, first
		},
		Accepts: func(t *testing.T, a sdk.Account, c sdk.Credential) bool {
			t.Helper()
			ok, err := n.Accepts(t.Context(), a.Name, c.Secret.ExposeString())
			if err != nil {
				t.Fatal(err)
			}
			return ok
		},
		Refused:   func(*testing.T) sdk.Credential { return password(strings.Repeat("x", 73)) },
		Powerless: func(*testing.T) (sdk.Account, sdk.Credential) { return sdk.Account{Name: u.Name}, clerk },
		Failures: func(t *testing.T, a sdk.Account) int {
			n, err := n.Failures(a.Name)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
	})
}
