package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// asks is what a command's action makes of a run; rotate is the usual.
var asks = map[trustv1.Action]string{
	trustv1.Action_ACTION_VERIFY:     "verify",
	trustv1.Action_ACTION_CANCEL:     "abandon",
	trustv1.Action_ACTION_RUN_SCRIPT: "script",
}

// permits is what the local policy calls each.
var permits = map[string]string{"rotate": "rotate", "verify": "verify", "abandon": "cancel", "script": "script"}

// rest has a run wait that goes on with what was begun here before, where a run of the
// account did so a moment ago: that one has not ended is the server's word, and each time may
// cost a failed login. So may each look for what a restored vault has lost, and that it was
// restored is its word, too. What a person has only just asked for does not rest: a command
// counts once.
func (r *Run) rest() error {
	_, known, err := r.begunHere()
	if r.again = r.job.Again || r.recovering || r.job.Command == nil && known; err != nil || !r.again {
		return err
	}
	activity, err := r.e.Journal.Activity(r.job.Account)
	if err != nil {
		return err
	}
	if err := trust.CheckAgain(r.job.Account, activity, r.e.Now()); err != nil {
		return fmt.Errorf("%w: %w", ErrTooSoon, err)
	}
	return nil
}

// begunHere is the run, of this account, as it was begun here and has not ended. An id is the
// server's to choose.
func (r *Run) begunHere() (run journal.Run, known bool, err error) {
	run, known, err = r.e.Journal.Run(r.job.ID)
	return run, known && run.Account == r.job.Account.Record && run.Folder == r.job.Account.Folder, err
}

// lease takes the account's lease. Everything after it carries its epoch; the
// vault refuses an older one.
func (r *Run) lease(ctx context.Context) (State, error) {
	_, interrupted, err := r.begunHere()
	if err != nil {
		return "", err
	}
	var answer ksm.LeaseAnswer
	for wait := time.Second; ; wait = min(2*wait, 10*time.Second) {
		var sent time.Time
		answer, sent, err = r.askLease(ctx)
		switch forgotten := errors.Is(err, &ksm.Error{Code: ksm.CodeRunUnknown}); {
		case forgotten && interrupted:
			answer = ksm.LeaseAnswer{Closed: true} // its database went back in time
		case forgotten:
			return "", fmt.Errorf("%w: the vault knows no such run", errNotMine)
		case err != nil:
			return "", vaultError("lease", err)
		}
		if !answer.Busy && !answer.Closed {
			r.hold.Taken(sent)
			break
		}
		if interrupted {
			// Others went on while this agent may have been applying: what it sent may have
			// come after theirs. The vault queues a verify, whoever does it.
			interrupted, r.recovering, r.job = false, true, Job{ID: seal.NewID(), Account: r.job.Account, Resource: r.job.Resource}
			continue
		}
		if answer.Closed {
			return "", fmt.Errorf("%w: it has ended already", errNotMine)
		}
		// A due run is told of again. A person's run waits for the other's end, as
		// long as it could still be staged.
		if r.job.Command == nil || r.job.Command.CheckStaging(r.e.Now()) != nil {
			return "", fmt.Errorf("%w: the account is leased to run %x", errNotMine, answer.Holder)
		}
		if mine, err := r.holdsItself(answer.Holder); err != nil {
			return "", err
		} else if mine {
			return "", ErrBehind
		}
		r.slot.give() // another account's run may go first
		if err := pause(ctx, wait); err != nil {
			return "", err
		}
		if err := r.queue(ctx); err != nil {
			return "", err
		}
	}
	r.epoch, r.fetched = answer.Epoch, answer.Fetched
	if r.as, err = r.asked(answer.Action); err != nil {
		return "", refusal(err)
	}
	return "", nil
}

