package client

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk"
)

// An organisation that may be there has its kit and its first device, whatever became of
// the answer; of one that is not there, nothing is left.
func TestFoundingThatFails(t *testing.T) {
	full := &os.PathError{Op: "write", Path: "kit.age", Err: syscall.ENOSPC}
	refuses := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"code":"permission_denied","message":"the setup code is another"}`))
	}
	aborts := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	breaksOff := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.Header().Set("Content-Length", "40")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	garbles := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		_, _ = w.Write([]byte("\xff"))
	}
	between := func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "something between", http.StatusInternalServerError)
	}
	for name, c := range map[string]struct {
		server  http.HandlerFunc // nil: it must not be asked
		http1   bool
		closed  bool
		kit     error
		exposed bool // the profile's folder can be read by others
		class   Class
		stays   bool
	}{
		"the kit cannot be kept":     {kit: full, class: Internal},
		"the keys cannot be kept":    {exposed: true, class: Refused},
		"nobody is there":            {closed: true, class: Unreachable},
		"the server refuses":         {server: refuses, class: Denied},
		"the server does not answer": {server: aborts, class: Unknown, stays: true},
		"the answer breaks off":      {server: breaksOff, class: Unknown, stays: true},
		"the line breaks off":        {server: breaksOff, http1: true, class: Unknown, stays: true},
		"the answer cannot be read":  {server: garbles, class: Unknown, stays: true},
		"something between answers":  {server: between, class: Unknown, stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			asked := false
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = true
				if c.server == nil {
					t.Error("the server was asked")
					return
				}
				c.server(w, r)
			}))
			srv.EnableHTTP2 = !c.http1
			srv.StartTLS()
			defer srv.Close()
			if c.closed {
				srv.Close()
			}
			p, err := OpenProfile(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			if c.exposed {
				if err := os.MkdirAll(p.dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			kept := 0
			_, err = p.InitOrganisation(t.Context(), InitOptions{
				Server: strings.TrimPrefix(srv.URL, "https://"), CAPin: seal.Digest(sha256.Sum256(srv.Certificate().RawSubjectPublicKeyInfo)),
				SetupCode: sdk.NewSecret([]byte("a setup code")), Member: "Ada", Device: "laptop",
				Passphrase: passphrase, KitRecipients: []string{"age1nqez3ta5k22xaq6nyumye2tnj2mgtu9mdrvdkva7e20wmedy74esdeprrc"},
				KeepKit: func(k Kit) error {
					if asked || len(k.File) == 0 {
						t.Errorf("the kit is kept after the server was asked: %t; %d bytes", asked, len(k.File))
					}
					kept++
					return c.kit
				},
			})
			if ClassOf(err) != c.class || c.kit != nil && !errors.Is(err, c.kit) {
				t.Errorf("%v, want class %v", err, c.class)
			}
			if kept != 1 || asked != (c.server != nil) {
				t.Errorf("the kit was kept %d times; the server was asked: %t", kept, asked)
			}
			var left []string
			for _, file := range []string{profileFile, deviceFile, memoryFile} {
				if _, err := os.Stat(filepath.Join(p.dir, file)); err == nil {
					left = append(left, file)
				}
			}
			info, err := again(t, p).Info()
			if err != nil || info.Exists != c.stays || (len(left) == 3) != c.stays || (len(left) == 0) == c.stays {
				t.Errorf("the profile has %v, and exists: %t, %v; want it to stay: %t", left, info.Exists, err, c.stays)
			}
		})
	}
}
