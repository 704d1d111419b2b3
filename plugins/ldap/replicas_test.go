package main

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// crossroads leads a name to one of several servers, as DNS does.
type crossroads struct {
	name string

	mu sync.Mutex
	to string
}

func (c *crossroads) lead(to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = to
}

func (c *crossroads) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c.mu.Lock()
	if address == c.name {
		address = c.to
	}
	c.mu.Unlock()
	return new(net.Dialer).DialContext(ctx, network, address)
}

// Two servers behind one name do not hear of what the other was told: the one that took a
// change is asked for it, also where a refused candidate is tried, and another takes over
// when it is gone.
func TestReplicas(t *testing.T) {
	one, other := targets.LDAP(t), targets.LDAP(t)
	admin := base64.StdEncoding.EncodeToString([]byte(one.AdminPassword.ExposeString()))
	if err := other.Modify(t.Context(), "dn: "+other.Admin+"\nchangetype: modify\nreplace: userPassword\nuserPassword:: "+admin+"\n"); err != nil {
		t.Fatal(err)
	}
	way := &crossroads{name: "ldap.test:636", to: one.Address}
	host := sdk.Host{
		Dialer: way, Log: slog.New(slog.DiscardHandler), Progress: func(string) {},
		Pins: map[string][]byte{way.name: append(one.SPKI[:], other.SPKI[:]...)},
	}
	resource := sdk.Resource{Address: way.name, TLS: sdk.TLS{Mode: sdk.TLSPin}, Config: []byte(`{"replicas":true}`)}
	first, second, third, fourth := password("the first one"), password("the second one"), password("the third one"), password("the fourth one")
	dn, err := one.CreateEntry(t.Context(), "everywhere", first.Secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.CreateEntry(t.Context(), "everywhere", first.Secret); err != nil {
		t.Fatal(err)
	}
	plugin := &rotator{}
	s, err := plugin.Open(t.Context(), sdk.OpenRequest{Host: host, Resource: resource, Admin: sdk.Credential{Kind: sdk.Password, Secret: one.AdminPassword}, AdminAs: sdk.Account{Name: one.Admin}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	apply := func(c sdk.Credential) (sdk.ApplyResponse, error) {
		return s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: dn}, Candidate: c})
	}
	changed := func(c sdk.Credential) {
		t.Helper()
		if got, err := apply(c); err != nil || got.Outcome != sdk.Changed {
			t.Errorf("apply: %+v, %v", got, err)
		}
	}
	verified := func(c sdk.Credential, want sdk.Verdict) {
		t.Helper()
		got, err := plugin.Verify(t.Context(), sdk.VerifyRequest{Host: host, Resource: resource, Account: sdk.Account{Name: dn}, Credential: c})
		if err != nil || got.Verdict != want {
			t.Errorf("verify: %+v, %v, want %v", got, err, want)
		}
	}
	accepts := func(l *targets.LDAPServer, c sdk.Credential, want bool) {
		t.Helper()
		if got, err := l.Accepts(t.Context(), dn, c.Secret); err != nil || got != want {
			t.Errorf("ldapwhoami: %v, %v, want %v", got, err, want)
		}
	}

	way.lead(other.Address)
	changed(second)
	accepts(one, second, true)
	accepts(other, second, false)
	verified(second, sdk.Accepted)
	verified(first, sdk.Rejected)
	changed(second) // its answer was lost, and it comes again

	// A candidate that the directory knows, and that a server refuses, may be one that this
	// server has not heard of.
	changed(third)
	got, err := apply(second)
	if e := (*sdk.Error)(nil); !errors.As(err, &e) || e.Reason != "replicating" || e.NotSent || got.Outcome != sdk.Unknown {
		t.Errorf("a former one: %+v, %v", got, err)
	}
	if got, err := apply(password("short")); err != nil || got.Outcome != sdk.Unchanged || got.Class != sdk.ClassPolicy {
		t.Errorf("one that is too short: %+v, %v", got, err)
	}

	if err := one.Down(); err != nil {
		t.Fatal(err)
	}
	verified(third, sdk.Rejected) // which is why a minute passes before the agent believes it
	changed(fourth)
	accepts(other, fourth, true)
	verified(fourth, sdk.Accepted)
}
