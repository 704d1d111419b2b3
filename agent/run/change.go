package run

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/password"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// candidate is the new secret, and the record's ciphertext that holds it.
type candidate struct {
	credential sdk.Credential
	data       []byte // ciphertext under the record key
	digest     seal.Digest
	seq        uint64
	fresh      bool   // made by this run: nobody else can have applied it
	recalled   bool   // from the journal, whose copy may be the only one
	made       uint64 // epoch of the log by which the record was opened that it was made for
	minted     bool   // by the target, for this run: it has it already
	noApply    error  // why it may be probed and committed, but not applied
	former     bool   // its secret was committed once
	heals      uint64 // number of the value that heal brings back; 0: none
	// outstanding is the kept candidate that it was made of; zero: none.
	outstanding seal.Digest
	committed   []byte // this agent's Signed{Result} of that value, where it is staged anew
}

// prepare reaches the target first, so that a target that is down, or an
// administrator who is refused, leaves nothing behind. Then it makes the candidate.
func (r *Run) prepare(ctx context.Context) (State, error) {
	// A script makes it before the session is open: who holds one place among the processes
	// and waits for another could wait for ever.
	cred, err := r.generate(ctx)
	if err != nil {
		return "", refusal(err)
	}
	if err := r.openSession(ctx); err != nil {
		return "", refusal(err)
	}
	if err := r.endLeftover(ctx); err != nil {
		return "", err
	}
	// What cannot follow the change is found out before anything is changed.
	if err := r.plan(ctx); err != nil {
		return "", refusal(err)
	}
	if r.makes == nil {
		if cred, err = r.newCredential(ctx); err != nil {
			return "", refusal(err)
		}
	}
	data, err := r.recordWith(cred, r.account.Data)
	if err != nil {
		return "", refusal(err)
	}
	r.candidate = &candidate{credential: cred, data: data, digest: seal.Hash(data), seq: 1, fresh: true, minted: r.mints(), made: r.opened}
	if r.value != nil {
		r.candidate.seq = r.value.Seq + 1
	}
	return "", nil
}

func (r *Run) newCredential(ctx context.Context) (sdk.Credential, error) {
	if r.mints() {
		return r.mint(ctx)
	}
	if r.kind() == sdk.SSHKey {
		public, private, err := password.SSHKey()
		if err != nil {
			return sdk.Credential{}, err
		}
		defer clear(private)
		return sshCredential(record.KeyPair{PublicKey: string(public), PrivateKey: string(private)}), nil
	}
	pw, err := password.Generate(r.account.Statement.GetAccount().Policy, r.manifest.Forbid)
	if err != nil {
		return sdk.Credential{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "policy.impossible", NotSent: true, Err: err}
	}
	defer clear(pw)
	if m := r.manifest.MaxLen; m > 0 && len(pw) > m {
		return sdk.Credential{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "policy.impossible", NotSent: true, Err: fmt.Errorf("the policy asks for %d bytes, targets of %s take %d", len(pw), r.plugin.Name, m)}
	}
	return sdk.Credential{Kind: r.kind(), Secret: sdk.NewSecret(pw)}, nil
}

// recordWith is a record's JSON with the candidate in place of the secret that it has,
// encrypted. Its other fields are attested with it.
func (r *Run) recordWith(c sdk.Credential, json []byte) ([]byte, error) {
	rec, err := record.Parse(json)
	if err != nil {
		return nil, err
	}
	secret := c.Secret.Expose()
	defer clear(secret)
	if c.Kind == sdk.SSHKey {
		err = rec.SetKeyPair(record.KeyPair{PublicKey: string(c.Public), PrivateKey: string(secret)})
	} else {
		err = rec.SetText("password", secret)
	}
	if err == nil && c.ID != "" && c.Kind != sdk.SSHKey {
		err = errors.Join(rec.SetLabelled(record.KeyID, c.ID), rec.SetLabelled(record.PublicPart, string(c.Public)))
	}
	if err != nil {
		return nil, err
	}
	plain, err := rec.JSON()
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return trust.SealData(r.account.Key, plain), nil
}

