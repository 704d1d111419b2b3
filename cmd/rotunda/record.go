package main

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/terminal"
	"github.com/rotunda-pam/rotunda/sdk"
)

func (c *cli) recordCmd() *cobra.Command {
	cmd := c.group("record", "accounts and other records that hold a secret", `Records hold secrets. An account is a record whose secret Rotunda can change: it
names the resource where it logs in, and a signed statement says what agents may
do with it. Secrets come from a prompt, a file or standard input, and are shown
only with --reveal, which the organisation's events note.`)
	cmd.AddCommand(c.recordAddCmd(), c.recordGetCmd(), c.recordListCmd(), c.recordEditCmd(), c.recordHistoryCmd(),
		c.recordAdoptCmd(), c.recordRemoveCmd(), c.recordImportCmd())
	return cmd
}

func (c *cli) recordGetCmd() *cobra.Command {
	var reveal bool
	var field, run, evenIf string
	cmd := c.leaf("get RECORD", "show a record; its secret only with --reveal", func(ctx context.Context, args []string) error {
		if secretField(field) && !reveal {
			return usagef("--field %s may be a secret and wants --reveal", field)
		}
		if evenIf != "" && (!secretField(field) || run != "") {
			return usagef("--even-if goes with --field of a record's secret")
		}
		return c.with(ctx, func(cl *client.Client) error {
			r, err := cl.FindRecord(ctx, args[0])
			if err != nil {
				return err
			}
			if run != "" {
				return c.showCandidate(ctx, cl, r, run, reveal, field)
			}
			if secretField(field) {
				if err := c.mayPrint(r, evenIf); err != nil {
					return err
				}
			}
			v := viewRecord(r)
			if reveal {
				// Noted first: a secret is not shown to somebody who cannot be named later.
				if err := cl.Reveal(ctx, r.Ref); err != nil {
					return err
				}
				if s, ok := r.Secret(); ok {
					v.Secret = s.ExposeString()
				}
				if r.Candidate != nil {
					v.Candidate.Secret = r.Candidate.Value.ExposeString()
				}
			}
			if field != "" {
				return c.showField(r, field)
			}
			if !c.json {
				v.findNames(ctx, cl)
			}
			return c.emit(v, func(w io.Writer) {
				c.warnEscaped(v.Secret, v.Candidate.secret())
				showRecord(w, v)
			})
		})
	})
	cmd.Flags().BoolVar(&reveal, "reveal", false, "show the secret; an event notes who looked")
	cmd.Flags().StringVar(&run, "candidate", "", "show the new secret that this `RUN` made and that did not become the account's: outstanding, or given up")
	cmd.Flags().StringVar(&field, "field", "", "print one field's value alone: secret, login, url, notes, public_key, key_id, or a `TYPE` of the record format")
	completes(cmd, "field", recordFields)
	choiceVar(cmd, &evenIf, "even-if", "", refusedStates, "print a secret by --field though the record is in this `STATE`, e.g. edited_outside")
	return help(cmd, `Shows the record and what was checked about it. State says what may be thought of
its value:

  in use          an agent committed it, or an entitled person set it
  unconfirmed     no result that counts attests a value yet
  unattested      a result attests another value than the one served, or the resource, by
                  whose pool an agent's word counts, is not served or does not hold here
  unsigned        it has no statement: agents do not use it
  edited outside  a machine client wrote it: "rotunda record adopt" makes it count
  not linked      it names a record on which its signer, or the pool, has no right: agents
                  do not use it, and nobody's re-keying signs it anew
  rolled back     this device has seen a newer one: do not use it
  broken          it does not open, or a check failed; the reason says why

With --field a script gets a secret and no state: of a record that is unsigned, edited
outside, rolled back or broken it gets none, and exit code 4, unless --even-if names that
state. Of one that is unconfirmed or unattested it gets it, with a warning.`,
		`rotunda record get Databases/app
rotunda record get Databases/app --reveal --field secret
rotunda record get Databases/app --candidate wq4TXgHcGsYyH3sfbSUvOw --reveal --field secret`)
}

