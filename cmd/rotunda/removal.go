package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// removalFlags are those of every command that removes a signer from the log. --yes
// answers none of what they ask for: each names what was seen.
type removalFlags struct {
	plan       bool
	sign       []string
	leave      bool
	candidates bool
	noRekey    bool
	noRotate   bool
	noWait     bool
}

func (r *removalFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&r.plan, "plan", false, "only show what the removal would do")
	f.StringSliceVar(&r.sign, "sign", nil, "sign this changed statement anew, by its digest in `HEX` as --plan shows it; may be repeated")
	f.BoolVar(&r.leave, "leave", false, "leave the changed statements that --sign does not name: agents stop using those records")
	f.BoolVar(&r.noRekey, "no-rekey", false, "leave the keys of the folders that it could read")
	f.BoolVar(&r.noRotate, "no-rotate", false, "leave the secrets of the accounts that it could read")
	f.BoolVar(&r.noWait, "no-wait", false, "start the rotations and do not follow them; resources' administrators are left for \"rotunda rotate --exposed\"")
	f.BoolVar(&r.candidates, "leave-candidates", false, "remove it though new secrets that it staged are outstanding: each is settled with run abandon afterwards")
}

// removalHelp is what the commands say of these flags.
const removalHelp = `
What it signed last and still stands is shown as the difference to what somebody else
signed before. Where it changed anything, or was the first to sign, you are asked record
by record, and --yes is no answer: without a terminal, run the command with --plan
--json, look at the changes, and name the digest of each statement that you sign anew
with --sign. What was signed again since you looked is never signed by you.

After the removal each folder that it could read is re-keyed (see "rotunda folder
rekey"), then each account that it could read is rotated by a command of yours: that
needs operate on the account's or its resource's folder, and no schedule. What is left
is listed at the end, and by "rotunda doctor" until it is done. Into folders that you
cannot read it cannot look: it says so, and does not end well (not_looked_at); nor while
an account is left that is not rotated (not_rotated). If it is interrupted, or an agent
was away, the same command goes on, and --plan shows before with what. --no-rekey and
--no-rotate leave either.`

// removalView is a plan as a program reads it.
type removalView struct {
	ID         string          `json:"id"`
	Name       string          `json:"name"`
	Kind       string          `json:"kind"`
	Statements []statementView `json:"statements"`
	Values     []string        `json:"values"`
	Candidates []candidateLeft `json:"candidates"`
	Folders    []planFolder    `json:"folders"`
	Apps       []string        `json:"applications"` // whose key it could hold
}

// planFolder is a folder that the one to be removed can read.
type planFolder struct {
	UID      string `json:"uid"`
	Name     string `json:"name"`
	Records  int    `json:"records"`
	Accounts int    `json:"accounts"`
	Unread   bool   `json:"not_looked_at,omitempty"` // this device cannot read it
}

// statementView is a statement of the one to be removed.
type statementView struct {
	Record  string      `json:"record"`
	Title   string      `json:"title"`
	Digest  string      `json:"digest"`
	Seq     uint64      `json:"statement"`
	Former  *formerView `json:"former"` // null: nobody else signed one
	Changes []string    `json:"changes"`
	Stops   bool        `json:"stops,omitempty"`
	// NotLinked: agents refuse it already, and it is not signed anew.
	NotLinked bool `json:"not_linked,omitempty"`
}

type formerView struct {
	Seq    uint64 `json:"statement"`
	By     string `json:"by"`
	Issued string `json:"issued"`
}

// candidateLeft is a new secret that the one to be removed has staged.
type candidateLeft struct {
	Record string `json:"record"`
	Title  string `json:"title"`
	RunID  string `json:"run_id"`
}

func viewRemoval(p *client.Removal) removalView {
	v := removalView{
		ID: p.ID.String(), Name: p.Name, Kind: kindWord(p.Kind),
		Statements: []statementView{}, Values: []string{}, Candidates: []candidateLeft{}, Folders: []planFolder{}, Apps: []string{},
	}
	for _, r := range p.Statements {
		s := statementView{Record: r.Ref.String(), Title: r.Title, Digest: r.Digest.String(), Seq: r.Seq, Changes: r.Changes, Stops: r.Stops, NotLinked: r.NotLinked}
		if r.Changes == nil {
			s.Changes = []string{}
		}
		if f := r.Former; f != nil {
			s.Former = &formerView{f.Seq, f.By, stamp(f.Issued)}
		}
		v.Statements = append(v.Statements, s)
	}
	for _, r := range p.Values {
		v.Values = append(v.Values, r.Ref.String())
	}
	for _, r := range p.Candidates {
		v.Candidates = append(v.Candidates, candidateLeft{r.Ref.String(), r.Title, r.RunID.String()})
	}
	for _, f := range p.Folders {
		v.Folders = append(v.Folders, planFolder{f.UID.String(), f.Name, f.Records, f.Accounts, f.Unread})
	}
	for _, app := range p.Apps {
		v.Apps = append(v.Apps, app.Name)
	}
	return v
}

