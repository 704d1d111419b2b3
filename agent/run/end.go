package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// longestPause is how long a run waits at one place. What takes longer it comes back for.
const longestPause = time.Minute

// drain waits until nobody uses the former secret any more, where it works until retire.
func (r *Run) drain(ctx context.Context) (State, error) {
	span := time.Duration(r.account.Statement.GetAccount().GetDrainS()) * time.Second
	if span == 0 || !r.needsRetire() || r.pair != nil || r.outcome.Dependents == trustv1.Outcome_OUTCOME_FAILED {
		return "", nil
	}
	since := r.followed
	switch {
	case !since.IsZero():
	case r.committedByMe(): // and taken up again
		since = time.UnixMilli(r.set.Time)
	default:
		since = r.e.Now()
	}
	wait := since.Add(span).Sub(r.e.Now())
	if wait > longestPause {
		return "", &Stop{Outcome: r.outcome.Credential, Class: sdk.ClassConflict, Reason: "draining", Later: true, After: wait, Err: fmt.Errorf("the new secret is in use; the former one works until %s", since.Add(span).UTC().Format(time.RFC3339))}
	}
	return "", pause(ctx, wait)
}

// needsRetire says whether the former secret still works after the commit.
func (r *Run) needsRetire() bool {
	former := r.current.Secret
	return slices.Contains(r.manifest.Overlap, r.kind()) && (former.Len() > 0 && !former.Equal(r.candidate.credential.Secret) || r.endsUnknown != nil)
}

// retire ends the former secret, and nothing else. That it is gone already is a
// success; that it could not be ended is told, and does not undo the change.
func (r *Run) retire(ctx context.Context) (State, error) {
	if !r.needsRetire() {
		return "", nil
	}
	if r.outcome.Dependents == trustv1.Outcome_OUTCOME_FAILED && r.pair == nil {
		return "", nil // somebody uses it; the next run ends it
	}
	if err := r.journalled(); err != nil {
		return "", err
	}
	if err := r.takeSlot(ctx, r.at.Key); err != nil {
		return "", err
	}
	err := r.endsUnknown
	if err == nil {
		err = r.openSession(ctx)
	}
	if err == nil {
		err = r.endSecret(ctx, r.candidate.credential, r.current)
	}
	if err == nil && r.leftover && r.keepsLeftover() && r.candidate.fresh {
		err = r.endSecret(ctx, r.candidate.credential, r.former)
	}
	if ctx.Err() != nil {
		return "", err
	}
	if err != nil {
		// The same run goes on later: resolve finds the value committed by it.
		r.note("retire", err)
		return "", &Stop{Outcome: r.outcome.Credential, Class: sdk.ClassUnreachable, Reason: "retire.pending", Later: true, Err: fmt.Errorf("the new secret is in use; the former one still works: %w", err)}
	}
	return "", nil
}

// endSecret has the target end one secret of the account, and keep another. That it is
// gone already is a success. A commit that brought back the secret that the record had
// replaced none.
func (r *Run) endSecret(ctx context.Context, keep, old sdk.Credential) error {
	if old.Secret.Equal(keep.Secret) {
		return nil
	}
	if err := r.hold.Check(); err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, r.e.Limits.Apply)
	defer cancel()
	answer, err := r.session.Retire(call, sdk.RetireRequest{Account: r.login, Keep: keep, Old: old})
	r.rotator.failed(err)
	switch {
	case err != nil:
		return err
	case answer.Outcome == sdk.Unchanged:
		return errors.New("the target refuses to end it")
	case answer.Outcome != sdk.Changed:
		return errors.New("the target gave no clear answer")
	}
	return nil
}

// keepsLeftover says whether that secret goes on until the dependents have the new one, of
// whom one may use it.
func (r *Run) keepsLeftover() bool { return len(r.uses) > 0 && r.formerErr == nil }