// asked is what this run is to do: what the person's command says; else the vault's
// word, which may ask for a rotation, that a mandate must allow, or for a verify.
func (r *Run) asked(action string) (string, error) {
	switch {
	case r.recovering:
		return "verify", nil
	case r.job.Command != nil:
		return orElse(asks[r.job.Command.Action], "rotate"), nil
	case action == "rotate" || action == "verify":
		return action, nil
	}
	return "", &trust.Error{Reason: trust.Malformed, What: fmt.Sprintf("the vault asks for %q without a person's command", action)}
}

// holdsItself says whether a lease is held for a run that this agent has to finish: it
// is behind this one in the account's queue, so waiting for it would have no end.
func (r *Run) holdsItself(holder []byte) (bool, error) {
	id, err := seal.IDFrom(holder)
	if err != nil || id == r.job.ID {
		return false, nil // another agent has this very run
	}
	_, known, err := r.e.Journal.Run(id)
	return known, err
}

// askLease asks until the vault answers, and says when the answered request was sent.
func (r *Run) askLease(ctx context.Context) (answer ksm.LeaseAnswer, sent time.Time, err error) {
	err = r.persist(ctx, func(ctx context.Context) (err error) {
		sent = time.Now()
		answer, err = r.e.Vault.Lease(ctx, ksm.LeaseRequest{Account: wireRef(r.job.Account), RunID: r.job.ID.Bytes(), Cause: r.cause(), Fetch: true})
		return err
	})
	return answer, sent, err
}

func (r *Run) cause() string {
	switch {
	case r.recovering:
		return "recover"
	case r.job.Command != nil:
		return "command"
	}
	return "mandate"
}

// resolve finds out what the run is about. What this agent's log refuses may be right
// by a newer one: then it looks again, once.
func (r *Run) resolve(ctx context.Context) (State, error) {
	next, err := r.look(ctx)
	stop := (*Stop)(nil)
	if !errors.As(err, &stop) || trust.Reason(stop.Reason).Meaning() == "" {
		return next, err
	}
	known := r.e.Directory.Known().Next()
	if err := r.e.Directory.Fetch(ctx); trust.ReasonOf(err) != "" {
		return "", refusal(err)
	}
	if r.e.Directory.Known().Next() == known {
		return next, err
	}
	r.wipe()
	r.target = target{}
	return r.look(ctx)
}

