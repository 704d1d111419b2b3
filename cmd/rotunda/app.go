package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/terminal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

func (c *cli) appCmd() *cobra.Command {
	cmd := c.group("app", "machine applications that read records by the secrets-manager protocol", `Programs read records with the public secrets-manager SDKs: in JavaScript with a
configuration alone, in Go with the package ksmkey of this repository besides.
docs/machines.md goes through both.`)
	cmd.AddCommand(c.appAddCmd(), c.appListCmd(), c.appConfigCmd(), c.appTokenCmd(), c.appRemoveCmd())
	return cmd
}

func (c *cli) appAddCmd() *cobra.Command {
	cmd := c.leaf("add NAME", "make an application", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			a, err := cl.AddApp(ctx, args[0])
			if err != nil {
				return err
			}
			return c.emit(viewApp(a), func(w io.Writer) { pairs(w, "application", a.Name, "id", a.ID.String()) })
		})
	})
	return help(cmd, `An application reads the folders that are granted to it; then hand out a configuration.`,
		`rotunda app add terraform
rotunda folder grant Databases terraform read
rotunda app config terraform ci --server-key 100:BLL8… --out ci.cfg`)
}

// appView is an application.
type appView struct {
	ID      string          `json:"id"`
	Name    string          `json:"name"`
	Folders []appFolderView `json:"folders"`
	Clients []appClientView `json:"clients"`
	Held    bool            `json:"held"`               // this device may hold its key, and sees its clients
	KnownTo []string        `json:"known_to,omitempty"` // with whom its key is, who may not hold it
}

type appFolderView struct {
	UID   string `json:"uid"`
	Name  string `json:"name"`
	Roles string `json:"roles"`
}

type appClientView struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	State    string `json:"state"`
	Created  string `json:"created"`
	LastSeen string `json:"last_seen,omitempty"`
}

func viewApp(a client.App) appView {
	v := appView{ID: a.ID.String(), Name: a.Name, Folders: []appFolderView{}, Clients: []appClientView{}, Held: a.Held}
	for _, f := range a.Folders {
		v.Folders = append(v.Folders, appFolderView{f.UID.String(), f.Name, f.Roles.String()})
	}
	for _, k := range a.Clients {
		v.Clients = append(v.Clients, appClientView{hex.EncodeToString(k.ID), k.Name, k.State, stamp(k.Created), stamp(k.LastSeen)})
	}
	return v
}

func (c *cli) appListCmd() *cobra.Command {
	var pg page
	cmd := c.leaf("list", "list applications, their folders and clients", func(ctx context.Context, _ []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			apps, err := cl.Apps(ctx)
			if err != nil {
				return err
			}
			shown, next, err := cut(&pg, apps)
			if err != nil {
				return err
			}
			known, err := c.knownApps(ctx, cl, seal.ID{})
			if err != nil {
				return err
			}
			views := make([]appView, 0, len(shown))
			for _, a := range shown {
				v := viewApp(a)
				v.KnownTo = known[a.ID]
				views = append(views, v)
			}
			return list(c, &pg, "apps", views, next, []string{"name", "folders", "clients", "id"}, func(a appView) []string {
				var folders, clients []string
				for _, f := range a.Folders {
					folders = append(folders, f.Name)
				}
				for _, k := range a.Clients {
					clients = append(clients, fmt.Sprintf("%s (%s)", k.Name, k.State))
				}
				if !a.Held {
					clients = []string{"not yours to see"}
				}
				return []string{a.Name, strings.Join(folders, ", "), strings.Join(clients, ", "), a.ID}
			})
		})
	})
	pg.flags(cmd)
	return cmd
}

// knownApps says of an application (zero: of each) with whom its key is, who may not hold
// it, and warns where it has to be issued anew.
func (c *cli) knownApps(ctx context.Context, cl *client.Client, app seal.ID) (map[seal.ID][]string, error) {
	list, err := cl.KnownApps(ctx)
	known := map[seal.ID][]string{}
	for _, k := range list {
		if !app.IsZero() && k.App.ID != app {
			continue
		}
		known[k.App.ID] = c.knownTo(k)
		c.warn("%s could hold the key of the application %s: issue it anew: %s", few(known[k.App.ID]), k.App.Name, newApp(k.App.Name))
	}
	return known, err
}

// appClientFlags are those of a new client of an application.
type appClientFlags struct {
	until     string
	server    string
	serverKey string
	lock      bool
	out       string
}

func (f *appClientFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.until, "access-until", "", "end of its access, a date or a span such as 90d (default: no end)")
	cmd.Flags().StringVar(&f.server, "server", "", "`HOST[:PORT]` that machine clients use (default: the profile's server)")
	cmd.Flags().BoolVar(&f.lock, "lock-address", false, "it may come from the first address that it is seen at alone")
	cmd.Flags().StringVar(&f.out, "out", "", "`FILE` to write it to, instead of printing it")
}

func (f *appClientFlags) spec(c *cli, name string) (client.AppClientSpec, error) {
	s := client.AppClientSpec{Name: name, LockAddress: f.lock, PublicServer: f.server}
	var err error
	if f.until != "" {
		if s.AccessUntil, err = c.inputTime(f.until); err != nil {
			return s, err
		}
	}
	if f.serverKey != "" {
		id, key, _ := strings.Cut(f.serverKey, ":")
		s.ServerKeyID = id
		s.ServerKey, err = base64.RawURLEncoding.DecodeString(key)
		if _, notNumber := strconv.ParseUint(id, 10, 16); notNumber != nil || err != nil {
			return s, usagef("--server-key: it is ID:KEY, a number and a P-256 point in base64url").
				withHint("`rotunda-server machine-key` prints it")
		}
		// A key that is none would be noticed by the machine client alone, at its first call.
		if _, err := seal.ParseDevicePub(s.ServerKey); err != nil {
			return s, usagef("--server-key: KEY is %d bytes that are no uncompressed point of the curve P-256 (65 bytes, the first is 4)", len(s.ServerKey)).
				withHint("`rotunda-server machine-key` prints it: copy it whole")
		}
	}
	return s, nil
}