// endLeftover ends the secret before the current one, where the run that made the
// current one is not known to have done so: after this run nobody would look for it.
func (r *Run) endLeftover(ctx context.Context) error {
	if !r.leftover || r.keepsLeftover() {
		return nil
	}
	if r.formerErr != nil {
		r.note("the secret before the current one, which may still work, is not known", r.formerErr)
		return nil
	}
	if err := r.journalled(); err != nil {
		return err
	}
	if err := r.openSession(ctx); err != nil {
		return r.later(err)
	}
	err := r.endSecret(ctx, r.current, r.former)
	if ctx.Err() != nil {
		return err
	}
	if err != nil {
		return r.later(leftoverPending(err))
	}
	return nil
}

func leftoverPending(err error) error {
	return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "retire.pending", Err: fmt.Errorf("the secret that the last rotation replaced still works, and could not be ended; nothing else was changed: %w", err)}
}

// report tells the vault that the run has ended.
func (r *Run) report(ctx context.Context) (State, error) { return "", r.tell(ctx) }

// verifyCurrent is a run of its own: it asks the target whether the record's
// current secret opens it, and changes nothing.
func (r *Run) verifyCurrent(ctx context.Context) (State, error) {
	if r.drives == byAdmin {
		// He sees why a login fails; without him it is asked all the same.
		if err := r.openSession(ctx); err != nil {
			r.note("open", err)
		}
	}
	seen := r.tryLogin(ctx, r.current, true)
	r.outcome.Reason = seen.Reason
	switch {
	case seen.Verdict == sdk.Accepted:
		r.outcome.Credential = trustv1.Outcome_OUTCOME_DONE
	case seen.Verdict == sdk.Rejected:
		r.outcome.Credential, r.outcome.Class = trustv1.Outcome_OUTCOME_FAILED, sdk.ClassConflict
	case seen.Reason == "no_login":
		r.outcome.Credential = trustv1.Outcome_OUTCOME_UNVERIFIABLE
	default:
		r.outcome.Credential, r.outcome.Class = trustv1.Outcome_OUTCOME_PENDING, sdk.ClassUnreachable
	}
	return Scripted, nil
}

// stop ends a run that a step ended.
func (r *Run) stop(ctx context.Context, s *Stop) error {
	hidden := r.hidden()
	r.outcome.Credential, r.outcome.Class, r.outcome.Reason = s.Outcome, s.Class, s.Reason
	r.outcome.Later, r.outcome.After = s.Later, s.After
	if s.Err != nil {
		r.outcome.Text = s.Err.Error()
	}
	r.e.Log.Info("run ended", "run", r.job.ID, "account", r.job.Account, "state", r.state, "class", s.Class, "reason", clean(hidden, s.Reason), "later", s.Later, "error", hidden.Text(r.outcome.Text))
	return r.tell(ctx)
}

// tell signs how the run ended and gives it to the vault. Until that has answered
// the journal has the run: after a crash it is taken up again, and ends again.
func (r *Run) tell(ctx context.Context) error {
	signed, detail, err := r.signEnd()
	if err != nil {
		return err
	}
	report := ksm.ReportRequest{
		Account: wireRef(r.job.Account), RunID: r.job.ID.Bytes(), Epoch: r.epoch,
		Result: signed, Detail: detail, Retry: r.outcome.Later, After: r.outcome.After.Milliseconds(),
		Refusals: r.refusals(),
	}
	err = r.persist(ctx, func(ctx context.Context) error { return r.e.Vault.Report(ctx, report) })
	if err != nil {
		return vaultError("report", err)
	}
	return nil
}

// refusals makes an event of a check that failed.
func (r *Run) refusals() []ksm.Refusal {
	reason := trust.Reason(r.outcome.Reason)
	if reason.Meaning() == "" {
		return nil
	}
	f := ksm.Refusal{
		Name: EventOf(reason, r.job.Command == nil), Reason: string(reason), Record: wireRef(r.job.Account),
		RunID: r.job.ID.Bytes(), Time: r.e.Now().UnixMilli(),
	}
	switch reason {
	case trust.PluginUnknown:
		f.Fields = map[string]string{"name": r.resource.Statement.GetResource().Plugin}
		if r.plugin != (pluginhost.Plugin{}) {
			f.Fields["sha256"] = fmt.Sprintf("%x", r.plugin.SHA256)
		}
	case trust.TargetIdentity:
		f.Fields = map[string]string{"resource": r.resource.Ref.Record.String()}
	}
	return []ksm.Refusal{f}
}

