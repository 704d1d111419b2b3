package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// target is everything that a run has found out about its account before it
// touches anything.
type target struct {
	log      *trust.Log
	opened   uint64 // epoch of the log by which the records were opened: it goes on
	account  *trust.Record
	resource *trust.Record
	value    *trust.Value    // that the record's current data is attested by
	set      *trustv1.Result // that set its secret: value's, or an older one; nil: not known
	revision int64

	way      way
	rotator  *hosted // the script that is the plugin; nil: it is none
	plugin   pluginhost.Plugin
	manifest pluginhost.Description
	at       pluginhost.Target
	drives   who

	login   sdk.Account
	current sdk.Credential
	former  sdk.Credential // the one before current: what retire ends after a takeover
	// formerErr is why it is not known, though there was one.
	formerErr error
	leftover  bool // the run that made current is not known to have ended former
	wrapped   wrapped
	noAdmin   error // why the administrator is not at hand, for a run that can do without
	admin     sdk.Credential
	adminAs   sdk.Account
	extras    map[string]sdk.Credential // further secrets that the resource's statement names

	recent  [][]byte    // results of the account, as served
	uses    []dependent // what uses the secret
	usesErr error       // why they cannot be reached
	after   []*hosted   // scripts that run after the rotation
	makes   *hosted     // the script that makes the new secret; nil: the policy does
	pair    *pair       // the other account of a pair; nil: it has none
}

func (t *target) wipe() {
	for _, c := range []sdk.Credential{t.current, t.former, t.admin} {
		c.Secret.Wipe()
	}
	wipeAll(t.extras)
	for _, d := range t.uses {
		d.job.Admin.Secret.Wipe()
		wipeAll(d.job.Extra)
	}
	for _, h := range t.after {
		h.wipe()
	}
	if t.pair != nil {
		t.pair.secret.Secret.Wipe()
	}
	for _, r := range []*trust.Record{t.account, t.resource} {
		if r != nil {
			clear(r.Data)
			r.Key.Wipe()
		}
	}
}

// chooseTarget finds plugin, address and pins: all of them signed.
func (r *Run) chooseTarget(ctx context.Context, served *servedRecords) (err error) {
	if r.plugin, r.manifest, err = r.e.rotates(ctx, r.resource.Statement, r.rotator); err != nil {
		return err
	}
	if r.at, err = r.e.targetOf(ctx, r.resource.Statement, r.way); err != nil {
		return err
	}
	r.manifest.Settle = settleOf(r.manifest.Manifest, r.at.Resource.Config)
	r.at.Progress = func(step string) { r.progress(step) }
	r.at.Hold = r.hold.Check
	if r.rotator != nil {
		r.rotator.account = r.job.Account
		if err := r.e.aim(ctx, served, r.rotator, &r.at, r.way, r.pool()); err != nil {
			return err
		}
	}
	a := r.account.Statement.GetAccount()
	if !slices.Contains(r.manifest.Kinds, r.kind()) {
		return &sdk.Error{Class: sdk.ClassUnsupported, Reason: "secret_kind", NotSent: true, Err: fmt.Errorf("the plugin %s rotates %v, and the account's secret is a %s", r.plugin.Name, r.manifest.Kinds, r.kind())}
	}
	r.login = sdk.Account{Name: a.Login, Scope: a.Scope}
	return nil
}

// settleOf is for how long a login that the target refuses proves nothing. A setting that
// cannot be read takes nothing from it.
func settleOf(m sdk.Manifest, config []byte) time.Duration {
	if m.SettleIf == "" {
		return m.Settle
	}
	given := map[string]json.RawMessage{}
	if len(bytes.TrimSpace(config)) > 0 && json.Unmarshal(config, &given) != nil {
		return m.Settle
	}
	on := false
	if value, ok := given[m.SettleIf]; ok && json.Unmarshal(value, &on) != nil || on {
		return m.Settle
	}
	return 0
}

