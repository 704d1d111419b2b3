package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

func (c *cli) folderCmd() *cobra.Command {
	cmd := c.group("folder", "shared folders, and who may do what in them", "")
	cmd.AddCommand(c.folderAddCmd(), c.folderListCmd(), c.folderGrantCmd(), c.folderRekeyCmd())
	return cmd
}

// folderView is a folder.
type folderView struct {
	UID        string      `json:"uid"`
	Name       string      `json:"name"`
	Roles      string      `json:"roles"`
	Records    int64       `json:"records"`
	KeyVersion uint32      `json:"key_version"`
	OldKeys    int64       `json:"old_keys,omitempty"` // records that wait for keys of their own
	KeyMissing bool        `json:"key_missing,omitempty"`
	Grants     []grantView `json:"grants"`
}

// grantView is one right on a folder.
type grantView struct {
	To    string `json:"to"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	Roles string `json:"roles"`
}

func viewFolder(f client.Folder) folderView {
	v := folderView{f.UID.String(), f.Name, f.Roles.String(), f.Records, f.KeyVersion, f.OldKeys, f.Missing, []grantView{}}
	for _, g := range f.Grants {
		v.Grants = append(v.Grants, grantView{g.To.String(), kindWord(g.Kind), g.Name, g.Roles.String()})
	}
	return v
}

func (c *cli) folderAddCmd() *cobra.Command {
	return c.leaf("add NAME", "make a folder and grant it to yourself", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			f, err := cl.AddFolder(ctx, args[0])
			if err != nil {
				return err
			}
			return c.emit(viewFolder(f), func(w io.Writer) { pairs(w, "folder", f.Name, "uid", f.UID.String()) })
		})
	})
}

func (c *cli) folderListCmd() *cobra.Command {
	var pg page
	var grants bool
	cmd := c.leaf("list", "list the folders that you may read", func(ctx context.Context, _ []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			folders, err := cl.Folders(ctx)
			if err != nil {
				return err
			}
			shown, next, err := cut(&pg, folders)
			if err != nil {
				return err
			}
			views := make([]folderView, 0, len(shown))
			for _, f := range shown {
				views = append(views, viewFolder(f))
			}
			heading := []string{"name", "records", "your roles", "uid"}
			if grants {
				heading = append(heading, "granted to")
			}
			return list(c, &pg, "folders", views, next, heading, func(f folderView) []string {
				name := f.Name
				if f.KeyMissing {
					name = "(its key has not come yet)"
				}
				row := []string{name, fmt.Sprint(f.Records), f.Roles, f.UID}
				if grants {
					var to []string
					for _, g := range f.Grants {
						to = append(to, fmt.Sprintf("%s %s: %s", g.Kind, g.Name, g.Roles))
					}
					row = append(row, strings.Join(to, "; "))
				}
				return row
			})
		})
	})
	cmd.Flags().BoolVar(&grants, "grants", false, "show to whom each is granted")
	pg.flags(cmd)
	return cmd
}

func (c *cli) folderGrantCmd() *cobra.Command {
	cmd := c.leaf("grant FOLDER TO ROLES", "set what a member, pool or application may do in a folder", func(ctx context.Context, args []string) error {
		roles, err := inputRoles("ROLES", args[2])
		if err != nil {
			return err
		}
		return c.with(ctx, func(cl *client.Client) error {
			var folder seal.ID // zero: every folder
			if args[0] != "*" {
				f, err := cl.FindFolder(ctx, args[0])
				if err != nil {
					return err
				}
				folder = f.UID
			}
			to, err := cl.Find(ctx, args[1], trustv1.EntryKind_ENTRY_KIND_MEMBER, trustv1.EntryKind_ENTRY_KIND_POOL, trustv1.EntryKind_ENTRY_KIND_APP)
			if err != nil {
				return err
			}
			id, err := seal.IDFrom(to.EntryId)
			if err != nil {
				return err
			}
			if to.Kind == trustv1.EntryKind_ENTRY_KIND_POOL && roles != 0 {
				question := fmt.Sprintf("every agent of pool %q will be able to read what is in %s; go on", to.Name, args[0])
				if err := c.confirm(question); err != nil {
					return err
				}
			}
			if to.Kind == trustv1.EntryKind_ENTRY_KIND_APP {
				err = cl.GrantApp(ctx, id, folder, roles)
			} else {
				err = cl.Grant(ctx, folder, id, roles)
			}
			if err != nil {
				return err
			}
			return c.done(fmt.Sprintf("%s %s now has %s on %s", kindWord(to.Kind), to.Name, roles, args[0]))
		})
	})
	return help(cmd, `ROLES is a list with commas, or "none", or "all":

  read            open records
  edit            change records, sign statements
  operate         start runs, allow schedules
  share           grant what you have yourself; includes read
  approve_script  let a script into a record (administrators grant it)
  admin           members, agents, pools, plugins, policy (administrators grant it)

The roles given replace the former ones. A pool gets read and nothing else, an
application read or read,edit. FOLDER "*" is every folder and the organisation.`,
		`rotunda folder grant Databases "Grace Hopper" read,edit,operate
rotunda folder grant Databases dc1 read
rotunda folder grant Databases terraform none`)
}
