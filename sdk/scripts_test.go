package sdk

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

// afterFunc is an After.
type afterFunc func(OpenRequest, AfterRequest) (AfterResponse, error)

func (f afterFunc) Run(_ context.Context, at OpenRequest, r AfterRequest) (AfterResponse, error) {
	return f(at, r)
}

func scriptServer(load func([]byte) (Plugin, error)) *server {
	s := newServer(nil, nil, os.Stderr)
	s.load = load
	return s
}

func detailOf(t *testing.T, err error) *pluginv1.ErrorDetail {
	t.Helper()
	for _, d := range status.Convert(err).Details() {
		if e, ok := d.(*pluginv1.ErrorDetail); ok {
			return e
		}
	}
	t.Fatalf("an error without a class: %v", err)
	return nil
}

// A process that is made of a script is none before, and that one from then on.
func TestLoad(t *testing.T) {
	ctx := t.Context()
	s := scriptServer(func(text []byte) (Plugin, error) {
		return Plugin{Manifest: Manifest{Name: string(text), Version: "1", After: true}, After: afterFunc(nil)}, nil
	})
	if d, err := s.Describe(ctx, nil); err != nil || len(d.Plugins) != 0 {
		t.Errorf("before: %v, %v", d, err)
	}
	if _, err := s.Load(ctx, &pluginv1.LoadRequest{Text: []byte("restart")}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if d, err := s.Describe(ctx, nil); err != nil || len(d.Plugins) != 1 || d.Plugins[0].Name != "restart" {
			t.Errorf("after: %v, %v", d, err)
		}
		if _, err := s.Load(ctx, &pluginv1.LoadRequest{Text: []byte("another")}); err == nil || detailOf(t, err).Reason != "script.loaded" {
			t.Errorf("a second script: %v", err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		load           func([]byte) (Plugin, error)
		class          Class
		reason, saying string
	}{
		"a script with a mistake": {
			func([]byte) (Plugin, error) { return Plugin{}, errors.New("line 3: no such module") }, ClassInvalid, "script", "line 3",
		},
		"an error with a class": {
			func([]byte) (Plugin, error) {
				return Plugin{}, &Error{Class: ClassUnsupported, Reason: "lua.version", NotSent: true}
			}, ClassUnsupported, "lua.version", "",
		},
		"what does nothing": {
			func([]byte) (Plugin, error) { return Plugin{Manifest: Manifest{Name: "x", Version: "1"}}, nil }, ClassInvalid, "script", "has no Rotator",
		},
		"not a plugin that runs scripts": {nil, ClassUnsupported, "verb.load", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := scriptServer(c.load)
			_, err := s.Load(t.Context(), &pluginv1.LoadRequest{Text: []byte("text")})
			if err == nil {
				t.Fatal("it is loaded")
			}
			d := detailOf(t, err)
			if d.Class != string(c.class) || d.Reason != c.reason || !d.NotSent || !strings.Contains(err.Error(), c.saying) {
				t.Errorf("%v: %v", d, err)
			}
			if all, err := s.Describe(t.Context(), nil); err != nil || len(all.Plugins) != 0 {
				t.Errorf("it is a plugin all the same: %v, %v", all, err)
			}
		})
	}
}

func cred(s string) *pluginv1.Credential {
	return &pluginv1.Credential{Kind: "password", Secret: []byte(s)}
}

// Nothing that a Run says has a secret of it: not the text, not the code, not the error.
func TestRunHidesSecrets(t *testing.T) {
	all := []string{"admin.secret", "extra.secret", "secret.as.it.is", "former.secret", "record.secret"}
	for name, c := range map[string]struct {
		answer AfterResponse
		err    error
		reason string
		output string
	}{
		"output":                  {answer: AfterResponse{Outcome: Changed, Output: strings.Join(all, " ")}, output: strings.TrimSpace(strings.Repeat("[secret] ", len(all)))},
		"a secret for a code":     {answer: AfterResponse{Outcome: Unchanged, Class: ClassPolicy, Reason: "was." + all[4]}, reason: "malformed"},
		"a code":                  {answer: AfterResponse{Outcome: Unchanged, Class: ClassPolicy, Reason: "unit.masked"}, reason: "unit.masked"},
		"text for a code":         {answer: AfterResponse{Outcome: Unchanged, Class: ClassPolicy, Reason: "Unit masked"}, reason: "malformed"},
		"long":                    {answer: AfterResponse{Output: strings.Repeat("é", MaxOutput)}, output: strings.Repeat("é", MaxOutput/2)},
		"a character that is cut": {answer: AfterResponse{Output: "x" + strings.Repeat("é", MaxOutput)}, output: "x" + strings.Repeat("é", MaxOutput/2-1)},
		"a secret that is cut":    {answer: AfterResponse{Output: strings.Repeat("x", MaxOutput-3) + all[3]}, output: strings.Repeat("x", MaxOutput-3) + "[se"},
		"not UTF-8":               {answer: AfterResponse{Output: "\xffa"}, output: "?a"},
		"error":                   {err: &Error{Class: ClassPolicy, Reason: "no", Err: errors.New(strings.Join(all, " "))}},
	} {
		t.Run(name, func(t *testing.T) {
			s := scriptServer(func([]byte) (Plugin, error) {
				return Plugin{Manifest: Manifest{Name: "restart", Version: "1", After: true}, After: afterFunc(func(at OpenRequest, r AfterRequest) (AfterResponse, error) {
					if r.Secret.Secret.ExposeString() != all[2] || r.Former.Secret.ExposeString() != all[3] || len(r.Records) != 1 || r.Records[0].Secret.Secret.ExposeString() != all[4] ||
						at.Admin.Secret.ExposeString() != all[0] || r.Records[0].Resource.Address != "router:22" || r.RunID != "run" || !r.Time.Equal(time.Unix(1, 0)) {
						t.Errorf("it was asked %+v", r)
					}
					return c.answer, c.err
				})}, nil
			})
			if _, err := s.Load(t.Context(), &pluginv1.LoadRequest{}); err != nil {
				t.Fatal(err)
			}
			a, err := s.Run(t.Context(), &pluginv1.RunRequest{
				Place:  &pluginv1.Place{Plugin: "restart", Admin: cred(all[0]), Extra: map[string]*pluginv1.Credential{"x": cred(all[1])}},
				Secret: cred(all[2]), Former: cred(all[3]),
				Records: []*pluginv1.Record{{Resource: &pluginv1.Resource{Address: "router:22"}, Secret: cred(all[4])}},
				RunId:   "run", Time: timestamppb.New(time.Unix(1, 0)),
			})
			if c.err != nil {
				if d := detailOf(t, err); d.Reason != "no" || strings.Contains(err.Error(), ".secret") || !strings.Contains(err.Error(), "[secret]") {
					t.Errorf("%v: %v", d, err)
				}
				return
			}
			if err != nil || a.Outcome != outcome(c.answer.Outcome) || a.Class != string(c.answer.Class) || a.Reason != c.reason || a.Output != c.output {
				t.Errorf("%v, %v", a, err)
			}
		})
	}
}

// A plugin without a Rotator, or without an After, says so to who asks for one.
func TestNoSuchVerb(t *testing.T) {
	s := newServer([]Plugin{{Manifest: Manifest{Name: "one"}}}, nil, os.Stderr)
	_, opened := s.Open(t.Context(), &pluginv1.OpenRequest{Plugin: "one"})
	_, verified := s.Verify(t.Context(), &pluginv1.VerifyRequest{Plugin: "one"})
	_, run := s.Run(t.Context(), &pluginv1.RunRequest{Place: &pluginv1.Place{Plugin: "one"}})
	for verb, err := range map[string]error{"verb.open": opened, "verb.verify": verified, "verb.run": run} {
		if err == nil {
			t.Errorf("%s is done", verb)
		} else if d := detailOf(t, err); d.Class != string(ClassUnsupported) || d.Reason != verb || !d.NotSent {
			t.Errorf("%s: %v", verb, err)
		}
	}
}
