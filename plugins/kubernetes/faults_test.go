package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk"
)

// broken is an API of a few fixed answers, by the end of what they are asked of: for what the
// real one cannot be made to say.
func broken(t *testing.T, answers map[string]string) sdk.OpenRequest {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for end, answer := range answers {
			if method, path, _ := strings.Cut(end, " "); r.Method == method && strings.HasSuffix(r.URL.Path, path) {
				var code int
				rest, _ := strings.CutPrefix(answer, "refuse ")
				if _, err := fmt.Sscan(rest, &code); err == nil {
					w.WriteHeader(code)
					_, answer, _ = strings.Cut(rest, " ")
					answer = `{"kind":"Status","reason":"` + answer + `"}`
				}
				_, _ = w.Write([]byte(answer))
				return
			}
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(s.Close)
	return sdk.OpenRequest{
		Host:     sdk.Host{Dialer: new(net.Dialer), Log: slog.New(slog.DiscardHandler), Progress: func(string) {}},
		Resource: sdk.Resource{Address: s.Listener.Addr().String(), TLS: sdk.TLS{Mode: sdk.TLSOff}},
		Admin:    sdk.Credential{Kind: sdk.Token, Secret: sdk.NewSecret([]byte("admin"))},
	}
}

// Another's change that came in between is not "no room for one more", for which the agent
// would end an older token; and what may have been sent is not said to be unsent.
func TestMintMeetsAnother(t *testing.T) {
	good := map[string]string{
		"POST /selfsubjectreviews": `{"status":{"userInfo":{"username":"admin"}}}`,
		"GET /serviceaccounts/app": `{"metadata":{"name":"app","uid":"1"}}`,
		"POST /secrets":            `{"metadata":{"name":"rotunda-token-x","uid":"2"}}`,
		"DELETE /rotunda-token-x":  `{}`,
		"POST /token":              `{"status":{"token":"t"}}`,
	}
	for what, c := range map[string]struct {
		asked, answer string
		class         sdk.Class
	}{
		"all is well":           {"POST /token", good["POST /token"], ""},
		"the Secret's name":     {"POST /secrets", "refuse 409 AlreadyExists", sdk.ClassUnreachable},
		"the Secret's uid":      {"POST /token", "refuse 409 Conflict", sdk.ClassUnreachable},
		"no right to the token": {"POST /token", "refuse 403 Forbidden", sdk.ClassPermission},
		"no answer to be read":  {"POST /token", "{", sdk.ClassUnreachable},
	} {
		answers := map[string]string{c.asked: c.answer}
		for asked, answer := range good {
			if asked != c.asked {
				answers[asked] = answer
			}
		}
		s, err := rotator{}.Open(t.Context(), broken(t, answers))
		if err != nil {
			t.Fatal(err)
		}
		made, err := s.(sdk.Minter).Mint(t.Context(), sdk.MintRequest{Account: sdk.Account{Name: "app"}, Kind: sdk.Token})
		var e *sdk.Error
		switch errors.As(err, &e); {
		case c.class == "" && (err != nil || made.ID != "rotunda-token-x"):
			t.Errorf("%s: %q, %v", what, made.ID, err)
		case c.class != "" && (e == nil || e.Class != c.class || e.NotSent):
			t.Errorf("%s: %v", what, err)
		}
	}
}

// untilDown is a line that goes down after so many connections.
type untilDown struct {
	net.Dialer
	left int
}

func (u *untilDown) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if u.left == 0 {
		return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "dial.unreachable", NotSent: true}
	}
	u.left--
	return u.Dialer.DialContext(ctx, network, address)
}

// What was sent is not said to be unsent, however little followed it.
func TestDownBetweenDeletions(t *testing.T) {
	answers := map[string]string{
		"POST /selfsubjectreviews": `{"status":{"userInfo":{"username":"admin"}}}`,
		"GET /serviceaccounts/app": `{"metadata":{"name":"app","uid":"1"}}`,
		"GET /secrets":             `{"kind":"PartialObjectMetadataList","items":[{"metadata":{"name":"one","uid":"2"}},{"metadata":{"name":"two","uid":"3"}}]}`,
		"DELETE /one":              `{}`,
		"DELETE /two":              `{}`,
	}
	app := sdk.Account{Name: "app"}
	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"kubernetes.io":{"secret":{"name":"one","uid":"2"}}}`))
	verbs := map[string]func(context.Context, sdk.Session) error{
		"sweep": func(ctx context.Context, s sdk.Session) error {
			return s.(sdk.Minter).Sweep(ctx, sdk.SweepRequest{Account: app, IDs: []string{"one", "two"}})
		},
		"retire": func(ctx context.Context, s sdk.Session) error {
			old := sdk.Credential{Kind: sdk.Token, ID: "one", Secret: sdk.NewSecret([]byte("x." + claims + ".x"))}
			out, err := s.(sdk.Retirer).Retire(ctx, sdk.RetireRequest{Account: app, Keep: sdk.Credential{Kind: sdk.Token, ID: "two"}, Old: old})
			if out.Outcome != sdk.Unknown {
				t.Errorf("retire: outcome %d", out.Outcome)
			}
			return err
		},
	}
	for name, verb := range verbs {
		// The account, its Secrets, the first deletion; then another, or the look at what is left.
		for asked, unsent := range []bool{true, true, true, false} {
			r := broken(t, answers)
			s, err := rotator{}.Open(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			s.(*session).host.Dialer = &untilDown{left: asked}
			var e *sdk.Error
			if err := verb(t.Context(), s); !errors.As(err, &e) || e.NotSent != unsent || e.Class != sdk.ClassUnreachable || e.Reason != "dial.unreachable" {
				t.Errorf("%s, down after %d requests: %v; want not sent %t", name, asked, err, unsent)
			}
		}
	}
}
