package run

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// dependent is one that uses the account's secret, and where it lives.
type dependent struct {
	named    *trustv1.Dependent
	resource *trust.Statement
	way      way
	script   *hosted // that is the plugin; nil: it is none
	plugin   pluginhost.Plugin
	job      pluginhost.Job
}

// String names it in errors.
func (d *dependent) String() string {
	return fmt.Sprintf("%s on %s", d.named.Plugin, addressOf(d.resource.GetResource()))
}

// is says whether a planned dependent is this one, unchanged.
func (d *dependent) is(p journal.Dependent) bool {
	return p.Resource == d.resource.Ref && p.Plugin == d.named.Plugin && p.Config == seal.Hash(d.named.Config) && p.Script == d.scripted()
}

// scripted tells its script from every other.
func (d *dependent) scripted() seal.Digest {
	if d.script == nil {
		return seal.Digest{}
	}
	return d.script.digest()
}

// findDependents opens the records of the resources where dependents live.
func (e *Engine) findDependents(ctx context.Context, served *servedRecords, account *trust.Statement, pool seal.ID) ([]dependent, error) {
	var list []dependent
	for n, named := range account.GetAccount().GetDependents() {
		what := fmt.Sprintf("dependent %d", n+1)
		ref := mustRef(named.Resource)
		if err := served.need(ctx, ref); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		rec, err := served.record(ref, trustv1.RecordKind_RECORD_KIND_RESOURCE)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if rec.Statement.Pool() != pool {
			return nil, &trust.Error{Reason: trust.WrongPool, What: fmt.Sprintf("%s: resource %s is of another pool", what, ref)}
		}
		if err := trust.CheckLinks(served.log, rec.Statement, pool); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		d := dependent{named: named, resource: rec.Statement}
		if d.way, err = e.findWay(ctx, served, rec.Statement, pool); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if named.Script != nil {
			d.script, err = e.findScript(ctx, served, account, named.Script, script.Dependents, named.Config, pool)
			if err == nil { // what it is for is the account's secret
				err = mayHave(served.log, account, "account", account.Ref)
			}
			if err == nil && d.script.needs(script.NeedAdmin) {
				err = mayHaveLogins(served.log, account, d.resource)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", what, err)
			}
		}
		list = append(list, d)
	}
	return list, nil
}

// openDependents finds their plugins and the logins that may change them. Nothing is
// dialled yet.
func (e *Engine) openDependents(ctx context.Context, served *servedRecords, list []dependent, pool seal.ID) error {
	for n := range list {
		if err := e.openDependent(ctx, served, &list[n], pool); err != nil {
			return fmt.Errorf("dependent %d (%s): %w", n+1, &list[n], err)
		}
	}
	return nil
}

func (e *Engine) openDependent(ctx context.Context, served *servedRecords, d *dependent, pool seal.ID) (err error) {
	var m pluginhost.Description
	if d.plugin, m, err = e.serves(ctx, d); err != nil {
		return err
	}
	if !m.Dependents {
		return &sdk.Error{Class: sdk.ClassUnsupported, Reason: "dependent.plugin", NotSent: true, Err: fmt.Errorf("the plugin %s serves no dependents", d.named.Plugin)}
	}
	if err := e.openWay(ctx, served, &d.way, pool); err != nil {
		return err
	}
	if d.job.Target, err = e.targetOf(ctx, d.resource, d.way); err != nil {
		return err
	}
	d.job.Resource.Config = d.named.Config
	if d.script != nil {
		if err := e.aim(ctx, served, d.script, &d.job.Target, d.way, pool); err != nil {
			return err
		}
	}
	if d.script != nil && !d.script.needs(script.NeedAdmin) {
		return nil // it logs in nowhere as the resource's administrator
	}
	if d.job.Extra, err = e.extras(ctx, served.log, d.resource.GetResource(), pool); err != nil {
		return err
	}
	admin := mustRef(d.resource.GetResource().GetAdminAccount())
	if admin.IsZero() {
		return &sdk.Error{Class: sdk.ClassInvalid, Reason: "administrator.none", NotSent: true, Err: errors.New("its resource names no administrator: there is nobody to log in as")}
	}
	d.job.Admin, d.job.AdminAs, err = served.login(ctx, "administrator", admin, pool)
	return err
}

