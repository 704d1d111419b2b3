package trust

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// SignResult fills in v and the log's head (and a zero cause, where there is
// none) and signs. The caller sets by. A secret that was made by this head needs
// no made_epoch.
func SignResult(l *Log, key ed25519.PrivateKey, r *trustv1.Result) (signed []byte, digest seal.Digest, err error) {
	r = proto.CloneOf(r)
	h := l.Head()
	r.V, r.LogEpoch, r.LogDigest = Version, h.Epoch, h.Digest.Bytes()
	if r.MadeEpoch == h.Epoch {
		r.MadeEpoch = 0
	}
	if len(r.Cause) == 0 {
		r.Cause = make([]byte, len(seal.Digest{}))
	}
	if err := checkResult(r); err != nil {
		return nil, seal.Digest{}, err
	}
	return signEnvelope(seal.KindResult, l.Org(), r, key)
}

// Result is a decoded result whose signature holds.
type Result struct {
	*trustv1.Result
	Account Ref // zero in a reply that concerns no record
	Digest  seal.Digest
	Signed  []byte
	Signer  Entry // agent or device, live now
}

// OpenResult decodes a Signed{Result} and checks signer, signature and log head:
// SignerUnknown, SignatureBad, LogGap, LogFork, Malformed, UnknownField.
func OpenResult(l *Log, signed []byte) (*Result, error) {
	env, err := openEnvelope(seal.KindResult, signed, MaxSigned, 1)
	if err != nil {
		return nil, err
	}
	signer, err := liveSigner(l, env, trustv1.EntryKind_ENTRY_KIND_AGENT, trustv1.EntryKind_ENTRY_KIND_DEVICE)
	if err != nil {
		return nil, err
	}
	p := &trustv1.Result{}
	if err := decode("result", env.body, MaxSigned, p); err != nil {
		return nil, err
	}
	if err := checkResult(p); err != nil {
		return nil, err
	}
	if seal.ID(p.By) != signer.ID {
		return nil, fail(SignerUnknown, "a result of %s is signed by %s %q", seal.ID(p.By), kindName(signer.Kind), l.FullName(signer))
	}
	if signer.Expired(time.UnixMilli(p.Time)) {
		return nil, fail(SignerUnknown, "%s %q signed the result after its time was over", kindName(signer.Kind), l.FullName(signer))
	}
	if err := l.CheckHead(p.LogEpoch, p.LogDigest); err != nil {
		return nil, err
	}
	return &Result{p, mustRef(p.Account), env.digest(l.Org()), signed, signer}, nil
}

// Healed is the reason of a commit that brought back a secret which the server had lost.
const Healed = "healed"

// SetBy is the number of the value that set the secret which this result attests, and
// the epoch of the log by then: its own, unless it says that the secret is an older one.
// One that was brought back may be of any time before; that epoch is 0.
func (r *Result) SetBy() (seq, epoch uint64) {
	switch s := r.Same; {
	case s != nil:
		return s.ValueSeq, s.LogEpoch
	case r.Phase == trustv1.Phase_PHASE_COMMITTED && r.Reason == Healed:
		return r.ValueSeq, 0
	}
	return r.ValueSeq, r.Made()
}

// Made is the log's epoch when the secret of a staged or committed value was made: whoever
// could read the record then may know it. A candidate may wait for longer than the one who
// could read it stays.
func (r *Result) Made() uint64 {
	if r.MadeEpoch > 0 {
		return r.MadeEpoch
	}
	return r.LogEpoch
}

// Setter is the result that set the secret which a checked result attests: that one
// itself or, where it says that the secret is an older one, the one that it leads back to.
// Each names the one before it by its digest; so the signers of those, who may have been
// removed since, are not looked at. Where that chain is not among the results, the word
// of a live agent for a value of that number will do. nil: it is not known.
func Setter(l *Log, newest *Result, results [][]byte, pool seal.ID) (set *trustv1.Result, signed []byte) {
	seq, _ := newest.SetBy()
	set, signed = newest.Result, newest.Signed
	for set != nil && set.Same != nil {
		set, signed = named(l, results, set.Prev)
	}
	if set != nil && set.ValueSeq == seq {
		return set, signed
	}
	for _, signed := range results {
		if c := claimed(signed); c.GetPhase() != trustv1.Phase_PHASE_COMMITTED || c.ValueSeq != seq {
			continue
		}
		if r, err := OpenResult(l, signed); err == nil && CheckWord(l, r, newest.Account, pool) == nil {
			return r.Result, signed
		}
	}
	return nil, nil
}

// named finds the result of a digest; nil where it is not among them.
func named(l *Log, results [][]byte, digest []byte) (*trustv1.Result, []byte) {
	for _, signed := range results {
		d, err := ResultDigest(l.Org(), signed)
		if err != nil || !bytes.Equal(d[:], digest) {
			continue
		}
		if p := claimed(signed); p != nil && checkResult(p) == nil {
			return p, signed
		}
	}
	return nil, nil
}

