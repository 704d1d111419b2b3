package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
	"github.com/rotunda-pam/rotunda/sdk/scrub"
)

// findScripts opens the scripts that run after the rotation: first the account's, then the
// resource's, each in its order. Each that fails says why itself; the error is the first's.
func (r *Run) findScripts(ctx context.Context, served *servedRecords) (list []*hosted, err error) {
	account, resource := r.account.Statement, r.resource.Statement
	var all []trust.Ref
	for _, use := range slices.Concat(account.GetAccount().GetScripts(), resource.GetResource().GetScripts()) {
		all = append(all, mustRef(use.Script))
		for _, other := range use.Records {
			all = append(all, mustRef(other))
		}
	}
	_ = served.need(ctx, all...) // in one call; what is missing then is looked for again, and says so
	for _, names := range []struct {
		by   *trust.Statement
		uses []*trustv1.ScriptUse
	}{{account, account.GetAccount().GetScripts()}, {resource, resource.GetResource().GetScripts()}} {
		inOrder := slices.SortedStableFunc(slices.Values(names.uses), func(a, b *trustv1.ScriptUse) int { return int(a.Order) - int(b.Order) })
		for _, use := range inOrder {
			h, bad := r.e.findScript(ctx, served, names.by, use, script.AfterRotation, use.Parameters, r.pool())
			if bad == nil && (h.needs(script.NeedSecret) || h.needs(script.NeedFormer)) {
				bad = mayHave(r.log, h.by, "account", r.job.Account)
			}
			if bad == nil && h.needs(script.NeedAdmin) {
				bad = mayHaveLogins(r.log, h.by, resource)
			}
			h.err = bad
			if err == nil {
				err = bad
			}
			list = append(list, h)
		}
	}
	return list, err
}

func (h *hosted) needs(what string) bool {
	return h.manifest != nil && slices.Contains(h.manifest.Needs, what)
}

// openScripts aims them and opens the secrets of their further records, once the run has the
// right to be.
func (r *Run) openScripts(ctx context.Context, served *servedRecords) (err error) {
	for _, h := range r.after {
		if h.err == nil {
			h.err = r.openScript(ctx, served, h)
		}
		if err == nil {
			err = h.err
		}
	}
	return err
}

func (r *Run) openScript(ctx context.Context, served *servedRecords, h *hosted) (err error) {
	var m pluginhost.Description
	if h.plugin, m, err = r.e.host(ctx, h); err != nil {
		return err
	}
	if !m.After {
		return &sdk.Error{Class: sdk.ClassUnsupported, Reason: "script.plugin", NotSent: true, Err: fmt.Errorf("the plugin %s runs nothing after a rotation", h.plugin.Name)}
	}
	if h.job.Target, err = r.e.targetOf(ctx, r.resource.Statement, r.way); err != nil {
		return err
	}
	h.job.Resource.Config, h.account = h.use.Parameters, r.job.Account
	if err := r.e.aim(ctx, served, h, &h.job.Target, r.way, r.pool()); err != nil {
		return err
	}
	for n := range h.records {
		f := &h.records[n]
		if f.got.Secret, f.got.Account, err = served.login(ctx, "record "+f.Name, f.login, r.pool()); err != nil {
			return fmt.Errorf("%s: %w", h, err)
		}
	}
	return nil
}