// look fetches, checks (keys.md 4.2) and opens account, resource and administrator,
// and decides where the run goes on: a candidate that is staged already may have been
// applied; one that is committed by this very run only needs what comes after.
func (r *Run) look(ctx context.Context) (State, error) {
	log, err := r.e.Directory.Fresh(ctx)
	if err != nil {
		return "", refusal(err)
	}
	r.log, r.opened = log, log.Head().Epoch
	got, err := r.fetch(ctx)
	if err != nil {
		return "", vaultError("fetch", err)
	}
	served, err := r.e.open(log, got)
	if err != nil {
		return "", refusal(err)
	}
	account, err := served.record(r.job.Account, trustv1.RecordKind_RECORD_KIND_ACCOUNT)
	if err != nil {
		return "", refusal(err)
	}
	r.account, r.revision, r.recent = account.Record, account.wire.Revision, account.wire.Recent
	r.wrapped = wrapped{account.wire.RecordKey, account.wire.KeyVersion, served.sealed[r.job.Account.Folder]}
	at := mustRef(account.Statement.GetAccount().GetResource())
	if err := served.need(ctx, at); err != nil {
		return "", refusal(err)
	}
	resource, err := served.record(at, trustv1.RecordKind_RECORD_KIND_RESOURCE)
	if err != nil {
		return "", refusal(err)
	}
	r.resource = resource.Record
	if use := resource.Statement.GetResource().GetRotator(); use != nil {
		if r.rotator, err = r.e.findScript(ctx, served, resource.Statement, use, script.Rotator, resource.Statement.GetResource().Config, r.pool()); err != nil {
			return "", refusal(err)
		}
	}
	if r.way, err = r.e.findWay(ctx, served, resource.Statement, r.pool()); err != nil { // clients pin the jump hosts, too
		return "", refusal(err)
	}
	r.value, err = r.e.checkValue(log, account, r.pool())
	rollback := err
	if err != nil && trust.ReasonOf(err) != trust.ValueRollback {
		return "", refusal(err)
	}
	if r.value != nil {
		r.set, _ = trust.Setter(log, r.value.Result, account.wire.Recent, r.pool())
	}
	// A change that is under way is not held up by what comes after it.
	begins := r.as == "rotate" && account.wire.Staged == nil && !r.committedByMe()
	r.uses, r.usesErr = r.e.findDependents(ctx, served, r.account.Statement, r.pool())
	if r.usesErr != nil && begins {
		return "", refusal(r.usesErr)
	}
	if r.makes, err = r.findGenerator(ctx, served); err != nil && begins {
		return "", refusal(err)
	}
	begins = begins || r.as == "script" && account.wire.Staged == nil
	if r.after, err = r.findScripts(ctx, served); err != nil && begins {
		return "", refusal(err)
	}
	if len(r.after) > 0 {
		r.e.Plugins.ExpectScript() // its process starts while the secret is being changed
	}
	if err := r.checkRights(account, resource); err != nil {
		return "", refusal(err)
	}
	if err := r.checkEnded(); err != nil {
		return "", refusal(err)
	}
	if r.usesErr == nil {
		r.usesErr = r.openPair(ctx, served)
	}
	if r.usesErr == nil {
		r.usesErr = r.e.openDependents(ctx, served, r.uses, r.pool())
	}
	if r.usesErr != nil && begins && r.as == "rotate" {
		return "", refusal(r.usesErr)
	}
	if err := r.e.openWay(ctx, served, &r.way, r.pool()); err != nil {
		return "", refusal(err)
	}
	if err := r.chooseTarget(ctx, served); err != nil {
		return "", refusal(err)
	}
	if onlyLooks := account.wire.Staged == nil && rollback == nil && (r.as == "verify" && !r.recovering || r.as == "abandon"); !onlyLooks {
		if err := r.openScripts(ctx, served); err != nil && begins {
			return "", refusal(err)
		}
	}
	if r.current, err = credential(account.Data, r.kind()); err != nil {
		return "", refusal(err)
	}
	if r.value != nil {
		r.former, r.formerErr = served.former(account, r.kind(), r.set)
	}
	r.leftover = r.mayBeLeft(account)
	if err := r.openAdministrator(ctx, served); err != nil && rollback == nil {
		return "", refusal(err)
	} else if err != nil { // his own value may have been lost with this one
		r.noAdmin = err
	}
	r.e.tellEdited(account, resource)
	if err := r.journalStart(); err != nil {
		return "", err
	}
	r.reveals(r.rotator)
	r.e.Slots.Allow(r.at.Key, r.concurrency())
	take := r.takeSlot
	if r.changesAdministrator(account) {
		take = r.takeAlone
	}
	if err := take(ctx, r.at.Key); err != nil {
		return "", err
	}

	switch {
	case r.as == "script":
		return r.onlyScripts(account, rollback)
	case rollback != nil:
		return r.heal(ctx, account, rollback)
	case account.wire.Staged != nil:
		return r.takeUp(ctx, account)
	case r.as == "verify" && !r.recovering:
		return Applied, nil
	case r.as == "abandon":
		r.outcome.Reason = "nothing_outstanding"
		return Scripted, nil
	case r.committedByMe():
		r.restoreCommitted()
		return Committed, nil
	}
	if r.job.Command != nil {
		if err := r.job.Command.CheckStaging(r.e.Now()); err != nil {
			return "", refusal(err)
		}
	}
	k, against, err := r.missing(ctx)
	switch {
	case err != nil:
		return "", err
	case k != nil:
		return r.recall(ctx, account, k, against)
	}
	return r.begin()
}