// showCandidate shows a value that a run made: the one that is outstanding, or from the
// history one that was given up.
func (c *cli) showCandidate(ctx context.Context, cl *client.Client, r *client.Record, run string, reveal bool, field string) error {
	id, err := parseRun(run)
	if err != nil {
		return err
	}
	if field != "" && field != "secret" {
		return usagef("--candidate shows a secret, and no other field")
	}
	if reveal {
		if err := cl.Reveal(ctx, r.Ref); err != nil {
			return err
		}
	}
	var secret sdk.Secret
	v := historyView{RunID: run, Secret: masked}
	if k := r.Candidate; k != nil && k.RunID == id {
		v.Time, v.Why, v.Reason, secret = stamp(k.Staged), "outstanding", k.Reason, k.Value
	} else {
		values, err := cl.History(ctx, r.Ref)
		if err != nil {
			return err
		}
		for i := range values {
			if h := &values[i]; h.RunID == id && h.Why == "abandoned" {
				v = viewHistory(h, false)
				secret, _ = h.Secret()
			}
		}
	}
	if v.Why == "" {
		return failf(exitNotFound, "not_found", "%s has no candidate of the run %s", r.Title, id).
			withHint("`rotunda record history` lists the former values with their runs")
	}
	if reveal {
		v.Secret = secret.ExposeString()
	}
	if field != "" && secret.Len() == 0 {
		return failf(exitNotFound, "no_field", "the candidate of the run %s does not open: %s", id, orWord(v.Reason, "it holds no secret"))
	}
	if field != "" && v.Reason != "" {
		c.warn("the candidate of the run %s is refused: agents do not use it (%s)", id, v.Reason)
	}
	if field != "" && !c.json {
		value := secret.Expose()
		defer clear(value)
		return c.showValue(value)
	}
	return c.emit(v, func(w io.Writer) {
		c.warnEscaped(v.Secret)
		pairs(w, "run", v.RunID, "why", v.Why, "time", local(v.Time), "reason", v.Reason, "secret", terminal.Escaped(v.Secret))
	})
}

// recordFilter chooses records of a list.
type recordFilter struct {
	folder string
	types  []string
	state  string
	match  string
}

func (f *recordFilter) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.folder, "folder", "", "only this folder")
	cmd.Flags().StringVar(&f.match, "match", "", "only titles that fit this `PATTERN`, e.g. 'prod-*'")
}

func (f *recordFilter) fits(r *client.Record) bool {
	if f.state != "" && stateWord(string(r.State)) != f.state {
		return false
	}
	if f.match == "" {
		return true
	}
	ok, _ := path.Match(f.match, r.Title) // the pattern was checked
	return ok
}

// folderOf checks the filter and gives the folder, zero for all.
func (f *recordFilter) folderOf(ctx context.Context, cl *client.Client) (seal.ID, error) {
	if _, err := path.Match(f.match, ""); err != nil {
		return seal.ID{}, usagef("--match %q: %w", f.match, err)
	}
	if f.folder == "" {
		return seal.ID{}, nil
	}
	folder, err := cl.FindFolder(ctx, f.folder)
	return folder.UID, err
}

func (c *cli) recordListCmd() *cobra.Command {
	var pg page
	var f recordFilter
	cmd := c.leaf("list", "list records", func(ctx context.Context, _ []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			folder, err := f.folderOf(ctx, cl)
			if err != nil {
				return err
			}
			records, next, err := take(&pg, cl.Records(ctx, folder, f.types...), f.fits)
			if err != nil {
				return err
			}
			if len(records) == 0 {
				if err := checkTypes(ctx, cl, f.types); err != nil {
					return err
				}
			}
			views := make([]recordView, 0, len(records))
			for _, r := range records {
				views = append(views, viewRecord(r))
			}
			return list(c, &pg, "records", views, next, []string{"title", "type", "login", "state", "updated", "folder/uid"}, func(r recordView) []string {
				return []string{r.Title, r.Type, r.Login, r.stateText(), local(r.Updated), r.Folder + "/" + r.UID}
			})
		})
	})
	f.flags(cmd)
	cmd.Flags().StringSliceVar(&f.types, "type", nil, "only records of these `TYPES`, e.g. pamUser,login")
	completes(cmd, "type", knownTypes)
	choiceVar(cmd, &f.state, "state", "", recordStates, "only records in this `STATE`, e.g. edited_outside")
	pg.flags(cmd)
	return cmd
}