// Attests gives the digest of the data that a result attests, which is among the results
// and of that digest. The digest is taken from a result that was checked; so the signer,
// who may have been removed since, is not looked at.
func Attests(l *Log, results [][]byte, digest seal.Digest) (seal.Digest, bool) {
	p, _ := named(l, results, digest[:])
	if p == nil || len(p.DataDigest) == 0 {
		return seal.Digest{}, false
	}
	return seal.Digest(p.DataDigest), true
}

// Words are those of agents of the pool, among the results, on the end of a run: as many as
// it had attempts.
func Words(l *Log, results [][]byte, run []byte, pool seal.ID) (words []*Result) {
	for _, signed := range results {
		if c := claimed(signed); c.GetPhase() != trustv1.Phase_PHASE_FINISHED || !bytes.Equal(c.RunId, run) {
			continue
		}
		r, err := OpenResult(l, signed)
		if err == nil && r.Signer.Kind == trustv1.EntryKind_ENTRY_KIND_AGENT && r.Signer.Owner == pool {
			words = append(words, r)
		}
	}
	return words
}

// Finished says whether one of the words is that nothing is left to do of a run: a script
// that failed does not keep the former secret alive.
func Finished(l *Log, results [][]byte, run []byte, pool seal.ID) bool {
	return slices.ContainsFunc(Words(l, results, run, pool), func(r *Result) bool { return r.Class == "" || r.Reason == ScriptsFailed })
}

// ScriptsFailed is the reason of a run of which only scripts failed.
const ScriptsFailed = "scripts.failed"

// Scripted is the outcome of a run's scripts, by the words that say that they have come to
// their end: what failed is done again only when a person says so.
func Scripted(words []*Result) (outcome trustv1.Outcome, ok bool) {
	for _, r := range words {
		if r.Scripts == trustv1.Outcome_OUTCOME_DONE || r.Scripts == trustv1.Outcome_OUTCOME_FAILED {
			return r.Scripts, true
		}
	}
	return trustv1.Outcome_OUTCOME_NONE, false
}

// Followed says when a run was done with what depends on its secret, by the first of the
// words that say so.
func Followed(words []*Result) (first time.Time, ok bool) {
	for _, r := range words {
		if t := time.UnixMilli(r.Time); r.Dependents == trustv1.Outcome_OUTCOME_DONE && (!ok || t.Before(first)) {
			first, ok = t, true
		}
	}
	return first, ok
}

// Ended says whether one of the results, whose word counts, is that a candidate of the
// account was committed or abandoned.
func Ended(l *Log, results [][]byte, account Ref, pool seal.ID, candidate seal.Digest) bool {
	return said(l, results, account, pool, candidate, trustv1.Phase_PHASE_COMMITTED, trustv1.Phase_PHASE_ABANDONED)
}

// Staged says whether one of the results, whose word counts, is that a candidate of the
// account was staged.
func Staged(l *Log, results [][]byte, account Ref, pool seal.ID, candidate seal.Digest) bool {
	return said(l, results, account, pool, candidate, trustv1.Phase_PHASE_STAGED)
}

func said(l *Log, results [][]byte, account Ref, pool seal.ID, candidate seal.Digest, phases ...trustv1.Phase) bool {
	return slices.ContainsFunc(results, func(signed []byte) bool {
		if c := claimed(signed); !slices.Contains(phases, c.GetPhase()) || !bytes.Equal(c.GetDataDigest(), candidate[:]) {
			return false
		}
		r, err := OpenResult(l, signed)
		return err == nil && CheckWord(l, r, account, pool) == nil
	})
}

// ResultDigest is the digest of a Signed{Result} of which nothing was checked.
func ResultDigest(org seal.Digest, signed []byte) (seal.Digest, error) {
	env, err := openEnvelope(seal.KindResult, signed, MaxSigned, 1)
	if err != nil {
		return seal.Digest{}, err
	}
	return env.digest(org), nil
}

// claimed is what a Signed{Result} says before anything of it was checked; nil where
// it says nothing. It may only decide whether the rest is worth checking.
func claimed(signed []byte) *trustv1.Result {
	env, err := openEnvelope(seal.KindResult, signed, MaxSigned, 1)
	if err != nil {
		return nil
	}
	p := &trustv1.Result{}
	if decode("result", env.body, MaxSigned, p) != nil {
		return nil
	}
	return p
}

// CheckWord says whether a result's word counts (3.4) for an account's value:
// staged and committed only from an agent of the resource's pool; abandoned from
// such an agent or from a device with Edit and Operate in scope; edited only from
// a device with Edit in scope. NotAllowed. A zero pool accepts agents of any pool
// that reads the account's folder.
func CheckWord(l *Log, r *Result, account Ref, pool seal.ID) error {
	if r.Account != account {
		return fail(NotAllowed, "a result for %s says nothing of %s", r.Account, account)
	}
	isAgent := r.Signer.Kind == trustv1.EntryKind_ENTRY_KIND_AGENT
	ofPool := isAgent && (r.Signer.Owner == pool || pool.IsZero() && l.Roles(r.Signer.ID, account.Folder).Has(Read))
	roles := Roles(0)
	if !isAgent {
		roles = l.Roles(r.Signer.ID, account.Folder)
	}
	counts := false
	switch r.Phase {
	case trustv1.Phase_PHASE_STAGED, trustv1.Phase_PHASE_COMMITTED:
		counts = ofPool
	case trustv1.Phase_PHASE_ABANDONED:
		counts = ofPool || roles.Has(Edit|Operate)
	case trustv1.Phase_PHASE_EDITED:
		counts = roles.Has(Edit)
	}
	if !counts {
		return fail(NotAllowed, "the word of %s %q (%s) does not count for %s", kindName(r.Signer.Kind), l.FullName(r.Signer), r.Phase, account)
	}
	return nil
}

