package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// rekeyView is what re-keying a folder did.
type rekeyView struct {
	Folder     string     `json:"folder"`
	UID        string     `json:"uid"`
	KeyVersion uint32     `json:"key_version"`
	NewKey     bool       `json:"new_key"`
	Rekeyed    int        `json:"rekeyed"`
	Left       []leftView `json:"left"`
	Error      string     `json:"error,omitempty"`
}

// leftView is a record that keeps its key for now.
type leftView struct {
	Record string `json:"record"`
	Title  string `json:"title"`
	Reason string `json:"reason"`
}

func viewRekey(r client.Rekeyed) rekeyView {
	v := rekeyView{Folder: r.Name, UID: r.Folder.String(), KeyVersion: r.Version, NewKey: r.New, Rekeyed: r.Done, Left: []leftView{}}
	for _, l := range r.Left {
		v.Left = append(v.Left, leftView{l.Ref.String(), l.Title, l.Reason})
	}
	return v
}

func showRekey(w io.Writer, v rekeyView) {
	what := "went on with its key"
	if v.NewKey {
		what = "has a new key"
	}
	printLine(w, "folder %s %s, version %d; new keys of their own: %d record%s", v.Folder, what, v.KeyVersion, v.Rekeyed, plural(v.Rekeyed))
	for _, l := range v.Left {
		printLine(w, "  %s (%s) keeps its former key for now: %s: %s", l.Title, l.Record, l.Reason, leftHint(l.Reason))
	}
	if v.Error != "" {
		printLine(w, "  not finished: %s", v.Error)
	}
}

// leftHint says what to do about a record that was left.
func leftHint(reason string) string {
	switch trust.Reason(reason) {
	case trust.RunOutstanding:
		return "when its run is over, re-key the folder again"
	case trust.NotLinked:
		return "agents refuse it, since it names a record on which its signer has no right, and your signature would give it yours: look at it (`rotunda record get`); name what is meant yourself (`rotunda record edit --resource`, `rotunda resource edit --admin`) or delete it, then re-key the folder again"
	case trust.NotAllowed:
		return "somebody who may sign its statement re-keys the folder again"
	case trust.StatementRollback:
		return "if the server was restored to before a re-keying, `rotunda folder rekey --restored` signs anew what it says now: look at what was changed since the backup"
	case trust.SignerUnknown, trust.RecordUnsigned:
		return "agents do not use it as it is: sign its statement anew (`rotunda record edit`), or remove it, then re-key the folder again"
	}
	if reason == client.PoolUnknown {
		return client.PoolUnknownMeans + "; then re-key the folder again"
	}
	if hint := trust.Reason(reason).Hint(); hint != "" {
		return hint
	}
	return "re-key the folder again"
}

// rekey re-keys a folder and shows how far it is.
func (c *cli) rekey(ctx context.Context, cl *client.Client, folder seal.ID, o client.RekeyOptions) (client.Rekeyed, error) {
	m := c.meter("records with new keys:")
	if o.Restored == nil { // else there are questions in between
		o.Progress = m.at
	}
	r, err := cl.RekeyFolder(ctx, folder, o)
	m.end()
	return r, err
}

// takeRestored shows what a statement from before a restore says, and asks for it.
func (c *cli) takeRestored(r client.Restored) (bool, error) {
	w := c.p.stderr
	printLine(w, "%s (%s): statement %d of %s, signed at %s; the log asks for %d or a later one. It says",
		r.Title, r.Ref, r.Seq, r.By, c.when(r.Issued), r.Least)
	for _, line := range r.Says {
		printLine(w, "    %s", line)
	}
	if c.yes {
		return true, nil
	}
	return c.ask("sign " + r.Title + " anew as it is here")
}

// leftBehind is the failure of a re-keying that left records; nil: none.
func leftBehind(r client.Rekeyed) error {
	n := len(r.Left)
	if n == 0 {
		return nil
	}
	return failf(exitConflict, r.Left[0].Reason, "folder %s: %d record%s keep%s former keys for now, the first is %s", r.Name, n, plural(n), verbS(n), r.Left[0].Title).
		withHint("%s: `rotunda folder rekey %s`", leftHint(r.Left[0].Reason), r.Folder)
}

func (c *cli) folderRekeyCmd() *cobra.Command {
	var o client.RekeyOptions
	var restored bool
	cmd := c.leaf("rekey FOLDER", "give a folder and each record in it new keys", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			f, err := cl.FindFolder(ctx, args[0])
			if err != nil {
				return err
			}
			question := fmt.Sprintf("give the folder %q a new key, and its %d records new keys of their own", f.Name, f.Records)
			if f.OldKeys > 0 && !o.New {
				question = fmt.Sprintf("go on re-keying the folder %q: %d of its %d records wait for keys of their own", f.Name, f.OldKeys, f.Records)
			}
			if err := c.confirm(question); err != nil {
				return err
			}
			if restored {
				o.Restored = c.takeRestored
			}
			r, err := c.rekey(ctx, cl, f.UID, o)
			if err != nil {
				return err
			}
			v := viewRekey(r)
			if err := c.emit(v, func(w io.Writer) { showRekey(w, v) }); err != nil {
				return err
			}
			return leftBehind(r)
		})
	})
	cmd.Flags().BoolVar(&restored, "restored", false, "sign anew what a server says that was restored to before the last re-keying")
	cmd.Flags().BoolVar(&o.New, "new", false, "make a further key also while records wait for theirs from the last one")
	return help(cmd, `Ends what somebody still knows who could read the folder: a new folder key, sealed to
all who may read it now, then, record by record, a new record key, the content
encrypted anew, and a new signature of what agents go by. Secrets stay what they are:
rotate the accounts afterwards ("rotunda rotate --exposed"), so that he does not know
those either. The removal of a person, a device or an agent does all of this by itself.

It may be interrupted: the same command goes on, also from another device. A record
whose run is under way, or that nobody present may sign, keeps its key, is named, and
is done by the next call; the exit code is 5 then. So is one that agents refuse already,
since it names a record on which its signer has no right: signed anew by you it would
have your rights. A folder with more than 20000 records
cannot change over in one call. Needs share and edit on the folder.

A server that was restored to before a re-keying has the former key alone, which nobody
accepts: re-keying the folder again takes over what is under it. The statements of its
records are older than the log allows then; with --restored you sign them anew as the
server has them: each is shown, and asked for unless you say --yes.`,
		`rotunda folder rekey Databases
rotunda folder rekey Databases --yes --json`)
}
