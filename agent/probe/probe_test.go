package probe_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/agent/probe"
	"github.com/rotunda-pam/rotunda/internal/targets"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// counted is a dialer that counts.
type counted struct{ dials int }

func (c *counted) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c.dials++
	return new(net.Dialer).DialContext(ctx, network, address)
}

// serve answers each connection in a goroutine of its own.
func serve(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				answer(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr().String()
}

func TestKindOf(t *testing.T) {
	for _, c := range []struct {
		plugin, settings string
		want             probe.Kind
	}{
		{"ssh", "", probe.SSH},
		{"postgres", "{}", probe.Postgres},
		{"mysql", "", probe.MySQL},
		{"ldap", "", probe.TLS},
		{"ldap", `{"method":"exop"}`, probe.TLS},
		{"ldap", `{"starttls":true}`, probe.LDAP},
		{"ad", `{"starttls":true}`, probe.LDAP},
		{"ad", `{"starttls":"yes"}`, probe.TLS},
		{"rest", `{"starttls":true}`, probe.TLS},
		{"", "", probe.TLS},
	} {
		if got := probe.KindOf(c.plugin, []byte(c.settings)); got != c.want {
			t.Errorf("%q with %s: %s, want %s", c.plugin, c.settings, got, c.want)
		}
	}
}

func TestTLS(t *testing.T) {
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	got, err := probe.Target(t.Context(), new(counted).dial, probe.TLS, srv.Listener.Addr().String(), "")
	must(t, err)
	want := sha256.Sum256(srv.Certificate().RawSubjectPublicKeyInfo)
	if len(got.TlsSpkiSha256) != 1 || !bytes.Equal(got.TlsSpkiSha256[0], want[:]) || got.TlsSubject != srv.Certificate().Subject.String() ||
		len(got.TlsChain) != 1 || got.Address != srv.Listener.Addr().String() || len(got.SshHostKeySha256) != 0 {
		t.Errorf("%+v", got)
	}
}

// The name that is asked for is the statement's, else the address's; a chain without end
// is cut.
func TestNameAndChain(t *testing.T) {
	srv := httptest.NewTLSServer(nil) // for its certificate
	defer srv.Close()
	long := srv.TLS.Certificates[0]
	for range 50 {
		long.Certificate = append(slices.Clone(long.Certificate), long.Certificate[0])
	}
	names := make(chan string, 2)
	address := serve(t, func(c net.Conn) {
		conn := tls.Server(c, &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			names <- h.ServerName
			return &long, nil
		}})
		_ = conn.Handshake()
	})
	got, err := probe.Target(t.Context(), new(counted).dial, probe.TLS, address, "db.internal")
	must(t, err)
	if name := <-names; name != "db.internal" {
		t.Errorf("asked for %q", name)
	}
	if len(got.TlsChain) != 8 {
		t.Errorf("%d certificates", len(got.TlsChain))
	}
	_, port, _ := net.SplitHostPort(address)
	_, err = probe.Target(t.Context(), new(counted).dial, probe.TLS, "localhost:"+port, "")
	must(t, err)
	if name := <-names; name != "localhost" {
		t.Errorf("asked for %q", name)
	}
}

func TestPostgres(t *testing.T) {
	pg := targets.Postgres(t)
	l := &counted{}
	got, err := probe.Target(t.Context(), l.dial, probe.Postgres, pg.Address, "")
	must(t, err)
	if len(got.TlsSpkiSha256) != 1 || !bytes.Equal(got.TlsSpkiSha256[0], pg.SPKI[:]) {
		t.Errorf("%x, want %x", got.TlsSpkiSha256, pg.SPKI)
	}
	if l.dials != 1 {
		t.Errorf("%d connections", l.dials)
	}
	refuses := serve(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 8)); _, _ = c.Write([]byte("N")) })
	if _, err := probe.Target(t.Context(), new(counted).dial, probe.Postgres, refuses, ""); err == nil || !strings.Contains(err.Error(), "does not offer tls") {
		t.Errorf("a server without TLS: %v", err)
	}
}

func TestMySQL(t *testing.T) {
	m := targets.Maria(t)
	l := &counted{}
	got, err := probe.Target(t.Context(), l.dial, probe.MySQL, m.Address, "")
	must(t, err)
	if len(got.TlsSpkiSha256) != 1 || !bytes.Equal(got.TlsSpkiSha256[0], m.SPKI[:]) {
		t.Errorf("%x, want %x", got.TlsSpkiSha256, m.SPKI)
	}
	if l.dials != 1 {
		t.Errorf("%d connections", l.dials)
	}
	// What a server says that is too busy, or that has no TLS.
	packet := func(payload string) string { return string([]byte{byte(len(payload)), 0, 0, 0}) + payload }
	for said, want := range map[string]string{
		packet("\xff\x10\x04Too many connections"):                                                "Too many connections",
		packet("\x0a8.0.36\x00\x01\x00\x00\x0012345678\x00\xff\xf7" + strings.Repeat("\x00", 30)): "does not offer tls",
		packet("\x09old\x00" + strings.Repeat("\x00", 30)):                                        "no greeting of a mysql server",
		packet("\x0a8.0.36\x00\x01\x00\x00\x0012345678\x00\xff"):                                  "no greeting of a mysql server",
		packet(""):                         "no greeting of a mysql server",
		"HTTP/1.1 400 Bad Request\r\n\r\n": "no greeting of a mysql server",
	} {
		address := serve(t, func(c net.Conn) { _, _ = c.Write([]byte(said)) })
		if _, err := probe.Target(t.Context(), new(counted).dial, probe.MySQL, address, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", said, err, want)
		}
	}
}

