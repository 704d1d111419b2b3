package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// The vault's copy of a candidate is the truth, as long as the vault has it. One that
// was restored to yesterday, or that lies, has not: then the agent's own copies bring
// the secret back (keys.md 5.5). A copy is probed first, like every candidate that may
// have been applied; one that was committed once is never applied again.

// wrapped is what opens the account's ciphertexts, as it was served.
type wrapped struct {
	recordKey  []byte // under the folder key
	keyVersion uint32
	folderKey  []byte // sealed to this agent
}

// keep has the journal store the candidate while the run goes on. It is there before
// anything is applied.
func (r *Run) keep(staged []byte) {
	k := journal.Kept{
		Seq: r.candidate.seq, Digest: r.candidate.digest, Data: r.candidate.data,
		RecordKey: r.wrapped.recordKey, KeyVersion: r.wrapped.keyVersion, Result: staged, Former: r.candidate.former,
	}
	folderKey, keep := r.wrapped.folderKey, r.e.Journal.Keep
	if r.candidate.minted {
		keep = r.e.Journal.KeepMinted
	}
	r.inJournal(func() error { return keep(r.job.Account, k, folderKey) })
}

// checkValue is trust.CheckValue, which remembers the value. One that this agent committed
// without hearing so, because the answer was lost, is no candidate from then on: what is
// kept of it is what brings it back where the vault loses it later.
func (e *Engine) checkValue(log *trust.Log, account *servedRecord, pool seal.ID) (*trust.Value, error) {
	v, err := trust.CheckValue(log, e.Journal, &account.Content, account.served, pool, e.Now())
	if err != nil {
		return v, err
	}
	set, signed := trust.Setter(log, v.Result, account.wire.Recent, pool)
	if set.GetPhase() != trustv1.Phase_PHASE_COMMITTED || !bytes.Equal(set.By, e.Me.ID[:]) {
		return v, nil
	}
	digest := seal.Digest(set.DataDigest)
	mine := journal.Settled{
		Account: account.Ref, Digest: digest, Result: signed,
		Value: &trust.ValueSeen{Seq: set.ValueSeq, Digest: digest, Set: set.ValueSeq},
	}
	return v, e.Journal.FoundCommitted(mine, time.UnixMilli(set.Time))
}

// missing is the candidate of this agent that the vault should have and does not serve;
// nil for none. against is what has come in its place meanwhile: it is only brought back
// where the target has it. Empty: nothing.
func (r *Run) missing(ctx context.Context) (k *journal.Kept, against trust.Reason, err error) {
	k, committed, err := r.e.Journal.Kept(r.job.Account)
	if err != nil || k == nil && committed == nil {
		return nil, "", err
	}
	if (k == nil || k.Doubted) && r.mayReturn(committed) {
		k = committed
	}
	if k == nil {
		return nil, "", nil
	}
	passed, ended := r.passed(k), r.ended(k)
	if passed && !ended && r.drives == bySelf {
		// Nobody else can set the secret: where the target refuses the record's, this copy
		// may be the only way in.
		switch r.tryCurrent(ctx) {
		case sdk.Rejected:
			return k, trust.CandidateLostByVault, nil
		case sdk.Accepted:
			r.freePlace()
			if !r.currentProves() { // the target may have this one, and take the record's besides
				return nil, "", nil
			}
			ended = true
		default: // kept until the target has said which
			return nil, "", nil
		}
	}
	switch {
	case k == committed:
		return nil, "", nil
	case ended || passed: // settled, while this agent was away
		if err := r.e.Journal.DropKept(r.job.Account, k.Digest); err != nil {
			return nil, "", err
		}
		return r.missing(ctx) // the one before it may not be
	case k.Seq == r.setBy():
		return k, trust.ValueFork, nil
	}
	return k, "", nil
}

// setBy is the number of the value that set the record's secret: an edit that left it as it
// was says nothing of the target's.
func (r *Run) setBy() (seq uint64) {
	if r.value != nil {
		seq, _ = r.value.Result.SetBy()
	}
	return seq
}

// passed says whether the record has another secret than a kept one by now: of a later
// value, or a person's.
func (r *Run) passed(k *journal.Kept) bool {
	last := r.setBy()
	byAgent := r.value != nil && (r.value.Result.Phase == trustv1.Phase_PHASE_COMMITTED || r.value.Result.Same != nil)
	return k.Seq < last || k.Seq == last && !byAgent
}

// ended says whether a kept copy's end is in the record, or told beside it.
func (r *Run) ended(k *journal.Kept) bool {
	return k.Digest == r.account.DataDigest || trust.Ended(r.log, r.recent, r.job.Account, r.pool(), k.Digest)
}

