package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

func (c *cli) runCmd() *cobra.Command {
	cmd := c.group("run", "runs: what was tried, and how it ended", `A run is one attempt to give one account a new secret, or to verify the one it has.`)
	cmd.AddCommand(c.runListCmd(), c.runShowCmd(), c.runWatchCmd(), c.runRetryCmd(), c.runAbandonCmd())
	return cmd
}

// runView is a run as the server tells it.
type runView struct {
	ID          string       `json:"run_id"`
	Account     string       `json:"account"`
	Title       string       `json:"title,omitempty"`
	Action      string       `json:"action"`
	Cause       string       `json:"cause"`
	State       string       `json:"state"`
	Phase       string       `json:"phase,omitempty"`
	Attempt     int          `json:"attempt"`
	Agent       string       `json:"agent,omitempty"`
	Created     string       `json:"created"`
	Started     string       `json:"started,omitempty"`
	Finished    string       `json:"finished,omitempty"`
	NextAttempt string       `json:"next_attempt,omitempty"`
	Until       string       `json:"until,omitempty"` // a person's run that its agent has not taken up ends then
	Credential  string       `json:"credential"`
	Dependents  string       `json:"dependents"`
	Scripts     string       `json:"scripts"`
	Class       string       `json:"class,omitempty"`
	Reason      string       `json:"reason,omitempty"`
	Look        string       `json:"look,omitempty"` // failed, overdue, unverifiable
	Results     []resultView `json:"results,omitempty"`
}

// resultView is one signed result.
type resultView struct {
	Phase      string     `json:"phase"`
	By         string     `json:"by"`
	Time       string     `json:"time"`
	Credential string     `json:"credential"`
	Dependents string     `json:"dependents"`
	Scripts    string     `json:"scripts"`
	Class      string     `json:"class,omitempty"`
	Reason     string     `json:"reason,omitempty"`
	Detail     string     `json:"detail,omitempty"`
	Refused    string     `json:"refused,omitempty"` // the check that it failed
	Used       []usedView `json:"used,omitempty"`
}

// usedView is a script that a run used: its file as the agent signed it, and where that file is
// approved now, if it is.
type usedView struct {
	SHA256 string `json:"sha256"`
	Script string `json:"script,omitempty"`
	In     string `json:"in,omitempty"` // title of the record that names it, and the place
	By     string `json:"by,omitempty"` // who approved it there
}

// lateAfter is when an unfinished run is overdue, as the server's filter has it.
const lateAfter = 15 * time.Minute

func (c *cli) viewRun(r client.Run, title string) runView {
	v := runView{
		ID: r.ID.String(), Account: r.Account.String(), Title: title, Action: r.Action, Cause: r.Cause, State: r.State, Phase: r.Phase,
		Attempt: r.Attempt, Agent: r.AgentName, Created: stamp(r.Created), Started: stamp(r.Started), Finished: stamp(r.Finished),
		NextAttempt: stamp(r.NextAttempt), Until: stamp(r.Until), Credential: outcomeWord(r.Credential), Dependents: outcomeWord(r.Dependents),
		Scripts: outcomeWord(r.Scripts), Class: r.Class, Reason: r.Reason,
	}
	switch {
	case v.State == "failed" || v.State == "alert" || v.Credential == "failed" || v.Dependents == "failed" || v.Scripts == "failed":
		v.Look = "failed"
	case r.Finished.IsZero() && c.p.now().Sub(r.Created) > lateAfter:
		v.Look = "overdue"
	case v.Credential == "unverifiable":
		v.Look = "unverifiable"
	}
	return v
}

