package main

import (
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	keys "github.com/rotunda-pam/rotunda/internal/password"
	"github.com/rotunda-pam/rotunda/sdk"
)

// gitHost is what GitHub is by SSH: it lets in who has one of the keys, as whom it knows by
// it, and gives one repository to read.
type gitHost struct {
	at   sdk.Resource
	pin  [sha256.Size]byte
	open atomic.Pointer[map[string]string] // repositories by their keys
}

func newGitHost(t *testing.T) *gitHost {
	t.Helper()
	_, private := newPair(t)
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	g := &gitHost{pin: sha256.Sum256(signer.PublicKey().Marshal())}
	g.knows(nil)
	c := &ssh.ServerConfig{PublicKeyCallback: func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		repo, ok := (*g.open.Load())[strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))]
		if !ok || m.User() != "git" {
			return nil, errors.New("no")
		}
		return &ssh.Permissions{Extensions: map[string]string{"repo": repo}}, nil
	}}
	c.AddHostKey(signer)
	g.at.Address = serve(t, func(raw net.Conn) {
		conn, channels, requests, err := ssh.NewServerConn(raw, c)
		if err != nil {
			return
		}
		defer conn.Close()
		go ssh.DiscardRequests(requests)
		for n := range channels {
			ch, requests, err := n.Accept()
			if err != nil {
				return
			}
			for q := range requests {
				var run struct{ Line string }
				if q.Type != "exec" || ssh.Unmarshal(q.Payload, &run) != nil {
					_ = q.Reply(false, nil)
					continue
				}
				_ = q.Reply(true, nil)
				_, _ = io.Copy(io.Discard, ch)
				status := struct{ N uint32 }{1}
				if run.Line == "git-upload-pack "+conn.Permissions.Extensions["repo"]+".git" {
					status.N = 0
				}
				_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(status))
				break
			}
			ch.Close()
		}
	})
	return g
}

// knows sets the keys that are let in, with the repositories that they open.
func (g *gitHost) knows(keys map[string]string) { g.open.Store(&keys) }

func newPair(t *testing.T) (public string, private []byte) {
	t.Helper()
	a, b, err := keys.SSHKey()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(a)), b
}

// The scripts on what the vendors' documentation says that their APIs answer, over TLS, and on
// an SSH server that knows keys as they do.
func TestGithubDeployKey(t *testing.T) {
	const auth, path = "Authorization: Bearer t0ken-secret", "/repos/octo/app/keys"
	deploy := func(id int, key string) map[string]any {
		return map[string]any{"id": id, "key": key, "title": "app", "read_only": false, "verified": true}
	}
	rotatesDeployKey(t, "github-deploy-key", func(former, key string) []exchange {
		return []exchange{
			{"GET", "/rate_limit", auth, "", 200, `{"rate":{"remaining":4999}}`},
			{"GET", path + "?page=1&per_page=100", auth, "", 200, asText(t, []any{deploy(1, foreignKey), deploy(2, former)})},
			{"POST", path, auth, asText(t, map[string]any{"key": key, "read_only": false, "title": "app"}), 201, asText(t, deploy(3, key))},
			{"GET", path + "?page=1&per_page=100", "Accept: application/vnd.github+json", "", 200, asText(t, []any{deploy(1, foreignKey), deploy(2, former), deploy(3, key)})},
			{"DELETE", path + "/2", "X-Github-Api-Version: 2022-11-28", "", 204, ""},
		}
	})
}

