package main

import (
	"errors"
	"log/slog"
	"net"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// An account without an administrator changes its own password, by either way.
func TestItself(t *testing.T) {
	l := targets.LDAP(t)
	host := sdk.Host{
		Dialer: new(net.Dialer), Log: slog.New(slog.DiscardHandler), Progress: func(string) {},
		Pins: map[string][]byte{l.Address: l.SPKI[:]},
	}
	for _, method := range []string{"exop", "modify"} {
		t.Run(method, func(t *testing.T) {
			first, second, third := "the first of "+method, "the second of "+method, "the third of "+method
			dn, err := l.CreateEntry(t.Context(), method, password(first).Secret)
			if err != nil {
				t.Fatal(err)
			}
			resource := sdk.Resource{Address: l.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}, Config: []byte(`{"method":"` + method + `"}`)}
			open := func(current string) sdk.Session {
				t.Helper()
				s, err := (&rotator{}).Open(t.Context(), sdk.OpenRequest{Host: host, Resource: resource, Admin: password(current), AdminAs: sdk.Account{Name: dn}, Self: true})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				return s
			}
			apply := func(s sdk.Session, current, next string, want sdk.ApplyResponse) {
				t.Helper()
				got, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: dn}, Current: password(current), Candidate: password(next)})
				if err != nil || got != want {
					t.Errorf("apply: %+v, %v, want %+v", got, err, want)
				}
			}
			accepts := func(pw string, want bool) {
				t.Helper()
				if got, err := l.Accepts(t.Context(), dn, password(pw).Secret); err != nil || got != want {
					t.Errorf("ldapwhoami: %v, %v, want %v", got, err, want)
				}
			}
			changed := sdk.ApplyResponse{Outcome: sdk.Changed}
			policy := func(reason string) sdk.ApplyResponse {
				return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: reason}
			}

			s := open(first)
			apply(s, first, second, changed)
			accepts(first, false)
			accepts(second, true)
			apply(s, first, second, changed) // the answer was lost, and the same candidate comes again
			s = open(second)
			apply(s, second, third, changed)
			s = open(third)
			apply(s, third, second, policy("policy.history"))
			apply(s, third, "short", policy("policy.length"))
			accepts(third, true)

			_, err = s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: l.Admin}, Current: password(third), Candidate: password(first)})
			if e := (*sdk.Error)(nil); !errors.As(err, &e) || e.Reason != "account.name" || !e.NotSent {
				t.Errorf("another's: %v", err)
			}
			got, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: dn}, Current: password("not the current one"), Candidate: password(first)})
			if err == nil && got.Outcome != sdk.Unchanged {
				t.Errorf("with another's password: %+v", got)
			}
			accepts(third, true)
		})
	}
}