// mayReturn says whether the committed copy may be asked for: the vault may have lost the
// commit, and others have written since. After a refusal that is so again once somebody has
// set another secret.
func (r *Run) mayReturn(committed *journal.Kept) bool {
	return committed != nil && (!committed.Refused || committed.RefusedAt < r.setBy()) && r.drives == bySelf && r.passed(committed) && !r.ended(committed)
}

// recall takes up a candidate of this agent that the vault does not have any more: it is
// staged again, and then asked of the target.
func (r *Run) recall(ctx context.Context, account *servedRecord, k *journal.Kept, against trust.Reason) (State, error) {
	plain, current, err := r.openKept(k)
	if err != nil {
		return "", refusal(err)
	}
	defer clear(plain)
	cred, err := credential(plain, r.kind())
	if err != nil {
		return "", refusal(err)
	}
	if !r.currentRefused && cred.Secret.Equal(r.current.Secret) { // it has come back in another way
		cred.Secret.Wipe()
		if err := r.e.Journal.DropKept(r.job.Account, k.Digest); err != nil {
			return "", err
		}
		return r.begin()
	}
	said, err := trust.OpenResult(r.log, k.Result)
	known := err == nil
	data := k.Data
	settled := known && said.Phase == trustv1.Phase_PHASE_COMMITTED
	if !current || settled { // what was settled is not staged again
		if data, err = r.recordWith(cred, r.account.Data); err != nil {
			return "", refusal(err)
		}
	}
	r.candidate = &candidate{credential: cred, data: data, digest: seal.Hash(data), seq: 1, recalled: true, outstanding: k.Digest, made: 1, former: k.Former || settled}
	if r.candidate.former { // nor may another run apply it
		_, committed, err := r.e.Journal.Kept(r.job.Account)
		if err != nil {
			return "", err
		}
		r.candidate.committed = k.Result // of whoever has no commit of his own: it allows nothing
		if committed != nil {
			r.candidate.committed = committed.Result
		}
	}
	mine := false // another's may never be applied on this agent's word
	if known {
		_, made := said.SetBy()
		r.candidate.made, mine = max(made, 1), said.Signer.ID == r.e.Me.ID
	}
	if r.value != nil {
		r.candidate.seq = r.value.Seq + 1
	}
	switch {
	case against == trust.ValueFork:
		r.tellLost("value_fork", trust.ValueFork)
		r.candidate.noApply = &trust.Error{Reason: trust.ValueFork, What: fmt.Sprintf("another agent committed value %d of %s", k.Seq, r.job.Account)}
	case r.lost > 0 || trust.Staged(r.log, account.wire.Recent, r.job.Account, r.pool(), k.Digest):
		// Else the vault may never have had it: its answer did not arrive.
		r.tellLost("candidate_lost_by_vault", trust.CandidateLostByVault)
	}
	// Nobody has asked for a new secret, a person has set one, nobody may have asked for this,
	// or it was the account's before.
	if (r.recovering || against != "" || !mine || r.candidate.former) && r.candidate.noApply == nil {
		r.candidate.noApply = &trust.Error{Reason: trust.CandidateLostByVault, What: fmt.Sprintf("value %d of %s is brought back where the target has it, and not applied", k.Seq, r.job.Account)}
	}
	if r.candidate.noApply != nil {
		return r.bringBack(ctx, k, against != "" || r.candidate.former)
	}
	return Prepared, nil
}

