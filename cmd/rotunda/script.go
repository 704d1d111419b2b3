package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/terminal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

func (c *cli) scriptCmd() *cobra.Command {
	cmd := c.group("script", "scripts in Lua: rotators of your own, and what runs after a rotation", `A script is a Lua file that says in its manifest what it is and all that it asks for. It is
kept as a record; agents run it where a resource or an account names it, by its hash, and
who signs that has approved it. "rotunda resource edit --rotator" and "--script", "rotunda
record edit --script", "--generator" and "--dependents-file" name scripts.`)
	cmd.AddCommand(c.scriptNewCmd(), c.scriptCheckCmd(), c.scriptTestCmd(), c.scriptDryRunCmd(), c.scriptDocsCmd(), c.scriptAddCmd(), c.scriptListCmd(), c.scriptShowCmd(), c.scriptUpdateCmd(), c.scriptApproveCmd(), c.scriptRunCmd())
	return cmd
}

// scriptView is a script's record.
type scriptView struct {
	UID      string          `json:"uid"`
	Folder   string          `json:"folder_uid"`
	Title    string          `json:"title"`
	SignedBy string          `json:"signed_by,omitempty"`
	Updated  string          `json:"updated,omitempty"`
	Script   *manifestView   `json:"script,omitempty"`
	Reason   string          `json:"reason,omitempty"` // why nothing runs it
	Uses     []scriptUseView `json:"uses,omitempty"`
	Text     string          `json:"text,omitempty"`
}

// scriptUseView is where a statement uses a script, or by what it does.
type scriptUseView struct {
	Record     string          `json:"record,omitempty"`
	Title      string          `json:"title,omitempty"`
	Place      string          `json:"place,omitempty"` // rotator, discoverer, dependent 1, …, generator, after a rotation
	Script     string          `json:"script,omitempty"`
	SHA256     string          `json:"sha256"`
	Order      uint32          `json:"order,omitempty"`
	Parameters json.RawMessage `json:"parameters,omitempty"`
	Records    []string        `json:"records,omitempty"`
	Names      []string        `json:"record_names,omitempty"` // of the records, in their order
	Approved   *bool           `json:"approved,omitempty"`     // it names the file that the script has now
	By         string          `json:"by,omitempty"`
}

func viewScript(s *client.Script) scriptView {
	v := scriptView{
		UID: s.Ref.Record.String(), Folder: s.Ref.Folder.String(), Title: s.Title, SignedBy: s.SignedByName, Updated: stamp(s.Updated),
	}
	if s.Err != nil {
		v.Reason = classify(s.Err).reason
	} else {
		v.Script = viewManifest(s.Manifest, s.SHA256)
	}
	return v
}

func viewUse(u *trustv1.ScriptUse) scriptUseView {
	v := scriptUseView{Script: refText(u.Script), SHA256: fmt.Sprintf("%x", u.Sha256), Order: u.Order, Names: u.RecordNames}
	if json.Valid(u.Parameters) {
		v.Parameters = u.Parameters
	}
	for _, r := range u.Records {
		v.Records = append(v.Records, refText(r))
	}
	return v
}

// refs are the records that a use names; a nil use names none.
func (u *scriptUseView) refs() []string {
	if u == nil {
		return nil
	}
	return append([]string{u.Script}, u.Records...)
}

// text is a use as its record shows it; empty for nil.
func (u *scriptUseView) text(named func(string) string) string {
	if u == nil {
		return ""
	}
	return "script " + named(u.Script) + ", sha256 " + u.SHA256 + u.given(named)
}

// given is what a use hands its script: further records by their names.
func (u *scriptUseView) given(named func(string) string) (text string) {
	if u.Order != 0 {
		text += fmt.Sprintf(", order %d", u.Order)
	}
	if len(u.Parameters) > 0 {
		text += ", " + string(u.Parameters)
	}
	for n, r := range u.Records {
		text += ", record." + u.Names[n] + "=" + named(r)
	}
	return text
}

func viewUses(list []client.ScriptUse) (out []scriptUseView) {
	for _, u := range list {
		v := viewUse(u.Use)
		v.Script, v.Record, v.Title, v.Place, v.Approved, v.By = "", u.Record.String(), u.Title, u.Place, &u.Approved, u.By
		out = append(out, v)
	}
	return out
}

// findScript finds a script by title, folder/title or uid, and opens it.
func findScript(ctx context.Context, cl *client.Client, name string) (*client.Script, error) {
	r, err := cl.FindRecord(ctx, name, client.TypeScript)
	if err != nil {
		return nil, err
	}
	return cl.Script(ctx, r.Ref)
}