// stage gives the candidate to the vault. Only when the vault has answered
// "durable" may the target be touched.
func (r *Run) stage(ctx context.Context) (State, error) {
	if r.job.Command == nil {
		if err := r.e.Journal.NoteStaged(r.job.Account, r.e.Now()); err != nil {
			return "", err
		}
	}
	authority := trust.Authority{Mandate: r.account.Statement.Digest}
	switch {
	case len(r.candidate.committed) > 0:
		authority = trust.Authority{Committed: r.candidate.committed}
	case r.job.Command != nil:
		authority = trust.Authority{Command: r.job.Command.Signed}
	}
	signed, err := r.sign(&trustv1.Result{Phase: trustv1.Phase_PHASE_STAGED}, nil)
	if err != nil {
		return "", err
	}
	r.keep(signed)
	err = r.persist(ctx, func(ctx context.Context) error {
		return r.e.Vault.Stage(ctx, ksm.StageRequest{
			Former:  r.candidate.committed,
			Account: wireRef(r.job.Account), RunID: r.job.ID.Bytes(), Epoch: r.epoch, Revision: r.revision,
			Data: r.candidate.data, DataDigest: r.candidate.digest.Bytes(), ValueSeq: r.candidate.seq, Result: signed,
			Authority: trust.SealAuthority(r.log.Org(), r.account.Key, r.job.Account.Record, authority),
		})
	})
	// What was refused this run does not apply: its copy is not needed, unless it is the one
	// that the candidate came from, which may have been applied before.
	if refused := (*ksm.Error)(nil); errors.As(err, &refused) && !r.candidate.recalled {
		drop := func() error { return r.e.Journal.DropKept(r.job.Account, r.candidate.digest) }
		if r.candidate.minted {
			drop = func() error { return r.dropMinted(ctx, err) }
		}
		if err := errors.Join(r.journalled(), drop()); err != nil {
			return "", err
		}
	}
	if errors.Is(err, &ksm.Error{Code: ksm.CodeOutOfSync}) && r.candidate.heals > 0 {
		return "", refusal(&trust.Error{Reason: trust.ValueRollback, What: "the vault does not take the newer value back", Err: err})
	}
	if errors.Is(err, &ksm.Error{Code: ksm.CodeOutOfSync}) {
		return "", &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassConflict, Reason: "record.changed", Err: errors.New("the record was edited while the run went on; nothing was changed on the target")}
	}
	if errors.Is(err, &ksm.Error{Code: ksm.CodeOutstanding}) {
		return "", &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassConflict, Reason: string(trust.RunOutstanding), Err: err}
	}
	if err != nil {
		return "", vaultError("stage", err)
	}
	if r.candidate.minted {
		return Applied, r.journalled()
	}
	if !r.candidate.fresh { // it may have been applied before the vault lost it
		return Applied, nil
	}
	return "", nil
}

// apply has the target take the candidate. An answer that is missing is an unknown
// outcome, never a failure: verify finds out.
func (r *Run) apply(ctx context.Context) (State, error) {
	if err := r.journalled(); err != nil {
		return "", err
	}
	if err := r.openSession(ctx); err != nil {
		return "", r.later(err)
	}
	if err := r.hold.Check(); err != nil {
		return "", err
	}
	call, cancel := context.WithTimeout(ctx, r.e.Limits.Apply)
	defer cancel()
	answer, err := r.session.Apply(call, sdk.ApplyRequest{Account: r.login, Candidate: r.candidate.credential, Current: r.current})
	r.rotator.failed(err)
	r.applies++
	r.applied = r.e.Now()
	r.changed = err == nil && answer.Outcome == sdk.Changed
	r.took = r.took || r.changed
	r.refused = sdk.ApplyResponse{}
	switch {
	case err != nil && pluginhost.NotSent(err):
		// Proven: nothing reached the target. The candidate stays for the next try.
		return "", r.later(err)
	case err != nil:
		r.unclear = true
		r.note("apply", err)
		r.dropSession() // what is left of it may not be believed
	case answer.Outcome == sdk.Unknown:
		r.unclear = true
	case answer.Outcome == sdk.Unchanged:
		r.refused = answer
	}
	return "", nil
}

// abandon moves the candidate to the record's history: it is proven rejected.
func (r *Run) abandon(ctx context.Context, why *Stop) error {
	if err := r.endMinted(ctx); err != nil {
		return err
	}
	reason, _ := r.inClear(r.hidden(), why.Reason)
	signed, err := r.sign(&trustv1.Result{Phase: trustv1.Phase_PHASE_ABANDONED, Reason: reason, Class: string(why.Class)}, nil)
	if err != nil {
		return err
	}
	err = r.persist(ctx, func(ctx context.Context) error { return r.e.Vault.Abandon(ctx, r.settle(signed, false)) })
	if err != nil {
		return vaultError("abandon", err)
	}
	r.settled = &journal.Settled{Account: r.job.Account, Digest: r.candidate.digest, Copy: r.candidate.outstanding}
	return why
}

