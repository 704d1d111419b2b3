package sdk

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk/scrub"
)

// Messages to the API's types. Secrets are taken over, not copied.

func credential(c *pluginv1.Credential) Credential {
	if c == nil {
		return Credential{}
	}
	b := c.Secret
	c.Secret = nil
	return Credential{Kind: Kind(c.Kind), ID: c.Id, Public: c.Public, Secret: Secret{func() []byte { return b }}}
}

func account(a *pluginv1.Account) Account {
	return Account{Name: string(a.GetName()), Scope: string(a.GetScope()), Attrs: a.GetAttrs()}
}

func resource(r *pluginv1.Resource) Resource {
	return Resource{
		Address: r.GetAddress(),
		Config:  json.RawMessage(r.GetConfig()),
		TLS:     TLS{Mode: TLSMode(r.GetTlsMode()), ServerName: r.GetServerName()},
	}
}

func manifestToWire(m Manifest, schema, dependent []byte) *pluginv1.Manifest {
	w := &pluginv1.Manifest{
		Name: m.Name, Version: m.Version, Self: m.Self, NoLogin: m.NoLogin,
		Concurrency: u32(max(m.Concurrency, 1)), LoginTries: u32(max(m.LoginTries, 1)),
		OldLives: durationpb.New(m.OldLives), Settle: durationpb.New(m.Settle), SettleIf: m.SettleIf,
		MaxLen: u32(m.MaxLen), Forbid: m.Forbid, ConfigSchema: schema, DependentSchema: dependent,
	}
	if len(m.Kinds) > 0 {
		w.Capabilities = append(w.Capabilities, pluginv1.CapRotator)
	}
	for _, k := range m.Kinds {
		w.Kinds = append(w.Kinds, string(k))
	}
	for _, k := range m.Overlap {
		w.Overlap = append(w.Overlap, string(k))
	}
	if len(m.Overlap) > 0 {
		w.Capabilities = append(w.Capabilities, pluginv1.CapRetire)
	}
	for _, k := range m.Minted {
		w.Minted = append(w.Minted, string(k))
	}
	if len(m.Minted) > 0 {
		w.Capabilities = append(w.Capabilities, pluginv1.CapMint)
	}
	if m.Readback {
		w.Capabilities = append(w.Capabilities, pluginv1.CapReadback)
	}
	if m.Provision {
		w.Capabilities = append(w.Capabilities, pluginv1.CapProvision)
	}
	if m.After {
		w.Capabilities = append(w.Capabilities, pluginv1.CapAfter)
	}
	if m.Generator {
		w.Capabilities = append(w.Capabilities, pluginv1.CapGenerator)
	}
	if m.Discoverer {
		w.Capabilities = append(w.Capabilities, pluginv1.CapDiscoverer)
	}
	if m.Dependents {
		w.Capabilities = append(w.Capabilities, pluginv1.CapDependents)
	}
	return w
}

func u32(n int) uint32 { return uint32(min(max(n, 0), math.MaxInt32)) }

// grease is a capability that nobody has.
func grease() string { return pluginv1.Grease + strings.ToLower(rand.Text()[:8]) }

// toStatus makes a gRPC status with class, reason and not_sent as its detail and a
// scrubbed text. An error that is not an *Error is internal, and may have been sent.
func toStatus(ctx context.Context, err error, secrets *scrub.Set) error {
	if err == nil {
		return nil
	}
	d := &pluginv1.ErrorDetail{Class: string(ClassInternal), Reason: "unclassed"}
	if e := (*Error)(nil); errors.As(err, &e) {
		d.Class, d.Reason, d.NotSent = class(e.Class), reason(e.Reason), e.NotSent
	} else if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		d.Class, d.Reason = string(ClassUnreachable), "deadline"
	}
	// In this order: a secret that is cut is no longer found, and a character that is cut is
	// none, with which nothing of the error would arrive.
	text := secrets.Text(textOf(err))
	text = strings.ToValidUTF8(text[:min(len(text), maxErrorText)], "?")
	s := status.New(codes.Unknown, text)
	if with, err := s.WithDetails(d); err == nil {
		s = with
	}
	return s.Err()
}

const maxErrorText = 1 << 10

// textOf leaves out what crosses beside the text.
func textOf(err error) string {
	if e, ok := err.(*Error); ok { //nolint:errorlint // one inside another error is part of that one's text
		if e.Err == nil {
			return ""
		}
		return e.Err.Error()
	}
	return err.Error()
}

func class(c Class) string {
	switch c {
	case ClassInvalid, ClassAuth, ClassPermission, ClassNotFound, ClassPolicy, ClassConflict, ClassUnreachable, ClassUnsupported:
		return string(c)
	default:
		return string(ClassInternal)
	}
}

// reason drops what is not a code: text has no place there.
func reason(s string) string {
	if len(s) > MaxReason {
		return "malformed"
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' && r != '_' {
			return "malformed"
		}
	}
	return s
}

// within gives a call the agent's deadline.
func within(ctx context.Context, c *pluginv1.Call) (context.Context, context.CancelFunc) {
	if c.GetLeft() == nil {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, max(c.GetLeft().AsDuration(), time.Duration(0)))
}