func (c *cli) scriptListCmd() *cobra.Command {
	var pg page
	var f recordFilter
	cmd := c.leaf("list", "list scripts", func(ctx context.Context, _ []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			folder, err := f.folderOf(ctx, cl)
			if err != nil {
				return err
			}
			scripts, next, err := take(&pg, cl.Scripts(ctx, folder), func(s *client.Script) bool { return f.fits(s.Record) })
			if err != nil {
				return err
			}
			views := make([]scriptView, 0, len(scripts))
			for _, s := range scripts {
				views = append(views, viewScript(s))
			}
			return list(c, &pg, "scripts", views, next, []string{"title", "version", "kind", "about", "folder/uid"}, func(v scriptView) []string {
				m := v.Script
				if m == nil {
					m = &manifestView{About: "not usable: " + v.Reason}
				}
				return []string{v.Title, m.Version, m.Kind, m.About, v.Folder + "/" + v.UID}
			})
		})
	})
	f.flags(cmd)
	pg.flags(cmd)
	return cmd
}

func (c *cli) scriptShowCmd() *cobra.Command {
	var text bool
	cmd := c.leaf("show SCRIPT", "show what a script asks for, and where it is used", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			s, err := findScript(ctx, cl, args[0])
			if err != nil {
				return err
			}
			v := viewScript(s)
			if text {
				v.Text = string(s.Text)
				return c.emit(v, func(w io.Writer) { fmt.Fprint(w, v.Text) })
			}
			uses, err := cl.ScriptUses(ctx, s.Ref)
			if err != nil {
				return err
			}
			v.Uses = viewUses(uses)
			used := useLines(ctx, cl, v.Uses)
			return c.emit(v, func(w io.Writer) {
				showManifest(w, v.Script, "title", v.Title, "uid", v.UID, "signed by", v.SignedBy, "updated", local(v.Updated))
				for _, l := range used {
					printLine(w, "%s", l)
				}
			})
		})
	})
	cmd.Flags().BoolVar(&text, "text", false, "print its file, as it is")
	return help(cmd, `Uses are those in records that you may read. One that is not approved names a former file
of the script: nothing runs there until somebody approves the new one.`, `rotunda script show restart-unit
rotunda script show restart-unit --text >restart-unit.lua`)
}

// useLines are the uses of a script, each in one line, with the further records by title:
// what this person may not read keeps its uid.
func useLines(ctx context.Context, cl *client.Client, uses []scriptUseView) (list []string) {
	names := map[string]string{}
	named := func(ref string) string { return names[ref] }
	for n, u := range uses {
		for _, ref := range u.Records {
			if names[ref] != "" {
				continue
			}
			names[ref] = ref
			if r, err := cl.FindRecord(ctx, ref); err == nil {
				names[ref] = r.Title + " (" + ref + ")"
			}
		}
		if n == 0 {
			list = append(list, "used by:")
		}
		list = append(list, "  "+useText(u, named))
	}
	return list
}

// useText is a use of a script in one line.
func useText(u scriptUseView, named func(string) string) string {
	text := u.Title + ", " + u.Place + u.given(named)
	switch {
	case u.Approved == nil: // nobody has signed it yet
		return text
	case !*u.Approved:
		return text + ": NOT approved, it names a former file"
	}
	return text + ", approved by " + orWord(u.By, "nobody who is known")
}

func (c *cli) scriptRunCmd() *cobra.Command {
	var s chosen
	cmd := c.runningCmd(&s, "run", "run the scripts of", "run accounts' scripts again, and change no secret", `Signs a command for each account: an agent of its resource's pool runs what the account and
its resource have run after a rotation, with the secret that is in use. It is for scripts
that failed, and for those that are new: a script must be good to run twice. Exit codes
are those of rotate; 11 says that a script failed.

With --failed it is about the accounts whose scripts failed when they ran last, by
themselves or by hand.`,
		`rotunda script run app
rotunda script run --resource db1 --yes
rotunda script run --failed --yes`,
		func(ctx context.Context, cl *client.Client, refs []client.Ref, o client.RunOptions) ([]client.Outcome, error) {
			return cl.RunScripts(ctx, refs, o)
		})
	cmd.Flags().BoolVar(&s.failed, "failed", false, "only accounts whose scripts failed when they ran last")
	return cmd
}

// shownText tells a text line by line, before a question about it.
func (c *cli) shownText(lines []string) {
	for _, l := range lines {
		c.about("%s", terminal.Line(l))
	}
}
