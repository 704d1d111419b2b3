package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

func (c *cli) memberCmd() *cobra.Command {
	cmd := c.group("member", "people of the organisation", "")
	cmd.AddCommand(c.memberAddCmd(), c.memberListCmd(), c.memberRemoveCmd())
	return cmd
}

func (c *cli) memberAddCmd() *cobra.Command {
	var t tokenFlags
	var device, roles string
	cmd := c.leaf("add NAME", "add a person, and make the token for his first device", func(ctx context.Context, args []string) error {
		span, err := t.span()
		if err != nil {
			return err
		}
		r, err := inputRoles("--roles", roles)
		if err != nil {
			return err
		}
		out, err := c.p.reserve(t.out)
		if err != nil {
			return err
		}
		defer out.drop()
		return c.with(ctx, func(cl *client.Client) error {
			tok, err := cl.AddMember(ctx, client.MemberSpec{Name: args[0], Roles: r, Device: device, ValidFor: span, Unattended: t.unattended})
			if err != nil {
				return err
			}
			return c.handOut(ctx, cl, t, out, tok, args[0], "rotunda member remove")
		})
	})
	cmd.Flags().StringVar(&device, "device", "first device", "name of the first device; the person's name stands before it wherever it is shown")
	cmd.Flags().StringVar(&roles, "roles", "none", "roles on every folder and the organisation; usually none: grant folders instead")
	completes(cmd, "roles", roleWords)
	t.flags(cmd)
	return help(cmd, `The token is handed to the person outside of Rotunda; he uses it with
"rotunda join". Then grant him folders: "rotunda folder grant".`, `rotunda member add "Grace Hopper"
rotunda member add "Grace Hopper" --roles admin --out token.txt --no-wait`)
}

// memberView is a person.
type memberView struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Roles   string   `json:"roles"`
	Devices []string `json:"devices"`
	Pending bool     `json:"pending,omitempty"`
}

func (c *cli) memberListCmd() *cobra.Command {
	var pg page
	cmd := c.leaf("list", "list people", func(ctx context.Context, _ []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			members, err := cl.Members(ctx)
			if err != nil {
				return err
			}
			shown, next, err := cut(&pg, members)
			if err != nil {
				return err
			}
			views := make([]memberView, 0, len(shown))
			for _, m := range shown {
				v := memberView{m.ID.String(), m.Name, m.Roles.String(), []string{}, m.Pending}
				for _, d := range m.Devices {
					v.Devices = append(v.Devices, d.Name)
				}
				views = append(views, v)
			}
			return list(c, &pg, "members", views, next, []string{"name", "roles", "devices", "id"}, func(m memberView) []string {
				devices := strings.Join(m.Devices, ", ")
				if m.Pending {
					devices = "(token is out)"
				}
				return []string{m.Name, m.Roles, devices, m.ID}
			})
		})
	})
	pg.flags(cmd)
	return cmd
}

func (c *cli) memberRemoveCmd() *cobra.Command {
	var flags removalFlags
	cmd := c.leaf("remove MEMBER", "remove a person, with all devices of his", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			return c.remove(ctx, cl, args[0], flags, trustv1.EntryKind_ENTRY_KIND_MEMBER)
		})
	})
	flags.flags(cmd)
	return help(cmd, `Removes the person and all his devices from the log: at once nothing that he signed
counts any more.
`+removalHelp, `rotunda member remove "Grace Hopper" --plan
rotunda member remove "Grace Hopper"`)
}
