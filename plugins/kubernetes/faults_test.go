package main

import (
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
