package main

import (
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// The script in the agent's own plugin host, against a real broker.
func TestRabbitMQConformance(t *testing.T) {
	t.Parallel()
	r := targets.Rabbit(t)
	user := func(t *testing.T, name, tags string) sdk.Credential {
		t.Helper()
		first := password("first-" + rand.Text())
		if err := r.CreateUser(t.Context(), name, first.Secret, tags); err != nil {
			t.Fatal(err)
		}
		return first
	}
	prove(t, "rotators/rabbitmq", conformance.Harness{
		Calls:    1000, // the kit of cisco-ios makes them all
		Resource: sdk.Resource{Address: r.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}}, Pins: [][sha256.Size]byte{r.SPKI},
		Admin: sdk.Credential{Kind: sdk.Password, Secret: r.AdminPassword}, AdminAs: sdk.Account{Name: r.Admin},
		// Most users of a broker may not use its management, so these may not either.
		Account: func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			return sdk.Account{Name: name}, user(t, name, "")
		},
		Accepts: func(t *testing.T, a sdk.Account, c sdk.Credential) bool {
			t.Helper()
			ok, err := r.Accepts(t.Context(), a.Name, c.Secret)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		},
		Refused: func(*testing.T) sdk.Credential { return password(strings.Repeat("x", r.Shortest-1)) },
		Failures: func(t *testing.T, a sdk.Account) int {
			n, err := r.Failures(a.Name)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		Powerless: func(t *testing.T) (sdk.Account, sdk.Credential) {
			return sdk.Account{Name: "clerk"}, user(t, "clerk", "management")
		},
	})
	t.Run("TagsStay", func(t *testing.T) {
		b := fromLibrary(t, "rotators/rabbitmq")
		b.allow, b.host.Pins[r.Address] = []string{r.Address}, r.SPKI[:]
		for _, tags := range []string{"", "management", "monitoring,of-our-own"} {
			user(t, "with "+tags, tags)
			before, err := r.Tags(t.Context(), "with "+tags)
			if err != nil {
				t.Fatal(err)
			}
			out, got := b.rotate(sdk.OpenRequest{
				Resource: sdk.Resource{Address: r.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}},
				Admin:    sdk.Credential{Kind: sdk.Password, Secret: r.AdminPassword}, AdminAs: sdk.Account{Name: r.Admin},
			}, sdk.ApplyRequest{Account: sdk.Account{Name: "with " + tags}, Candidate: password("the second of it")})
			if out.Outcome != sdk.Changed || got.Verdict != sdk.Accepted {
				t.Errorf("a user with the tags %q: %+v, %+v", tags, out, got)
			}
			if after, err := r.Tags(t.Context(), "with "+tags); err != nil || after != before {
				t.Errorf("tags were %s and are %s, %v", before, after, err)
			}
		}
	})
}