func (c *cli) runListCmd() *cobra.Command {
	var pg page
	var account, state string
	flags := map[string]*bool{"failed": new(bool), "overdue": new(bool), "unverifiable": new(bool), "unfinished": new(bool)}
	cmd := c.leaf("list", "list runs, newest first", func(ctx context.Context, _ []string) error {
		for name, on := range flags {
			if !*on {
				continue
			}
			if state != "" {
				return usagef("--failed, --overdue, --unverifiable and --unfinished exclude one another")
			}
			state = name
		}
		return c.with(ctx, func(cl *client.Client) error {
			var id seal.ID
			if account != "" {
				r, err := findAccount(ctx, cl, account)
				if err != nil {
					return err
				}
				id = r.Ref.Record
			}
			runs, next, err := follow(&pg, func(token string, limit int) ([]client.Run, string, error) {
				return cl.Runs(ctx, client.RunFilter{Account: id, State: state, Limit: limit, Token: token})
			})
			if err != nil {
				return err
			}
			refs := make([]client.Ref, 0, len(runs))
			for _, r := range runs {
				refs = append(refs, r.Account)
			}
			names, err := titles(ctx, cl, refs)
			if err != nil {
				return err
			}
			views := make([]runView, 0, len(runs))
			for _, r := range runs {
				views = append(views, c.viewRun(r, names[r.Account]))
			}
			return list(c, &pg, "runs", views, next, []string{"look", "created", "account", "action", "cause", "state", "phase", "credential", "why", "run"}, func(v runView) []string {
				why := v.Reason
				if v.Class != "" {
					why = v.Class + " " + why
				}
				return []string{v.Look, local(v.Created), orWord(v.Title, v.Account), v.Action, v.Cause, v.State, v.Phase, skipNone(v.Credential), why, v.ID}
			})
		})
	})
	f := cmd.Flags()
	f.StringVar(&account, "account", "", "only runs of this account")
	f.BoolVar(flags["failed"], "failed", false, "only runs that failed, or whose dependents or scripts did, or that wait for a person")
	f.BoolVar(flags["overdue"], "overdue", false, "only runs that are late")
	f.BoolVar(flags["unverifiable"], "unverifiable", false, "only runs that changed a secret that nobody can check")
	f.BoolVar(flags["unfinished"], "unfinished", false, "only runs that go on")
	pg.flags(cmd)
	return help(cmd, `The first column says which runs want a look: failed, overdue, or unverifiable
(changed, but the account cannot log in, so nobody can check).`, `rotunda run list --failed
rotunda run list --account app --limit 10`)
}

func parseRun(s string) (seal.ID, error) {
	id, err := seal.ParseID(s)
	if err != nil {
		return seal.ID{}, usagef("%q is no run: a run's id has 22 letters, as `rotunda run list` prints it", s)
	}
	return id, nil
}

func (c *cli) runShowCmd() *cobra.Command {
	return c.leaf("show RUN", "show a run and its signed results", func(ctx context.Context, args []string) error {
		id, err := parseRun(args[0])
		if err != nil {
			return err
		}
		return c.with(ctx, func(cl *client.Client) error {
			r, err := cl.Run(ctx, id)
			if err != nil {
				return err
			}
			names, err := titles(ctx, cl, []client.Ref{r.Account})
			if err != nil {
				return err
			}
			v := c.viewRun(r, names[r.Account])
			for _, res := range r.Results {
				v.Results = append(v.Results, viewResult(res))
			}
			addUses(ctx, cl, r.Account, v.Results)
			return c.emit(v, func(w io.Writer) { showRun(w, v) })
		})
	})
}

func viewResult(r client.RunResult) resultView {
	var used []usedView
	for _, sum := range r.Result.GetScriptSha256() {
		used = append(used, usedView{SHA256: fmt.Sprintf("%x", sum)})
	}
	return resultView{
		Used:  used,
		Phase: phaseWord(r.Result.GetPhase()), By: r.By, Time: stamp(time.UnixMilli(r.Result.GetTime())),
		Credential: outcomeWord(r.Result.GetCredential()), Dependents: outcomeWord(r.Result.GetDependents()), Scripts: outcomeWord(r.Result.GetScripts()),
		Class: r.Result.GetClass(), Reason: r.Result.GetReason(), Detail: r.Detail, Refused: r.Reason,
	}
}

// addUses says of the scripts that results name who has approved them: as far as the
// statements do which are in force now.
func addUses(ctx context.Context, cl *client.Client, account client.Ref, results []resultView) {
	if !slices.ContainsFunc(results, func(r resultView) bool { return len(r.Used) > 0 }) {
		return
	}
	uses, err := cl.UsedBy(ctx, account)
	if err != nil { // the hashes are told all the same
		return
	}
	for _, r := range results {
		for n := range r.Used {
			i := slices.IndexFunc(uses, func(u client.ScriptUse) bool { return fmt.Sprintf("%x", u.Use.Sha256) == r.Used[n].SHA256 })
			if i < 0 {
				continue
			}
			ref := refText(uses[i].Use.Script)
			r.Used[n].Script, r.Used[n].In, r.Used[n].By = ref, uses[i].Title+", "+uses[i].Place, uses[i].By
			if s, err := cl.FindRecord(ctx, ref); err == nil {
				r.Used[n].Script = s.Title
			}
		}
	}
}

// text is a script in a line.
func (u usedView) text() string {
	if u.Script == "" {
		return "sha256 " + u.SHA256 + ": named by no statement that is in force"
	}
	return fmt.Sprintf("%s, sha256 %s, approved by %s in %s", u.Script, u.SHA256, orWord(u.By, "nobody who is known"), u.In)
}