// bringBack stages what may not be applied only once the target has taken it: beside it
// stands the authority of this run, by which a later one would apply it. over: the record's
// secret may have come after it.
func (r *Run) bringBack(ctx context.Context, k *journal.Kept, over bool) (State, error) {
	opening := error(nil)
	if r.drives == byAdmin { // without him a refusal proves nothing
		opening = r.openSession(ctx)
	}
	// It may have been applied a moment ago, by whoever it was.
	if err := pause(ctx, r.manifest.Settle); err != nil {
		return "", err
	}
	seen := r.tryLogin(ctx, r.candidate.credential, true)
	// Where a former secret lives on for a while, one that is taken beside the record's own may
	// be that.
	both := false
	if over && seen.Verdict == sdk.Accepted && r.manifest.OldLives > 0 && !r.currentRefused {
		now := r.tryLogin(ctx, r.current, true)
		if now.Verdict == sdk.Undecided && now.Reason != notJudged {
			return "", r.undecided(now)
		}
		both = now.Verdict == sdk.Accepted
	}
	switch nobodyKnows := both || seen.Reason == notJudged || seen.Reason == "no_login"; {
	case seen.Verdict == sdk.Accepted && !both:
		return Prepared, nil
	case opening != nil:
		return "", r.later(opening)
	case nobodyKnows && (r.recovering || r.drives == bySelf && r.tryCurrent(ctx) != sdk.Accepted):
		if r.currentRefused {
			if err := r.refuse(k, false); err != nil {
				return "", err
			}
		}
		return "", refusal(r.candidate.noApply)
	case nobodyKnows: // a new one can be set: this copy stays until that has been committed
		r.candidate.credential.Secret.Wipe()
		r.candidate = nil
		r.freePlace()
		return "", r.checkPair()
	}
	switch decide(r.drives, seen.Verdict, false, func() sdk.Verdict { return r.tryCurrent(ctx) }) {
	case actAgain: // it is over: the target has another
		if err := r.e.Journal.DropKept(r.job.Account, k.Digest); err != nil {
			return "", err
		}
		return "", &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassConflict, Reason: string(trust.ReasonOf(r.candidate.noApply)), Err: r.candidate.noApply}
	case actStop:
		if err := r.refuse(k, true); err != nil {
			return "", err
		}
		stop := bothRejected()
		stop.Err = errors.New("the target refuses both the record's secret and the candidate that the vault has lost; the agent keeps its copy: find out who changed it, then put the right one into the record")
		return "", stop
	}
	return "", r.undecided(seen)
}

// refuse notes that the target has refused a kept value, and the record's secret. Of two
// that the vault has lost the other one is asked for next; both are kept, for the target
// itself may have been put back. over: it is proven that the target does not have this one;
// else the two take turns.
func (r *Run) refuse(k *journal.Kept, over bool) error {
	outstanding, committed, err := r.e.Journal.Kept(r.job.Account)
	switch {
	case err != nil || committed == nil:
		return err
	case committed.Digest == k.Digest && over:
		return r.e.Journal.RefuseKept(r.job.Account, k.Seq, r.setBy()) // each further try would be a failed login
	case committed.Digest == k.Digest && outstanding == nil:
		return nil
	case committed.Digest == k.Digest:
		return r.e.Journal.DoubtKept(r.job.Account, false)
	case !r.mayReturn(committed):
		return nil
	}
	if err := r.e.Journal.DoubtKept(r.job.Account, true); err != nil {
		return err
	}
	return &Stop{Outcome: trustv1.Outcome_OUTCOME_PENDING, Class: sdk.ClassConflict, Reason: string(trust.CandidateLostByVault), Later: true, Err: errors.New("the target refuses the record's secret and the newer of two that the vault has lost: the older one is asked for next")}
}

// freePlace closes the session before a new secret is made where a script makes it, which
// waits for a place among the processes (see prepare).
func (r *Run) freePlace() {
	if r.makes != nil {
		r.dropSession()
	}
}

