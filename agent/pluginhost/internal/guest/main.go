// Command guest is the plugin of the host's tests. Its target is a line protocol of
// the test's ("LOGIN user secret", "SET user secret"); the account's name asks for
// the misbehaviours.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

func init() { fmt.Println("a library greets the world before main") }

type settings struct {
	Greeting string `json:"greeting" doc:"What is said at login." default:"hello" enum:"hello,goodbye"`
	Retries  int    `json:"retries" doc:"How often." default:"3"`
	Many     bool   `json:"many" doc:"Whether there are several."`
}

type plugin struct{}

type session struct {
	host sdk.Host
	res  sdk.Resource
	turn sync.Mutex // of the connection
	conn net.Conn
	read *bufio.Reader
}

func main() {
	if filepath.Base(os.Args[0]) == "scripts" {
		sdk.ServeScripts(load)
		return
	}
	sdk.Serve(sdk.Plugin{Manifest: sdk.Manifest{
		Name: "guest", Version: "1.2.3", Kinds: []sdk.Kind{sdk.Password, sdk.APIKey}, Overlap: []sdk.Kind{sdk.Password, sdk.APIKey},
		Minted: []sdk.Kind{sdk.APIKey}, Readback: true, Concurrency: 4,
		LoginTries: 2, OldLives: time.Hour, Settle: time.Second, SettleIf: "many", MaxLen: 99, Forbid: "'", Config: &settings{},
	}, Rotator: plugin{}})
}

func (plugin) Open(ctx context.Context, r sdk.OpenRequest) (sdk.Session, error) {
	if err := sdk.DecodeConfig(r.Resource, &settings{}); err != nil {
		return nil, err
	}
	s := &session{host: r.Host, res: r.Resource}
	r.Host.Progress("logging in")
	r.Host.Log.Info("opening", "admin", r.AdminAs.Name, "secret", r.Admin.Secret, "text", r.Admin.Secret.ExposeString())
	var err error
	if s.conn, err = r.Host.Dialer.DialContext(ctx, "tcp", r.Resource.Address); err != nil {
		return nil, err
	}
	s.read = bufio.NewReader(s.conn)
	answer, err := ask(ctx, s.conn, s.read, "LOGIN "+r.AdminAs.Name+" "+r.Admin.Secret.ExposeString())
	if err == nil && answer != "OK" {
		err = &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused", NotSent: true}
	}
	if err != nil {
		return nil, errors.Join(err, s.conn.Close())
	}
	return s, nil
}

func ask(ctx context.Context, c net.Conn, r *bufio.Reader, line string) (string, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	answer, err := r.ReadString('\n')
	return strings.TrimSpace(answer), err
}

func (s *session) Apply(ctx context.Context, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	switch name, arg, _ := strings.Cut(a.Account.Name, " "); name {
	case "hang":
		select {} // deaf to its context
	case "wait":
		<-ctx.Done()
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "gave.up", NotSent: true, Err: ctx.Err()}
	case "read": // blocks on the target until the connection is cut
		_, err := s.read.ReadString('\n')
		return sdk.ApplyResponse{}, err
	case "late": // tells the truth after its deadline
		<-ctx.Done()
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case "crash":
		os.Exit(3)
	case "panic":
		panic("with the secret " + a.Candidate.Secret.ExposeString())
	case "noise":
		fmt.Fprintln(os.Stderr, "raw line with", a.Candidate.Secret.ExposeString())
		for range 10000 {
			fmt.Println("noise", strings.Repeat("x", 100))
		}
		s.host.Log.Error("a level that survives", "secret", string(a.Candidate.Secret.Expose()))
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case "progress":
		for i := range 10000 {
			s.host.Progress(fmt.Sprintf("step %d %s", i, a.Candidate.Secret.ExposeString()))
		}
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case "leak":
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassPolicy, Reason: "policy.history", Err: errors.New("refused " + a.Candidate.Secret.ExposeString())}
	case "unclassed":
		return sdk.ApplyResponse{}, errors.New("something")
	case "refuse":
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.length"}, nil
	case "text":
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: "made up", Reason: "Text with spaces"}, nil
	case "huge":
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInternal, Reason: "huge", Err: errors.New(strings.Repeat("x", 4<<20))}
	case "dial":
		return sdk.ApplyResponse{}, s.dial(ctx, arg)
	case "probe":
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInternal, Reason: "probe", Err: errors.New(probe(ctx, s.host, arg))}
	case "secret":
		return sdk.ApplyResponse{Outcome: sdk.Changed}, os.WriteFile(arg, a.Candidate.Secret.Expose(), 0o600)
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	answer, err := ask(ctx, s.conn, s.read, "SET "+a.Account.Name+" "+a.Candidate.Secret.ExposeString())
	if err != nil || answer != "OK" {
		return sdk.ApplyResponse{}, err
	}
	return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
}

// dial reports what a dial gave, and that a connection has the target's address.
func (s *session) dial(ctx context.Context, address string) error {
	c, err := s.host.Dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	again, err := s.host.Dialer.DialContext(ctx, c.RemoteAddr().Network(), c.RemoteAddr().String())
	if err == nil {
		err = again.Close()
	}
	return &sdk.Error{Class: sdk.ClassInternal, Reason: "dialled", Err: errors.Join(fmt.Errorf("%T %s", c.RemoteAddr(), c.RemoteAddr()), err, c.Close())}
}

func (s *session) Retire(_ context.Context, r sdk.RetireRequest) (sdk.RetireResponse, error) {
	if r.Keep.Secret.Equal(r.Old.Secret) {
		return sdk.RetireResponse{Outcome: sdk.Unchanged}, nil
	}
	return sdk.RetireResponse{Outcome: sdk.Changed}, nil
}

func (s *session) Readback(_ context.Context, a sdk.ApplyRequest) (sdk.VerifyResponse, error) {
	if a.Candidate.Secret.Len() == 0 {
		return sdk.VerifyResponse{Reason: "no_login"}, nil
	}
	return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
}

func (s *session) Close() error {
	_, _ = fmt.Fprintln(s.conn, "BYE")
	return s.conn.Close()
}

func (plugin) Verify(ctx context.Context, v sdk.VerifyRequest) (sdk.VerifyResponse, error) {
	if v.Account.Name == "stop" {
		// The whole process stops answering, its signal handlers included.
		stopSelf()
	}
	c, err := v.Host.Dialer.DialContext(ctx, "tcp", v.Resource.Address)
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	defer func() { _ = c.Close() }()
	answer, err := ask(ctx, c, bufio.NewReader(c), "LOGIN "+v.Account.Name+" "+v.Credential.Secret.ExposeString())
	switch {
	case err == nil && answer == "OK":
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	case err == nil && answer == "NO":
		return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}, nil
	}
	return sdk.VerifyResponse{}, err
}