func (c *cli) appConfigCmd() *cobra.Command {
	var f appClientFlags
	cmd := c.leaf("config APP CLIENT", "make a complete configuration for a client of an application", func(ctx context.Context, args []string) error {
		if f.serverKey == "" {
			return usagef("app config wants --server-key").withHint("`rotunda-server machine-key` prints it")
		}
		spec, err := f.spec(c, args[1])
		if err != nil {
			return err
		}
		out, err := c.p.reserve(f.out)
		if err != nil {
			return err
		}
		defer out.drop()
		return c.with(ctx, func(cl *client.Client) error {
			a, err := cl.FindApp(ctx, args[0])
			if err != nil {
				return err
			}
			spec.App = a.ID
			if _, err := c.knownApps(ctx, cl, a.ID); err != nil {
				return err
			}
			config, err := cl.AppConfig(ctx, spec)
			if err != nil {
				return err
			}
			return c.appSecretOut("config", config, out, args)
		})
	})
	f.flags(cmd)
	cmd.Flags().StringVar(&f.serverKey, "server-key", "", "`ID:KEY` of the secrets-manager endpoint, as \"rotunda-server machine-key\" prints it")
	return help(cmd, `The configuration is a secret: base64 of the JSON that the public SDKs read. It holds
the owner's key and the endpoint's, so that the client takes neither on trust.`,
		`rotunda app config terraform ci --server-key 100:BLL8… --out ci.cfg`)
}

func (c *cli) appTokenCmd() *cobra.Command {
	var f appClientFlags
	var valid string
	cmd := c.leaf("token APP CLIENT", "make a one-time token for a client of an application", func(ctx context.Context, args []string) error {
		spec, err := f.spec(c, args[1])
		if err != nil {
			return err
		}
		if spec.TokenFor, err = inputSpan(valid); err != nil {
			return err
		}
		out, err := c.p.reserve(f.out)
		if err != nil {
			return err
		}
		defer out.drop()
		return c.with(ctx, func(cl *client.Client) error {
			a, err := cl.FindApp(ctx, args[0])
			if err != nil {
				return err
			}
			spec.App = a.ID
			if _, err := c.knownApps(ctx, cl, a.ID); err != nil {
				return err
			}
			token, err := cl.AppToken(ctx, spec)
			if err != nil {
				return err
			}
			c.warn("a client that binds by a token takes the owner's key from the server on trust, and seals what it creates to it: prefer `rotunda app config`")
			return c.appSecretOut("token", token, out, args)
		})
	})
	f.flags(cmd)
	cmd.Flags().StringVar(&valid, "valid-for", "24h", "how long the token may be used")
	return cmd
}

// appSecretOut prints what a client of an application, both of which args name, was made
// with, or writes it to a file.
func (c *cli) appSecretOut(name string, s sdk.Secret, out *newFile, args []string) error {
	b := s.Expose()
	defer clear(b)
	var err error
	if out != nil {
		if err = out.keep(append(b, '\n')); err == nil {
			return c.emit(map[string]string{"file": out.name}, func(io.Writer) { c.note("written to %s", out.name) })
		}
	} else {
		c.p.keepPipe()
		err = c.emit(map[string]string{name: string(b)}, func(w io.Writer) { fmt.Fprintf(w, "%s\n", b) })
	}
	if err != nil {
		return secretLost(err, fmt.Sprintf("the %s of the client %s of %s", name, args[1], args[0]),
			fmt.Sprintf("rotunda app remove %s --client %s", args[0], args[1]))
	}
	return nil
}

func (c *cli) appRemoveCmd() *cobra.Command {
	var name string
	cmd := c.leaf("remove APP", "remove an application, or one client of it", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			if name == "" {
				return c.remove(ctx, cl, args[0], removalFlags{noRekey: true, noRotate: true}, trustv1.EntryKind_ENTRY_KIND_APP)
			}
			a, err := cl.FindApp(ctx, args[0])
			if err != nil {
				return err
			}
			k, err := findAppClient(a, name)
			if err != nil {
				return err
			}
			if err := c.confirm(fmt.Sprintf("end the client %q of %q", k.Name, a.Name)); err != nil {
				return err
			}
			if err := cl.RemoveAppClient(ctx, a.ID, k.ID); err != nil {
				return err
			}
			return c.done("removed " + k.Name)
		})
	})
	cmd.Flags().StringVar(&name, "client", "", "only this client, by name or id")
	return help(cmd, `From then on its clients are served nothing. What they have read they know: where that
matters, re-key the application's folders ("rotunda folder rekey") and rotate their
accounts ("rotunda rotate --exposed"), which the removal of an application leaves to you.`, "")
}

func findAppClient(a client.App, name string) (client.AppClient, error) {
	var found []client.AppClient
	for _, k := range a.Clients {
		if id := hex.EncodeToString(k.ID); id == name || k.Name == name && k.State != "revoked" {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return client.AppClient{}, failf(exitNotFound, "not_found", "application %s has no client %q", a.Name, name)
	}
	f := failf(exitNotFound, "ambiguous", "application %s has %d clients named %q", a.Name, len(found), name)
	var lines []string
	for _, k := range found {
		lines = append(lines, terminal.Line(fmt.Sprintf("%s, made %s: %s", k.Name, k.Created.Format(time.DateTime), hex.EncodeToString(k.ID))))
	}
	return client.AppClient{}, f.withHint("%s", strings.Join(lines, "\n"))
}
