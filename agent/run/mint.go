package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/fault"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Secrets that the target makes. The order of things is what keeps one from being lost,
// and a person's own from being deleted:
//
//	list → journal what there is → mint → keep, stage → verify → commit → retire the former
//
// After a crash between journal and keep the target may have one that nobody knows:
// orphans says which that is, and it is swept before the next is made.

// mints says whether the target makes this account's secret.
func (r *Run) mints() bool { return slices.Contains(r.manifest.Minted, r.kind()) }

// mint has the target make the candidate. The session is open.
func (r *Run) mint(ctx context.Context) (sdk.Credential, error) {
	if r.current.Secret.Len() > 0 && r.current.ID == "" {
		return sdk.Credential{}, &Stop{
			Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassInvalid, Reason: "key_id.missing",
			Err: errors.New("the record does not say which id the present secret has at the target, so it could not be ended afterwards: put that into the record (`rotunda record edit --key-id`)"),
		}
	}
	if err := r.journalled(); err != nil {
		return sdk.Credential{}, err
	}
	had, err := r.sweepOrphans(ctx)
	if err != nil {
		return sdk.Credential{}, err
	}
	if err := r.beginMint(had); err != nil {
		return sdk.Credential{}, err
	}
	made, err := r.askForOne(ctx)
	if refused := (*sdk.Error)(nil); r.leftover && r.keepsLeftover() && errors.As(err, &refused) && refused.Class == sdk.ClassConflict {
		// There is no room for a third: the one before the current one goes, whoever uses it.
		if err := r.endSecret(ctx, r.current, r.former); err != nil {
			return sdk.Credential{}, errors.Join(r.later(leftoverPending(err)), r.e.Journal.EndMint(r.job.Account))
		}
		r.leftover = false
		if err := r.beginMint(had); err != nil { // anew: what is made belongs to the time in which it is asked for
			return sdk.Credential{}, err
		}
		made, err = r.askForOne(ctx)
	}
	if err != nil {
		return sdk.Credential{}, r.mintFailed(ctx, err, had)
	}
	if slices.Contains(had, made.ID) {
		made.Secret.Wipe()
		return sdk.Credential{}, &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassInternal, Reason: "mint.not_new", Err: fmt.Errorf("the plugin %s gave the id %q, which the account had before", r.plugin.Name, made.ID)}
	}
	r.applied, r.changed, r.took = r.e.Now(), true, true
	return made, nil
}

// beginMint journals that the target is asked now, and until when its answer may come.
func (r *Run) beginMint(had []string) error {
	now := r.e.Now()
	intent := journal.Mint{Run: r.job.ID, Epoch: r.epoch, Time: now, Until: now.Add(r.e.Limits.Apply), Had: had}
	if err := r.e.Journal.BeginMint(r.job.Account, intent); err != nil {
		return err
	}
	if err := r.hold.Check(); err != nil {
		return errors.Join(err, r.e.Journal.EndMint(r.job.Account))
	}
	return nil
}

// askForOne has the target make one secret, and waits no longer than for a change.
func (r *Run) askForOne(ctx context.Context) (sdk.Credential, error) {
	call, cancel := context.WithTimeout(ctx, r.e.Limits.Apply)
	defer cancel()
	fault.At("before-mint")
	defer fault.At("after-mint")
	return r.session.Mint(call, sdk.MintRequest{Account: r.login, Kind: r.kind()})
}

// mintFailed ends the run. What the target refused it did not make; of everything else
// the journal keeps the intention, and the next run looks what came of it.
func (r *Run) mintFailed(ctx context.Context, err error, had []string) error {
	refused := (*sdk.Error)(nil)
	if !pluginhost.NotSent(err) && (!errors.As(err, &refused) || !refused.MadeNothing()) {
		r.note("mint", err)
		r.dropSession() // what is left of it may not be believed
		if ctx.Err() != nil {
			return err
		}
		return &Stop{
			Outcome: trustv1.Outcome_OUTCOME_PENDING, Class: sdk.ClassUnreachable, Reason: "mint.unknown", Later: true,
			Err: fmt.Errorf("the target may have made a new secret and did not answer; the next try looks for it, and deletes it: %w", err),
		}
	}
	if end := r.e.Journal.EndMint(r.job.Account); end != nil {
		return end
	}
	if refused != nil && refused.Class == sdk.ClassConflict {
		return &Stop{
			Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: refused.Class, Reason: refused.Reason,
			Err: fmt.Errorf("%w. The account has %s. Nothing was deleted to make room: delete at the target what nobody uses", err, strings.Join(had, ", ")),
		}
	}
	if refused == nil || refused.Class == sdk.ClassUnreachable || refused.Class == sdk.ClassInternal {
		return r.later(err)
	}
	return refusal(err)
}