// begin is where a run goes on of whose account nothing is outstanding.
func (r *Run) begin() (State, error) {
	if r.as == "verify" {
		return Applied, nil
	}
	return "", r.checkPair()
}

// onlyScripts is a run that leaves the secret as it is, and runs what runs after a rotation.
func (r *Run) onlyScripts(account *servedRecord, rollback error) (State, error) {
	switch {
	case rollback != nil:
		return "", refusal(rollback)
	case account.wire.Staged != nil: // which of two secrets the target has is not known
		return "", &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassConflict, Reason: string(trust.RunOutstanding), Err: errors.New("the account's secret is being changed: no script was run")}
	case len(r.after) == 0:
		r.outcome.Reason = "scripts.none"
		return Scripted, nil
	}
	if err := r.job.Command.CheckStaging(r.e.Now()); err != nil {
		return "", refusal(err)
	}
	return Retired, nil
}

// fetch is what came with the lease, once; else it is asked for.
func (r *Run) fetch(ctx context.Context) (ksm.FetchAnswer, error) {
	if got := r.fetched; got != nil {
		r.fetched = nil
		return *got, nil
	}
	return r.e.Vault.Fetch(ctx, r.job.Account.Record)
}

// checkRights is what allows this run at all: the command's pins or the mandate,
// the pool, and the links between the records.
func (r *Run) checkRights(account, resource *servedRecord) error {
	if err := r.e.Policy.Permit(permits[r.as]); err != nil {
		return &trust.Error{Reason: trust.LocalPolicy, Err: err}
	}
	me, _ := r.log.Entry(r.e.Me.ID)
	if me.Owner != r.pool() {
		return &trust.Error{Reason: trust.WrongPool, What: fmt.Sprintf("resource %s is of another pool", resource.Ref)}
	}
	if r.job.Command != nil {
		if err := r.checkCommand(account); err != nil {
			return err
		}
	} else if err := r.checkAsked(account); err != nil {
		return err
	}
	for _, s := range []*trust.Statement{r.account.Statement, r.resource.Statement} {
		if err := trust.CheckLinks(r.log, s, r.pool()); err != nil {
			return err
		}
	}
	return nil
}

// checkCommand holds the command against the log and the statements as they are now: it
// may have waited for an hour since it came. A rotation's candidate that is staged has
// its own authority beside it (4.5), and after the commit only the end is left.
func (r *Run) checkCommand(account *servedRecord) error {
	c := r.job.Command
	if r.as != "rotate" || account.wire.Staged == nil && !r.committedByMe() {
		if err := c.StillHolds(r.log, r.e.Me.ID); err != nil {
			return err
		}
	}
	return trust.CheckPins(c, r.used()...)
}

// used are the statements that the run goes by, each once.
func (r *Run) used() (list []*trust.Statement) {
	add := func(more ...*trust.Statement) {
		for _, s := range more {
			if !slices.ContainsFunc(list, func(o *trust.Statement) bool { return o.Ref == s.Ref }) {
				list = append(list, s)
			}
		}
	}
	for _, rec := range []*trust.Record{r.account, r.resource} {
		if rec != nil {
			add(rec.Statement)
		}
	}
	add(r.way.statements...)
	for _, d := range r.uses {
		add(d.resource)
		add(d.way.statements...)
	}
	for _, h := range r.scripted() {
		if h.statement != nil {
			add(h.statement)
		}
	}
	return list
}

