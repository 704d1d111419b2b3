package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// checkedFile is a script's file in which nothing is wrong. Where the plugin that reads Lua
// is not at hand, that holds of the manifest alone, and is said.
func (c *cli) checkedFile(ctx context.Context, file, lua string) ([]byte, *script.Manifest, error) {
	v, err := c.checkScript(ctx, file, lua)
	if errors.Is(err, errNoLua) {
		c.warn("%s: the manifest alone was looked at: %s", file, errNoLua.hint)
		err = nil
	}
	if err != nil {
		return nil, nil, err
	}
	if n := len(v.Problems); n > 0 {
		p := v.Problems[0]
		return nil, nil, failf(exitFindings, "script_problems", "%s:%d: %s, and %d problem%s in all", file, p.Line, p.Text, n, plural(n)).
			withHint("`rotunda script check %s` shows each with its line", file)
	}
	text, err := c.scriptText(file)
	if err != nil {
		return nil, nil, err
	}
	m, err := script.Parse(text)
	return text, m, err
}

func (c *cli) scriptAddCmd() *cobra.Command {
	var folder, title, notes, lua string
	cmd := c.leaf("add FILE", "keep a script as a record, for resources and accounts to use", func(ctx context.Context, args []string) error {
		if folder == "" {
			return usagef("script add wants --folder")
		}
		text, m, err := c.checkedFile(ctx, args[0], lua)
		if err != nil {
			return err
		}
		spec := client.ScriptSpec{Title: orElse(title, m.Name), Text: text}
		if spec.Notes, err = c.textFile(notes); err != nil {
			return err
		}
		return c.with(ctx, func(cl *client.Client) error {
			f, err := cl.FindFolder(ctx, folder)
			if err != nil {
				return err
			}
			spec.Folder = f.UID
			ref, err := cl.AddScript(ctx, spec)
			if err != nil {
				return err
			}
			v := scriptView{UID: ref.Record.String(), Folder: ref.Folder.String(), Title: spec.Title, Script: viewManifest(m, seal.Hash(text))}
			return c.emit(v, func(w io.Writer) {
				showManifest(w, v.Script, "title", v.Title, "uid", v.UID)
			})
		})
	})
	f := cmd.Flags()
	f.StringVar(&folder, "folder", "", "folder that it goes into")
	f.StringVar(&title, "title", "", "title of the record (default: the script's name)")
	f.StringVar(&notes, "notes-file", "", "`FILE` with the notes")
	luaFlag(cmd, &lua)
	return help(cmd, `Looks the script over as "rotunda script check" does, and keeps it. Nothing runs it before a
resource or an account names it.`, `rotunda script add restart-unit.lua --folder Scripts`)
}

// updatedView is what an update changes.
type updatedView struct {
	Title   string          `json:"title"`
	Script  *manifestView   `json:"script"`
	Former  string          `json:"former_sha256"`
	More    []script.Ask    `json:"asks_for_more"`
	Less    []script.Ask    `json:"asks_no_more_for"`
	Diff    string          `json:"diff"`
	Uses    []scriptUseView `json:"uses"`
	Changed bool            `json:"changed"`
}

func (c *cli) scriptUpdateCmd() *cobra.Command {
	var approve bool
	var lua string
	cmd := c.leaf("update SCRIPT FILE", "replace a script's file, after showing what that changes", func(ctx context.Context, args []string) error {
		text, m, err := c.checkedFile(ctx, args[1], lua)
		if err != nil {
			return err
		}
		return c.with(ctx, func(cl *client.Client) error {
			s, err := findScript(ctx, cl, args[0])
			if err != nil {
				return err
			}
			uses, err := cl.ScriptUses(ctx, s.Ref)
			if err != nil {
				return err
			}
			v := updatedView{
				Title: s.Title, Script: viewManifest(m, seal.Hash(text)), Former: s.SHA256.String(), Uses: viewUses(uses),
				More: without(m.Asks(), s.Manifest.Asks()), Less: without(s.Manifest.Asks(), m.Asks()),
				Diff: string(diff.Diff(s.Title, s.Text, args[1], text)),
			}
			if v.Changed = v.Former != v.Script.SHA256; !v.Changed {
				return c.emit(v, func(w io.Writer) { printLine(w, "%s has this very file: nothing was changed", v.Title) })
			}
			if approve {
				if err := usersOpen(ctx, cl, uses); err != nil {
					return err
				}
			}
			c.shownText(v.difference())
			question, users, err := updateQuestion(ctx, cl, m, v, uses, approve)
			if err != nil {
				return err
			}
			if approve {
				c.shownText(useLines(ctx, cl, v.Uses))
			}
			if err := c.confirm(question); err != nil {
				return err
			}
			if err := cl.UpdateScript(ctx, s.Ref, text, users...); err != nil {
				return err
			}
			if n := len(users); !approve && len(uses) > 0 && n == 0 {
				c.warn("nothing runs it where it is used (%d place%s) before it is approved there: `rotunda script approve %s`", len(uses), plural(len(uses)), s.Title)
			}
			return c.emit(v, func(w io.Writer) {
				pairs(w, "updated", v.Title+" to "+v.Script.Version, "sha256", v.Script.SHA256)
			})
		})
	})
	cmd.Flags().BoolVar(&approve, "approve", false, "approve the new file wherever the script is used, in the same write")
	luaFlag(cmd, &lua)
	return help(cmd, `Shows what the new file asks for that the former did not, and every line that differs, and
wants a yes. Who uses the script names the former file by its hash, and has nothing run
before somebody approves the new one there.`, `rotunda script update restart-unit restart-unit.lua
rotunda script update restart-unit restart-unit.lua --approve`)
}