// EventOf is the event that tells of a check that failed. due: in a run that the
// server asked for.
func EventOf(reason trust.Reason, due bool) string {
	switch reason {
	case trust.CandidateUnattested, trust.CandidateUnauthorised, trust.CandidateRollback, trust.CandidateExpired:
		return "candidate.refused"
	case trust.TargetIdentity:
		return "target.refused"
	case trust.PluginUnknown:
		return "plugin.refused"
	case trust.MandateOff, trust.MandateExpired, trust.TooOften, trust.WrongPool:
		if due {
			return "run.refused"
		}
	}
	return "record.refused"
}

// signEnd signs the result "finished", with its text for the record's readers.
func (r *Run) signEnd() (signed, detail []byte, err error) {
	if r.log == nil {
		r.log = r.e.Directory.Known()
	}
	hidden := r.hidden()
	reason, own := r.inClear(hidden, r.outcome.Reason)
	if own {
		r.outcome.Text = strings.TrimPrefix(r.outcome.Text+"\n", "\n") + "the script's own word for it: " + r.outcome.Reason
	}
	r.outcome.Reason = reason
	result := &trustv1.Result{
		Phase: trustv1.Phase_PHASE_FINISHED, Credential: r.outcome.Credential, Dependents: r.outcome.Dependents,
		Scripts: r.outcome.Scripts, Reason: r.outcome.Reason, Class: string(r.outcome.Class),
	}
	if r.outcome.Text+r.outcome.Said != "" && r.account != nil {
		text := cut(hidden.Text(r.outcome.Text), maxText)
		if text != "" && r.outcome.Said != "" {
			text += "\n"
		}
		text += r.outcome.Said
		detail, err = trust.SealDetail(r.log.Org(), r.account.Key, r.job.Account.Record, &trustv1.Detail{Text: strings.ToValidUTF8(text, "?")})
		if err != nil {
			return nil, nil, err
		}
	}
	signed, err = r.sign(result, detail)
	return signed, detail, err
}

// maxText bounds the text of a detail.
const maxText = 8 << 10

// sign fills in what every result of this run says, and signs it.
func (r *Run) sign(result *trustv1.Result, detail []byte) ([]byte, error) {
	r.events++
	result.RunId, result.Event = r.job.ID.Bytes(), r.events
	result.By, result.Account = r.e.Me.ID.Bytes(), r.job.Account.Proto()
	result.LeaseEpoch, result.Time = r.epoch, r.e.Now().UnixMilli()
	switch {
	case r.job.Command != nil:
		result.Cause = r.job.Command.Digest.Bytes()
	case r.account != nil:
		result.Cause = r.account.Statement.Digest.Bytes()
	default:
		result.Cause = seal.Digest{}.Bytes()
	}
	if result.Reason == string(trust.ValueRollback) {
		// Whoever sets the value by hand must go above what this agent knows.
		if seen, err := r.e.Journal.Value(r.job.Account); err == nil {
			result.ValueSeq = seen.Seq
		}
	}
	if r.candidate != nil {
		result.ValueSeq, result.DataDigest = r.candidate.seq, r.candidate.digest.Bytes()
	}
	if p := result.Phase; p == trustv1.Phase_PHASE_STAGED || p == trustv1.Phase_PHASE_COMMITTED {
		result.MadeEpoch = r.candidate.made
	}
	if r.value != nil {
		result.Prev = r.value.Result.Digest.Bytes()
	}
	for _, s := range r.used() {
		result.Statements = append(result.Statements, &trustv1.Pin{Record: s.Ref.Proto(), Digest: s.Digest.Bytes()})
	}
	if r.plugin != (pluginhost.Plugin{}) {
		result.PluginSha256 = r.plugin.SHA256[:]
	}
	result.ScriptSha256 = r.hashes()
	if detail != nil {
		d := seal.Hash(detail)
		result.DetailDigest = d.Bytes()
	}
	signed, _, err := trust.SignResult(r.log, r.e.Me.Sign, result)
	return signed, err
}
