package sdk

import (
	"context"
	"errors"
	"strings"
	"testing"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

type generatorFunc func(OpenRequest, Account) (Secret, error)

func (f generatorFunc) Generate(_ context.Context, at OpenRequest, a Account) (Secret, error) {
	return f(at, a)
}

func TestGenerate(t *testing.T) {
	for name, c := range map[string]struct {
		made   string
		err    error
		reason string // of the error; empty: there is none
	}{
		"a secret":        {made: "n3w-secret"},
		"nothing":         {reason: "secret.malformed"},
		"too much":        {made: strings.Repeat("x", MaxSecret+1), reason: "secret.malformed"},
		"its own error":   {err: &Error{Class: ClassPolicy, Reason: "no.more", NotSent: true}, reason: "no.more"},
		"another's error": {err: errors.New("x"), reason: "unclassed"},
	} {
		s := scriptServer(func([]byte) (Plugin, error) {
			return Plugin{Manifest: Manifest{Name: "pin", Version: "1", Generator: true}, Generator: generatorFunc(func(at OpenRequest, a Account) (Secret, error) {
				if string(at.Resource.Config) != "{}" || a.Name != "app" {
					t.Errorf("it was asked for %+v, %s", a, at.Resource.Config)
				}
				return NewSecret([]byte(c.made)), c.err
			})}, nil
		})
		if _, err := s.Load(t.Context(), &pluginv1.LoadRequest{}); err != nil {
			t.Fatal(err)
		}
		got, err := s.Generate(t.Context(), &pluginv1.GenerateRequest{
			Place: &pluginv1.Place{Plugin: "pin", Resource: &pluginv1.Resource{Config: []byte("{}")}}, Account: &pluginv1.Account{Name: []byte("app")},
		})
		switch {
		case c.reason != "":
			if err == nil || detailOf(t, err).Reason != c.reason {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil || string(got.Secret) != c.made:
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// Who makes no secrets is not asked, and says nothing else of himself.
func TestNoGenerator(t *testing.T) {
	s := scriptServer(func([]byte) (Plugin, error) {
		return Plugin{Manifest: Manifest{Name: "restart", Version: "1", After: true}, After: afterFunc(nil)}, nil
	})
	if _, err := s.Load(t.Context(), &pluginv1.LoadRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Generate(t.Context(), &pluginv1.GenerateRequest{Place: &pluginv1.Place{Plugin: "restart"}}); err == nil || detailOf(t, err).Reason != "verb.generate" {
		t.Errorf("it is asked: %v", err)
	}
	for _, p := range []Plugin{
		{Manifest: Manifest{Name: "x", Version: "1", Generator: true, After: true}, After: afterFunc(nil)},
		{Manifest: Manifest{Name: "x", Version: "1"}, Generator: generatorFunc(nil)},
	} {
		if _, err := describe(p); err == nil || !strings.Contains(err.Error(), "generator") {
			t.Errorf("%+v: %v", p.Manifest, err)
		}
	}
}
