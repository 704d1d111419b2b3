package run

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// verify asks the target, by a fresh login, what the candidate is to it, and
// decides by the table in decide.go. It is where a run goes on that finds a
// candidate staged.
func (r *Run) verify(ctx context.Context) (State, error) {
	if r.candidate == nil { // a run that only verifies
		return r.verifyCurrent(ctx)
	}
	// Why a login failed is the administrator's to see. Without him a refusal may have
	// reasons of which the secret is innocent, and proves nothing.
	if r.drives == byAdmin {
		if err := r.openSession(ctx); err != nil {
			return r.verifyWithout(ctx, err)
		}
	}
	if r.as == "abandon" {
		// Whoever drove the candidate before may have had it applied a moment ago.
		if err := pause(ctx, r.manifest.Settle); err != nil {
			return "", err
		}
	}
	// A secret that the target has just taken is no guess.
	seen := r.tryLogin(ctx, r.candidate.credential, !r.changed)
	if r.candidate.minted && r.changed {
		seen = r.awaitMinted(ctx, seen)
	}
	if seen.Verdict == sdk.Undecided && seen.Reason == "no_login" && r.manifest.NoLogin && r.as != "abandon" {
		return r.verifyUnseen(ctx)
	}
	if seen.Verdict == sdk.Rejected && r.changed && r.e.Now().Sub(r.applied) < r.manifest.Settle {
		seen = sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "replicating"}
	}
	if r.as == "abandon" && seen.Verdict != sdk.Accepted {
		return "", r.abandonAsked(ctx, seen)
	}
	// A refusal that nobody could judge allows the same candidate to be applied again,
	// which loses nothing, and to be given up only where the current secret, which is asked
	// for then, proves it.
	verdict, refused := seen.Verdict, r.refusedForGood()
	if seen.Reason == notJudged {
		verdict, refused = sdk.Rejected, refused && r.currentProves()
	}
	switch decide(r.drives, verdict, refused, func() sdk.Verdict { return r.tryCurrent(ctx) }) {
	case actCommit:
		return "", nil
	case actAgain:
		if r.candidate.noApply != nil && (seen.Reason != notJudged || r.currentProves()) {
			return r.abandonUnappliable(ctx)
		}
		if r.candidate.noApply != nil {
			return "", refusal(r.candidate.noApply)
		}
		if r.applies >= r.e.Limits.Applies || r.applies > 0 && r.failed >= r.loginTries() {
			return "", r.said(&Stop{Outcome: trustv1.Outcome_OUTCOME_PENDING, Class: sdk.ClassInternal, Reason: "candidate.rejected", Later: !r.took, Err: errors.New("the target was given the new secret and still does not have it: look at the account's expiry, locks and open transactions")})
		}
		return Staged, nil
	case actAbandon:
		return "", r.abandon(ctx, &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: r.refused.Class, Reason: r.refused.Reason})
	case actStop:
		return "", bothRejected()
	}
	return "", r.said(r.undecided(seen))
}

// undecided is how a run ends for now that could not find out which secret the target has.
func (r *Run) undecided(seen sdk.VerifyResponse) *Stop {
	return &Stop{Outcome: trustv1.Outcome_OUTCOME_PENDING, Class: sdk.ClassUnreachable, Reason: orElse(seen.Reason, "undecided"), Later: true, Err: r.because("the target could not be asked which secret it has; both are kept")}
}

// said is stop for the reason that the target gave when it left the account as it was.
func (r *Run) said(stop *Stop) *Stop {
	if r.refused.Outcome == sdk.Unchanged {
		stop.Class, stop.Reason = orElse(r.refused.Class, stop.Class), orElse(r.refused.Reason, stop.Reason)
	}
	return stop
}

func bothRejected() *Stop {
	return &Stop{Outcome: trustv1.Outcome_OUTCOME_PENDING, Class: sdk.ClassConflict, Reason: "both_rejected", Err: errors.New("the target refuses both the current secret and the candidate; both are kept: find out who changed it, give the candidate up (`run abandon`, with --unproven where no agent can judge it), then put the right one into the record")}
}

