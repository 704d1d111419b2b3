package main

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// ios is a router with a command line like that of Cisco's IOS: it echoes what is typed, a
// question mark asks for help at once, "username" makes whom it does not know, and what is
// not saved is gone after a restart.
type ios struct {
	address  string
	pin      [sha256.Size]byte
	shortest int

	mu       sync.Mutex
	running  map[string]iosUser
	startup  map[string]iosUser
	failures map[string]int // logins refused
	locked   string         // who is locked out: his right secret is refused like a wrong one
}

type iosUser struct {
	secret    string
	privilege int
	password  bool // it is one of type 0 or 7: no secret
}

func newIOS(t *testing.T) *ios {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	r := &ios{shortest: 8, running: map[string]iosUser{}, failures: map[string]int{}, pin: sha256.Sum256(signer.PublicKey().Marshal())}
	c := &ssh.ServerConfig{PasswordCallback: func(m ssh.ConnMetadata, secret []byte) (*ssh.Permissions, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if u, ok := r.running[m.User()]; !ok || u.secret != string(secret) || m.User() == r.locked {
			r.failures[m.User()]++
			return nil, errors.New("no")
		}
		return nil, nil
	}}
	c.AddHostKey(signer)
	r.address = serve(t, func(raw net.Conn) {
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
				_ = q.Reply(q.Type == "pty-req" || q.Type == "shell", nil)
				if q.Type == "shell" {
					go ssh.DiscardRequests(requests)
					break
				}
			}
			r.mu.Lock()
			privilege := r.running[conn.User()].privilege
			r.mu.Unlock()
			r.talk(ch, privilege)
			ch.Close()
		}
	})
	return r
}

func (r *ios) user(name, secret string, privilege int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running[name] = iosUser{secret: secret, privilege: privilege}
}

// saved says whether a restart would change nothing.
func (r *ios) saved() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Equal(r.running, r.startup)
}

// talk is one terminal. It takes what is typed byte by byte.
func (r *ios) talk(rw io.ReadWriter, privilege int) {
	in := bufio.NewReader(rw)
	mode := "#"
	if privilege < 15 {
		mode = ">"
	}
	prompt := func() { fmt.Fprintf(rw, "\r\nR1%s", mode) }
	prompt()
	var line []byte
	for {
		c, err := in.ReadByte()
		if err != nil {
			return
		}
		switch c {
		default:
			line = append(line, c)
			_, _ = rw.Write([]byte{c})
		case '?':
			fmt.Fprintf(rw, "\r\n  LINE  help\r\nR1%s%s", mode, line)
		case '\n':
		case '\r':
			text := strings.TrimSpace(string(line))
			line = nil
			if text == "exit" {
				return
			}
			said := ""
			mode, said = r.do(mode, text)
			if said != "" {
				fmt.Fprintf(rw, "\r\n%s", strings.ReplaceAll(said, "\n", "\r\n"))
			}
			prompt()
		}
	}
}

const iosInvalid = "                    ^\n% Invalid input detected at '^' marker.\n"

// do runs one line.
func (r *ios) do(mode, line string) (next, said string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	words := strings.Fields(line)
	switch {
	case len(words) == 0 || strings.HasPrefix(line, "terminal "):
		return mode, ""
	case mode == ">":
		return mode, iosInvalid
	case mode == "#" && line == "configure terminal":
		return "(config)#", "Enter configuration commands, one per line.  End with CNTL/Z."
	case mode == "#" && line == "write memory":
		r.startup = maps.Clone(r.running)
		return mode, "Building configuration...\n[OK]"
	case mode == "#" && strings.HasPrefix(line, "show running-config | include "):
		return mode, r.show(strings.TrimPrefix(line, "show running-config | include "))
	case mode == "(config)#" && line == "end":
		return "#", ""
	case mode == "(config)#" && words[0] == "username" && len(words) > 2:
		return mode, r.username(words[1], strings.SplitN(line, " ", 3)[2])
	}
	return mode, iosInvalid
}

var iosUnderscore = regexp.MustCompile(`(^|[^\\])_`)