// checkTypes refuses a type that no record has. Machine clients write records of types
// that this program does not know, so that only the vault knows them all.
func checkTypes(ctx context.Context, cl *client.Client, types []string) error {
next:
	for _, t := range types {
		if slices.Contains(knownTypes, t) {
			continue
		}
		for _, err := range cl.Records(ctx, seal.ID{}, t) {
			if err != nil {
				return err
			}
			continue next
		}
		return usagef("--type %q: no record is of this type; it is %s, or a type that a machine client wrote", t, orList(knownTypes))
	}
	return nil
}

func (c *cli) recordHistoryCmd() *cobra.Command {
	var pg page
	var reveal bool
	var revision int64
	cmd := c.leaf("history RECORD", "list the former values of a record", func(ctx context.Context, args []string) error {
		if revision < 0 {
			return usagef("--revision %d: it is 1 or more", revision)
		}
		return c.with(ctx, func(cl *client.Client) error {
			r, err := cl.FindRecord(ctx, args[0])
			if err != nil {
				return err
			}
			values, err := cl.History(ctx, r.Ref)
			if err != nil {
				return err
			}
			if revision > 0 {
				values = slices.DeleteFunc(values, func(h client.HistoryValue) bool { return h.Revision != revision })
				if len(values) == 0 {
					return failf(exitNotFound, "not_found", "%s keeps no former value of revision %d", r.Title, revision).
						withHint("`rotunda record history` lists those that are kept; the present value is shown by `rotunda record get`")
				}
			}
			if reveal {
				if err := cl.Reveal(ctx, r.Ref); err != nil {
					return err
				}
			}
			shown, next, err := cut(&pg, values)
			if err != nil {
				return err
			}
			views := make([]historyView, 0, len(shown))
			for i := range shown {
				views = append(views, viewHistory(&shown[i], reveal))
			}
			if !c.json {
				secrets := make([]string, len(views))
				for i, v := range views {
					secrets[i] = v.Secret
				}
				c.warnEscaped(secrets...)
			}
			return list(c, &pg, "history", views, next, []string{"revision", "until", "why", "attested", "run", "secret"}, func(h historyView) []string {
				attested := "yes"
				if !h.Attested {
					attested = "no"
				}
				if h.Reason != "" {
					attested += " (" + h.Reason + ")"
				}
				return []string{fmt.Sprint(h.Revision), local(h.Time), h.Why, attested, h.RunID, terminal.Escaped(h.Secret)}
			})
		})
	})
	cmd.Flags().BoolVar(&reveal, "reveal", false, "show the former secrets; an event notes who looked")
	cmd.Flags().Int64Var(&revision, "revision", 0, "only what the record held as this revision")
	pg.flags(cmd)
	return help(cmd, "", `rotunda record history app
rotunda record history app --revision 3 --reveal`)
}

type historyView struct {
	Revision int64  `json:"revision"`
	Time     string `json:"time"`
	Why      string `json:"why"`
	Attested bool   `json:"attested"`
	Reason   string `json:"reason,omitempty"`
	RunID    string `json:"run_id,omitempty"`
	Secret   string `json:"secret,omitempty"`
}

func viewHistory(h *client.HistoryValue, reveal bool) historyView {
	v := historyView{Revision: h.Revision, Time: stamp(h.Time), Why: h.Why, Attested: h.Attested, Reason: h.Reason}
	if !h.RunID.IsZero() {
		v.RunID = h.RunID.String()
	}
	if s, ok := h.Secret(); ok && s.Len() > 0 {
		v.Secret = masked
		if reveal {
			v.Secret = s.ExposeString()
		}
	}
	return v
}

