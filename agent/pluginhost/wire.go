package pluginhost

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/grpc/status"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// The API's types to messages, and back. Messages hold copies of secrets: clear them
// after use.

func credential(c sdk.Credential) *pluginv1.Credential {
	return &pluginv1.Credential{Kind: string(c.Kind), Id: c.ID, Public: c.Public, Secret: c.Secret.Expose()}
}

func account(a sdk.Account) *pluginv1.Account {
	return &pluginv1.Account{Name: []byte(a.Name), Scope: []byte(a.Scope), Attrs: a.Attrs}
}

func resource(r sdk.Resource) *pluginv1.Resource {
	return &pluginv1.Resource{Address: r.Address, Config: r.Config, TlsMode: string(r.TLS.Mode), ServerName: r.TLS.ServerName}
}

func openRequest(name string, j Job) *pluginv1.OpenRequest {
	r := &pluginv1.OpenRequest{
		Plugin: name, Pins: j.Pins, Resource: resource(j.Resource), Self: j.Self,
		Admin: credential(j.Admin), AdminAs: account(j.AdminAs), Extra: map[string]*pluginv1.Credential{},
	}
	for n, c := range j.Extra {
		r.Extra[n] = credential(c)
	}
	return r
}

func openSecrets(r *pluginv1.OpenRequest) []*pluginv1.Credential {
	return append(slices.Collect(maps.Values(r.Extra)), r.Admin)
}

func wipe(c ...*pluginv1.Credential) {
	for _, one := range c {
		clear(one.GetSecret())
	}
}

func outcome(o pluginv1.Outcome) sdk.Outcome {
	switch o {
	case pluginv1.Outcome_OUTCOME_CHANGED:
		return sdk.Changed
	case pluginv1.Outcome_OUTCOME_UNCHANGED:
		return sdk.Unchanged
	default:
		return sdk.Unknown
	}
}

func verdict(v pluginv1.Verdict) sdk.Verdict {
	switch v {
	case pluginv1.Verdict_VERDICT_ACCEPTED:
		return sdk.Accepted
	case pluginv1.Verdict_VERDICT_REJECTED:
		return sdk.Rejected
	default:
		return sdk.Undecided
	}
}

var classes = []sdk.Class{
	sdk.ClassInvalid, sdk.ClassAuth, sdk.ClassPermission, sdk.ClassNotFound, sdk.ClassPolicy,
	sdk.ClassConflict, sdk.ClassUnreachable, sdk.ClassUnsupported, sdk.ClassInternal,
}

// class believes the plugin only as far as the list goes.
func class(s string) sdk.Class {
	if s == "" || slices.Contains(classes, sdk.Class(s)) {
		return sdk.Class(s)
	}
	return sdk.ClassInternal
}

const malformed = "malformed"

// code keeps what is a code; the rest could be anything.
func code(s string) string {
	if len(s) > pluginv1.MaxReason {
		return malformed
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' && r != '_' {
			return malformed
		}
	}
	return s
}

// detail is the plugin's own error in a gRPC status, nil if there is none.
func detail(s *status.Status) *pluginv1.ErrorDetail {
	for _, d := range s.Details() {
		if e, ok := d.(*pluginv1.ErrorDetail); ok {
			return e
		}
	}
	return nil
}

// Bounds of a manifest, against a plugin that would have the agent wait for ever or
// lock accounts out.
const (
	maxPerProcess  = 64 // plugins
	maxConcurrency = 64
	maxLoginTries  = 10
	maxSchema      = 256 << 10
)

func description(m *pluginv1.Manifest) (Description, error) {
	d := Description{Manifest: sdk.Manifest{
		Name: m.GetName(), Version: m.GetVersion(),
		Readback: slices.Contains(m.GetCapabilities(), pluginv1.CapReadback),
		Self:     m.GetSelf(), NoLogin: m.GetNoLogin(),
		Concurrency: int(max(m.GetConcurrency(), 1)), LoginTries: int(max(m.GetLoginTries(), 1)),
		OldLives: m.GetOldLives().AsDuration(), Settle: m.GetSettle().AsDuration(), SettleIf: m.GetSettleIf(),
		MaxLen: int(m.GetMaxLen()), Forbid: m.GetForbid(),
		Dependents: slices.Contains(m.GetCapabilities(), pluginv1.CapDependents),
		Provision:  slices.Contains(m.GetCapabilities(), pluginv1.CapProvision),
		After:      slices.Contains(m.GetCapabilities(), pluginv1.CapAfter),
		Generator:  slices.Contains(m.GetCapabilities(), pluginv1.CapGenerator),
		Discoverer: slices.Contains(m.GetCapabilities(), pluginv1.CapDiscoverer),
	}, Schema: json.RawMessage(m.GetConfigSchema()), DependentSchema: json.RawMessage(m.GetDependentSchema())}
	rotates := slices.Contains(m.GetCapabilities(), pluginv1.CapRotator)
	for _, k := range m.GetKinds() {
		d.Kinds = append(d.Kinds, sdk.Kind(k))
	}
	if slices.Contains(m.GetCapabilities(), pluginv1.CapRetire) {
		for _, k := range m.GetOverlap() {
			d.Overlap = append(d.Overlap, sdk.Kind(k))
		}
	}
	if slices.Contains(m.GetCapabilities(), pluginv1.CapMint) {
		for _, k := range m.GetMinted() {
			d.Minted = append(d.Minted, sdk.Kind(k))
		}
	}
	switch {
	case !validName(d.Name):
		return d, fmt.Errorf("its name is malformed")
	case len(d.Version) == 0 || len(d.Version) > 64:
		return d, fmt.Errorf("its version is malformed")
	case !rotates && !d.Dependents && !d.After && !d.Generator && !d.Discoverer:
		return d, fmt.Errorf("it is not a rotator")
	case !rotates && (len(d.Kinds) > 0 || d.Readback || d.Provision):
		return d, fmt.Errorf("it is not a rotator, and says that it rotates")
	case rotates && len(d.Kinds) == 0 || len(d.Kinds) > 16:
		return d, fmt.Errorf("it has %d kinds of credential", len(d.Kinds))
	case len(d.Overlap) > len(d.Kinds):
		return d, fmt.Errorf("it lists %d kinds that overlap, of %d", len(d.Overlap), len(d.Kinds))
	case len(d.Minted) > len(d.Overlap) || slices.ContainsFunc(d.Minted, func(k sdk.Kind) bool { return !slices.Contains(d.Overlap, k) }):
		return d, fmt.Errorf("it lists kinds that the target makes and that do not overlap")
	case m.GetConcurrency() > maxConcurrency:
		return d, fmt.Errorf("its concurrency is over %d", maxConcurrency)
	case m.GetLoginTries() > maxLoginTries:
		return d, fmt.Errorf("its login tries are over %d", maxLoginTries)
	case d.OldLives < 0 || d.Settle < 0:
		return d, fmt.Errorf("it has a negative time")
	case len(d.Schema) > maxSchema || len(d.Schema) > 0 && !json.Valid(d.Schema):
		return d, fmt.Errorf("its config schema is malformed")
	case len(d.DependentSchema) > maxSchema || len(d.DependentSchema) > 0 && !json.Valid(d.DependentSchema):
		return d, fmt.Errorf("its schema of dependents is malformed")
	}
	return d, nil
}
