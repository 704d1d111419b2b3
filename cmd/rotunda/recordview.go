package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/span"
	"github.com/rotunda-pam/rotunda/internal/terminal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// recordView is a record without its secret, or with it after --reveal.
type recordView struct {
	UID         string         `json:"uid"`
	Folder      string         `json:"folder_uid"`
	Type        string         `json:"type"`
	Title       string         `json:"title"`
	Login       string         `json:"login,omitempty"`
	URL         string         `json:"url,omitempty"`
	Notes       string         `json:"notes,omitempty"`
	Secret      string         `json:"secret,omitempty"`
	PublicKey   string         `json:"public_key,omitempty"`
	KeyID       string         `json:"key_id,omitempty"`
	State       string         `json:"state"`
	Reason      string         `json:"reason,omitempty"`
	Hint        string         `json:"hint,omitempty"`
	NotLinked   []string       `json:"not_linked,omitempty"`   // what its signer had no right to name
	PoolUnknown bool           `json:"pool_unknown,omitempty"` // an agent attests the value, and it cannot be told here whether it is one of the resource's pool
	Revision    int64          `json:"revision"`
	Updated     string         `json:"updated,omitempty"`
	SignedBy    string         `json:"signed_by,omitempty"`
	Account     *accountView   `json:"account,omitempty"`
	Resource    *resourceView  `json:"resource,omitempty"`
	Attested    *attestedView  `json:"attested,omitempty"`
	Candidate   *candidateView `json:"candidate,omitempty"`

	names map[string]string // of what the view refers to, for people
}

// named is a reference with the name that people know it by.
func (v recordView) named(ref string) string {
	if name := v.names[ref]; name != "" {
		return name + " (" + ref + ")"
	}
	return ref
}

// findNames looks up what the view refers to. What this person may not read keeps
// its uid.
func (v *recordView) findNames(ctx context.Context, cl *client.Client) {
	v.names = map[string]string{}
	if f, err := cl.FindFolder(ctx, v.Folder); err == nil {
		v.names[v.Folder] = f.Name
	}
	var refs []string
	if v.Account != nil {
		refs = append(refs, v.Account.Resource, v.Account.Pair)
		for _, d := range v.Account.Dependents {
			refs = append(refs, d.Resource)
			refs = append(refs, d.Script.refs()...)
		}
		refs = append(refs, v.Account.Generator.refs()...)
		for _, u := range v.Account.Scripts {
			refs = append(refs, u.refs()...)
		}
	}
	if v.Resource != nil {
		refs = append(refs, v.Resource.Admin, v.Resource.Via)
		refs = append(refs, v.Resource.Rotator.refs()...)
		refs = append(refs, v.Resource.Discoverer.refs()...)
		for _, u := range v.Resource.Scripts {
			refs = append(refs, u.refs()...)
		}
	}
	for _, ref := range refs {
		if ref == "" {
			continue
		}
		if r, err := cl.FindRecord(ctx, ref); err == nil {
			v.names[ref] = r.Title
		}
	}
}

// accountView is what an account's statement says.
type accountView struct {
	Resource   string          `json:"resource"`
	Scope      string          `json:"scope,omitempty"`
	SecretKind string          `json:"secret_kind"`
	VerifyMode string          `json:"verify_mode,omitempty"`
	Seq        uint64          `json:"statement"`
	Mandate    *mandateView    `json:"mandate,omitempty"`
	Policy     string          `json:"policy,omitempty"`
	Dependents []dependentView `json:"dependents,omitempty"`
	Pair       string          `json:"pair,omitempty"`
	Drain      string          `json:"drain,omitempty"`
	Scripts    []scriptUseView `json:"scripts,omitempty"` // that run after a rotation
	Generator  *scriptUseView  `json:"generator,omitempty"`
}

// dependentView is one that uses the secret.
type dependentView struct {
	Resource string          `json:"resource"`
	Plugin   string          `json:"plugin"`
	Script   *scriptUseView  `json:"script,omitempty"` // with the plugin lua
	Config   json.RawMessage `json:"config,omitempty"`
}

type mandateView struct {
	Enabled      bool   `json:"enabled"`
	MinIntervalS uint32 `json:"min_interval_s"`
	ValidUntil   string `json:"valid_until"`
}

