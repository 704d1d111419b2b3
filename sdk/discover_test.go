package sdk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

type discovererFunc func(OpenRequest, func(Finding) error) error

func (f discovererFunc) Discover(_ context.Context, at OpenRequest, emit func(Finding) error) error {
	return f(at, emit)
}

// finder is a loaded script that finds accounts.
func finder(t *testing.T, find discovererFunc) *server {
	t.Helper()
	s := scriptServer(func([]byte) (Plugin, error) {
		return Plugin{Manifest: Manifest{Name: "users", Version: "1", Discoverer: true}, Discoverer: find}, nil
	})
	if _, err := s.Load(t.Context(), &pluginv1.LoadRequest{}); err != nil {
		t.Fatal(err)
	}
	return s
}

func discoverRequest() *pluginv1.DiscoverRequest {
	return &pluginv1.DiscoverRequest{Place: &pluginv1.Place{
		Plugin: "users", Resource: &pluginv1.Resource{Address: "db1:5432", Config: []byte(`{"all":true}`)},
		Admin: &pluginv1.Credential{Secret: []byte("s3cr3t")}, AdminAs: &pluginv1.Account{Name: []byte("root")},
	}}
}

func TestDiscover(t *testing.T) {
	s := finder(t, func(at OpenRequest, emit func(Finding) error) error {
		if string(at.Resource.Config) != `{"all":true}` || at.AdminAs.Name != "root" || at.Admin.Secret.Len() != 6 {
			t.Errorf("it is given %+v", at)
		}
		return errors.Join(emit(Finding{Login: "app", Scope: "%", Facts: map[string]string{"locked": "no"}}), emit(Finding{Login: "zoë"}))
	})
	got, err := s.Discover(t.Context(), discoverRequest())
	if err != nil || len(got.Accounts) != 2 || got.More {
		t.Fatalf("%v, %v", got, err)
	}
	first, second := got.Accounts[0], got.Accounts[1]
	if string(first.Name) != "app" || string(first.Scope) != "%" || !maps.Equal(first.Attrs, map[string]string{"locked": "no"}) || string(second.Name) != "zoë" {
		t.Errorf("it found %v", got.Accounts)
	}
}

// What a finding may not be. Each ends the call: a list without it would say that there is
// no such account.
func TestFindingsThatAreRefused(t *testing.T) {
	facts := map[string]string{}
	for n := range maxFacts + 1 {
		facts[fmt.Sprintf("f%d", n)] = ""
	}
	for name, f := range map[string]Finding{
		"no login":                  {Scope: "%"},
		"a login of two lines":      {Login: "a\nb"},
		"a login that is no text":   {Login: "a\xff"},
		"a long login":              {Login: strings.Repeat("x", maxFound+1)},
		"a scope with an escape":    {Login: "a", Scope: "\x1b[31m"},
		"a fact with a long name":   {Login: "a", Facts: map[string]string{strings.Repeat("x", 33): ""}},
		"a fact with another name":  {Login: "a", Facts: map[string]string{"Last login": ""}},
		"a fact that turns the row": {Login: "a", Facts: map[string]string{"x": "\u202e"}},
		"a long fact":               {Login: "a", Facts: map[string]string{"x": strings.Repeat("x", maxFound+1)}},
		"many facts":                {Login: "a", Facts: facts},
	} {
		s := finder(t, func(_ OpenRequest, emit func(Finding) error) error { return emit(f) })
		if got, err := s.Discover(t.Context(), discoverRequest()); err == nil || detailOf(t, err).Reason != "discover.malformed" {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// More than fits in is left out, and that is said.
func TestMoreFindings(t *testing.T) {
	long := strings.Repeat("x", maxFound-8)
	facts := map[string]string{}
	for n := range maxFacts {
		facts[string(rune('a'+n))] = ""
	}
	for name, c := range map[string]struct {
		login func(int) string
		facts map[string]string
		want  int // 0: as many as fit into the bytes
	}{
		"accounts": {func(n int) string { return fmt.Sprint(n) }, nil, pluginv1.MaxFound},
		"bytes":    {func(n int) string { return fmt.Sprintf("%s%08d", long, n) }, nil, 0},
		"facts":    {func(n int) string { return fmt.Sprint(n) }, facts, 0},
	} {
		asked := 0
		s := finder(t, func(_ OpenRequest, emit func(Finding) error) error {
			for n := range 10_000 {
				asked++
				if err := emit(Finding{Login: c.login(n), Facts: c.facts}); err != nil {
					return fmt.Errorf("stopped: %w", err)
				}
			}
			return nil
		})
		got, err := s.Discover(t.Context(), discoverRequest())
		if c.want == 0 {
			c.want = len(got.GetAccounts())
			if size := proto.Size(got); size > pluginv1.MaxFoundBytes*11/10 || size < pluginv1.MaxFoundBytes*9/10 {
				t.Errorf("%s: an answer of %d bytes", name, size)
			}
		}
		if err != nil || !got.More || len(got.Accounts) != c.want || asked != c.want+1 {
			t.Errorf("%s: %d of %d, more %t, %v", name, len(got.GetAccounts()), asked, got.GetMore(), err)
		}
	}
}

// A failure is one, with whatever was found before it.
func TestDiscoverFails(t *testing.T) {
	for reason, err := range map[string]error{
		"admin.rights": &Error{Class: ClassPermission, Reason: "admin.rights", NotSent: true},
		"unclassed":    errors.New("the s3cr3t is wrong"),
	} {
		s := finder(t, func(_ OpenRequest, emit func(Finding) error) error {
			_ = emit(Finding{Login: "app"})
			return err
		})
		got, err := s.Discover(t.Context(), discoverRequest())
		if err == nil || detailOf(t, err).Reason != reason || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%v, %v", got, err)
		}
	}
	s := finder(t, func(OpenRequest, func(Finding) error) error { return ErrEnough })
	if _, err := s.Discover(t.Context(), discoverRequest()); err == nil {
		t.Error("enough, before there was any")
	}
}

func TestNoDiscoverer(t *testing.T) {
	s := scriptServer(func([]byte) (Plugin, error) {
		return Plugin{Manifest: Manifest{Name: "users", Version: "1", After: true}, After: afterFunc(nil)}, nil
	})
	if _, err := s.Load(t.Context(), &pluginv1.LoadRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Discover(t.Context(), discoverRequest()); err == nil || detailOf(t, err).Reason != "verb.discover" {
		t.Errorf("it is asked: %v", err)
	}
	for _, p := range []Plugin{
		{Manifest: Manifest{Name: "x", Version: "1", Discoverer: true, After: true}, After: afterFunc(nil)},
		{Manifest: Manifest{Name: "x", Version: "1"}, Discoverer: discovererFunc(nil)},
	} {
		if _, err := describe(p); err == nil || !strings.Contains(err.Error(), "discoverer") {
			t.Errorf("%+v: %v", p.Manifest, err)
		}
	}
}
