package main

import (
	"cmp"
	"context"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk"
)

// foundView is an account that a target has.
type foundView struct {
	Login   string            `json:"login"`
	Scope   string            `json:"scope,omitempty"`
	Facts   map[string]string `json:"facts,omitempty"` // in the script's words
	Records []foundRecord     `json:"records"`         // that are this account, of those that this person may read
}

type foundRecord struct {
	UID   string `json:"uid"` // folder/record
	Title string `json:"title"`
}

func (v foundView) row() []string {
	var titles, facts []string
	for _, r := range v.Records {
		titles = append(titles, r.Title)
	}
	for _, name := range slices.Sorted(maps.Keys(v.Facts)) {
		facts = append(facts, name+"="+v.Facts[name])
	}
	return []string{v.Login, v.Scope, strings.Join(titles, ", "), strings.Join(facts, " ")}
}

func (c *cli) resourceDiscoverCmd() *cobra.Command {
	var agent string
	var without bool
	cmd := c.leaf("discover RESOURCE", "list the accounts that a target has, and which of them have a record", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			ref, err := findResource(ctx, cl, args[0])
			if err != nil {
				return err
			}
			id, err := c.agentOption(ctx, cl, agent)
			if err != nil {
				return err
			}
			c.note("asking an agent of the resource's pool")
			reply, err := cl.Discover(ctx, ref, client.RunOptions{Agent: id})
			if err != nil {
				return err
			}
			if !reply.OK {
				hint := client.Hint(reply.Reason)
				if reply.Reason == "script.refused" { // which is told of runs elsewhere
					hint = "the script's own word stands in the message: mend what it ran into, or the script (`rotunda script test`)"
				}
				return failf(exitFailed, orWord(reply.Reason, "discovery_failed"), "agent %s could not find the accounts of %s: %s", reply.AgentName, args[0], orWord(reply.Detail, reply.Class)).
					withHint("%s", hint)
			}
			views, err := foundAccounts(reply.Accounts, ref, cl.Records(ctx, seal.ID{}, client.TypeAccount))
			if err != nil {
				return err
			}
			if without {
				views = slices.DeleteFunc(views, func(v foundView) bool { return len(v.Records) > 0 })
			}
			return c.showFound(args[0], reply, views)
		})
	})
	cmd.Flags().StringVar(&agent, "agent", "", "agent to ask (default: a live one of the pool)")
	cmd.Flags().BoolVar(&without, "without-record", false, "list those alone that have no record")
	return help(cmd, `Has an agent run the script of kind discoverer that the resource names
("rotunda resource edit RESOURCE --discoverer NAME"), which logs in as the resource's
administrator and changes nothing. Each account is held against the records of this
resource that you may read, by login, spelt alike, and by scope where both have one; a
record that agents refuse, such as one whose signer had no right to name the resource, is
none. What does not fit into one answer (2,000 accounts) is left out, and that is said: a
script has parameters to ask for less.`, `rotunda resource edit db1 --discoverer postgres-roles
rotunda resource discover db1
rotunda resource discover db1 --without-record`)
}

// foundAccounts are what was found, by login, with their records.
func foundAccounts(found []sdk.Finding, resource client.Ref, accounts iter.Seq2[*client.Record, error]) ([]foundView, error) {
	type scoped struct {
		scope string
		foundRecord
	}
	records := map[string][]scoped{} // by login
	for r, err := range accounts {
		if err != nil {
			return nil, err
		}
		if a := r.Statement.GetAccount(); a != nil && refOf(a.Resource) == resource && counts(r) {
			records[a.Login] = append(records[a.Login], scoped{a.Scope, foundRecord{r.Ref.String(), r.Title}})
		}
	}
	views := make([]foundView, 0, len(found))
	for _, a := range found {
		v := foundView{Login: a.Login, Scope: a.Scope, Facts: a.Facts, Records: []foundRecord{}} // an empty list is [] and not null
		for _, r := range records[a.Login] {
			if r.scope == a.Scope || r.scope == "" || a.Scope == "" { // which may mean what is usual there
				v.Records = append(v.Records, r.foundRecord)
			}
		}
		views = append(views, v)
	}
	slices.SortStableFunc(views, func(a, b foundView) int { return cmp.Or(cmp.Compare(a.Login, b.Login), cmp.Compare(a.Scope, b.Scope)) })
	return views, nil
}

// counts says whether agents go by a record: whoever may edit one folder could hide an
// account from those that have none by another.
func counts(r *client.Record) bool {
	switch r.State {
	case client.NotLinked, client.RolledBack, client.Broken:
		return false
	}
	return len(r.Unlinked) == 0
}

func (c *cli) showFound(resource string, reply client.DiscoverReply, views []foundView) error {
	v := struct {
		Agent    string      `json:"agent"`
		Accounts []foundView `json:"accounts"`
		More     bool        `json:"more"` // there are others, which did not fit in
	}{reply.AgentName, views, reply.More}
	err := c.emit(v, func(w io.Writer) {
		rows := make([][]string, 0, len(views))
		for _, one := range views {
			rows = append(rows, one.row())
		}
		table(w, []string{"login", "scope", "record", "facts"}, rows)
	})
	if err == nil && reply.More {
		c.warn("%s has more accounts than fit into one answer: the others are not listed", resource)
	}
	return err
}