// scripts run after the rotation, one after the other: one that fails keeps no other from
// running, and is done again when a person says so. One that was begun may have been done:
// it is done again.
func (r *Run) scripts(ctx context.Context) (State, error) {
	r.outcome.Scripts = trustv1.Outcome_OUTCOME_NONE
	if len(r.after) == 0 || r.committedByMe() && r.set.Scripts != trustv1.Outcome_OUTCOME_PENDING {
		return "", nil // at the commit there were none: what was named since is the next run's
	}
	if outcome, done := trust.Scripted(r.words()); done { // by an agent before
		r.scriptsEnd(outcome, nil)
		return "", nil
	}
	if r.committedByMe() && r.e.Now().Sub(time.UnixMilli(r.set.Time)) > journal.ScriptsLive {
		r.scriptsEnd(trustv1.Outcome_OUTCOME_FAILED, []string{"the secret was set too long ago for its scripts to run now by themselves: whether they have is not known here"})
		return "", nil
	}
	if err := r.journalled(); err != nil {
		return "", err
	}
	if err := r.planScripts(); err != nil {
		return "", err
	}
	// Who holds one place among the processes and waits for another could wait for ever.
	r.dropSession()
	outcome := trustv1.Outcome_OUTCOME_DONE
	hidden := r.hidden()
	var said []string
	for n, h := range r.after {
		s := &r.planned.Scripts[n]
		output := ""
		if s.State == journal.StepPlanned || s.State == journal.StepBegun {
			if r.planned.Over { // whoever asks for it: it is a run that has ended
				continue
			}
			var err error
			if output, err = r.runScript(ctx, h, s, hidden); err != nil {
				r.scriptsEnd(trustv1.Outcome_OUTCOME_PENDING, said)
				return "", err
			}
		}
		if s.State != journal.StepDone {
			outcome = trustv1.Outcome_OUTCOME_FAILED
		}
		said = append(said, h.says(r.log, s, output))
	}
	r.scriptsEnd(outcome, said)
	return "", nil
}

// scriptsEnd makes an outcome of how the scripts ended.
func (r *Run) scriptsEnd(outcome trustv1.Outcome, said []string) {
	r.outcome.Scripts = outcome
	if outcome == trustv1.Outcome_OUTCOME_FAILED && r.outcome.Class == "" {
		r.outcome.Class, r.outcome.Reason = sdk.ClassConflict, trust.ScriptsFailed
	}
	for _, s := range said {
		share := maxSaid / len(said)
		if r.outcome.Said != "" {
			r.outcome.Said += "\n"
		}
		r.outcome.Said += cut(s, share)
	}
}

// planScripts journals what is to run. What was begun before counts for a use that is still
// the same, with all that the statement says of it.
func (r *Run) planScripts() error {
	p, err := r.keptPlan()
	if err != nil {
		return err
	}
	if len(p.Scripts) > 0 && p.Value < r.follows() { // of another run that had its id
		p = journal.Plan{}
	}
	if p.Made.IsZero() {
		p.Made = r.e.Now()
	}
	kept := p.Scripts
	p.Account, p.Value, p.Scripts = r.job.Account, r.follows(), nil
	for _, h := range r.after {
		s := journal.Script{By: h.by.Ref, Use: h.digest()}
		if i := slices.IndexFunc(kept, func(k journal.Script) bool { return k.By == s.By && k.Use == s.Use }); i >= 0 {
			s = kept[i]
			kept = slices.Delete(kept, i, i+1)
		}
		p.Scripts = append(p.Scripts, s)
	}
	r.planned = p
	if p.Over {
		return nil
	}
	return r.e.Journal.KeepPlan(r.job.ID, p)
}

// follows is the number of the value that set the secret which the scripts follow; 0: they
// run alone.
func (r *Run) follows() uint64 {
	switch {
	case r.as == "script":
		return 0
	case r.committedByMe():
		return r.set.ValueSeq
	}
	return r.candidate.seq
}

// words are those of agents before on how the run ended, on the value that it has set: an
// older one's, or words on a run that has set none yet, are of another that had its id.
func (r *Run) words() []*trust.Result {
	if !r.committedByMe() && r.as != "script" {
		return nil
	}
	return slices.DeleteFunc(trust.Words(r.log, r.recent, r.job.ID[:], r.pool()), func(w *trust.Result) bool { return w.ValueSeq < r.follows() })
}

// keptPlan is what this agent has journalled of the run.
func (r *Run) keptPlan() (journal.Plan, error) {
	p, known, err := r.e.Journal.Plan(r.job.ID)
	if err == nil && known && p.Account != r.job.Account && p.Account != (trust.Ref{}) {
		err = &trust.Error{Reason: trust.Replayed, What: fmt.Sprintf("run %s was one of account %s", r.job.ID, p.Account)}
	}
	return p, err
}

// checkEnded refuses to begin under the id of a run whose scripts have come to their end:
// those of this one would count as done.
func (r *Run) checkEnded() error {
	p, err := r.keptPlan()
	if err == nil && p.Over && !r.committedByMe() && r.as != "script" {
		err = &trust.Error{Reason: trust.Replayed, What: fmt.Sprintf("run %s has ended here", r.job.ID)}
	}
	return err
}