func showRun(w io.Writer, v runView) {
	pairs(w, "run", v.ID, "account", orWord(v.Title, v.Account), "action", v.Action, "cause", v.Cause, "state", v.State, "phase", v.Phase,
		"attempt", nonZero(v.Attempt), "agent", v.Agent, "created", local(v.Created), "started", local(v.Started), "finished", local(v.Finished), "next attempt", local(v.NextAttempt), "waits until", local(v.Until),
		"credential", skipNone(v.Credential), "dependents", skipNone(v.Dependents), "scripts", skipNone(v.Scripts), "class", v.Class, "reason", v.Reason)
	for _, r := range v.Results {
		word := "signed"
		if r.Refused != "" {
			word = "does not count: " + r.Refused
		}
		fmt.Fprintln(w)
		printLine(w, "%s at %s by %s (%s)", r.Phase, local(r.Time), r.By, word)
		pairs(w, slices.Concat([]string{
			"  credential", skipNone(r.Credential), "  dependents", skipNone(r.Dependents), "  scripts", skipNone(r.Scripts),
			"  class", r.Class, "  reason", r.Reason,
		}, lines("  detail", r.Detail))...)
		for _, u := range r.Used {
			printLine(w, "  script %s", u.text())
		}
	}
}

// oneRun is a command that does something with a run and follows it.
func (c *cli) oneRun(use, short string, do func(context.Context, *client.Client, seal.ID, client.RunOptions) (client.Outcome, error)) *cobra.Command {
	var wait time.Duration
	cmd := c.leaf(use, short, func(ctx context.Context, args []string) error {
		id, err := parseRun(args[0])
		if err != nil {
			return err
		}
		return c.with(ctx, func(cl *client.Client) error {
			r, err := cl.Run(ctx, id)
			if err != nil {
				return err
			}
			records, err := cl.Get(ctx, r.Account)
			if err != nil {
				return err
			}
			f := c.follow(records)
			f.single = true
			o, err := do(ctx, cl, id, client.RunOptions{Progress: f.progress, Wait: wait})
			if err != nil && o.State == "" {
				return err
			}
			if ended := f.end([]client.Outcome{o}, false); ended != nil {
				return ended // it says what err says
			}
			return err
		})
	})
	cmd.Flags().DurationVar(&wait, "wait", 0, "follow for at most this long (0: to the end)")
	return cmd
}

func (c *cli) runWatchCmd() *cobra.Command {
	return help(c.oneRun("watch RUN", "follow a run to its end", func(ctx context.Context, cl *client.Client, id seal.ID, o client.RunOptions) (client.Outcome, error) {
		return cl.Wait(ctx, id, o)
	}), `Exit codes are those of rotate.`, "")
}

func (c *cli) runRetryCmd() *cobra.Command {
	return help(c.oneRun("retry RUN", "start a run again: a new one for the same account", func(ctx context.Context, cl *client.Client, id seal.ID, o client.RunOptions) (client.Outcome, error) {
		return cl.Retry(ctx, id, o)
	}), `While a candidate is outstanding, whoever takes over drives the same candidate: a
retry never makes a second one beside it.`, "")
}

func (c *cli) runAbandonCmd() *cobra.Command {
	var unproven bool
	cmd := c.oneRun("abandon RUN", "have a run given up", func(ctx context.Context, cl *client.Client, id seal.ID, o client.RunOptions) (client.Outcome, error) {
		return c.abandon(unproven, func(unproven, judged bool) (client.Outcome, error) {
			o.Unproven, o.Judged = unproven, judged
			return cl.Abandon(ctx, id, o)
		})
	})
	cmd.Flags().BoolVar(&unproven, "unproven", false, "clear the candidate though no agent can probe it, or tell what it is")
	return help(cmd, `An agent probes first, and gives the candidate up only when the target rejects it; it
then stays in the record's history. A run that no agent took is dropped.

Where no agent can probe it (the one that staged it was removed, it is an old one, or
none of the pool is connected), or the agent could not tell whether the target has it,
you are asked; --yes is no answer to that, --unproven is. Your device then signs the
candidate into the record's history, and an agent of the pool, where there is one, finds
out which secret the target has: it logs in with the account's secret, and where the
target refuses that one, with the candidate, which then becomes the account's.
"rotunda record get RECORD --candidate RUN --reveal" shows it at any time.`, `rotunda run abandon wq4TXgHcGsYyH3sfbSUvOw
rotunda run abandon wq4TXgHcGsYyH3sfbSUvOw --unproven`)
}

// abandon has a run given up by do, and asks a person about a candidate that nobody could
// judge.
func (c *cli) abandon(unproven bool, do func(unproven, judged bool) (client.Outcome, error)) (client.Outcome, error) {
	out, err := do(unproven, false)
	if unproven || !client.Unsettled(out, err) || !c.p.stdinTerminal {
		return out, err
	}
	if err != nil {
		c.warn("%s", classify(err).Error())
	} else {
		c.warn("an agent could not tell whether the target has the candidate (%s)", orWord(out.Reason, "undecided"))
	}
	c.warn("%s", client.AbandonMeans)
	yes, asked := c.ask("clear it all the same")
	if asked != nil {
		return out, asked
	}
	if !yes {
		return out, err
	}
	return do(true, err == nil)
}