func TestLDAP(t *testing.T) {
	server := targets.LDAP(t)
	l := &counted{}
	got, err := probe.Target(t.Context(), l.dial, probe.LDAP, server.PlainAddress(), "")
	must(t, err)
	if len(got.TlsSpkiSha256) != 1 || !bytes.Equal(got.TlsSpkiSha256[0], server.SPKI[:]) {
		t.Errorf("%x, want %x", got.TlsSpkiSha256, server.SPKI)
	}
	if l.dials != 1 {
		t.Errorf("%d connections", l.dials)
	}
	for answer, want := range map[string]string{
		"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x02\x04\x00\x04\x00":                                 "does not offer tls: it answers 2",
		"\x30\x84\x00\x00\x00\x10\x02\x01\x01\x78\x84\x00\x00\x00\x07\x0a\x01\x34\x04\x00\x04\x00": "it answers 52", // as Active Directory writes lengths
		"\x30\x84\x00\x00\x00\x10\x02\x01\x01\x78\x84\x00\x00\x00\x07\x0a\x01\x00\x04\x00\x04\x00": "tls: ",         // it begins
		"\x30\x84\x7f\xff\xff\xff":                 "no ldap",
		"\x30\x89\x01":                             "no ldap",
		"\x30\x80\x00\x00":                         "no ldap",
		"\x30\x00":                                 "no ldap",
		"\x30\x02\x02\x84":                         "no ldap",
		"\x30\x03\x02\x05\x01":                     "no ldap",
		"\x30\x07\x02\x01\x01\x78\x02\x0a\x00":     "no ldap",
		"\x30\x08\x02\x01\x01\x61\x03\x0a\x01\x00": "no ldap", // the answer to a login
		"HTTP/1.1 400 Bad Request\r\n\r\n":         "no",
		"":                                         "no answer",
	} {
		address := serve(t, func(c net.Conn) {
			_, _ = io.ReadFull(c, make([]byte, 31))
			_, _ = io.WriteString(c, answer)
		})
		if _, err := probe.Target(t.Context(), new(counted).dial, probe.LDAP, address, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%x: %v, want %q", answer, err, want)
		}
	}
}

// Every host key of an sshd is shown, in the order of preference, and nobody logs in.
func TestSSH(t *testing.T) {
	keys := map[string]ssh.Signer{}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	for _, k := range []any{ec, ed} {
		s, err := ssh.NewSignerFromKey(k)
		must(t, err)
		keys[s.PublicKey().Type()] = s
	}
	config := &ssh.ServerConfig{
		NoClientAuth: true,
		AuthLogCallback: func(_ ssh.ConnMetadata, method string, _ error) {
			t.Errorf("somebody tries to log in by %s", method)
		},
	}
	for _, s := range keys {
		config.AddHostKey(s)
	}
	address := serve(t, func(c net.Conn) { _, _, _, _ = ssh.NewServerConn(c, config) })
	got, err := probe.Target(t.Context(), new(counted).dial, probe.SSH, address, "")
	must(t, err)
	if want := []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256}; !slices.Equal(got.SshHostKeyType, want) || len(got.SshHostKeySha256) != 2 {
		t.Fatalf("%+v, want %v", got, want)
	}
	for i, name := range got.SshHostKeyType {
		if sum := sha256.Sum256(keys[name].PublicKey().Marshal()); !bytes.Equal(got.SshHostKeySha256[i], sum[:]) {
			t.Errorf("%s: %x, want %x", name, got.SshHostKeySha256[i], sum)
		}
	}
	if len(got.TlsChain) != 0 || len(got.TlsSpkiSha256) != 0 {
		t.Errorf("%+v", got)
	}
}

// Whatever answers, the probe ends with an error that names the address, and in time.
func TestHostileTargets(t *testing.T) {
	answers := map[string]func(net.Conn){
		"hangs up":   func(net.Conn) {},
		"silent":     func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"garbage":    func(c net.Conn) { _, _ = c.Write(bytes.Repeat([]byte("S\x16\x03\x01\xff\xff\r\n"), 1000)) },
		"endless":    func(c net.Conn) { endless(c, "SSH-2.0-x") },
		"no line":    func(c net.Conn) { endless(c, strings.Repeat("x", 4096)) },
		"half ssh":   func(c net.Conn) { _, _ = c.Write([]byte("SSH-2.0-half\r\n")); _, _ = io.Copy(io.Discard, c) },
		"half mysql": func(c net.Conn) { _, _ = c.Write([]byte("\xff\x0f\x00\x00\x0a")); _, _ = io.Copy(io.Discard, c) },
		"half tls":   func(c net.Conn) { _, _ = c.Write([]byte("\x16\x03\x03\x40\x00")); _, _ = io.Copy(io.Discard, c) },
		"yes, then":  func(c net.Conn) { _, _ = c.Write([]byte("S")); _, _ = io.Copy(io.Discard, c) },
	}
	for name, answer := range answers {
		address := serve(t, answer)
		for _, kind := range []probe.Kind{probe.TLS, probe.SSH, probe.Postgres, probe.MySQL, probe.LDAP} {
			t.Run(name+" "+string(kind), func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				began := time.Now()
				got, err := probe.Target(ctx, new(counted).dial, kind, address, "")
				if err == nil || got != nil || !strings.Contains(err.Error(), address) {
					t.Errorf("%+v, %v", got, err)
				}
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("it took %s", took)
				}
			})
		}
	}
	if _, err := probe.Target(t.Context(), func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("denied here")
	}, probe.TLS, "db:1", ""); err == nil || !strings.Contains(err.Error(), "denied here") {
		t.Errorf("a dialer that refuses: %v", err)
	}
}

func endless(c net.Conn, line string) {
	for {
		if _, err := c.Write([]byte(line)); err != nil {
			return
		}
	}
}