// remove removes an entry of the log after showing what that voids.
func (c *cli) remove(ctx context.Context, cl *client.Client, name string, flags removalFlags, kinds ...trustv1.EntryKind) error {
	e, err := cl.Find(ctx, name, kinds...)
	if client.ClassOf(err) == client.NotFound && client.ReasonOf(err) != "ambiguous" {
		return c.goOn(ctx, cl, name, flags, err, kinds)
	}
	if err != nil {
		return err
	}
	id, err := seal.IDFrom(e.EntryId)
	if err != nil {
		return err
	}
	plan, err := cl.PlanRemoval(ctx, id)
	if err != nil {
		return err
	}
	if flags.plan {
		return c.emit(viewRemoval(plan), func(w io.Writer) { c.showPlan(w, plan) })
	}
	c.showPlan(c.p.stderr, plan)
	skip, err := c.chooseStatements(plan, flags)
	if err != nil {
		return err
	}
	if err := c.leaveCandidates(plan, flags); err != nil {
		return err
	}
	if err := c.leaveOwn(plan, flags); err != nil {
		return err
	}
	if err := c.confirm(fmt.Sprintf("remove %s %q for ever%s", kindWord(e.Kind), e.Name, afterwards(plan, flags))); err != nil {
		return err
	}
	if err := cl.Remove(ctx, plan, skip); err != nil {
		return err
	}
	if plan.Self {
		return c.goneItself(plan)
	}
	if plan.Kind == client.KindEnrolment && len(plan.Folders) == 0 {
		return c.done("removed " + e.Name)
	}
	return c.shutOut(ctx, cl, id, e.Name, flags)
}

// leaveOwn asks before this device goes with what it signed last: nobody signs that anew.
func (c *cli) leaveOwn(plan *client.Removal, flags removalFlags) error {
	n := len(plan.Statements) + len(plan.Values)
	if !plan.Self || n == 0 {
		return nil
	}
	c.warn("%s is this device: agents stop using what it signed last, since it cannot sign that anew", plan.Name)
	if flags.leave || c.p.stdinTerminal {
		return nil
	}
	return failf(exitUsage, "not_confirmed", "%s is this device, whose word %d statement%s and value%s rest on, and nobody can be asked", plan.Name, n, plural(n), plural(n)).
		withHint("remove it from another device of yours, or have an administrator remove it: then they are signed anew; --leave leaves them")
}

// goneItself says what is left to do on a device that was just removed.
func (c *cli) goneItself(plan *client.Removal) error {
	p, err := c.openProfile()
	if err != nil {
		return err
	}
	info, err := p.Info()
	if err != nil {
		return err
	}
	if len(plan.Folders) > 0 {
		c.warn("the folders that it could read keep their keys: on another device `rotunda device remove %s` goes on with that", quoted(plan.Name))
	}
	return c.done("removed " + plan.Name + ": this device is out of the organisation, and its store opens nothing any more; delete " + info.Dir)
}

// showPlan says in words what a removal voids, and what each of its statements changed.
func (c *cli) showPlan(w io.Writer, plan *client.Removal) {
	showReach(w, plan)
	same := 0
	for _, r := range plan.Statements {
		switch {
		case r.NotLinked:
			printLine(w, "%s (%s) is not signed anew: agents refuse it already, since it names a record on which its signer has no right", r.Title, r.Ref)
			continue
		case r.Stops:
			printLine(w, "%s (%s) stops: nobody present can sign it anew", r.Title, r.Ref)
			continue
		case len(r.Changes) == 0:
			same++
			continue
		case r.Former == nil:
			printLine(w, "%s (%s), statement %d: nobody else has signed it before. It says", r.Title, r.Ref, r.Seq)
		default:
			printLine(w, "%s (%s), statement %d: against statement %d, signed by %s at %s, it changed",
				r.Title, r.Ref, r.Seq, r.Former.Seq, r.Former.By, c.when(r.Former.Issued))
		}
		for _, change := range r.Changes {
			printLine(w, "    %s", change)
		}
		printLine(w, "    digest %s", r.Digest)
	}
	if same > 0 {
		printLine(w, "%d statement%s that say%s what somebody else had signed before will be signed anew by you", same, plural(same), verbS(same))
	}
	n := 0
	for _, r := range plan.Values {
		if !r.Stops {
			n++
			continue
		}
		printLine(w, "the value of %s (%s) stops: nobody present can attest it anew, `rotunda record adopt` afterwards makes it count", r.Title, r.Ref)
	}
	if n > 0 {
		printLine(w, "%d value%s will be attested anew by you", n, plural(n))
	}
	for _, r := range plan.Candidates {
		printLine(w, "%s (%s): a new secret that it staged is outstanding, and may be the one that the target has. Settle it first: `rotunda run abandon %s` has an agent of the pool find out, `rotunda run watch %s` waits",
			r.Title, r.Ref, r.RunID, r.RunID)
	}
}