// without are the asks of a list that another has not.
func without(list, other []script.Ask) []script.Ask {
	out := []script.Ask{}
	for _, a := range list {
		if !slices.Contains(other, a) {
			out = append(out, a)
		}
	}
	return out
}

// difference is what a person sees before he says yes.
func (v updatedView) difference() []string { return differs(v.More, v.Less, v.Diff) }

func differs(more, less []script.Ask, lines string) (out []string) {
	for _, a := range more {
		out = append(out, "asks for MORE: "+askText(a))
	}
	for _, a := range less {
		out = append(out, "asks no more for: "+askText(a))
	}
	if len(more)+len(less) == 0 {
		out = append(out, "asks for what it asked for before")
	}
	return append(out, textLines(lines)...)
}

// updateQuestion is what is asked, and the records in which the new file is approved by it.
func updateQuestion(ctx context.Context, cl *client.Client, m *script.Manifest, v updatedView, uses []client.ScriptUse, approve bool) (string, []client.Ref, error) {
	question := fmt.Sprintf("replace the file of %s by %s %s, sha256 %s", v.Title, v.Script.Name, v.Script.Version, v.Script.SHA256)
	if !approve || len(uses) == 0 {
		return question, nil, nil
	}
	users, _ := usersOf(uses)
	where, err := reachOf(ctx, cl, m, uses)
	return question + ", and let it run in " + where, users, err
}

// usersOf are the records of uses, each once.
func usersOf(uses []client.ScriptUse) (refs []client.Ref, names []string) {
	for _, u := range uses {
		if !slices.Contains(refs, u.Record) {
			refs, names = append(refs, u.Record), append(names, u.Title)
		}
	}
	return refs, names
}

// usersOpen is nil where this person may let scripts into the records of all uses.
func usersOpen(ctx context.Context, cl *client.Client, uses []client.ScriptUse) error {
	for _, u := range uses {
		if err := (scriptPlace{folder: u.Record.Folder, title: u.Title}).open(ctx, cl); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) scriptApproveCmd() *cobra.Command {
	var show bool
	cmd := c.leaf("approve SCRIPT [RECORD...]", "let a script's new file run where the script is used", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			s, err := findScript(ctx, cl, args[0])
			if err != nil {
				return err
			}
			uses, err := cl.ScriptUses(ctx, s.Ref)
			if err != nil {
				return err
			}
			var named []client.Ref
			for _, name := range args[1:] {
				r, err := cl.FindRecord(ctx, name)
				if err != nil {
					return err
				}
				if !slices.ContainsFunc(uses, func(u client.ScriptUse) bool { return u.Record == r.Ref }) {
					return failf(exitNotFound, "not_used", "%s does not use the script %s", r.Title, s.Title)
				}
				named = append(named, r.Ref)
			}
			uses = slices.DeleteFunc(uses, func(u client.ScriptUse) bool {
				return u.Approved || len(named) > 0 && !slices.Contains(named, u.Record)
			})
			refs, names := usersOf(uses)
			if err := usersOpen(ctx, cl, uses); err != nil {
				return err
			}
			if len(refs) > 0 {
				where, err := reachOf(ctx, cl, s.Manifest, uses)
				if err != nil {
					return err
				}
				lines, err := sinceApproved(ctx, cl, s, uses)
				if err != nil {
					return err
				}
				if show {
					lines = append(lines, textLines(string(s.Text))...)
				}
				if err := c.confirmScript(s, append(lines, useLines(ctx, cl, viewUses(uses))...), "let it run in "+where); err != nil {
					return err
				}
			}
			for _, ref := range refs {
				if err := cl.ApproveScript(ctx, ref, s.Ref, s.SHA256); err != nil {
					return err
				}
			}
			return c.emit(map[string]any{"script": viewManifest(s.Manifest, s.SHA256), "approved": append([]string{}, names...)}, func(w io.Writer) {
				if len(names) == 0 {
					printLine(w, "%s is approved wherever it is used", s.Title)
				}
				for _, n := range names {
					printLine(w, "approved in %s", n)
				}
			})
		})
	})
	cmd.Flags().BoolVar(&show, "show", false, "show its whole file, too, before the question")
	return help(cmd, `Without records: wherever it is used and not approved. Shows what the file has that the one
that was approved there had not, where that is in the record's history, and where the new
one would go. Each record's statement is signed anew, so you need the rights on all that it
names, and the right to approve scripts in its folder.`, `rotunda script approve restart-unit
rotunda script approve restart-unit app --show`)
}

// confirmScript shows what a script asks for, and with what it is used where, and asks
// whether it may have it.
func (c *cli) confirmScript(s *client.Script, used []string, what string) error {
	lines := []string{fmt.Sprintf("%s %s, %s: %s", s.Manifest.Name, s.Manifest.Version, s.Manifest.Kind, s.Manifest.About)}
	for n, a := range s.Manifest.Asks() {
		if n == 0 {
			lines = append(lines, "it asks for:")
		}
		lines = append(lines, "  "+askText(a))
	}
	lines = append(lines, used...)
	if c.yes { // who is not asked is told
		lines = append(lines, "approved: "+what)
	}
	c.shownText(lines)
	return c.confirm(fmt.Sprintf("approve %s, sha256 %s, and %s", s.Title, s.SHA256, what))
}