func TestGitlabDeployKey(t *testing.T) {
	const auth, path = "Authorization: Bearer t0ken-secret", "/projects/octo%2Fapp/deploy_keys"
	deploy := func(id int, key string) map[string]any {
		return map[string]any{"id": id, "key": key + " app", "title": "app", "can_push": true, "created_at": "2026-01-31T12:00:00.000Z", "expires_at": nil}
	}
	rotatesDeployKey(t, "gitlab-deploy-key", func(former, key string) []exchange {
		return []exchange{
			{"GET", "/version", auth, "", 200, `{"version":"18.6.0","revision":"1"}`},
			{"GET", path + "?page=1&per_page=100", auth, "", 200, asText(t, []any{deploy(1, foreignKey), deploy(2, former)})},
			{"POST", path, auth, asText(t, map[string]any{"can_push": true, "key": key, "title": "app"}), 201, asText(t, deploy(3, key))},
			{"GET", path + "?page=1&per_page=100", auth, "", 200, asText(t, []any{deploy(1, foreignKey), deploy(2, former), deploy(3, key)})},
			{"DELETE", path + "/2", auth, "", 204, ""},
		}
	})
}

const foreignKey = "ssh-rsa AAAAB3NzaC1yc2E="

func asText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// rotatesDeployKey has a script rotate the key of octo/app: its requests and their answers are
// those of a former key and a new one.
func rotatesDeployKey(t *testing.T, name string, api func(former, key string) []exchange) {
	if !inChild(t) {
		return
	}
	oldPublic, oldPrivate := newPair(t)
	public, private := newPair(t)
	former := sdk.Credential{Kind: sdk.SSHKey, Public: []byte(oldPublic), Secret: sdk.NewSecret(oldPrivate)}
	// What a record says beside a private key need not be its own.
	candidate := sdk.Credential{Kind: sdk.SSHKey, Public: []byte(oldPublic), Secret: sdk.NewSecret(private)}
	r := newRecorded(t, true, api(oldPublic, public)...)
	g := newGitHost(t)
	g.at.Config = []byte(asText(t, map[string]any{"api": r.url}))
	b := fromLibrary(t, "rotators/"+name)
	b.allow, b.host.Pins[g.at.Address] = []string{r.at.Address, g.at.Address}, g.pin[:]
	app := sdk.Account{Name: "octo/app"}
	verify := func(c sdk.Credential) sdk.VerifyResponse {
		t.Helper()
		got, err := rotator{b.p}.Verify(t.Context(), sdk.VerifyRequest{Host: b.host, Resource: g.at, Account: app, Credential: c})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}

	g.knows(map[string]string{oldPublic: "octo/app"})
	if got := verify(candidate); got.Verdict != sdk.Rejected {
		t.Errorf("a key that nobody knows: %+v", got)
	}
	s, err := rotator{b.p}.Open(t.Context(), sdk.OpenRequest{Host: b.host, Resource: g.at, Admin: password("t0ken-secret"), AdminAs: sdk.Account{Name: "bot"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if out, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: app, Candidate: candidate, Current: former}); err != nil || out.Outcome != sdk.Changed {
		t.Fatalf("%+v, %v", out, err)
	}
	g.knows(map[string]string{oldPublic: "octo/app", public: "octo/app"})
	for name, c := range map[string]sdk.Credential{"old": former, "new": candidate} {
		if got := verify(c); got.Verdict != sdk.Accepted {
			t.Errorf("the %s key: %+v", name, got)
		}
	}
	g.knows(map[string]string{public: "octo/other"})
	if got := verify(candidate); got.Verdict != sdk.Undecided {
		t.Errorf("a key of another repository: %+v", got)
	}
	if out, err := s.(sdk.Retirer).Retire(t.Context(), sdk.RetireRequest{Account: app, Keep: candidate, Old: former}); err != nil || out.Outcome != sdk.Changed {
		t.Errorf("%+v, %v", out, err)
	}
	for _, secret := range []string{"t0ken-secret", string(private), "BEGIN OPENSSH"} {
		if strings.Contains(b.logged.String(), secret) {
			t.Error("the log holds a secret")
		}
	}
}

// inChild runs the test once more in a process whose roots vouch for the servers of
// httptest, which a process reads once. It is true there.
func inChild(t *testing.T) bool {
	t.Helper()
	if os.Getenv("ROTUNDA_TEST_ROOTS") != "" {
		return true
	}
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		t.Skip("a process takes no other roots there")
	}
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "ROTUNDA_TEST_ROOTS=1", "SSL_CERT_FILE="+roots)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}