// heal brings back a value that this agent committed and that the vault has lost:
// rollback is what the check of the served one said.
func (r *Run) heal(ctx context.Context, account *servedRecord, rollback error) (State, error) {
	outstanding, k, err := r.e.Journal.Kept(r.job.Account)
	if err != nil {
		return "", err
	}
	seen, err := r.e.Journal.Value(r.job.Account)
	if err != nil {
		return "", err
	}
	staged := account.wire.Staged
	if staged != nil && staged.Owner != "agent" {
		staged = nil
	}
	if staged != nil && r.as == "abandon" {
		return r.takeUp(ctx, account)
	}
	newer := k != nil && outstanding != nil && outstanding.Seq > k.Seq // lost, too, and perhaps applied
	// A person may have edited the record since, and left the secret as it was.
	if k == nil || k.Refused && !newer || k.Seq != seen.Set || r.as == "abandon" {
		return "", refusal(rollback)
	}
	// Where the value's own commit was lost, that comes first: edits after it, and the newer
	// candidate, are seen to by the next run.
	recommits := staged != nil && seal.Hash(staged.Data) == k.Digest
	if newer && r.drives == bySelf {
		// No administrator can tell which of the two it has: both are asked for.
		if newer, err = r.takesNewer(ctx, outstanding, k, rollback); err != nil {
			return "", err
		}
		recommits = recommits && !newer
	}
	use := k
	if newer && !recommits {
		use = outstanding
	}
	plain, _, err := r.openKept(use)
	if err != nil {
		return "", refusal(err)
	}
	defer clear(plain)
	cred, err := credential(plain, r.kind())
	if err != nil {
		return "", refusal(err)
	}
	// Whoever has the record's key may have written what is served: of that only what
	// somebody attests is signed again, and ended.
	attested, rest := r.value != nil && seal.Digest(r.value.Result.DataDigest) == r.account.DataDigest, plain
	switch {
	case attested && r.value.Seq > use.Seq: // a person went on with what was left
		rest = r.account.Data
	case !attested && r.account.DataDigest != seen.Former && r.account.DataDigest != seen.Digest:
		r.endsUnknown = &trust.Error{Reason: trust.ValueUnattested, What: fmt.Sprintf("the value of %s that was served in place of a newer one", r.job.Account)}
	}
	r.tellLost("record.refused", trust.ValueRollback)
	next := max(k.Seq, seen.Seq) + 1
	if r.value != nil { // others have attested the older secret since, under other keys
		next = max(next, r.value.Seq+1)
	}
	r.candidate = &candidate{
		credential: cred, seq: next, former: true, heals: k.Seq, committed: k.Result, made: 1, // as its commit counts (trust.Result.SetBy)
		noApply: &trust.Error{Reason: trust.ValueRollback, What: fmt.Sprintf("value %d of %s is brought back where the target takes it, and not applied", use.Seq, r.job.Account)},
	}
	if use != k {
		r.candidate.outstanding = use.Digest
	}
	if recommits {
		r.candidate.data, r.candidate.digest, r.candidate.seq, r.candidate.committed = staged.Data, k.Digest, k.Seq, nil
		return Applied, nil
	}
	if staged != nil {
		if err := r.makeRoom(ctx, staged, rollback); err != nil {
			return "", err
		}
	}
	if cred.Secret.Equal(r.current.Secret) { // edits alone were lost: this commit will hide what it replaced
		if err := r.endLeftover(ctx); err != nil {
			return "", err
		}
	}
	if r.candidate.data, err = r.recordWith(cred, rest); err != nil {
		return "", refusal(err)
	}
	r.candidate.digest = seal.Hash(r.candidate.data)
	return Prepared, nil
}

// giveUp is a person's wish to give up an old candidate that came back with the vault's old
// state: while it stands there, nobody can set the record right.
func (r *Run) giveUp(ctx context.Context, staged *ksm.ExtStaged) error {
	last, err := r.e.Journal.Value(r.job.Account)
	if err != nil {
		return err
	}
	plain, err := seal.OpenGCM(r.account.Key, staged.Data, nil)
	if err != nil {
		return refusal(&trust.Error{Reason: trust.CandidateUnattested, What: "candidate of " + r.job.Account.String(), Err: err})
	}
	defer clear(plain)
	cred, err := credential(plain, r.kind())
	if err != nil {
		return refusal(err)
	}
	r.candidate = &candidate{credential: cred, digest: seal.Hash(staged.Data), seq: last.Seq + 1}
	if r.drives == byAdmin { // without him a refusal proves nothing
		if err := r.openSession(ctx); err != nil {
			return r.later(err)
		}
	}
	if err := pause(ctx, r.manifest.Settle); err != nil {
		return err
	}
	seen := r.tryLogin(ctx, cred, true)
	if seen.Verdict == sdk.Accepted {
		return &Stop{Outcome: trustv1.Outcome_OUTCOME_PENDING, Class: sdk.ClassConflict, Reason: string(trust.CandidateRollback), Err: errors.New("the target has this candidate, and the vault has lost what came after it: set another secret at the target, give this one up, then put that secret into the record")}
	}
	return r.abandonAsked(ctx, seen)
}

// takesNewer asks the target which of two kept values it has. Whoever is not let in with
// either gets the error of what is served.
func (r *Run) takesNewer(ctx context.Context, newer, older *journal.Kept, rollback error) (bool, error) {
	seen, err := r.tryKept(ctx, newer)
	switch {
	case err != nil:
		return false, err
	case seen.Verdict == sdk.Accepted:
		return true, nil
	case seen.Verdict == sdk.Undecided && seen.Reason != notJudged:
		return false, r.undecided(seen)
	}
	over := seen.Verdict == sdk.Rejected
	if !older.Refused {
		seen, err = r.tryKept(ctx, older)
		switch {
		case err != nil:
			return false, err
		case seen.Verdict == sdk.Accepted:
			return false, nil
		case seen.Verdict == sdk.Undecided && seen.Reason != notJudged:
			return false, r.undecided(seen)
		case seen.Verdict == sdk.Rejected: // each further try would be a failed login
			err = r.e.Journal.RefuseKept(r.job.Account, older.Seq, r.setBy())
		}
	}
	if err == nil && over { // it is kept, for whoever asks for a run
		err = r.e.Journal.DoubtKept(r.job.Account, true)
	}
	if err != nil {
		return false, err
	}
	return false, refusal(rollback)
}

