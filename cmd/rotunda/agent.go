package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

func (c *cli) agentCmd() *cobra.Command {
	cmd := c.group("agent", "agents, and the pools that they belong to", "")
	cmd.AddCommand(c.agentTokenCmd(), c.agentListCmd(), c.agentRemoveCmd())
	return cmd
}

func (c *cli) agentTokenCmd() *cobra.Command {
	var t tokenFlags
	var pool string
	cmd := c.leaf("token NAME", "make the token that installs an agent", func(ctx context.Context, args []string) error {
		span, err := t.span()
		if err != nil {
			return err
		}
		if pool == "" {
			return usagef("agent token wants --pool")
		}
		out, err := c.p.reserve(t.out)
		if err != nil {
			return err
		}
		defer out.drop()
		return c.with(ctx, func(cl *client.Client) error {
			tok, err := cl.AddAgent(ctx, client.AgentSpec{Pool: pool, Name: args[0], ValidFor: span, Unattended: t.unattended})
			if err != nil {
				return err
			}
			return c.handOut(ctx, cl, t, out, tok, args[0], "rotunda agent remove")
		})
	})
	cmd.Flags().StringVar(&pool, "pool", "", "pool that it belongs to; made when there is none of that name")
	t.flags(cmd)
	return help(cmd, `An agent reads the folders that are granted to its pool, and no others:
"rotunda folder grant FOLDER POOL read".`, `rotunda agent token gw1 --pool dc1 --out gw1.token
rotunda folder grant Databases dc1 read`)
}

// agentView is an agent, or a token for one.
type agentView struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Pool     string `json:"pool"`
	State    string `json:"state"` // connected, away, waiting
	Seen     string `json:"seen,omitempty"`
	Version  string `json:"version,omitempty"`
	Platform string `json:"platform,omitempty"`
	Leases   int    `json:"leases"`
	LogEpoch uint64 `json:"log_epoch"`
}

func viewAgent(a client.Agent) agentView {
	v := agentView{a.ID.String(), a.Name, a.PoolName, "away", stamp(a.Seen), a.Version, "", a.Leases, a.LogEpoch}
	if a.Connected {
		v.State = "connected"
	}
	if a.OS != "" {
		v.Platform = a.OS + "/" + a.Arch
	}
	return v
}

func (c *cli) agentListCmd() *cobra.Command {
	var pg page
	var pool string
	cmd := c.leaf("list", "list agents, and tokens that wait for one", func(ctx context.Context, _ []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			var id seal.ID
			var err error
			if pool != "" {
				if id, err = findPool(ctx, cl, pool); err != nil {
					return err
				}
			}
			all, err := agents(ctx, cl, id)
			if err != nil {
				return err
			}
			shown, next, err := cut(&pg, all)
			if err != nil {
				return err
			}
			return list(c, &pg, "agents", shown, next, []string{"pool", "agent", "state", "seen", "version", "platform", "leases", "id"}, func(a agentView) []string {
				seen := "never"
				if at, err := time.Parse(time.RFC3339Nano, a.Seen); err == nil {
					seen = c.ago(at)
				}
				return []string{a.Pool, a.Name, a.State, seen, a.Version, a.Platform, fmt.Sprint(a.Leases), a.ID}
			})
		})
	})
	cmd.Flags().StringVar(&pool, "pool", "", "only agents of this pool")
	pg.flags(cmd)
	return cmd
}

// agents lists agents and waiting tokens; pool zero is every pool.
func agents(ctx context.Context, cl *client.Client, pool seal.ID) ([]agentView, error) {
	live, err := cl.Agents(ctx, pool)
	if err != nil {
		return nil, err
	}
	all := make([]agentView, 0, len(live))
	for _, a := range live {
		all = append(all, viewAgent(a))
	}
	waiting, err := cl.Pending(ctx)
	if err != nil {
		return nil, err
	}
	pools, err := cl.Pools(ctx)
	if err != nil {
		return nil, err
	}
	names := map[seal.ID]string{}
	for _, p := range pools {
		names[p.ID] = p.Name
	}
	for _, t := range waiting {
		if t.Kind == trustv1.EntryKind_ENTRY_KIND_AGENT && (pool.IsZero() || t.Owner == pool) {
			all = append(all, agentView{ID: t.ID.String(), Name: t.Name, Pool: names[t.Owner], State: "waiting"})
		}
	}
	return all, nil
}

func (c *cli) agentRemoveCmd() *cobra.Command {
	var flags removalFlags
	cmd := c.leaf("remove AGENT", "remove an agent or a pool, or withdraw an agent's token", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			return c.remove(ctx, cl, args[0], flags, trustv1.EntryKind_ENTRY_KIND_AGENT,
				trustv1.EntryKind_ENTRY_KIND_ENROLMENT, trustv1.EntryKind_ENTRY_KIND_POOL)
		})
	})
	flags.flags(cmd)
	return help(cmd, `Removes the agent from the log: nothing that it signs counts from then on. Values
whose newest proof is its word are attested anew by you in the same operation. A new
secret that it staged and did not finish is shown: settle it first (run abandon), since
no agent takes it up afterwards.
`+removalHelp, `rotunda agent remove gw1
rotunda agent remove gw1 --no-rekey --no-rotate`)
}