// because is an error with what was noted on the way to it.
func (r *Run) because(text string) error {
	if r.outcome.Text == "" {
		return errors.New(text)
	}
	return fmt.Errorf("%s (%s)", text, r.outcome.Text)
}

// refusedForGood says whether the target's "unchanged" ends this candidate. It does not
// while an earlier apply has arrived, or may still arrive, nor where the target was
// merely busy. A candidate that another run made, and may have applied, ends by the
// target's policy alone, and not where a replica may answer with what was before: there
// the policy may be that against a secret's second use.
func (r *Run) refusedForGood() bool {
	if r.refused.Outcome != sdk.Unchanged || r.unclear || r.took || r.refused.Class == sdk.ClassUnreachable {
		return false
	}
	return r.candidate.fresh || r.refused.Class == sdk.ClassPolicy && r.manifest.Settle == 0
}

// verifyWithout probes a candidate while the administrator's session cannot be opened:
// one that is accepted is committed, and nothing else follows.
func (r *Run) verifyWithout(ctx context.Context, opening error) (State, error) {
	if seen := r.tryLogin(ctx, r.candidate.credential, !r.changed); seen.Verdict == sdk.Accepted {
		return "", nil
	}
	return "", r.later(opening)
}

// verifyUnseen is for accounts that cannot log in: a clear "changed" of this very
// run is all the proof there can be, and a clear "unchanged" of what nobody else has.
func (r *Run) verifyUnseen(ctx context.Context) (State, error) {
	switch {
	case r.changed:
		r.unseen = true
		return "", nil
	case r.candidate.fresh && r.refusedForGood():
		return "", r.abandon(ctx, &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: r.refused.Class, Reason: r.refused.Reason})
	case r.candidate.noApply != nil:
		return "", refusal(r.candidate.noApply)
	case r.applies < r.e.Limits.Applies:
		return Staged, nil
	}
	return "", &Stop{Outcome: trustv1.Outcome_OUTCOME_PENDING, Class: orElse(r.refused.Class, sdk.ClassUnreachable), Reason: orElse(r.refused.Reason, "undecided"), Later: true, Err: errors.New("the account cannot log in and the target gave no clear answer")}
}

// abandonUnappliable ends a candidate that was proven rejected and may not be
// applied. One that only came too late is replaced by a new one, one that was brought back
// is over; one without authority stays for a person to see.
func (r *Run) abandonUnappliable(ctx context.Context) (State, error) {
	stop := &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassConflict, Reason: string(trust.ReasonOf(r.candidate.noApply)), Err: r.candidate.noApply}
	switch trust.ReasonOf(r.candidate.noApply) {
	case trust.CandidateExpired:
		stop.Outcome, stop.Later = trustv1.Outcome_OUTCOME_PENDING, true
	case trust.ValueFork, trust.CandidateLostByVault: // the target has another value
	case trust.ValueRollback:
		// What was to be brought back, and the target does not have: each further try would
		// be a failed login.
		if stop.Later = !r.candidate.outstanding.IsZero(); stop.Later { // the value before it may be the one
			stop.Outcome = trustv1.Outcome_OUTCOME_PENDING
			if err := r.e.Journal.DropKept(r.job.Account, r.candidate.outstanding); err != nil {
				return "", err
			}
		} else if err := r.e.Journal.RefuseKept(r.job.Account, r.candidate.heals, r.setBy()); err != nil {
			return "", err
		}
	default:
		return "", refusal(r.candidate.noApply)
	}
	return "", r.abandon(ctx, stop)
}

// tryLogin tries a secret; a guess only within the budget of failed logins. Whatever
// goes wrong on the way is undecided.
func (r *Run) tryLogin(ctx context.Context, c sdk.Credential, guess bool) sdk.VerifyResponse {
	if guess && r.failed >= r.loginTries() {
		return sdk.VerifyResponse{Reason: "login_budget"}
	}
	call, cancel := context.WithTimeout(ctx, r.e.Limits.Verify)
	defer cancel()
	seen, err := r.ask(call, c)
	if err != nil {
		r.note("verify", err)
		seen = sdk.VerifyResponse{Reason: orElse(pluginhost.ReasonOf(err), "unreachable")}
	}
	if seen.Verdict != sdk.Accepted {
		r.failed++
	}
	return seen
}