// checkAsked is what bounds a run that the vault asked for. A verify needs no mandate,
// nor does a candidate that is staged, which has its own authority beside it (4.5); but
// each may cost a failed login. After the commit only the end is left, which is taken up
// wherever it was begun.
func (r *Run) checkAsked(account *servedRecord) error {
	if r.recovering || r.again && r.committedByMe() {
		return nil
	}
	activity, err := r.e.Journal.Activity(r.job.Account)
	if err != nil {
		return err
	}
	if r.resumed() { // it was counted when it began
		activity.Starts = nil
	}
	switch {
	case r.committedByMe():
		r.again = true
		return tooOften(trust.CheckAgain(r.job.Account, activity, r.e.Now()))
	case r.as == "verify" || account.wire.Staged != nil:
		return tooOften(trust.CheckStarts(r.job.Account, activity, r.e.Now()))
	}
	err = trust.CheckMandate(r.log, r.e.Me.ID, r.account.Statement, r.resource.Statement, activity, account.wire.Recent, r.e.Now())
	if errors.Is(err, trust.ErrFresh) {
		// A person was faster than the schedule: nothing to do is no failure.
		return &Stop{Outcome: trustv1.Outcome_OUTCOME_NONE, Class: sdk.ClassConflict, Reason: string(trust.TooOften), Err: err}
	}
	return err
}

// tooOften ends a run for now that the vault asked for too soon.
func tooOften(err error) error {
	if err == nil {
		return nil
	}
	return &Stop{Outcome: trustv1.Outcome_OUTCOME_PENDING, Class: sdk.ClassConflict, Reason: string(trust.ReasonOf(err)), Later: true, Err: err}
}

// begins says whether this is the start of a run that the vault asked for, which is
// counted: not one that is taken up again.
func (r *Run) begins() bool {
	return r.job.Command == nil && !r.recovering && !r.committedByMe() && !r.resumed()
}

// resumed says whether this agent began the run by itself, and knows no end of it; an id
// proves nothing else.
func (r *Run) resumed() bool {
	former, known, err := r.begunHere()
	return err == nil && known && former.Command.IsZero()
}

// journalStart journals that the run begins, or goes on, before the target sees it.
func (r *Run) journalStart() error {
	if r.again && !r.noted {
		if err := r.e.Journal.NoteAgain(r.job.Account, r.e.Now()); err != nil {
			return err
		}
		r.noted = true
	}
	run := journal.Run{ID: r.job.ID, Folder: r.job.Account.Folder, Account: r.job.Account.Record, Started: r.e.Now()}
	if r.job.Command != nil {
		run.Command = r.job.Command.ID
	}
	if r.job.Command == nil {
		return r.e.Journal.BeginRun(run, r.begins())
	}
	if !r.begun {
		// The command is in the journal: that its run has begun has to be there only before
		// anything is applied, and is written while the vault stores the candidate.
		r.begun = true
		r.inJournal(func() error { return r.e.Journal.BeginRun(run, false) })
	}
	return nil
}

// usualConcurrency is how many runs a resource gets at once whose owner has said
// nothing: small servers bear that.
const usualConcurrency = 4

// concurrency is how many runs this resource takes at once: the owner's word, or a
// few, and never more than its plugin can serve.
func (r *Run) concurrency() int {
	n := int(r.resource.Statement.GetResource().GetConcurrency())
	if n == 0 {
		n = usualConcurrency
	}
	return min(n, r.manifest.Concurrency)
}