// runScript runs one, journalled before and after. Only what stops the whole run is an error.
func (r *Run) runScript(ctx context.Context, h *hosted, s *journal.Script, hidden *scrub.Set) (output string, err error) {
	ends := func(state journal.StepState, reason string) error {
		s.State, s.Reason = state, clean(hidden, reason)
		return r.e.Journal.KeepPlan(r.job.ID, r.planned)
	}
	request, bad := r.afterRequest(h)
	if h.err != nil {
		bad = h.err
	}
	if notBegun(bad) {
		return "", r.scriptsLater(h, bad)
	}
	if bad != nil {
		stop := (*Stop)(nil)
		if !errors.As(refusal(bad), &stop) {
			return "", bad
		}
		text := hidden.Text(bad.Error())
		r.e.Log.Warn("a script was not run", "run", r.job.ID, "account", r.job.Account, "script", h.String(), "error", text)
		return text, ends(journal.StepRefused, stop.Reason)
	}
	if err := r.takeSlot(ctx, r.at.Key); err != nil {
		return "", err
	}
	s.State = journal.StepBegun
	if err := r.e.Journal.KeepPlan(r.job.ID, r.planned); err != nil {
		return "", err
	}
	if err := r.hold.Check(); err != nil {
		return "", err
	}
	r.reveals(h)
	answer, err := r.e.Plugins.Run(ctx, h.plugin, r.jobOf(h), request)
	h.failed(err)
	if answer.Reason == scriptError { // which is an answer here: what it said before is kept with it
		h.came(scriptError)
	}
	switch {
	case ctx.Err() != nil || pluginhost.ReasonOf(err) == string(pluginhost.HostClosed):
		return "", orErr(err, ctx.Err()) // the run is taken up again
	case notBegun(err):
		if err := ends(journal.StepPlanned, ""); err != nil {
			return "", err
		}
		return "", r.scriptsLater(h, err)
	case err != nil:
		text := hidden.Text(err.Error())
		r.e.Log.Warn("a script failed", "run", r.job.ID, "account", r.job.Account, "script", h.String(), "error", text)
		if host := (*pluginhost.Error)(nil); errors.As(err, &host) && host.NotSent {
			return text, ends(journal.StepRefused, pluginhost.ReasonOf(err))
		}
		return text, ends(journal.StepFailed, pluginhost.ReasonOf(err))
	case answer.Outcome == sdk.Changed:
		err = ends(journal.StepDone, "")
	case answer.Outcome == sdk.Unchanged:
		err = ends(journal.StepRefused, orElse(answer.Reason, string(answer.Class)))
	default:
		err = ends(journal.StepFailed, "script.unclear")
	}
	return hidden.Text(answer.Output), err
}

// scriptsLater ends the run for now; the vault has it announced again.
func (r *Run) scriptsLater(h *hosted, err error) error {
	return &Stop{Outcome: r.outcome.Credential, Class: sdk.ClassUnreachable, Reason: "scripts.pending", Later: true, Err: fmt.Errorf("%s waits for its turn: %w", h, err)}
}

// notBegun says whether the plugin host had no process or no turn for a script, which then
// has done nothing, and may have one later. What a script says itself is never it.
func notBegun(err error) bool {
	host, own := (*pluginhost.Error)(nil), (*sdk.Error)(nil)
	if errors.As(err, &own) || !errors.As(err, &host) || !host.NotSent {
		return false
	}
	return slices.Contains([]pluginhost.Reason{pluginhost.PluginBusy, pluginhost.SessionClosed, pluginhost.PluginStart, pluginhost.PluginCrashed}, host.Reason)
}

// jobOf is a script's job, with the administrator where its manifest asks for him.
func (r *Run) jobOf(h *hosted) pluginhost.Job {
	j := h.job
	j.Limit, j.Hold = r.e.Limits.Script, r.hold.Check
	if h.needs(script.NeedAdmin) {
		j.Admin, j.AdminAs, j.Extra, j.Self = r.admin, r.adminAs, r.extras, r.drives == bySelf
	}
	return j
}

