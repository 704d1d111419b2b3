package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
)

// recoveryCall bounds how long org show waits for a server that it could do without.
const recoveryCall = 5 * time.Second

// recoveringSince is when the server was put back from a backup, "" where it does not
// recover or does not answer.
func (c *cli) recoveringSince(ctx context.Context) (since string) {
	ctx, cancel := context.WithTimeout(ctx, recoveryCall)
	defer cancel()
	_ = c.with(ctx, func(cl *client.Client) error { // shown where it can be had
		r, err := cl.Recovery(ctx)
		if err == nil && r.Recovering {
			since = stamp(r.Restored)
		}
		return err
	})
	return since
}

// partyView is an agent or device that has, or has not, reported since a restore.
type partyView struct {
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Reported string `json:"reported,omitempty"`
	Changes  uint64 `json:"changes"`
}

func viewParty(p client.Party) partyView {
	kind := "device"
	if p.Kind == client.KindAgent {
		kind = "agent"
	}
	return partyView{p.ID.String(), kind, p.Name, stamp(p.Reported), p.Changes}
}

func (c *cli) orgEndRecoveryCmd() *cobra.Command {
	cmd := c.leaf("end-recovery", "let the log of a restored server grow again", func(ctx context.Context, _ []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			r, err := cl.Recovery(ctx)
			if err != nil {
				return err
			}
			if !r.Recovering {
				return failf(exitConflict, "not_recovering", "the server does not recover from a backup")
			}
			views, silent := make([]partyView, 0, len(r.Parties)), 0
			for _, p := range r.Parties {
				views = append(views, viewParty(p))
				if !p.Heard() {
					silent++
				}
			}
			c.about("the server was restored at %s; its log has %d changes now", c.when(r.Restored), r.Changes)
			for _, p := range views {
				c.about("  %-6s %s: %s", p.Kind, p.Name, p.text(r.Changes))
			}
			question := fmt.Sprintf("end the recovery: all %d have reported", len(views))
			if silent > 0 {
				question = fmt.Sprintf("end the recovery, though %d of %d have not reported: what they alone know would fork the log", silent, len(views))
			}
			if err := c.confirm(question); err != nil {
				return err
			}
			if err := cl.EndRecovery(ctx, r.Restored); err != nil {
				return err
			}
			return c.emit(map[string]any{"restored": stamp(r.Restored), "changes": r.Changes, "parties": views, "not_reported": silent}, func(w io.Writer) {
				printLine(w, "the recovery has ended; %d of %d had reported", len(views)-silent, len(views))
			})
		})
	})
	return help(cmd, `After a backup was put back the server has forgotten changes of the log that agents and
devices know. They send them back when they connect; until this command the log takes
nothing new, so that nobody forks it unknowing.

Shows, by name, which agents and devices have reported since then and which have not,
and asks. Wait for those that may know more than the others: the devices of whoever
changed something lately, and an agent of each pool. One that is gone for good need not
be waited for.`, `rotunda org end-recovery`)
}

// text says what a party has told.
func (p partyView) text(changes uint64) string {
	switch {
	case p.Reported == "":
		return "has not reported"
	case p.Changes > changes:
		return fmt.Sprintf("has %d changes, which is more than the server: let it connect again", p.Changes)
	}
	return fmt.Sprintf("reported at %s, with %d changes", local(p.Reported), p.Changes)
}

// examineRecovery looks whether the server takes new changes of the log.
func (c *cli) examineRecovery(ctx context.Context, x *examination, cl *client.Client) {
	r, err := cl.Recovery(ctx)
	if err != nil {
		x.failed("recovery", err)
		return
	}
	if !r.Recovering {
		return
	}
	heard := 0
	for _, p := range r.Parties {
		if p.Heard() {
			heard++
		}
	}
	x.warn("recovery", "`rotunda org end-recovery` shows who has not, and ends it", "the server was restored from a backup at %s, and takes no new change of the log; %d of %d agents and devices have reported", c.when(r.Restored), heard, len(r.Parties))
}