// serves is the plugin by which a dependent gets the secret.
func (e *Engine) serves(ctx context.Context, d *dependent) (p pluginhost.Plugin, m pluginhost.Description, err error) {
	if d.script != nil {
		return e.host(ctx, d.script)
	}
	if p, err = e.Plugins.Find(d.named.Plugin); err != nil {
		return p, m, &trust.Error{Reason: trust.PluginUnknown, What: d.named.Plugin, Err: err}
	}
	m, err = e.Plugins.Describe(ctx, p)
	return p, m, err
}

// plan has the plugins say what there is to do, and journals it. What was planned before,
// for dependents that are still the same, is gone on with.
func (r *Run) plan(ctx context.Context) error {
	if r.usesErr != nil {
		return r.usesErr
	}
	if len(r.uses) == 0 {
		return nil
	}
	kept, err := r.keptPlan()
	if err != nil {
		return err
	}
	p := journal.Plan{Made: r.e.Now(), Account: r.job.Account, Scripts: kept.Scripts, Over: kept.Over, Value: kept.Value}
	for n := range r.uses {
		d := &r.uses[n]
		if n < len(kept.Dependents) && d.is(kept.Dependents[n]) {
			p.Dependents = append(p.Dependents, kept.Dependents[n])
			continue
		}
		steps, err := r.planOf(ctx, d)
		if err != nil {
			return fmt.Errorf("dependent %d (%s): %w", n+1, d, err)
		}
		p.Dependents = append(p.Dependents, journal.Dependent{Resource: d.resource.Ref, Plugin: d.named.Plugin, Config: seal.Hash(d.named.Config), Script: d.scripted(), Steps: steps})
	}
	r.planned = p
	err = r.e.Journal.KeepPlan(r.job.ID, p)
	if errors.Is(err, journal.ErrPlan) {
		return &sdk.Error{Class: sdk.ClassInvalid, Reason: "plan.too_long", NotSent: true, Err: err}
	}
	return err
}

func (r *Run) planOf(ctx context.Context, d *dependent) ([]journal.Step, error) {
	r.reveals(d.script)
	call, cancel := context.WithTimeout(ctx, r.e.Limits.Apply)
	defer cancel()
	// No plan needs the secrets: where the target makes them the new one is not known yet.
	request := sdk.ApplyRequest{Account: r.login, Candidate: sdk.Credential{Kind: r.kind()}, Current: sdk.Credential{Kind: r.kind()}}
	if r.pair != nil { // which they use until now
		request.Account.Attrs = maps.Clone(r.login.Attrs)
		if request.Account.Attrs == nil {
			request.Account.Attrs = map[string]string{}
		}
		request.Account.Attrs[sdk.PairAttr] = r.pair.login.Name
	}
	d.job.Hold = r.hold.Check
	got, err := r.e.Plugins.Plan(call, d.plugin, d.job, request)
	d.script.failed(err)
	if err != nil {
		return nil, err
	}
	var steps []journal.Step
	for _, s := range got {
		steps = append(steps, journal.Step{ID: s.ID, Title: s.Title, Data: s.Data})
	}
	return steps, nil
}

// dependents gives the new secret to whoever uses it, one after the other. One that
// refuses it for certain does not keep the others from having it.
func (r *Run) dependents(ctx context.Context) (State, error) {
	if len(r.account.Statement.GetAccount().GetDependents()) == 0 {
		return "", nil
	}
	var done bool
	if r.followed, done = trust.Followed(r.words()); done { // by an agent before
		r.outcome.Dependents = trustv1.Outcome_OUTCOME_DONE
		return "", nil
	}
	r.outcome.Dependents = trustv1.Outcome_OUTCOME_PENDING
	if err := r.journalled(); err != nil {
		return "", err
	}
	if err := r.plan(ctx); err != nil {
		return "", r.followLater(ctx, err)
	}
	var refused error
	for n := range r.uses {
		d := &r.uses[n]
		if err := r.takeSlot(ctx, d.job.Key); err != nil {
			return "", err
		}
		why, err := r.follow(ctx, d, r.planned.Dependents[n].Steps)
		r.slot.give()
		if err != nil {
			return "", r.followLater(ctx, fmt.Errorf("dependent %d (%s): %w", n+1, d, err))
		}
		if why != nil {
			refused = errors.Join(refused, fmt.Errorf("dependent %d (%s): %w", n+1, d, why))
		}
	}
	r.followed = r.e.Now()
	r.outcome.Dependents = trustv1.Outcome_OUTCOME_DONE
	if refused != nil {
		r.note("what uses the secret does not have it", refused)
		r.outcome.Dependents, r.outcome.Class, r.outcome.Reason = trustv1.Outcome_OUTCOME_FAILED, sdk.ClassConflict, "dependents.failed"
	}
	return "", nil
}