// rotates is the plugin by which a resource's accounts get new secrets: one that was built,
// or the one that a script is.
func (e *Engine) rotates(ctx context.Context, resource *trust.Statement, rotator *hosted) (p pluginhost.Plugin, m pluginhost.Description, err error) {
	if rotator != nil {
		return e.host(ctx, rotator)
	}
	name := resource.GetResource().GetPlugin()
	if p, err = e.Plugins.Find(name); err != nil {
		return p, m, &trust.Error{Reason: trust.PluginUnknown, What: name, Err: err}
	}
	m, err = e.Plugins.Describe(ctx, p)
	return p, m, err
}

// targetOf is where the resource's statement leads: address, pins, settings.
func (e *Engine) targetOf(ctx context.Context, resource *trust.Statement, w way) (pluginhost.Target, error) {
	s := resource.GetResource()
	address := addressOf(s)
	pins, err := e.pinsOf(ctx, resource, w.dial)
	if err != nil {
		return pluginhost.Target{}, err
	}
	t := pluginhost.Target{
		Key:      resource.Ref.String(),
		Resource: sdk.Resource{Address: address, Config: s.Config, TLS: tlsOf(s.Tls)},
		Allow:    []string{address},
		Dial:     w.dial, Way: w.digest,
	}
	if len(pins) > 0 {
		t.Pins = map[string][]byte{address: pins}
	}
	return t, nil
}

// pinsOf are the keys that a target may show: those of its statement, or the first that
// this agent saw.
func (e *Engine) pinsOf(ctx context.Context, resource *trust.Statement, dial pluginhost.DialFunc) (pins []byte, err error) {
	s := resource.GetResource()
	for _, p := range append(append([][]byte{}, s.Tls.GetSpkiSha256()...), s.SshHostKeySha256...) {
		pins = append(pins, p...)
	}
	if len(pins) == 0 && s.Tofu {
		first, err := firstHostKey(ctx, resource.Ref, addressOf(s), e.Journal, dial)
		return first[:], err
	}
	return pins, nil
}

func tlsOf(t *trustv1.Tls) sdk.TLS {
	modes := map[trustv1.TlsMode]sdk.TLSMode{
		trustv1.TlsMode_TLS_MODE_OFF: sdk.TLSOff, trustv1.TlsMode_TLS_MODE_PIN: sdk.TLSPin,
	}
	mode, ok := modes[t.GetMode()]
	if !ok {
		mode = sdk.TLSSystem // also for a mode that was not said: the stricter one
	}
	return sdk.TLS{Mode: mode, ServerName: t.GetServerName()}
}

// openAdministrator finds who drives the change: the resource's administrator, or
// the account itself where it has none or is it. Further secrets of the resource come
// with it.
func (r *Run) openAdministrator(ctx context.Context, served *servedRecords) (err error) {
	if r.extras, err = r.e.extras(ctx, r.log, r.resource.Statement.GetResource(), r.pool()); err != nil {
		return err
	}
	ref := mustRef(r.resource.Statement.GetResource().GetAdminAccount())
	if ref.IsZero() || ref == r.job.Account {
		if !r.manifest.Self {
			return &sdk.Error{Class: sdk.ClassUnsupported, Reason: "self", NotSent: true, Err: fmt.Errorf("accounts of %s cannot rotate themselves: name an administrator in the resource", r.plugin.Name)}
		}
		r.drives, r.admin, r.adminAs = bySelf, r.current, r.login
		return nil
	}
	r.drives = byAdmin
	r.admin, r.adminAs, err = served.login(ctx, "administrator", ref, r.pool())
	if err == nil && served.outstanding(ref) {
		// Which of his two secrets the target has is his own run's to find out.
		err = r.comeAgain("admin.outstanding", errors.New("the administrator's own secret is being changed: nothing was tried with either"))
	}
	return err
}

// comeAgain ends a run before it has begun, to be tried later: by the vault's word, or by
// the person whose command it was.
func (r *Run) comeAgain(reason string, err error) *Stop {
	stop := &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassConflict, Reason: reason, Err: err}
	if r.job.Command == nil {
		stop.Outcome, stop.Later = trustv1.Outcome_OUTCOME_PENDING, true
	}
	return stop
}
