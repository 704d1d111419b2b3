package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
)

func (c *cli) logCmd() *cobra.Command {
	cmd := c.group("log", "the organisation's signed log: who may do what", `The log is a chain of signed changes; its replay is the organisation's directory.
Every party checks it by itself.`)
	cmd.AddCommand(c.logShowCmd(), c.logVerifyCmd())
	return cmd
}

// changeView is one change of the log.
type changeView struct {
	Epoch      uint64   `json:"epoch"`
	Digest     string   `json:"digest"`
	Issued     string   `json:"issued"`
	ValidUntil string   `json:"valid_until"`
	By         []string `json:"by"`
	Ops        []string `json:"ops"`
}

func viewChange(ch client.Change) changeView {
	v := changeView{ch.Epoch, ch.Digest.String(), stamp(ch.Issued), stamp(ch.ValidUntil), ch.By, ch.Summary}
	if v.By == nil {
		v.By = []string{}
	}
	if v.Ops == nil {
		v.Ops = []string{}
	}
	return v
}

func (c *cli) logShowCmd() *cobra.Command {
	var pg page
	cmd := c.leaf("show", "show the log's changes, oldest first", func(ctx context.Context, _ []string) error {
		from := uint64(0)
		if pg.token != "" {
			var err error
			if from, err = strconv.ParseUint(pg.token, 10, 64); err != nil {
				return usagef("--page %q: pages of the log are named by their first epoch", pg.token)
			}
		}
		return c.with(ctx, func(cl *client.Client) error {
			limit := pg.limit
			if pg.all {
				limit = 0
			}
			changes, err := cl.Log(ctx, from, limit)
			if err != nil {
				return err
			}
			views := make([]changeView, 0, len(changes))
			for _, ch := range changes {
				views = append(views, viewChange(ch))
			}
			next, err := nextChange(ctx, cl, changes)
			if err != nil {
				return err
			}
			return list(c, &pg, "changes", views, next, []string{"epoch", "issued", "by", "what"}, func(v changeView) []string {
				what := strings.Join(v.Ops, "; ")
				if what == "" {
					what = "(renews the log)"
				}
				return []string{fmt.Sprint(v.Epoch), local(v.Issued), strings.Join(v.By, ", "), what}
			})
		})
	})
	pg.flags(cmd)
	return cmd
}

// nextChange names the page after these changes.
func nextChange(ctx context.Context, cl *client.Client, changes []client.Change) (string, error) {
	if len(changes) == 0 {
		return "", nil
	}
	status, err := cl.LogStatus(ctx)
	if err != nil {
		return "", err
	}
	last := changes[len(changes)-1].Epoch
	if last >= status.Epoch {
		return "", nil
	}
	return strconv.FormatUint(last+1, 10), nil
}

// logView is the log's state.
type logView struct {
	OrgID       string   `json:"org_id"`
	Fingerprint string   `json:"fingerprint"`
	Epoch       uint64   `json:"epoch"`
	Head        string   `json:"head"`
	Changes     uint64   `json:"changes"`
	ValidUntil  string   `json:"valid_until"`
	Behind      []string `json:"agents_behind"`
}

func viewLog(s client.LogStatus) logView {
	v := logView{s.OrgID.String(), s.Fingerprint, s.Epoch, s.Head.String(), s.Changes, stamp(s.ValidUntil), []string{}}
	for _, a := range s.Behind {
		v.Behind = append(v.Behind, a.PoolName+" / "+a.Name)
	}
	return v
}

func (c *cli) logVerifyCmd() *cobra.Command {
	cmd := c.leaf("verify", "fetch the whole log and check every change anew", func(ctx context.Context, _ []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			c.note("fetching and checking every change")
			s, err := cl.VerifyLog(ctx)
			if err != nil {
				return err
			}
			v := viewLog(s)
			return c.emit(v, func(w io.Writer) {
				pairs(w, "organisation", v.Fingerprint, "changes", fmt.Sprint(v.Changes), "epoch", fmt.Sprint(v.Epoch),
					"head", v.Head, "valid until", local(v.ValidUntil), "agents behind", strings.Join(v.Behind, ", "))
			})
		})
	})
	return help(cmd, `Verifies the chain from its first change, every signature and every right, and holds
it against the copy that this device keeps. Agents that have not confirmed the newest
change are listed: treat what they do as if they had not heard of it.`, "")
}