func (c *cli) recordRemoveCmd() *cobra.Command {
	var used bool
	cmd := c.leaf("remove RECORD", "delete a record with its history", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			r, err := cl.FindRecord(ctx, args[0])
			if err != nil {
				return err
			}
			uses, err := cl.Uses(ctx, r.Ref)
			if err != nil {
				return err
			}
			question := fmt.Sprintf("delete %q (%s) and its history for ever", r.Title, r.Ref)
			if len(uses) > 0 {
				if !used {
					return inUse(r, uses)
				}
				question += ", though " + named(uses)
			}
			if err := c.confirm(question); err != nil {
				return err
			}
			if err := cl.RemoveRecord(ctx, r.Ref); err != nil {
				return err
			}
			return c.done("deleted " + r.Title)
		})
	})
	cmd.Flags().BoolVar(&used, "even-in-use", false, "delete it though other records name it: agents refuse those from then on")
	return help(cmd, `The secret goes with the record: nobody can bring it back. A record that others name
(a resource's administrator, the resource of an account) is not deleted before they
name another, or none; records that you may not read are not looked at.`, `rotunda resource edit db1 --admin other-admin
rotunda record remove db1-admin`)
}

// maxNamed bounds how many records an error names.
const maxNamed = 5

// named lists the records that name one, in words.
func named(uses []client.Use) string {
	var parts []string
	for _, u := range uses[:min(len(uses), maxNamed)] {
		parts = append(parts, u.String())
	}
	if more := len(uses) - maxNamed; more > 0 {
		parts = append(parts, fmt.Sprintf("%d more", more))
	}
	verb := " names it: "
	if len(uses) > 1 {
		verb = "s name it: "
	}
	return fmt.Sprintf("%d record", len(uses)) + verb + strings.Join(parts, "; ")
}

// inUse is the refusal to delete a record that others name, with the way on.
func inUse(r *client.Record, uses []client.Use) error {
	var do []string
	add := func(line string) {
		line = terminal.Line(line) // each is a line of the hint, with a title in it
		if !slices.Contains(do, line) {
			do = append(do, line)
		}
	}
	for _, u := range uses {
		switch u.As {
		case "administrator":
			add("`rotunda resource edit " + u.Title + " --admin OTHER` (or none) first: this is the only copy of the administrator's secret")
		case "extra":
			add("`rotunda resource edit " + u.Title + " --extra NAME=OTHER` (or none) first")
		case "via":
			add("`rotunda resource edit " + u.Title + " --via none` first")
		case "resource":
			add("delete its accounts first, or let them name another: `rotunda record edit ACCOUNT --resource OTHER`")
		case "pair":
			add("`rotunda record edit " + u.Title + " --pair none` first")
		default:
			add("change " + u.Title + " first")
		}
	}
	do = append(do[:min(len(do), maxNamed)], "or say --even-in-use: agents refuse those records from then on")
	return failf(exitConflict, "in_use", "%s is not deleted: %s", r.Title, named(uses)).withHint("%s", strings.Join(do, "\n"))
}

func (c *cli) recordAdoptCmd() *cobra.Command {
	var sameLogin bool
	cmd := c.leaf("adopt RECORD", "make a value that a machine client wrote count", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			r, err := cl.FindRecord(ctx, args[0])
			if err != nil {
				return err
			}
			if r.State == client.InUse && !r.PoolUnknown {
				return c.done(r.Title + " is in use already")
			}
			c.about("%s is %s; revision %d was written at %s", r.Title, stateText(string(r.State), r.Reason), r.Revision, c.when(r.Updated))
			if err := c.confirm(fmt.Sprintf("sign for the value of %q as it is served now", r.Title)); err != nil {
				return err
			}
			if err := cl.Adopt(ctx, r.Ref, r.Revision, sameLogin); err != nil {
				return err
			}
			return c.done("adopted " + r.Title)
		})
	})
	cmd.Flags().BoolVar(&sameLogin, "same-login", false, "another record has this login on the resource, and the target takes them for two")
	return help(cmd, `Clients that speak only the secrets-manager protocol sign nothing, so agents do not
use what they wrote. Look at the value first (record get --reveal): adopting it is
your signature under it.`, "")
}
