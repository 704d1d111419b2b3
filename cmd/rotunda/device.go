package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

func (c *cli) deviceCmd() *cobra.Command {
	cmd := c.group("device", "devices of people", "")
	cmd.AddCommand(c.deviceAddCmd(), c.deviceListCmd(), c.deviceRemoveCmd(), c.devicePassphraseCmd())
	return cmd
}

func (c *cli) deviceAddCmd() *cobra.Command {
	var t tokenFlags
	var member, roles string
	cmd := c.leaf("add NAME", "make the token for a further device", func(ctx context.Context, args []string) error {
		span, err := t.span()
		if err != nil {
			return err
		}
		spec := client.DeviceSpec{Name: args[0], ValidFor: span, Unattended: t.unattended}
		if spec.Roles, err = inputRoles("--roles", roles); err != nil {
			return err
		}
		out, err := c.p.reserve(t.out)
		if err != nil {
			return err
		}
		defer out.drop()
		return c.with(ctx, func(cl *client.Client) error {
			if member != "" {
				e, err := cl.Find(ctx, member, trustv1.EntryKind_ENTRY_KIND_MEMBER)
				if err != nil {
					return err
				}
				if spec.Member, err = seal.IDFrom(e.EntryId); err != nil {
					return err
				}
			}
			tok, err := cl.AddDevice(ctx, spec)
			if err != nil {
				return err
			}
			return c.handOut(ctx, cl, t, out, tok, args[0], "rotunda device remove")
		})
	})
	cmd.Flags().StringVar(&member, "member", "", "whose device, by name or id (default: yours)")
	cmd.Flags().StringVar(&roles, "roles", "", "the most that the device may do (default: all that its member may)")
	completes(cmd, "roles", roleWords)
	t.flags(cmd)
	return help(cmd, "", `rotunda device add laptop`)
}

// deviceView is a device, or a token for one.
type deviceView struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Member   string `json:"member"`
	Roles    string `json:"roles,omitempty"` // the most that it may do: what its member may counts, too
	NotAfter string `json:"not_after,omitempty"`
	State    string `json:"state"` // current, live, expired, waiting
}

func (c *cli) deviceListCmd() *cobra.Command {
	var pg page
	cmd := c.leaf("list", "list devices, and tokens that wait for one", func(ctx context.Context, _ []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			all, err := c.devices(ctx, cl)
			if err != nil {
				return err
			}
			shown, next, err := cut(&pg, all)
			if err != nil {
				return err
			}
			return list(c, &pg, "devices", shown, next, []string{"member", "device", "state", "roles at most", "not after", "id"}, func(d deviceView) []string {
				return []string{d.Member, d.Name, d.State, d.Roles, local(d.NotAfter), d.ID}
			})
		})
	})
	pg.flags(cmd)
	return cmd
}

func (c *cli) devices(ctx context.Context, cl *client.Client) ([]deviceView, error) {
	members, err := cl.Members(ctx)
	if err != nil {
		return nil, err
	}
	waiting, err := cl.Pending(ctx)
	if err != nil {
		return nil, err
	}
	var all []deviceView
	for _, m := range members {
		for _, d := range m.Devices {
			state := "live"
			if d.Current {
				state = "current"
			}
			if !d.NotAfter.IsZero() && d.NotAfter.Before(c.p.now()) {
				state = "expired"
			}
			all = append(all, deviceView{d.ID.String(), d.Name, m.Name, d.Roles.String(), stamp(d.NotAfter), state})
		}
		for _, t := range waiting {
			if t.Kind == trustv1.EntryKind_ENTRY_KIND_DEVICE && t.Owner == m.ID {
				all = append(all, deviceView{t.ID.String(), t.Name, m.Name, "", stamp(t.NotAfter), "waiting"})
			}
		}
	}
	return all, nil
}

func (c *cli) deviceRemoveCmd() *cobra.Command {
	var flags removalFlags
	cmd := c.leaf("remove DEVICE", "remove a device, or withdraw a device's token", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			return c.remove(ctx, cl, args[0], flags, trustv1.EntryKind_ENTRY_KIND_DEVICE, trustv1.EntryKind_ENTRY_KIND_ENROLMENT)
		})
	})
	flags.flags(cmd)
	return help(cmd, `Removes the device from the log: at once nothing that it signed counts any more. A
removed id never comes back.
`+removalHelp, "")
}

func (c *cli) devicePassphraseCmd() *cobra.Command {
	var file string
	cmd := c.leaf("passphrase", "change the passphrase of this device's store", func(context.Context, []string) error {
		p, err := c.openProfile()
		if err != nil {
			return err
		}
		old, err := c.passphrase()
		if err != nil {
			return err
		}
		defer clear(old)
		next, err := c.newPassphrase("device", file, "--new-passphrase-file")
		if err != nil {
			return err
		}
		defer clear(next)
		if err := p.ChangePassphrase(sdk.NewSecret(old), sdk.NewSecret(next)); err != nil {
			return err
		}
		c.note("copies of the old file still open with the old passphrase")
		return c.done("changed")
	})
	cmd.Flags().StringVar(&file, "new-passphrase-file", "", "`FILE` with the new passphrase")
	return cmd
}