// tryKept asks the target for the secret of a kept value, which may have been applied a
// moment ago.
func (r *Run) tryKept(ctx context.Context, k *journal.Kept) (seen sdk.VerifyResponse, err error) {
	plain, _, err := r.openKept(k)
	if err != nil {
		return seen, refusal(err)
	}
	defer clear(plain)
	cred, err := credential(plain, r.kind())
	if err != nil {
		return seen, refusal(err)
	}
	defer cred.Secret.Wipe()
	if err := pause(ctx, r.manifest.Settle); err != nil {
		return seen, err
	}
	return r.tryLogin(ctx, cred, true), nil
}

// makeRoom gives up an old candidate that came back with the vault's old state. That
// the target takes the value committed after it proves that it is over.
func (r *Run) makeRoom(ctx context.Context, staged *ksm.ExtStaged, rollback error) error {
	if seen := r.tryLogin(ctx, r.candidate.credential, true); seen.Verdict != sdk.Accepted {
		return refusal(rollback)
	}
	mine := r.candidate
	defer func() { r.candidate = mine }()
	r.candidate = &candidate{digest: seal.Hash(staged.Data), seq: mine.seq}
	why := &Stop{Class: sdk.ClassConflict, Reason: string(trust.CandidateRollback)}
	if err := r.abandon(ctx, why); err != error(why) {
		return err
	}
	r.settled = nil
	return nil
}

// openKept opens a kept value, the record's JSON. current: its ciphertext is under the
// record's key as it is now.
func (r *Run) openKept(k *journal.Kept) (plain []byte, current bool, err error) {
	if plain, err := seal.OpenGCM(r.account.Key, k.Data, nil); err == nil {
		return plain, true, nil
	}
	sealed, err := r.e.Journal.FolderKey(r.job.Account.Folder, k.KeyVersion)
	if err != nil {
		return nil, false, err
	}
	folder, err := trust.OpenFormerFolderKey(r.log, r.e.Me.ID, r.e.Me.Seal, r.job.Account.Folder, sealed)
	if err != nil {
		return nil, false, fmt.Errorf("kept value: %w", err)
	}
	defer folder.Wipe()
	key, err := seal.UnwrapKey(folder, k.RecordKey)
	if err != nil {
		return nil, false, &trust.Error{Reason: trust.RecordCorrupt, What: "kept value's key", Err: err}
	}
	defer key.Wipe()
	if plain, err = seal.OpenGCM(key, k.Data, nil); err != nil {
		return nil, false, &trust.Error{Reason: trust.RecordCorrupt, What: "kept value", Err: err}
	}
	return plain, false, nil
}

// lostAtCommit is for a candidate that was staged and that the vault, asked to commit
// it, does not have: the run looks again, and finds what it kept.
func (r *Run) lostAtCommit(refused error) (State, error) {
	if r.lost++; r.lost > 1 {
		return "", &Stop{Outcome: trustv1.Outcome_OUTCOME_PENDING, Class: sdk.ClassConflict, Reason: string(trust.CandidateLostByVault), Later: true, Err: fmt.Errorf("the vault loses what it acknowledged; this agent keeps the secret: %w", refused)}
	}
	r.candidate.credential.Secret.Wipe()
	r.candidate, r.currentRefused = nil, false
	r.wipe()
	r.target = target{}
	return Leased, nil
}

func lostByVault(err error) bool {
	return errors.Is(err, &ksm.Error{Code: ksm.CodeNotStaged}) || errors.Is(err, &ksm.Error{Code: ksm.CodeDigest})
}

// tellLost makes an event of what the vault lost.
func (r *Run) tellLost(event string, reason trust.Reason) {
	r.e.Log.Warn("the vault has lost what it had acknowledged; this agent's copy is used", "reason", reason, "run", r.job.ID, "account", r.job.Account)
	r.e.Tell(ksm.Refusal{Name: event, Reason: string(reason), Record: wireRef(r.job.Account), RunID: r.job.ID.Bytes(), Time: r.e.Now().UnixMilli()})
}

// inJournal writes to the journal while the run goes on; journalled waits for it.
func (r *Run) inJournal(write func() error) {
	done := make(chan error, 1)
	r.writes = append(r.writes, done)
	go func() { done <- write() }()
}

// journalled waits until the journal has what was given to it. It may be asked again.
func (r *Run) journalled() error {
	var failed []error
	for _, done := range r.writes {
		err := <-done
		done <- err
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}