// text is the mandate in one line.
func (m *mandateView) text() string {
	if m == nil || !m.Enabled {
		return "off: rotates by hand only"
	}
	return "at most every " + span.Text(time.Duration(m.MinIntervalS)*time.Second) + ", until " + local(m.ValidUntil)
}

type attestedView struct {
	Phase      string `json:"phase"`
	ValueSeq   uint64 `json:"value_seq"`
	Time       string `json:"time"`
	Credential string `json:"credential,omitempty"` // of an agent's word: done, or unverifiable
}

// notVerifiable says that a run changed the secret and nobody can log in to prove it.
const notVerifiable = "changed, not verifiable"

// unproven says whether the value in use is one that no login has proven.
func (v recordView) unproven() bool {
	return v.Attested != nil && v.Attested.Credential == "unverifiable"
}

// stateText is the state with what is to be known beside it.
func (v recordView) stateText() string {
	text := stateText(v.State, v.Reason)
	if v.PoolUnknown && v.Reason != client.PoolUnknown {
		text += "; by an agent whose pool is not known here (" + client.PoolUnknown + ")"
	}
	if v.unproven() {
		text += "; " + notVerifiable
	}
	return text
}

type candidateView struct {
	RunID  string `json:"run_id"`
	Owner  string `json:"owner"`
	Staged string `json:"staged"`
	Secret string `json:"secret,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// secret is the candidate's secret as it is shown; nil is no candidate.
func (v *candidateView) secret() string {
	if v == nil {
		return ""
	}
	return v.Secret
}

// masked stands for a secret that is there and not shown.
const masked = "********"

// viewRecord gives a record with its secrets masked.
func viewRecord(r *client.Record) recordView {
	v := recordView{
		UID: r.Ref.Record.String(), Folder: r.Ref.Folder.String(), Type: r.Type, Title: r.Title,
		State: stateWord(string(r.State)), Reason: r.Reason, PoolUnknown: r.PoolUnknown,
		Revision: r.Revision, Updated: stamp(r.Updated), SignedBy: r.SignedByName,
	}
	if r.State != client.Broken {
		v.Login, v.URL, v.Notes, v.PublicKey, v.KeyID = r.Login(), r.URL(), r.Notes(), r.PublicKey(), r.KeyID()
		if s, ok := r.Secret(); ok && s.Len() > 0 {
			v.Secret = masked
		}
	}
	if a := r.Statement.GetAccount(); a != nil {
		v.Account = viewAccount(r.Statement, a)
	}
	if res := r.Statement.GetResource(); res != nil {
		v.Resource = viewResource(r.Statement, res)
	}
	if r.State == client.NotLinked {
		v.Hint = trust.NotLinked.Hint()
		for _, u := range r.Unlinked {
			v.NotLinked = append(v.NotLinked, unlinkedText(u))
		}
	}
	if r.Reason == client.PoolUnknown {
		v.Hint = client.PoolUnknownMeans
	}
	if a := r.Attested; a != nil {
		v.Attested = &attestedView{Phase: phaseWord(a.Phase), ValueSeq: a.ValueSeq, Time: stamp(time.UnixMilli(a.Time))}
		if a.Credential != trustv1.Outcome_OUTCOME_UNSPECIFIED {
			v.Attested.Credential = outcomeWord(a.Credential)
		}
	}
	if k := r.Candidate; k != nil {
		v.Candidate = &candidateView{RunID: k.RunID.String(), Owner: k.Owner, Staged: stamp(k.Staged), Reason: k.Reason}
		if k.Value.Len() > 0 {
			v.Candidate.Secret = masked
		}
	}
	return v
}

// unlinkedText is a reference on which its signer has no right.
func unlinkedText(u trust.Reference) string {
	return fmt.Sprintf("names %s as its %s", u.Ref, u.As)
}

// warnUnlinked says before a statement is signed anew what of it that leaves out.
func (c *cli) warnUnlinked(r *client.Record) {
	for _, u := range r.Unlinked {
		c.warn("%s %s, and who signed that has no right on it: it is left out, unless you name it yourself", r.Title, unlinkedText(u))
	}
}

func viewAccount(st *trustv1.Statement, a *trustv1.Account) *accountView {
	v := &accountView{
		Resource: refText(a.Resource), Scope: a.Scope, SecretKind: a.SecretKind, VerifyMode: a.VerifyMode,
		Seq: st.Seq, Policy: policyText(a.Policy), Pair: refText(a.PairAccount),
	}
	for _, d := range a.Dependents {
		one := dependentView{Resource: refText(d.Resource), Plugin: d.Plugin}
		if json.Valid(d.Config) {
			one.Config = d.Config
		}
		if d.Script != nil {
			u := viewUse(d.Script)
			one.Script = &u
		}
		v.Dependents = append(v.Dependents, one)
	}
	for _, u := range a.Scripts {
		v.Scripts = append(v.Scripts, viewUse(u))
	}
	if a.Generator != nil {
		u := viewUse(a.Generator)
		v.Generator = &u
	}
	if a.DrainS > 0 {
		v.Drain = span.Text(time.Duration(a.DrainS) * time.Second)
	}
	if m := a.Mandate; m != nil {
		v.Mandate = &mandateView{m.Enabled, m.MinIntervalS, stamp(time.UnixMilli(m.ValidUntil))}
	}
	return v
}

// refText is a reference as a person can give it back: FOLDER/RECORD.
func refText(r *trustv1.Ref) string {
	folder, err1 := seal.IDFrom(r.GetFolderUid())
	rec, err2 := seal.IDFrom(r.GetRecordUid())
	if err1 != nil || err2 != nil {
		return ""
	}
	return client.Ref{Folder: folder, Record: rec}.String()
}

func phaseWord(p trustv1.Phase) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_"))
}

func outcomeWord(o trustv1.Outcome) string {
	if o == trustv1.Outcome_OUTCOME_UNSPECIFIED {
		return "unknown"
	}
	return strings.ToLower(strings.TrimPrefix(o.String(), "OUTCOME_"))
}

func showRecord(w io.Writer, v recordView) {
	lines := []string{
		"title", v.Title, "type", v.Type, "uid", v.UID, "folder", v.named(v.Folder),
		"state", v.stateText(), "not linked", strings.Join(v.NotLinked, "; "), "hint", v.Hint, "login", v.Login, "url", v.URL,
		"secret", terminal.Escaped(v.Secret), "public key", v.PublicKey, "key id", v.KeyID, "notes", v.Notes,
		"revision", fmt.Sprint(v.Revision), "updated", local(v.Updated), "signed by", v.SignedBy,
	}
	if a := v.Account; a != nil {
		verified := a.VerifyMode
		if v.unproven() {
			verified += ", which was not possible: the account may not log in"
		}
		lines = append(lines, "resource", v.named(a.Resource), "scope", a.Scope, "kind", a.SecretKind, "policy", a.Policy, "generator", a.Generator.text(v.named),
			"verified by", verified, "pair", v.named(a.Pair))
		for _, d := range a.Dependents {
			by := d.Plugin
			if d.Script != nil {
				by = d.Script.text(v.named)
			}
			lines = append(lines, "dependent", by+" on "+v.named(d.Resource)+" "+string(d.Config))
		}
		for _, u := range a.Scripts {
			lines = append(lines, "after a rotation", u.text(v.named))
		}
		lines = append(lines, "former works for", a.Drain, "mandate", a.Mandate.text())
	}
	if v.Resource != nil {
		lines = append(lines, v.Resource.lines(v.named)...)
	}
	if a := v.Attested; a != nil {
		lines = append(lines, "value", fmt.Sprintf("%s as number %d at %s", a.Phase, a.ValueSeq, local(a.Time)))
	}
	if k := v.Candidate; k != nil {
		lines = append(lines, "candidate", fmt.Sprintf("staged by run %s at %s", k.RunID, local(k.Staged)),
			"candidate secret", terminal.Escaped(k.Secret), "candidate refused", k.Reason)
	}
	pairs(w, lines...)
}

func stateText(state, reason string) string {
	state = strings.ReplaceAll(state, "_", " ")
	if reason == "" {
		return state
	}
	return state + " (" + reason + ")"
}
