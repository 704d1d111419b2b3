package run

import (
	"bytes"
	"context"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// shortest is the least that a script may give for a secret, in bytes: so little is guessed
// by anybody who tries.
const shortest = 8

// findGenerator opens the script that makes the account's secrets. Where it fails, what was
// found comes with the error.
func (r *Run) findGenerator(ctx context.Context, served *servedRecords) (*hosted, error) {
	use := r.account.Statement.GetAccount().GetGenerator()
	if use == nil {
		return nil, nil
	}
	h, err := r.e.findScript(ctx, served, r.account.Statement, use, script.Generator, use.Parameters, r.pool())
	h.err = err
	return h, err
}

// generate has the script make the candidate, where there is one: it has nowhere to send
// anything to.
func (r *Run) generate(ctx context.Context) (sdk.Credential, error) {
	h := r.makes
	if h == nil {
		return sdk.Credential{}, nil
	}
	if h.err != nil {
		return sdk.Credential{}, h.err
	}
	if k := r.kind(); r.mints() || k != sdk.Password && k != sdk.APIKey && k != sdk.Token {
		return sdk.Credential{}, h.invalid("generator.kind", "the secret of the account is a %s that %s", k, map[bool]string{true: "its target makes", false: "no script makes"}[r.mints()])
	}
	p, m, err := r.e.host(ctx, h)
	if err != nil {
		return sdk.Credential{}, err
	}
	if !m.Generator {
		return sdk.Credential{}, &sdk.Error{Class: sdk.ClassUnsupported, Reason: "script.plugin", NotSent: true, Err: fmt.Errorf("the plugin %s makes no secrets", p.Name)}
	}
	h.plugin = p
	h.job.Target.Key, h.job.Resource.Config = r.at.Key, h.use.Parameters
	r.reveals(h)
	call, cancel := context.WithTimeout(ctx, r.e.Limits.Script)
	defer cancel()
	made, err := r.e.Plugins.Generate(call, p, h.job, r.login)
	h.failed(err)
	if err != nil {
		return sdk.Credential{}, fmt.Errorf("%s: %w", h, err)
	}
	if err := r.checkMade(h, made); err != nil {
		made.Wipe()
		return sdk.Credential{}, err
	}
	return sdk.Credential{Kind: r.kind(), Secret: made}, nil
}

// checkMade refuses a secret that the targets do not take, or that protects nothing. Its
// errors say nothing of the secret.
func (r *Run) checkMade(h *hosted, made sdk.Secret) error {
	text := made.Expose()
	defer clear(text)
	switch {
	case len(text) < shortest:
		return h.invalid("generator.short", "it gave a secret of less than %d bytes", shortest)
	case len(text) > sdk.MaxSecret || r.manifest.MaxLen > 0 && len(text) > r.manifest.MaxLen:
		return h.invalid("generator.long", "it gave a secret that is longer than targets of %s take", r.plugin.Name)
	case !utf8.Valid(text) || bytes.ContainsFunc(text, unicode.IsControl) || r.manifest.Forbid != "" && bytes.ContainsAny(text, r.manifest.Forbid):
		return h.invalid("generator.characters", "it gave a secret with characters that targets of %s do not take", r.plugin.Name)
	case made.Equal(r.current.Secret):
		return h.invalid("generator.same", "it gave the secret that the account has")
	}
	return nil
}
