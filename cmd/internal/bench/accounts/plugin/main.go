// Command plugin rotates the passwords of the benchmark's target, which costs almost
// nothing: one line to set a password, on the session's connection, and one line on a
// connection of its own to log in.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

func main() {
	sdk.Serve(sdk.Plugin{
		Manifest: sdk.Manifest{
			Name: "bench", Version: "1.0.0", Kinds: []sdk.Kind{sdk.Password},
			Concurrency: 64, MaxLen: 128, Config: &struct{}{},
		},
		Rotator: rotator{},
	})
}

type rotator struct{}

// session keeps connections that are logged in.
type session struct {
	host  sdk.Host
	at    string
	admin string // the line that logs in

	mu   sync.Mutex
	idle []*line
}

func (rotator) Open(ctx context.Context, r sdk.OpenRequest) (sdk.Session, error) {
	s := &session{host: r.Host, at: r.Resource.Address, admin: login(r.AdminAs, r.Admin.Secret)}
	l, err := s.take(ctx)
	if err != nil {
		return nil, err
	}
	s.give(l)
	return s, nil
}

func (s *session) take(ctx context.Context) (*line, error) {
	s.mu.Lock()
	if n := len(s.idle); n > 0 {
		l := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		return l, nil
	}
	s.mu.Unlock()
	l, err := dial(ctx, s.host, s.at)
	if err != nil {
		return nil, err
	}
	answer, err := l.ask(ctx, s.admin)
	switch {
	case err != nil:
		err = &sdk.Error{Class: sdk.ClassUnreachable, Reason: "line", NotSent: true, Err: err}
	case answer != "OK":
		err = &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused", NotSent: true, Err: fmt.Errorf("the target answers %.20q", answer)}
	default:
		return l, nil
	}
	l.Close()
	return nil, err
}

func (s *session) give(l *line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, l)
}

func (s *session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.idle {
		l.Close()
	}
	s.idle = nil
	return nil
}

func (s *session) Apply(ctx context.Context, r sdk.ApplyRequest) (out sdk.ApplyResponse, err error) {
	l, err := s.take(ctx)
	if err != nil {
		return out, err
	}
	answer, err := l.ask(ctx, "SET "+words(r.Account, r.Candidate.Secret))
	if err != nil {
		l.Close()
		return out, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "line", Err: err}
	}
	s.give(l)
	if answer == "OK" {
		out.Outcome = sdk.Changed
	}
	return out, nil
}

func (rotator) Verify(ctx context.Context, v sdk.VerifyRequest) (out sdk.VerifyResponse, err error) {
	l, err := dial(ctx, v.Host, v.Resource.Address)
	if err != nil {
		return out, err
	}
	defer l.Close()
	switch answer, err := l.ask(ctx, login(v.Account, v.Credential.Secret)); {
	case err != nil:
		return out, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "line", Err: err}
	case answer == "OK":
		out.Verdict = sdk.Accepted
	case answer == "NO":
		out.Verdict, out.Reason = sdk.Rejected, "bad_secret"
	}
	return out, nil
}

func login(a sdk.Account, secret sdk.Secret) string { return "LOGIN " + words(a, secret) }

// words are an account's name and secret, which may be any bytes.
func words(a sdk.Account, secret sdk.Secret) string {
	return hex.EncodeToString([]byte(a.Name)) + " " + hex.EncodeToString(secret.Expose())
}

type line struct {
	net.Conn
	in *bufio.Reader
}

func dial(ctx context.Context, h sdk.Host, address string) (*line, error) {
	c, err := h.Dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "dial", NotSent: true, Err: err}
	}
	return &line{c, bufio.NewReader(c)}, nil
}

// ask sends one line and reads one.
func (l *line) ask(ctx context.Context, text string) (string, error) {
	stop := context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := l.Write([]byte(text + "\n")); err != nil {
		return "", err
	}
	answer, err := l.in.ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}
