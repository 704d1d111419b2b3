package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"github.com/rotunda-pam/rotunda/sdk"
)

// The first line of a script is its kind, or how it misbehaves, and its name.
func load(text []byte) (sdk.Plugin, error) {
	first, _, _ := strings.Cut(string(text), "\n")
	kind, name, _ := strings.Cut(first, " ")
	m := sdk.Manifest{Name: name, Version: "1", MaxLen: len(text)}
	switch kind {
	case "after":
		m.After = true
		return sdk.Plugin{Manifest: m, After: &script{name: name}}, nil
	case "generator":
		m.Generator = true
		return sdk.Plugin{Manifest: m, Generator: maker{}}, nil
	case "discoverer":
		m.Discoverer = true
		return sdk.Plugin{Manifest: m, Discoverer: finder{}}, nil
	case "rotator":
		m.Kinds = []sdk.Kind{sdk.Password}
		return sdk.Plugin{Manifest: m, Rotator: plugin{}}, nil
	case "hang":
		select {}
	case "crash":
		os.Exit(3)
	}
	return sdk.Plugin{}, fmt.Errorf("line 1: %q is no kind of script", kind)
}

// script does what the account's name asks for.
type script struct {
	name string
	runs atomic.Int64
}

func (s *script) Run(ctx context.Context, at sdk.OpenRequest, r sdk.AfterRequest) (sdk.AfterResponse, error) {
	n := s.runs.Add(1)
	secrets := r.Secret.Secret.ExposeString()
	switch name, arg, _ := strings.Cut(r.Account.Name, " "); name {
	case "tell":
		var b strings.Builder
		fmt.Fprintf(&b, "%s %d %s %s %s", s.name, n, at.Resource.Address, at.AdminAs.Name, at.Resource.Config)
		fmt.Fprintf(&b, " %s %s %s", r.Account.Scope, r.RunID, r.Time.UTC().Format("15:04:05"))
		fmt.Fprintf(&b, " %d %d %d", at.Admin.Secret.Len(), r.Secret.Secret.Len(), r.Former.Secret.Len())
		for _, one := range r.Records {
			fmt.Fprintf(&b, " %s %s %s %d", one.Resource.Address, one.Account.Name, one.Pins[one.Resource.Address], one.Secret.Secret.Len())
			secrets += " " + one.Secret.Secret.ExposeString()
		}
		at.Host.Log.Info("telling")
		secrets += " " + r.Former.Secret.ExposeString() + " " + at.Admin.Secret.ExposeString()
		return sdk.AfterResponse{Outcome: sdk.Changed, Output: b.String() + ": " + secrets}, nil
	case "refuse":
		return sdk.AfterResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPermission, Reason: "unit.masked", Output: "not that one"}, nil
	case "code":
		return sdk.AfterResponse{Outcome: sdk.Unchanged, Class: sdk.ClassConflict, Reason: "was." + secrets}, nil
	case "leak":
		return sdk.AfterResponse{}, &sdk.Error{Class: sdk.ClassPolicy, Reason: "leaks", Err: errors.New("with " + secrets)}
	case "wait":
		<-ctx.Done()
		return sdk.AfterResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "gave.up", NotSent: true, Err: ctx.Err()}
	case "hang":
		select {}
	case "crash":
		os.Exit(3)
	case "local": // asks once, and gives what it is answered
		c, err := at.Host.Dialer.DialContext(ctx, "agent", arg)
		if err != nil {
			return sdk.AfterResponse{}, err
		}
		defer func() { _ = c.Close() }()
		answer, err := ask(ctx, c, bufio.NewReader(c), "question")
		return sdk.AfterResponse{Outcome: sdk.Changed, Output: answer + " of " + c.RemoteAddr().String()}, err
	case "leave": // asks, and is done before it is answered
		c, err := at.Host.Dialer.DialContext(ctx, "agent", "local")
		if err == nil {
			_, err = fmt.Fprintln(c, "question")
		}
		if arg == "crash" {
			os.Exit(3)
		}
		return sdk.AfterResponse{Outcome: sdk.Changed}, err
	}
	return sdk.AfterResponse{Outcome: sdk.Changed}, nil
}

// maker gives what the account's name asks for.
type maker struct{}

func (maker) Generate(ctx context.Context, at sdk.OpenRequest, a sdk.Account) (sdk.Secret, error) {
	switch a.Name {
	case "nothing":
		return sdk.Secret{}, nil
	case "too much":
		return sdk.NewSecret(make([]byte, sdk.MaxSecret+1)), nil
	case "dial":
		_, err := at.Host.Dialer.DialContext(ctx, "tcp", string(at.Resource.Config))
		return sdk.Secret{}, err
	}
	return sdk.NewSecret([]byte(fmt.Sprintf("made for %s %s%s%d", a.Name, at.Resource.Config, at.Resource.Address, at.Admin.Secret.Len()))), nil
}

// finder finds what the settings ask for.
type finder struct{}

func (finder) Discover(ctx context.Context, at sdk.OpenRequest, emit func(sdk.Finding) error) error {
	switch what, arg, _ := strings.Cut(string(at.Resource.Config), " "); what {
	case "dial":
		_, err := at.Host.Dialer.DialContext(ctx, "tcp", arg)
		return err
	case "login":
		return emit(sdk.Finding{Login: at.Admin.Secret.ExposeString()})
	case "fact":
		return emit(sdk.Finding{Login: "app", Facts: map[string]string{"password": "it is " + at.Admin.Secret.ExposeString()}})
	case "malformed":
		return emit(sdk.Finding{})
	case "many":
		for n := 0; ; n++ {
			if err := emit(sdk.Finding{Login: fmt.Sprint(n)}); err != nil {
				return err
			}
		}
	}
	return errors.Join(
		emit(sdk.Finding{Login: at.AdminAs.Name, Scope: "%", Facts: map[string]string{"at": at.Resource.Address}}),
		emit(sdk.Finding{Login: "app"}),
	)
}