func verbS(n int) string {
	if n == 1 {
		return "s"
	}
	return ""
}

// chooseStatements asks about each statement that the one to be removed changed, and
// gives the records whose statements are not signed anew.
func (c *cli) chooseStatements(plan *client.Removal, flags removalFlags) (skip []client.Ref, err error) {
	var named []string
	for _, d := range flags.sign {
		named = append(named, strings.ToLower(d))
	}
	var open []string
	for _, r := range plan.Statements {
		if r.Stops || r.NotLinked || len(r.Changes) == 0 {
			continue
		}
		if n := slices.Index(named, r.Digest.String()); n >= 0 {
			named = slices.Delete(named, n, n+1)
			continue
		}
		switch {
		case flags.leave:
			skip = append(skip, r.Ref)
		case !c.p.stdinTerminal:
			open = append(open, r.Title)
		default:
			yes, err := c.ask("sign " + r.Title + " anew as it is now")
			if err != nil {
				return nil, err
			}
			if !yes {
				skip = append(skip, r.Ref)
			}
		}
	}
	if len(named) > 0 {
		return nil, failf(exitConflict, "plan_stale", "--sign %s: no changed statement of his has this digest", named[0]).
			withHint("nobody was removed: look at the statements again with --plan")
	}
	if len(open) > 0 {
		return nil, failf(exitUsage, "not_confirmed", "%s: it changed what %s say%s, and nobody can be asked", plan.Name, strings.Join(open, ", "), verbS(len(open))).
			withHint("look at the changes with --plan, then name each that you sign with --sign DIGEST; --leave leaves the others, whose records agents stop using")
	}
	return skip, nil
}

// leaveCandidates asks before new secrets are left that no agent would take up any more.
func (c *cli) leaveCandidates(plan *client.Removal, flags removalFlags) error {
	n := len(plan.Candidates)
	if n == 0 || flags.candidates {
		return nil
	}
	if !c.p.stdinTerminal {
		return failf(exitUsage, "not_confirmed", "%d new secret%s that it staged %s outstanding, and nobody can be asked", n, plural(n), isAre(n)).
			withHint("settle each first with `rotunda run abandon RUN`, or give --leave-candidates and settle them afterwards the same way")
	}
	yes, err := c.ask(fmt.Sprintf("remove it with %d new secret%s outstanding, and settle %s afterwards", n, plural(n), themIt(n)))
	if err == nil && !yes {
		err = failf(exitDeclined, "not_confirmed", "nothing was changed")
	}
	return err
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func themIt(n int) string {
	if n == 1 {
		return "it"
	}
	return "them"
}

// afterwards says in a question what follows a removal.
func afterwards(plan *client.Removal, flags removalFlags) string {
	n, accounts := len(plan.Folders), 0
	for _, f := range plan.Folders {
		accounts += f.Accounts
	}
	text := ""
	if n > 0 && !flags.noRekey && !plan.Self {
		text += fmt.Sprintf(", give %d folder%s and what is in %s new keys", n, plural(n), themIt(n))
	}
	if accounts > 0 && !flags.noRotate && !plan.Self {
		text += fmt.Sprintf(", rotate %d account%s", accounts, plural(accounts))
	}
	return text
}

// showReach says what the one to be removed knows and will know no more.
func showReach(w io.Writer, plan *client.Removal) {
	unread := 0
	for _, f := range plan.Folders {
		if f.Unread {
			unread++
			printLine(w, "it can read the folder %s, which you cannot: not looked at", f.Name)
			continue
		}
		printLine(w, "it can read the folder %s: %d record%s, %d of them accounts", f.Name, f.Records, plural(f.Records), f.Accounts)
		if kept := f.Records - f.Accounts; kept > 0 {
			printLine(w, "    what is no account is re-keyed and not rotated: change those secrets where they are used")
		}
	}
	if unread > 0 {
		printLine(w, "%d folder%s you cannot read: not looked at. Who reads them re-keys them and rotates their accounts: have them run `rotunda doctor` after the removal", unread, plural(unread))
	}
	for _, app := range plan.Apps {
		printLine(w, "it can hold the key of the application %s, under which its folders' new keys will be, too: issue it anew, best before the removal: %s", app.Name, newApp(app.Name))
	}
}
