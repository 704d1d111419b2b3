package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// inputRoles reads roles as people write them: "read,edit", "all", "none".
func inputRoles(flag, s string) (client.Roles, error) {
	r, err := trust.ParseRoles(strings.ToLower(s))
	if err != nil {
		return 0, usagef("%s: %w", flag, err)
	}
	return r, nil
}

// kindWord is an entry's kind in a word.
func kindWord(k trustv1.EntryKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "ENTRY_KIND_"))
}

// tokenFlags are those of every command that makes an enrolment token.
type tokenFlags struct {
	validFor   string
	unattended bool
	out        string
	noWait     bool
}

func (t *tokenFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&t.validFor, "valid-for", "24h", "how long the token may be used, at most 7d")
	f.BoolVar(&t.unattended, "unattended", false, "put the folder keys under the token: whoever ever holds it, also when it is spent, can read those folders with the server's help")
	f.StringVar(&t.out, "out", "", "`FILE` to write the token to, instead of printing it")
	f.BoolVar(&t.noWait, "no-wait", false, "do not wait until the token is used and the folder keys are handed over")
}

const maxTokenSpan = 7 * 24 * time.Hour

func (t *tokenFlags) span() (time.Duration, error) {
	d, err := inputSpan(t.validFor)
	if err != nil {
		return 0, err
	}
	if d < time.Minute || d > maxTokenSpan {
		return 0, usagef("--valid-for %s: it is at most 7d, and at least a minute", t.validFor)
	}
	return d, nil
}

// handOut prints a token (or writes it) and waits until it is used: the new
// party gets its folder keys from this client. undo is the command that withdraws it.
func (c *cli) handOut(ctx context.Context, cl *client.Client, t tokenFlags, out *newFile, tok client.NewToken, name, undo string) error {
	lost := func(err error) error {
		return secretLost(err, "the token of "+name, undo+" "+name)
	}
	v := struct {
		ID       string `json:"id"`
		Name     string `json:"name"`
		Token    string `json:"token,omitempty"`
		File     string `json:"file,omitempty"`
		NotAfter string `json:"not_after"`
	}{ID: tok.ID.String(), Name: name, File: t.out, NotAfter: stamp(tok.NotAfter)}
	if out != nil {
		b := append(tok.Text.Expose(), '\n')
		defer clear(b)
		if err := out.keep(b); err != nil {
			return lost(err)
		}
	} else {
		c.p.keepPipe()
		v.Token = tok.Text.ExposeString() // printing it is what the command is for
	}
	err := c.emit(v, func(w io.Writer) {
		if v.Token != "" {
			fmt.Fprintln(w, v.Token)
		}
	})
	if err != nil && v.Token != "" {
		return lost(err)
	}
	if err != nil {
		return err
	}
	c.note("the token of %s works once, until %s%s", name, c.when(tok.NotAfter), inFile(t.out))
	if t.noWait || t.unattended {
		return nil
	}
	c.note("waiting for it to be used, to hand over the folder keys; interrupt when you cannot wait: the next command of anybody who may share does it")
	if err := cl.WaitEnrolled(ctx, tok.ID); err != nil {
		return err
	}
	return c.done(name + " has joined and holds its folder keys")
}

func inFile(name string) string {
	if name == "" {
		return ""
	}
	return "; it is in " + name
}