// Expect is what a person waits for.
type Expect struct {
	Agent   seal.ID     // named in the command; zero: none
	Pool    seal.ID     // of the resource: any of its agents may finish a run; zero: none
	Cause   seal.Digest // digest of the command; zero: any (a scheduled run)
	RunID   seal.ID     // zero: any
	Account Ref         // zero: any
}

// CheckResult is 4.6 step 5: the result comes from the agent named in the command
// or from one of the resource's pool, and answers what was asked: ResultForged
// (also in place of SignerUnknown, SignatureBad and Malformed).
func CheckResult(l *Log, signed []byte, want Expect) (*Result, error) {
	r, err := OpenResult(l, signed)
	if reason := ReasonOf(err); reason == LogGap || reason == LogFork || reason == UnknownField {
		return nil, err
	}
	if err != nil {
		return nil, &Error{Reason: ResultForged, What: "result", Err: err}
	}
	named := r.Signer.ID == want.Agent && !want.Agent.IsZero()
	ofPool := r.Signer.Owner == want.Pool && !want.Pool.IsZero()
	switch {
	case r.Signer.Kind != trustv1.EntryKind_ENTRY_KIND_AGENT || !named && !ofPool:
		return nil, fail(ResultForged, "%s %q may not answer", kindName(r.Signer.Kind), l.FullName(r.Signer))
	case !want.Cause.IsZero() && seal.Digest(r.Cause) != want.Cause:
		return nil, fail(ResultForged, "the result answers something else")
	case !want.RunID.IsZero() && string(r.RunId) != string(want.RunID[:]):
		return nil, fail(ResultForged, "the result is of another run")
	case !want.Account.IsZero() && r.Account != want.Account:
		return nil, fail(ResultForged, "the result is of another account, %s", r.Account)
	}
	return r, nil
}

// checkResult holds a result's fields to their lengths and bounds.
func checkResult(r *trustv1.Result) error {
	const digest = len(seal.Digest{})
	f := &form{what: "result"}
	f.version(r.V)
	f.head(r.LogEpoch, r.LogDigest)
	f.optional("run_id", r.RunId, len(seal.ID{}))
	f.id("by", r.By)
	f.size("cause", r.Cause, digest)
	f.optionalRef("account", r.Account)
	f.must(r.ValueSeq < 1<<62, "value_seq is %d", r.ValueSeq)
	f.optional("data_digest", r.DataDigest, digest)
	f.optional("prev", r.Prev, digest)
	f.time("time", r.Time)
	f.optionalText("reason", r.Reason, 64)
	f.optionalText("class", r.Class, 64)
	f.optional("plugin_sha256", r.PluginSha256, digest)
	f.optional("detail_digest", r.DetailDigest, digest)
	f.digests("script_sha256", r.ScriptSha256)
	checkPins(f, r.Statements)
	if s := r.Same; s != nil {
		f.must(r.Phase == trustv1.Phase_PHASE_EDITED, "a result of phase %s says that the secret is as it was", r.Phase)
		f.must(s.ValueSeq > 0 && s.ValueSeq < r.ValueSeq && s.LogEpoch <= r.LogEpoch, "the secret is not older than the result")
	}
	f.must(r.MadeEpoch == 0 || r.MadeEpoch < r.LogEpoch && (r.Phase == trustv1.Phase_PHASE_STAGED || r.Phase == trustv1.Phase_PHASE_COMMITTED),
		"the secret of a result of phase %s is of epoch %d", r.Phase, r.MadeEpoch)
	switch r.Phase {
	case trustv1.Phase_PHASE_STAGED, trustv1.Phase_PHASE_COMMITTED, trustv1.Phase_PHASE_ABANDONED, trustv1.Phase_PHASE_EDITED:
		f.ref("account", r.Account)
		f.size("data_digest", r.DataDigest, digest)
		f.must(r.ValueSeq > 0, "value_seq is zero")
	case trustv1.Phase_PHASE_FINISHED, trustv1.Phase_PHASE_REPLIED:
	default:
		f.fail("it has no phase")
	}
	return f.done()
}

func checkPins(f *form, pins []*trustv1.Pin) {
	f.count("pins", len(pins), maxPins)
	for _, p := range pins {
		f.ref("pin", p.Record)
		f.size("pin's digest", p.Digest, len(seal.Digest{}))
	}
}