func (r *ios) show(pattern string) string {
	// An underscore stands for what words end at, unless it is escaped.
	p, err := regexp.Compile(iosUnderscore.ReplaceAllString(pattern, `$1(?:[,{}() ]|^|$)`))
	if err != nil {
		return "% Failed to compile regular expression"
	}
	var out []string
	if l := "aaa new-model"; p.MatchString(l) {
		out = append(out, l)
	}
	if l := "aaa local authentication attempts max-fail 3"; r.locked != "" && p.MatchString(l) {
		out = append(out, l)
	}
	for name, u := range r.running {
		if l := fmt.Sprintf("username %s privilege %d secret 9 $9$%x", name, u.privilege, sha256.Sum256([]byte(u.secret))); p.MatchString(l) {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

func (r *ios) username(name, rest string) string {
	secret, ok := strings.CutPrefix(rest, "algorithm-type scrypt secret ")
	if !ok {
		secret, ok = strings.CutPrefix(rest, "secret 0 ")
	}
	switch {
	case !ok:
		return iosInvalid
	case len(secret) > 25:
		return "% Invalid Password length - must contain 1 to 25 characters. Password configuration failed"
	case len(secret) < r.shortest:
		return fmt.Sprintf("%% Password too short - must be at least %d characters. Password configuration failed", r.shortest)
	}
	u := r.running[name]
	if u.password {
		return "ERROR: Can not have both a user password and a user secret.\nPlease choose one or the other."
	}
	u.secret = secret
	r.running[name] = u
	return ""
}

func (r *ios) on(t *testing.T) (*bench, sdk.OpenRequest) {
	b := fromLibrary(t, "rotators/cisco-ios")
	b.allow, b.host.Pins[r.address] = []string{r.address}, r.pin[:]
	r.user("adm", "the administrator's", 15)
	return b, sdk.OpenRequest{Resource: sdk.Resource{Address: r.address}, Admin: password("the administrator's"), AdminAs: sdk.Account{Name: "adm"}}
}

// The script in the agent's own plugin host, on a simulated device.
func TestCiscoIOSConformance(t *testing.T) {
	t.Parallel()
	r := newIOS(t)
	r.user("adm", "the administrator's", 15)
	r.user("clerk", "the clerk's own", 1)
	prove(t, "rotators/cisco-ios", conformance.Harness{
		Calls:    targets.Calls(),
		Resource: sdk.Resource{Address: r.address}, Pins: [][sha256.Size]byte{r.pin},
		Admin: password("the administrator's"), AdminAs: sdk.Account{Name: "adm"},
		Account: func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			if strings.Contains(name, " ") {
				t.Skip("left out: a name with a space in it is two words to the device")
			}
			first := password("first-" + rand.Text()[:16])
			r.user(name, first.Secret.ExposeString(), 1)
			return sdk.Account{Name: name}, first
		},
		Accepts: func(t *testing.T, a sdk.Account, c sdk.Credential) bool {
			return r.accepts(t, a.Name, c.Secret.ExposeString())
		},
		Candidate: func(*testing.T) sdk.Credential { return password(rand.Text()[:25]) },
		Refused:   func(*testing.T) sdk.Credential { return password("short") },
		Failures: func(_ *testing.T, a sdk.Account) int {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.failures[a.Name]
		},
		Powerless: func(*testing.T) (sdk.Account, sdk.Credential) {
			return sdk.Account{Name: "clerk"}, password("the clerk's own")
		},
	})
}

// accepts is the judge: a login of its own.
func (r *ios) accepts(t *testing.T, name, secret string) bool {
	t.Helper()
	client, err := ssh.Dial("tcp", r.address, &ssh.ClientConfig{
		User: name, Auth: []ssh.AuthMethod{ssh.Password(secret)},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if sha256.Sum256(key.Marshal()) != r.pin {
				return errors.New("another host")
			}
			return nil
		},
	})
	if err != nil {
		if !strings.Contains(err.Error(), "unable to authenticate") {
			t.Fatalf("log in as %q: %v", name, err)
		}
		return false
	}
	client.Close()
	return true
}

// A change is in the startup configuration, too, unless the resource says otherwise.
func TestCiscoIOSSaves(t *testing.T) {
	for config, saved := range map[string]bool{`{}`: true, `{"save":false,"algorithm":"device"}`: false} {
		r := newIOS(t)
		b, open := r.on(t)
		open.Resource.Config = []byte(config)
		r.user("bob", "first-of-bob", 1)
		out, got := b.rotate(open, sdk.ApplyRequest{Account: sdk.Account{Name: "bob"}, Candidate: password("second-of-bob")})
		if out.Outcome != sdk.Changed || got.Verdict != sdk.Accepted || r.saved() != saved || r.running["bob"] != (iosUser{secret: "second-of-bob", privilege: 1}) {
			t.Errorf("%s: %+v, %+v, saved %v, %+v\n%s", config, out, got, r.saved(), r.running["bob"], b.logged)
		}
	}
}

// The right secret of a user who is locked out is not rejected; without lockouts a wrong one is.
func TestCiscoIOSLocked(t *testing.T) {
	for locked, want := range map[string]sdk.VerifyResponse{
		"bob": {Reason: "not_judged"},
		"":    {Verdict: sdk.Rejected, Reason: "bad_secret"},
	} {
		r := newIOS(t)
		b, open := r.on(t)
		r.user("bob", "first-of-bob", 1)
		r.locked = locked
		open.Host = b.host
		s, err := rotator{b.p}.Open(t.Context(), open)
		if err != nil {
			t.Fatal(err)
		}
		c := password("first-of-bob")
		if locked == "" {
			c = password("not-that-of-bob")
		}
		got, err := rotator{b.p}.Verify(t.Context(), sdk.VerifyRequest{Host: b.host, Resource: open.Resource, Account: sdk.Account{Name: "bob"}, Credential: c})
		if err != nil || got != want {
			t.Errorf("locked %q: %+v, %v", locked, got, err)
		}
		s.Close()
	}
}

// A name with an underscore is found, and what the device refuses in its other words was not
// changed.
func TestCiscoIOSWords(t *testing.T) {
	for name, row := range map[string]struct {
		user    iosUser
		outcome sdk.Outcome
		class   sdk.Class
	}{
		"app_user": {iosUser{secret: "first-of-app", privilege: 1}, sdk.Changed, ""},
		"old":      {iosUser{secret: "first-of-old", privilege: 1, password: true}, sdk.Unchanged, sdk.ClassConflict},
	} {
		r := newIOS(t)
		b, open := r.on(t)
		r.running[name] = row.user
		out, _ := b.rotate(open, sdk.ApplyRequest{Account: sdk.Account{Name: name}, Candidate: password("the-second-of-it")})
		if out.Outcome != row.outcome || out.Class != row.class {
			t.Errorf("%s: %+v\n%s", name, out, b.logged)
		}
	}
}