// sweepOrphans lists what the account has, and deletes what a run that broke off had the
// target make. It gives all ids that the target named.
func (r *Run) sweepOrphans(ctx context.Context) (had []string, err error) {
	m, err := r.e.Journal.Mint(r.job.Account)
	if err != nil {
		return nil, err
	}
	if m != nil {
		// The target may not show yet what it made.
		if err := pause(ctx, min(m.Time.Add(r.manifest.Settle).Sub(r.e.Now()), r.manifest.Settle)); err != nil {
			return nil, err
		}
	}
	call, cancel := context.WithTimeout(ctx, r.e.Limits.Apply)
	defer cancel()
	items, err := r.session.List(call, sdk.ListRequest{Account: r.login, Kind: r.kind()})
	if err != nil {
		return nil, r.listFailed(err)
	}
	for _, i := range items {
		had = append(had, i.ID)
	}
	if m == nil {
		return had, nil
	}
	sweep, doubt := orphans(*m, items, []string{r.current.ID, r.former.ID})
	switch {
	case sweep != "":
		if err := r.sweep(ctx, sweep); err != nil {
			return nil, r.later(&sdk.Error{Class: sdk.ClassUnreachable, Reason: "orphan.pending", Err: fmt.Errorf("the secret %q that a run which broke off had the target make could not be deleted; nothing else was changed: %w", sweep, err)})
		}
	case len(doubt) == 0 && m.Made == "" && r.e.Now().Before(m.Until):
		return nil, &Stop{
			Outcome: trustv1.Outcome_OUTCOME_PENDING, Class: sdk.ClassUnreachable, Reason: "mint.unknown", Later: true,
			Err: fmt.Errorf("a run broke off while the target was making a new secret, and the target has none to show: it may still come, until %s", m.Until.UTC().Format(time.RFC3339)),
		}
	case len(doubt) > 0 && (!m.Told || r.job.Command == nil):
		m.Told = true
		if err := r.e.Journal.BeginMint(r.job.Account, *m); err != nil {
			return nil, err
		}
		return nil, &Stop{
			Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassConflict, Reason: "orphan.ambiguous",
			Err: fmt.Errorf("a run broke off at %s, while the target was making a new secret. The account has %s, of which the record knows nothing, and one of them may be a person's. Delete at the target what nobody uses, then rotate the account by hand: what is there then is left alone",
				m.Time.UTC().Format(time.RFC3339), strings.Join(doubt, ", ")),
		}
	}
	return had, nil
}

func (r *Run) listFailed(err error) error {
	refused := (*sdk.Error)(nil)
	if errors.As(err, &refused) && refused.MadeNothing() && !refused.NotSent {
		return refusal(err)
	}
	return r.later(err)
}

// orphans says which of an account's credentials a run that broke off had the target
// make. What may be a person's is never it: doubt are the ids of which only a person can
// say whose they are.
//
//	known by id (Made)                                       → that one
//	in neither the journal's list nor the vault, exactly one,
//	made between the intention and its deadline              → that one
//	several, or one made before or after, or no time known   → doubt
func orphans(m journal.Mint, items []sdk.Item, vault []string) (sweep string, doubt []string) {
	var unknown []sdk.Item
	for _, i := range items {
		switch {
		case slices.Contains(vault, i.ID):
		case m.Made != "" && i.ID == m.Made:
			return i.ID, nil
		case m.Made == "" && !slices.Contains(m.Had, i.ID):
			unknown = append(unknown, i)
			doubt = append(doubt, i.ID)
		}
	}
	if len(unknown) != 1 {
		return "", doubt
	}
	// Targets tell seconds.
	if made := unknown[0].Created; !m.Told && !made.Before(m.Time.Truncate(time.Second)) && !made.After(m.Until) {
		return unknown[0].ID, nil
	}
	return "", doubt
}

// sweep has the target delete one credential.
func (r *Run) sweep(ctx context.Context, id string) error {
	if err := r.hold.Check(); err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, r.e.Limits.Apply)
	defer cancel()
	return r.session.Sweep(call, sdk.SweepRequest{Account: r.login, Kind: r.kind(), IDs: []string{id}})
}

// dropMinted is for a candidate that the vault did not take: the target has it, and
// nobody may use it. What cannot be deleted now is deleted by the next run.
func (r *Run) dropMinted(ctx context.Context, why error) error {
	id := r.candidate.credential.ID
	now := r.e.Now()
	m := journal.Mint{Run: r.job.ID, Epoch: r.epoch, Time: now, Until: now, Made: id}
	if err := r.e.Journal.DropMinted(r.job.Account, r.candidate.digest, m); err != nil {
		return err
	}
	if errors.Is(why, &ksm.Error{Code: ksm.CodeEpochOld}) { // the account is another run's now
		return nil
	}
	if err := r.sweep(ctx, id); err != nil {
		r.note("delete what the target made and the vault did not take", err)
		return nil
	}
	if r.manifest.Settle > 0 { // what the target does not know yet it cannot delete: the next run looks again
		return nil
	}
	return r.e.Journal.EndMint(r.job.Account)
}

// endMinted deletes a candidate that is given up, which the target refuses now: it might
// come to take it later, when nobody knows of it.
func (r *Run) endMinted(ctx context.Context) error {
	if !r.mints() || r.candidate.credential.ID == "" || r.candidate.heals > 0 {
		return nil
	}
	if err := r.openSession(ctx); err != nil {
		return r.later(err)
	}
	if err := r.sweep(ctx, r.candidate.credential.ID); err != nil {
		return r.later(&sdk.Error{Class: sdk.ClassUnreachable, Reason: "orphan.pending", Err: fmt.Errorf("the new secret %q is not in force, and could not be deleted at the target: %w", r.candidate.credential.ID, err)})
	}
	return nil
}

// awaitMinted asks again, for as long as the target may need to come to take what it made.
func (r *Run) awaitMinted(ctx context.Context, seen sdk.VerifyResponse) sdk.VerifyResponse {
	tried := r.failed
	for waited, wait := time.Duration(0), 500*time.Millisecond; seen.Verdict == sdk.Rejected && waited < r.manifest.Settle; wait = min(2*wait, 5*time.Second) {
		wait = min(wait, r.manifest.Settle-waited)
		if pause(ctx, wait) != nil {
			break
		}
		waited += wait
		seen = r.tryLogin(ctx, r.candidate.credential, false)
	}
	r.failed = tried // a secret that the target has just made is no guess
	return seen
}