// commit makes the candidate the record's value. It is repeated until the vault
// acknowledges it: the target has the candidate already, and may be the next run's.
func (r *Run) commit(ctx context.Context) (State, error) {
	if !r.slot.alone { // others would log in with an administrator's secret that is none any more
		r.slot.give()
	}
	r.outcome.Credential = trustv1.Outcome_OUTCOME_DONE
	if r.unseen {
		r.outcome.Credential = trustv1.Outcome_OUTCOME_UNVERIFIABLE
	}
	if r.candidate.former {
		r.outcome.Reason = trust.Healed
	}
	last := !r.needsRetire() && len(r.account.Statement.GetAccount().GetDependents()) == 0 && len(r.after) == 0
	if len(r.after) > 0 {
		r.outcome.Scripts = trustv1.Outcome_OUTCOME_PENDING
	}
	if len(r.account.Statement.GetAccount().GetDependents()) > 0 {
		r.outcome.Dependents = trustv1.Outcome_OUTCOME_PENDING
	}
	signed, err := r.sign(&trustv1.Result{
		Phase: trustv1.Phase_PHASE_COMMITTED, Credential: r.outcome.Credential,
		Dependents: r.outcome.Dependents, Scripts: r.outcome.Scripts, Reason: r.outcome.Reason,
	}, nil)
	if err != nil {
		return "", err
	}
	err = r.persist(ctx, func(ctx context.Context) error { return r.e.Vault.Commit(ctx, r.settle(signed, last)) })
	if lostByVault(err) {
		return r.lostAtCommit(err)
	}
	if err != nil {
		return "", vaultError("commit", err)
	}
	seen := trust.ValueSeen{Seq: r.candidate.seq, Digest: r.candidate.digest, Former: r.account.DataDigest, Set: r.candidate.seq}
	r.settled = &journal.Settled{Account: r.job.Account, Digest: r.candidate.digest, Copy: r.candidate.outstanding, Value: &seen, Result: signed}
	if r.drives == bySelf {
		// Sessions that were opened with the former secret. What is left to do is done by one
		// that is opened with the new one.
		r.dropSession()
		r.admin = r.candidate.credential
		r.e.Plugins.Forget(r.at.Key)
	}
	r.renew()
	r.slot.give()
	if last {
		return Reported, nil // a run without further steps is finished by its commit
	}
	return "", nil
}

// renew hands the new secret to whoever logs in with the account's own one: as what a
// resource names besides its administrator, or at a dependent. They were opened before.
func (r *Run) renew() {
	is := func(named *trustv1.Ref) bool { return mustRef(named) == r.job.Account }
	extras := func(resource *trust.Statement, opened map[string]sdk.Credential) (some bool) {
		for _, x := range resource.GetResource().GetExtras() {
			if old, ok := opened[x.Name]; ok && is(x.Account) {
				old.Secret.Wipe()
				opened[x.Name], some = r.candidate.credential, true
			}
		}
		return some
	}
	if extras(r.resource.Statement, r.extras) {
		r.dropSession()
		r.e.Plugins.Forget(r.at.Key)
	}
	for n := range r.uses {
		d := &r.uses[n]
		extras(d.resource, d.job.Extra)
		if d.job.Admin.Secret.Len() > 0 && is(d.resource.GetResource().GetAdminAccount()) {
			d.job.Admin.Secret.Wipe()
			d.job.Admin = r.candidate.credential
		}
	}
}

func (r *Run) settle(signed []byte, finish bool) ksm.SettleRequest {
	return ksm.SettleRequest{
		Account: wireRef(r.job.Account), RunID: r.job.ID.Bytes(), Epoch: r.epoch,
		DataDigest: r.candidate.digest.Bytes(), Result: signed, Finish: finish,
	}
}

// openSession opens, or shares, the administrative session on the resource.
func (r *Run) openSession(ctx context.Context) error {
	if r.session != nil {
		return nil
	}
	if r.noAdmin != nil {
		return r.noAdmin
	}
	call, cancel := context.WithTimeout(ctx, r.e.Limits.Open)
	defer cancel()
	s, err := r.e.Plugins.Open(call, r.plugin, pluginhost.Job{Target: r.at, Admin: r.admin, AdminAs: r.adminAs, Extra: r.extras, Self: r.drives == bySelf})
	r.rotator.failed(err)
	if err != nil {
		return err
	}
	r.session = s
	return nil
}

func (r *Run) dropSession() {
	if r.session != nil {
		r.session.Close()
	}
	r.session = nil
}

// persist repeats a call to the vault until it is answered: a refusal is an
// answer. It ends with the lease.
func (r *Run) persist(ctx context.Context, call func(context.Context) error) error {
	wait := 50 * time.Millisecond
	for {
		err := call(ctx)
		var refused *ksm.Error
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case errors.As(err, &refused) && refused.Code == ksm.CodeThrottled:
			wait = max(wait, refused.RetryAfter)
		case errors.As(err, &refused):
			return err
		}
		r.e.Log.Warn("the vault did not answer; trying again", "run", r.job.ID, "state", r.state, "error", err)
		if pause(ctx, wait/2+rand.N(wait)) != nil {
			return err
		}
		wait = min(2*wait, 2*time.Second)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// later ends the run for now; the candidate stays.
func (r *Run) later(err error) error {
	stop := (*Stop)(nil)
	if !errors.As(refusal(err), &stop) {
		return err
	}
	stop.Outcome, stop.Later = trustv1.Outcome_OUTCOME_PENDING, true
	return stop
}

// note keeps what a plugin said for the run's detail, and logs it: plugins' errors
// were scrubbed of the job's secrets at the boundary.
func (r *Run) note(what string, err error) {
	r.outcome.Text = fmt.Sprintf("%s: %v", what, err)
	r.e.Log.Warn(what, "run", r.job.ID, "account", r.job.Account, "error", err)
}

func orElse[T ~string](v, other T) T {
	if v == "" {
		return other
	}
	return v
}