// takeUp goes on with a candidate that is staged already.
func (r *Run) takeUp(ctx context.Context, account *servedRecord) (State, error) {
	if account.wire.Staged.Owner != "agent" {
		stop := &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassConflict, Reason: string(trust.RunOutstanding), Err: errors.New("a secrets-manager client has staged an update of this record: let it finish or roll back, then rotate again")}
		if r.job.Command == nil { // the vault announces it again; a command it could not
			stop.Outcome, stop.Later = trustv1.Outcome_OUTCOME_PENDING, true
		}
		return "", stop
	}
	c, err := trust.CheckCandidate(r.log, r.e.Journal, r.e.Me.ID, r.account, r.pool(), r.value, *account.served.Staged, r.e.Now())
	if r.as == "abandon" && trust.ReasonOf(err) == trust.CandidateRollback {
		return "", r.giveUp(ctx, account.wire.Staged)
	}
	if err != nil {
		return "", refusal(err)
	}
	cred, err := credential(c.Data, r.kind())
	if err != nil {
		return "", refusal(err)
	}
	r.candidate = &candidate{
		credential: cred, data: account.served.Staged.Data, digest: c.DataDigest, seq: c.Result.ValueSeq, noApply: c.NoApply, made: c.Result.Made(),
		former: trust.ReasonOf(c.NoApply) == trust.ValueRollback,
	}
	if err := r.e.Policy.Permit("rotate"); err != nil && c.NoApply == nil {
		r.candidate.noApply = &trust.Error{Reason: trust.LocalPolicy, Err: err}
	}
	if account.wire.Staged.Held && r.candidate.noApply == nil {
		held := &Stop{Outcome: trustv1.Outcome_OUTCOME_FAILED, Class: sdk.ClassConflict, Reason: "server.recovering", Err: errors.New("the server was restored: what came after this candidate may be lost, so it is not applied before the recovery ends")}
		if r.job.Command == nil {
			held.Outcome, held.Later = trustv1.Outcome_OUTCOME_PENDING, true
		}
		r.candidate.noApply = held
	}
	r.keep(account.served.Staged.Result)
	return Applied, nil
}

// committedByMe says whether the record's current secret was committed by this run,
// which then only lacks what comes after. A person may have edited the record since.
func (r *Run) committedByMe() bool {
	return r.set.GetPhase() == trustv1.Phase_PHASE_COMMITTED && bytes.Equal(r.set.RunId, r.job.ID[:])
}

// mayBeLeft says whether the secret before the current one may still work: it has to be
// ended by a step of its own, and the run that replaced it is not known to have ended.
func (r *Run) mayBeLeft(account *servedRecord) bool {
	if !slices.Contains(r.manifest.Overlap, r.kind()) || r.former.Secret.Len() == 0 && r.formerErr == nil {
		return false
	}
	return r.set == nil || !trust.Finished(r.log, account.wire.Recent, r.set.RunId, r.pool())
}

// restoreCommitted goes on after the commit. What is kept of the candidate was settled when
// its value was checked: that it was committed once says nothing of what the target has now.
func (r *Run) restoreCommitted() {
	r.outcome.Credential = r.set.Credential
	if len(r.after) > 0 && r.set.Scripts == trustv1.Outcome_OUTCOME_PENDING {
		r.outcome.Scripts = trustv1.Outcome_OUTCOME_PENDING
	}
	r.candidate = &candidate{credential: r.current, digest: r.account.DataDigest, seq: r.value.Seq}
	r.current, r.endsUnknown = r.former, r.formerErr
}

func (r *Run) pool() seal.ID {
	id, _ := seal.IDFrom(r.resource.Statement.GetResource().GetPoolId())
	return id
}

func (r *Run) kind() sdk.Kind {
	return orElse(sdk.Kind(r.account.Statement.GetAccount().GetSecretKind()), sdk.Password)
}

// credential reads the secret of an account's JSON. Only the secret comes from
// there: host, port and login are the statement's.
func credential(data []byte, kind sdk.Kind) (sdk.Credential, error) {
	rec, err := record.Parse(data)
	if err != nil {
		return sdk.Credential{}, err
	}
	switch kind {
	case sdk.Password, "":
		pw, _ := rec.Text("password")
		defer clear(pw)
		return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret(pw)}, nil
	case sdk.SSHKey:
		pair, _ := rec.KeyPair()
		return sshCredential(pair), nil
	case sdk.APIKey, sdk.Token:
		secret, _ := rec.Text("password")
		defer clear(secret)
		return sdk.Credential{Kind: kind, ID: rec.Labelled(record.KeyID), Public: []byte(rec.Labelled(record.PublicPart)), Secret: sdk.NewSecret(secret)}, nil
	}
	return sdk.Credential{}, &sdk.Error{Class: sdk.ClassUnsupported, Reason: "secret_kind", NotSent: true, Err: fmt.Errorf("kind %q comes with a later version", kind)}
}
