package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/sdk"
)

func password(s string) sdk.Credential {
	return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(s))}
}

// The built plugin, in the agent's own plugin host, against a real broker.
func TestConformance(t *testing.T) {
	b := startBroker(t)
	conformance.Run(t, conformance.Harness{
		Binary:   conformance.Build(t, "."),
		Name:     "rabbitmq",
		Resource: sdk.Resource{Address: b.management, TLS: sdk.TLS{Mode: sdk.TLSPin}},
		Pins:     [][32]byte{b.spki},
		Admin:    b.admin,
		AdminAs:  sdk.Account{Name: adminName},
		// Most users of a broker may not use its management, so these may not either.
		Account: func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			first := password("first-" + rand.Text())
			b.user(t, name, first, "")
			return sdk.Account{Name: name}, first
		},
		Accepts:  func(t *testing.T, a sdk.Account, c sdk.Credential) bool { return b.accepts(t, a.Name, c) },
		Refused:  func(*testing.T) sdk.Credential { return password(strings.Repeat("x", shortest-1)) },
		Failures: func(t *testing.T, a sdk.Account) int { return b.failures(t, a.Name) },
		Powerless: func(t *testing.T) (sdk.Account, sdk.Credential) {
			own := password("the clerk's own")
			b.user(t, "clerk", own, "management")
			return sdk.Account{Name: "clerk"}, own
		},
	})
}

func TestRotate(t *testing.T) {
	b := startBroker(t)
	t.Run("TagsStay", b.tagsStay)
	t.Run("OneTry", b.oneTry)
}

// A login that fails counts once, at a broker that counts at all.
func (b *broker) oneTry(t *testing.T) {
	b.user(t, "app", password("the first of app"), "")
	before := b.failures(t, "app")
	got, err := rotator{}.Verify(t.Context(), sdk.VerifyRequest{Host: b.host(), Resource: b.resource(), Account: sdk.Account{Name: "app"}, Credential: password("not it")})
	if err != nil || got.Verdict != sdk.Rejected {
		t.Errorf("verify of a wrong password: %+v, %v", got, err)
	}
	if after := b.failures(t, "app"); after != before+1 {
		t.Errorf("%d refused logins, then %d\n%s", before, after, tail(t, b.log))
	}
}

// A change leaves a user's rights in the management API as they are.
func (b *broker) tagsStay(t *testing.T) {
	ctx := t.Context()
	s, err := rotator{}.Open(ctx, sdk.OpenRequest{Host: b.host(), Resource: b.resource(), Admin: b.admin, AdminAs: sdk.Account{Name: adminName}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, tags := range []string{"", "management", "monitoring,of-our-own"} {
		name, next := "with "+tags, password("the second of it")
		b.user(t, name, password("the first of it"), tags)
		before := b.tags(t, name)
		out, err := s.Apply(ctx, sdk.ApplyRequest{Account: sdk.Account{Name: name}, Candidate: next})
		if err != nil || out.Outcome != sdk.Changed {
			t.Errorf("apply to a user with tags %q: %+v, %v", tags, out, err)
		}
		if after := b.tags(t, name); after != before {
			t.Errorf("tags were %s and are %s", before, after)
		}
		got, err := rotator{}.Verify(ctx, sdk.VerifyRequest{Host: b.host(), Resource: b.resource(), Account: sdk.Account{Name: name}, Credential: next})
		if err != nil || got.Verdict != sdk.Accepted {
			t.Errorf("verify of a user with tags %q: %+v, %v", tags, got, err)
		}
	}
	// A user that is missing is not made.
	out, err := s.Apply(ctx, sdk.ApplyRequest{Account: sdk.Account{Name: "nobody"}, Candidate: password("for nobody at all")})
	if err != nil || out.Class != sdk.ClassNotFound || b.tags(t, "nobody") != "" {
		t.Errorf("apply to nobody: %+v, %v; his tags are %q", out, err, b.tags(t, "nobody"))
	}
}

// user makes a user that may open the broker's virtual host.
func (b *broker) user(t *testing.T, name string, c sdk.Credential, tags string) {
	t.Helper()
	at := url.PathEscape(name)
	b.ask(t, "PUT", "/api/users/"+at, map[string]string{"password": c.Secret.ExposeString(), "tags": tags})
	b.ask(t, "PUT", "/api/permissions/%2F/"+at, map[string]string{"configure": "", "write": "", "read": ""})
}

// tags are a user's as the API has them; empty for one who is missing.
func (b *broker) tags(t *testing.T, name string) string {
	t.Helper()
	var u struct{ Tags json.RawMessage }
	if err := json.Unmarshal(b.ask(t, "GET", "/api/users/"+url.PathEscape(name), nil), &u); err != nil {
		t.Fatal(err)
	}
	return string(u.Tags)
}

// accepts is the judge: it logs in as applications do, and shares no code with the plugin.
func (b *broker) accepts(t *testing.T, name string, c sdk.Credential) bool {
	t.Helper()
	conn, err := amqp.DialConfig("amqp://"+b.amqp+"/", amqp.Config{
		SASL: []amqp.Authentication{&amqp.PlainAuth{Username: name, Password: c.Secret.ExposeString()}},
	})
	var refused *amqp.Error
	switch {
	case err == nil:
		conn.Close()
		return true
	case errors.As(err, &refused) && refused.Code == amqp.AccessRefused:
		return false
	}
	t.Fatalf("log in as %q: %v", name, err)
	return false
}
