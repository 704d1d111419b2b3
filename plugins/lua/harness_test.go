package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

// bench is a script with everything around it that a test wants to look at.
type bench struct {
	t       testing.TB
	p       *program
	host    sdk.Host
	logged  *strings.Builder
	reached []string // addresses that were dialled
	allow   []string // addresses that may be
}

// newBench loads a script of kind after_rotation with a function run around code; the
// manifest asks for the modules, and has the further lines.
func newBench(t testing.TB, modules []string, manifest, code string) *bench {
	t.Helper()
	var head strings.Builder
	fmt.Fprintf(&head, "--[[ rotunda\nname = \"test\"\nversion = \"1\"\nkind = \"after_rotation\"\nabout = \"A test.\"\nmodules = [")
	for _, m := range modules {
		fmt.Fprintf(&head, "%q, ", m)
	}
	fmt.Fprintf(&head, "]\n%s\n]]\n", manifest)
	for _, m := range modules {
		fmt.Fprintf(&head, "local %s = require %q\n", m, m)
	}
	return benchOf(t, head.String()+"function run(job)\n"+code+"\nend\n")
}

// benchOf loads a whole script.
func benchOf(t testing.TB, text string) *bench {
	t.Helper()
	p, err := load([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, p: p, logged: new(strings.Builder)}
	b.host = sdk.Host{Dialer: b, Log: slog.New(slog.NewTextHandler(b.logged, nil)), Progress: func(string) {}, Pins: map[string][]byte{}}
	return b
}

// DialContext is the agent's dialer: it lets nothing be dialled but what is allowed.
func (b *bench) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	b.reached = append(b.reached, address)
	if !slices.Contains(b.allow, address) {
		return nil, &sdk.Error{Class: sdk.ClassPermission, Reason: "dial.denied", NotSent: true, Err: errors.New(address + " is not a place of this job")}
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// state is a fresh state of the script, in a call.
func (b *bench) state(places ...sdk.Resource) *state {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	b.t.Cleanup(cancel)
	s, err := b.p.state(ctx, b.host, places)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(s.close)
	return s
}

// run calls the script's run with a job of these fields, and gives what it answered.
func (b *bench) run(fill func(s *state, job *lua.LTable), places ...sdk.Resource) (lua.LValue, error) {
	b.t.Helper()
	s := b.state(places...)
	job := s.L.NewTable()
	if fill != nil {
		fill(s, job)
	}
	return s.call(s.L.Context(), "run", job)
}

// runLua runs code with modules, and gives its answer.
func runLua(t testing.TB, modules []string, code string) (lua.LValue, error) {
	t.Helper()
	return newBench(t, modules, "", code).run(nil)
}

// runAfter runs a whole after_rotation script by the SDK's verb.
func (b *bench) runAfter(o sdk.OpenRequest, r sdk.AfterRequest) (sdk.AfterResponse, error) {
	b.t.Helper()
	o.Host = b.host
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	return after{b.p}.Run(ctx, o, r)
}

func password(text string) sdk.Credential {
	return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(text))}
}

// errorFrom is the error of the SDK in err.
func errorFrom(t testing.TB, err error) *sdk.Error {
	t.Helper()
	var e *sdk.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no error of the SDK", err)
	}
	return e
}