// noRights is a plugin's word that the administrator may not read what is stored.
const noRights = "readback.rights"

// ask is a fresh login, or where the statement says so the stored verifier's word. An
// administrator who may not read that leaves the login: the change is made already.
func (r *Run) ask(ctx context.Context, c sdk.Credential) (sdk.VerifyResponse, error) {
	if r.account.Statement.GetAccount().VerifyMode == "readback" && r.manifest.Readback {
		if err := r.openSession(ctx); err != nil {
			return sdk.VerifyResponse{}, err
		}
		seen, err := r.session.Readback(ctx, sdk.ApplyRequest{Account: r.login, Candidate: c})
		if err != nil || seen.Reason != noRights {
			return seen, err
		}
		r.note("read back", errors.New("the administrator may not read what is stored: the secret was tried by a login"))
	}
	seen, err := r.e.Plugins.Verify(ctx, r.plugin, pluginhost.VerifyJob{Target: r.at, Account: r.login, Credential: c})
	r.rotator.failed(err)
	return seen, err
}

// loginTries is how many logins of one run may fail: the statement's number, else
// the plugin's. An account that rotates itself may have to try two secrets, or it would
// never be found out which it has.
func (r *Run) loginTries() int {
	tries := int(r.account.Statement.GetAccount().MaxProbe)
	if tries == 0 {
		tries = max(r.manifest.LoginTries, 1)
	}
	if r.drives == bySelf {
		tries = max(tries, 2)
	}
	return tries
}

// notJudged is a plugin's word for a login that was refused while nobody could look why:
// the account may be kept out whatever its secret.
const notJudged = "not_judged"

// currentProves says whether a current secret that works proves that any other does not: of
// an account that rotates itself, whose password is the only one, and the same everywhere.
func (r *Run) currentProves() bool {
	return r.drives == bySelf && !slices.Contains(r.manifest.Overlap, r.kind()) && r.manifest.OldLives == 0 && r.manifest.Settle == 0
}

// abandonAsked is a person's wish to give a candidate up, which the target must have
// proven rejected.
func (r *Run) abandonAsked(ctx context.Context, seen sdk.VerifyResponse) error {
	proven := seen.Verdict == sdk.Rejected
	if seen.Reason == notJudged && r.currentProves() {
		proven = r.tryCurrent(ctx) == sdk.Accepted
	}
	if proven {
		return r.abandon(ctx, &Stop{Outcome: trustv1.Outcome_OUTCOME_NONE, Reason: "abandoned"})
	}
	return &Stop{Outcome: trustv1.Outcome_OUTCOME_PENDING, Class: sdk.ClassConflict, Reason: orElse(seen.Reason, "undecided"), Err: errors.New("it is not proven that the target does not have the new secret; both are kept")}
}

// tryCurrent asks for the current secret of an account that rotates itself: by the
// session that applying needs anyway, and by a login of its own once something was sent.
func (r *Run) tryCurrent(ctx context.Context) sdk.Verdict {
	if r.applies > 0 {
		return r.tryLogin(ctx, r.current, true).Verdict
	}
	if r.currentRefused { // once is enough, and each time more is a failed login
		return sdk.Rejected
	}
	if r.failed >= r.loginTries() {
		return sdk.Undecided
	}
	err := r.openSession(ctx)
	own := (*sdk.Error)(nil)
	switch {
	case err == nil:
		return sdk.Accepted
	case errors.As(err, &own) && own.Class == sdk.ClassAuth && own.Reason != string(trust.TargetIdentity):
		r.failed++
		// An account that is disabled, or asks for more than its secret, may have this one.
		if own.Reason == "admin.refused" || own.Reason == "bad_secret" {
			r.currentRefused = true
			return sdk.Rejected
		}
	}
	r.note("open", err)
	return sdk.Undecided
}