// followLater ends the run for now; the vault has it announced again.
func (r *Run) followLater(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return &Stop{Outcome: r.outcome.Credential, Class: sdk.ClassUnreachable, Reason: "dependents.pending", Later: true, Err: fmt.Errorf("the new secret is in use; not all that use it have it: %w", err)}
}

// follow does the steps that are not done. A step may have been done when its journal says
// begun: it is done again. refused says why one never will be.
func (r *Run) follow(ctx context.Context, d *dependent, steps []journal.Step) (refused, err error) {
	for n := range steps {
		s := &steps[n]
		switch s.State {
		case journal.StepDone:
			continue
		case journal.StepRefused, journal.StepUndone:
			return r.undo(ctx, d, steps)
		}
		answer, err := r.step(ctx, d, s, r.e.Plugins.Do, r.candidate.credential, journal.StepDone)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %w", s.Title, err)
		case answer.Outcome == sdk.Unchanged:
			r.e.Log.Warn("a dependent refuses the new secret", "run", r.job.ID, "dependent", d, "step", s.Title, "class", answer.Class, "reason", answer.Reason)
			s.Reason = orElse(answer.Reason, string(orElse(answer.Class, sdk.ClassInternal)))
			s.State = journal.StepRefused
			if err := r.e.Journal.KeepPlan(r.job.ID, r.planned); err != nil {
				return nil, err
			}
			return r.undo(ctx, d, steps)
		}
	}
	return nil, nil
}

// undo gives a dependent that has half of it the former secret back, where that works: it
// goes on as it was. Where it does not, half is better than nothing.
func (r *Run) undo(ctx context.Context, d *dependent, steps []journal.Step) (refused, err error) {
	former, works := r.current, r.needsRetire() && r.endsUnknown == nil
	if r.pair != nil {
		former, works = r.pair.secret, true
	}
	for n := range slices.Backward(steps) {
		s := &steps[n]
		if s.State == journal.StepRefused {
			refused = fmt.Errorf("%s: it was refused: %s", s.Title, s.Reason)
		}
		if !works || s.State != journal.StepDone && s.State != journal.StepUndone {
			continue
		}
		answer, err := r.step(ctx, d, s, r.e.Plugins.Undo, former, journal.StepUndone)
		if err != nil {
			return nil, fmt.Errorf("%s, to be undone: %w", s.Title, err)
		}
		if answer.Outcome == sdk.Unchanged {
			refused = errors.Join(refused, fmt.Errorf("%s: it cannot be undone: %s", s.Title, orElse(answer.Reason, string(answer.Class))))
		}
	}
	if refused == nil {
		refused = errors.New("it was refused")
	}
	return refused, nil
}

type stepCall func(context.Context, pluginhost.Plugin, pluginhost.Job, sdk.Step, sdk.Credential) (sdk.StepResponse, error)

// step makes one call, journalled before and after. Without a clear answer it is an error.
func (r *Run) step(ctx context.Context, d *dependent, s *journal.Step, do stepCall, c sdk.Credential, then journal.StepState) (sdk.StepResponse, error) {
	if then == journal.StepDone {
		s.State = journal.StepBegun
	}
	if err := r.e.Journal.KeepPlan(r.job.ID, r.planned); err != nil {
		return sdk.StepResponse{}, err
	}
	if err := r.hold.Check(); err != nil {
		return sdk.StepResponse{}, err
	}
	r.reveals(d.script)
	d.job.Hold = r.hold.Check
	call, cancel := context.WithTimeout(ctx, r.e.Limits.Apply)
	defer cancel()
	answer, err := do(call, d.plugin, d.job, sdk.Step{ID: s.ID, Title: s.Title, Data: s.Data}, c)
	d.script.failed(err)
	switch {
	case err != nil:
		return answer, err
	case answer.Outcome == sdk.Changed:
		s.State = then
		return answer, r.e.Journal.KeepPlan(r.job.ID, r.planned)
	case answer.Outcome != sdk.Unchanged:
		return answer, errors.New("the plugin gave no clear answer")
	}
	answer.Reason = clean(r.hidden(), answer.Reason)
	return answer, nil
}
