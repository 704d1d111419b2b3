package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/sdk"
)

// A server that lets everybody in has judged nothing, so its welcome proves nothing:
// not of an account's secret, nor of the administrator's.
func TestWelcomeWithoutASecret(t *testing.T) {
	for name, config := range map[string]*ssh.ServerConfig{
		"no authentication": {NoClientAuth: true},
		"no questions": {KeyboardInteractiveCallback: func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			_, err := ask("", "welcome", nil, nil)
			return nil, err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			here, resource := serveEcho(t, config)
			for _, c := range []sdk.Credential{password("anything at all"), newKey(t)} {
				if c.Kind == sdk.SSHKey && !config.NoClientAuth {
					continue // this server takes no keys
				}
				v, err := (&rotator{}).Verify(t.Context(), sdk.VerifyRequest{Host: here, Resource: resource, Account: sdk.Account{Name: "somebody"}, Credential: c})
				mustFail(t, err, sdk.ClassUnsupported, "auth.method")
				if v.Verdict != sdk.Undecided {
					t.Errorf("verify with a %s: %+v", c.Kind, v)
				}
				_, err = (&rotator{}).Open(t.Context(), sdk.OpenRequest{Host: here, Resource: resource, Admin: c, AdminAs: sdk.Account{Name: "somebody"}})
				mustFail(t, err, sdk.ClassUnsupported, "auth.method")
			}
		})
	}
	t.Run("a password that is asked for", func(t *testing.T) { // the server itself is in order
		here, resource := serveEcho(t, &ssh.ServerConfig{PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, nil }})
		v, err := (&rotator{}).Verify(t.Context(), sdk.VerifyRequest{Host: here, Resource: resource, Account: sdk.Account{Name: "somebody"}, Credential: password("right")})
		if err != nil || v != accepted {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

// A server that asks on after the secret, for a second factor or a new password, has not said
// whether it was right.
func TestAskedForMore(t *testing.T) {
	dialogue := func(questions ...string) func(ssh.ConnMetadata, ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
		return func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			for _, q := range questions {
				if _, err := ask("", "", []string{q}, []bool{false}); err != nil {
					return nil, err
				}
			}
			return nil, errors.New("no")
		}
	}
	// The library's server never says SSH_MSG_USERAUTH_PASSWD_CHANGEREQ. A question of a
	// dialogue has the same number: so one that has ended asks on when the password comes.
	var late ssh.KeyboardInteractiveChallenge
	change := ssh.ServerConfig{KeyboardInteractiveCallback: func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
		late = ask
		return nil, &ssh.PartialSuccessError{Next: ssh.ServerAuthCallbacks{
			PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
				_, err := late("", "", []string{"New password: "}, []bool{false})
				return nil, err
			},
			KeyboardInteractiveCallback: dialogue("Password: "),
		}}
	}}
	for name, c := range map[string]struct {
		config ssh.ServerConfig
		reason string
	}{
		"a second factor": {ssh.ServerConfig{KeyboardInteractiveCallback: dialogue("Password: ", "Verification code: ")}, "admin.dialogue"},
		"one question":    {ssh.ServerConfig{KeyboardInteractiveCallback: dialogue("Password: ")}, "admin.refused"},
		"in another way, after a refusal": {ssh.ServerConfig{
			PasswordCallback:            func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, errors.New("no") },
			KeyboardInteractiveCallback: dialogue("Password: "),
		}, "admin.refused"},
		"after the right password": {ssh.ServerConfig{PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
			return nil, &ssh.PartialSuccessError{Next: ssh.ServerAuthCallbacks{KeyboardInteractiveCallback: dialogue("Verification code: ")}}
		}}, "admin.dialogue"},
		"a change request": {change, "admin.dialogue"},
	} {
		here, resource := serveEcho(t, &c.config)
		v, err := (&rotator{}).Verify(t.Context(), sdk.VerifyRequest{Host: here, Resource: resource, Account: sdk.Account{Name: "somebody"}, Credential: password("right")})
		want := undecided("not_judged")
		if name == "a change request" {
			want = undecided("expired")
		}
		if err != nil || v != want {
			t.Errorf("%s: verify: %+v, %v", name, v, err)
		}
		_, err = (&rotator{}).Open(t.Context(), sdk.OpenRequest{Host: here, Resource: resource, Admin: password("right"), AdminAs: sdk.Account{Name: "somebody"}, Self: true})
		t.Run(name, func(t *testing.T) { mustFail(t, err, sdk.ClassAuth, c.reason) })
	}
}

// serveEcho is a server that runs nothing but echo.
func serveEcho(t *testing.T, config *ssh.ServerConfig) (sdk.Host, sdk.Resource) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go echo(c, config)
		}
	}()
	pin := sha256.Sum256(host.PublicKey().Marshal())
	address := l.Addr().String()
	return sdk.Host{
		Dialer: &dialer{}, Log: slog.New(slog.DiscardHandler), Progress: func(string) {},
		Pins: map[string][]byte{address: pin[:]},
	}, sdk.Resource{Address: address}
}

func echo(c net.Conn, config *ssh.ServerConfig) {
	defer c.Close()
	_, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offer := range channels {
		ch, requests, err := offer.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			_ = r.Reply(r.Type == "exec", nil)
			if r.Type != "exec" {
				continue
			}
			var command struct{ Line string }
			_ = ssh.Unmarshal(r.Payload, &command)
			_, _ = io.WriteString(ch, command.Line[len("echo "):])
			_, _ = ch.SendRequest("exit-status", false, make([]byte, 4))
			ch.Close()
		}
	}
}