// afterRequest is what a script is told: the secrets only where its manifest asks for them.
func (r *Run) afterRequest(h *hosted) (sdk.AfterRequest, error) {
	request := sdk.AfterRequest{Account: r.login, RunID: r.changedBy().String(), Time: r.e.Now()}
	secret, former, unknown := r.current, r.former, r.formerErr
	if r.candidate != nil {
		secret, former, unknown = r.candidate.credential, r.current, r.endsUnknown
	}
	if h.needs(script.NeedSecret) {
		request.Secret = secret
	}
	if h.needs(script.NeedFormer) {
		if unknown != nil {
			return request, &sdk.Error{Class: sdk.ClassInvalid, Reason: "former.unknown", NotSent: true, Err: fmt.Errorf("the script works with the former secret, which is not known: %w", unknown)}
		}
		request.Former = former
	}
	for _, f := range h.records {
		if f.login == r.job.Account { // what was opened before the change is its former secret
			f.got.Secret = secret
		}
		request.Records = append(request.Records, f.got)
	}
	if h.needs(script.NeedAdmin) && r.noAdmin != nil {
		return request, r.noAdmin
	}
	return request, nil
}

// reveals tells, before a script runs, that it may see secrets in clear.
func (r *Run) reveals(h *hosted) {
	if h == nil || h.manifest.Reveals == "" {
		return
	}
	sum := fmt.Sprintf("%x", h.use.Sha256)
	if slices.Contains(r.revealed, sum) {
		return
	}
	r.revealed = append(r.revealed, sum)
	told := h.revealed(r.job.Account, r.e.Now())
	told.RunID = r.job.ID.Bytes()
	r.e.Tell(told)
}

// revealed is the event of it.
func (h *hosted) revealed(record trust.Ref, now time.Time) ksm.Refusal {
	return ksm.Refusal{
		Name: "script.reveals", Record: wireRef(record), Time: now.UnixMilli(),
		Fields: map[string]string{"sha256": fmt.Sprintf("%x", h.use.Sha256), "why": h.manifest.Reveals},
	}
}

// changedBy is the run that set the secret which scripts are told of: this one, or, where
// they are run alone, the one before it, as far as that is known.
func (r *Run) changedBy() seal.ID {
	if r.candidate == nil && r.set != nil {
		if id, err := seal.IDFrom(r.set.RunId); err == nil {
			return id
		}
	}
	return r.job.ID
}

// says is what the account's readers are told of a script: which one it was, who approved
// it, how it ended, and what it said.
func (h *hosted) says(log *trust.Log, s *journal.Script, output string) string {
	how := map[journal.StepState]string{
		journal.StepDone: "done", journal.StepRefused: "not done", journal.StepFailed: "failed, perhaps half done",
	}[s.State]
	if s.Reason != "" {
		how += " (" + s.Reason + ")"
	}
	text := fmt.Sprintf("%s, sha256 %x, approved by %s: %s", h, h.use.Sha256, log.FullName(h.by.Signer), how)
	if output = strings.TrimRight(output, "\n"); output != "" {
		text += "\n" + output
	}
	return text
}

// hidden is every secret that the run knows: what a plugin or a script said is told to
// nobody with one of them in it.
func (r *Run) hidden() *scrub.Set {
	set := &scrub.Set{}
	add := func(c sdk.Credential) {
		secret := c.Secret.Expose()
		set.Add(secret)
		clear(secret)
	}
	for _, c := range []sdk.Credential{r.current, r.former, r.admin} {
		add(c)
	}
	if r.candidate != nil {
		add(r.candidate.credential)
	}
	if r.pair != nil {
		add(r.pair.secret)
	}
	for _, c := range r.extras {
		add(c)
	}
	for _, d := range r.uses {
		add(d.job.Admin)
		for _, c := range d.job.Extra {
			add(c)
		}
	}
	for _, h := range r.after {
		for _, f := range h.records {
			add(f.got.Secret)
		}
	}
	return set
}

// clean is a code that a plugin gave, which is told in clear: one that is a secret is none.
func clean(hidden *scrub.Set, code string) string {
	if hidden.Text(code) != code {
		return string(trust.Malformed)
	}
	return code
}

// maxSaid bounds what the scripts of a run say, all together.
const maxSaid = 64 << 10

// cut shortens text at a rune's end.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

func orErr(err, other error) error {
	if err == nil {
		return other
	}
	return err
}
