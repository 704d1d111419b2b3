package main

import (
	"context"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

func (c *cli) resourceCmd() *cobra.Command {
	cmd := c.group("resource", "targets: where accounts log in", `A resource says where accounts log in and by what the target is known. It holds no
secret: its administrator is an account of its own. Agents dial from the resource's
signed statement alone.`)
	cmd.AddCommand(c.resourceAddCmd(), c.resourceListCmd(), c.resourceEditCmd(), c.resourceTestCmd(), c.resourceProbeCmd(), c.resourceDiscoverCmd())
	return cmd
}

// resourceTypes are the types of record that are resources.
var resourceTypes = [...]string{client.TypeMachine, client.TypeDatabase, client.TypeDirectory}

// findResource finds a resource by title, folder/title or uid.
func findResource(ctx context.Context, cl *client.Client, name string) (client.Ref, error) {
	r, err := cl.FindRecord(ctx, name, resourceTypes[:]...)
	if err != nil {
		return client.Ref{}, err
	}
	return r.Ref, nil
}

// resourceView is what a resource's statement says.
type resourceView struct {
	Pool        string          `json:"pool_id"`
	Plugin      string          `json:"plugin"`
	Rotator     *scriptUseView  `json:"rotator,omitempty"` // the script that it is, with the plugin lua
	Discoverer  *scriptUseView  `json:"discoverer,omitempty"`
	Address     string          `json:"address"`
	Via         string          `json:"via,omitempty"`
	TLS         string          `json:"tls"`
	ServerName  string          `json:"tls_server_name,omitempty"`
	TLSKeys     []string        `json:"tls_spki_sha256,omitempty"`
	SSHHostKeys []string        `json:"ssh_host_key_sha256,omitempty"`
	FirstKey    bool            `json:"trust_first_key,omitempty"`
	Admin       string          `json:"admin_account,omitempty"`
	Config      string          `json:"config,omitempty"`
	Concurrency uint32          `json:"concurrency,omitempty"`
	Scripts     []scriptUseView `json:"scripts,omitempty"` // that run after rotations of its accounts
	Seq         uint64          `json:"statement"`
}

func viewResource(st *trustv1.Statement, r *trustv1.Resource) *resourceView {
	v := &resourceView{
		Plugin: r.Plugin, Address: net.JoinHostPort(r.Host, strconv.Itoa(int(r.Port))), Via: refText(r.Via),
		TLS: tlsWord(r.Tls.GetMode()), ServerName: r.Tls.GetServerName(), TLSKeys: digests(r.Tls.GetSpkiSha256(), seal.Digest.String),
		SSHHostKeys: digests(r.SshHostKeySha256, client.SSHFingerprint), FirstKey: r.Tofu, Admin: refText(r.AdminAccount), Config: string(r.Config), Concurrency: r.Concurrency, Seq: st.Seq,
	}
	if r.Rotator != nil {
		u := viewUse(r.Rotator)
		v.Rotator = &u
	}
	if r.Discoverer != nil {
		u := viewUse(r.Discoverer)
		v.Discoverer = &u
	}
	for _, u := range r.Scripts {
		v.Scripts = append(v.Scripts, viewUse(u))
	}
	if id, err := seal.IDFrom(r.PoolId); err == nil {
		v.Pool = id.String()
	}
	return v
}

func tlsWord(m trustv1.TlsMode) string {
	if m == trustv1.TlsMode_TLS_MODE_UNSPECIFIED {
		return "none"
	}
	return strings.ToLower(strings.TrimPrefix(m.String(), "TLS_MODE_"))
}

func digests(list [][]byte, text func(seal.Digest) string) []string {
	var out []string
	for _, b := range list {
		if d, err := seal.DigestFrom(b); err == nil {
			out = append(out, text(d))
		}
	}
	return out
}

// lines are the statement in names and values.
func (r *resourceView) lines(named func(string) string) []string {
	first := ""
	if r.FirstKey {
		first = "the first key seen is kept"
	}
	lines := []string{
		"address", r.Address, "plugin", r.Plugin, "rotator", r.Rotator.text(named), "discoverer", r.Discoverer.text(named), "pool", r.Pool, "via", named(r.Via),
		"tls", r.TLS, "tls name", r.ServerName, "tls keys", strings.Join(r.TLSKeys, " "),
		"ssh host keys", strings.Join(r.SSHHostKeys, " "), "host key", first,
		"administrator", named(r.Admin), "config", r.Config, "runs at once", nonZero(int(r.Concurrency)),
	}
	for _, u := range r.Scripts {
		lines = append(lines, "after a rotation", u.text(named))
	}
	return lines
}

func (c *cli) resourceAddCmd() *cobra.Command {
	var folder, kind, notes string
	var r resourceFlags
	cmd := c.leaf("add TITLE", "add a resource", func(ctx context.Context, args []string) error {
		if folder == "" || r.pool == "" || (r.plugin == "") == (r.rotator == "") || r.host == "" || r.port == 0 {
			return usagef("resource add wants --folder, --pool, --plugin or --rotator, --host and --port")
		}
		spec := client.ResourceSpec{Type: resourceType(kind), Title: args[0], Plugin: r.plugin, Host: r.host, Port: r.port, TOFU: r.firstKey}
		var err error
		if spec.TLS, err = r.tlsOf(); err != nil {
			return err
		}
		if spec.SSHHostKeys, err = parseDigests("--host-key", r.sshKeys, client.ParseSSHFingerprint); err != nil {
			return err
		}
		if spec.Config, err = r.config(c); err != nil {
			return err
		}
		if err := r.checkConcurrency(); err != nil {
			return err
		}
		spec.Concurrency = int(r.concurrency)
		if spec.Notes, err = c.textFile(notes); err != nil {
			return err
		}
		return c.with(ctx, func(cl *client.Client) error {
			f, err := cl.FindFolder(ctx, folder)
			if err != nil {
				return err
			}
			spec.Folder = f.UID
			if spec.Pool, err = findPool(ctx, cl, r.pool); err != nil {
				return err
			}
			if r.via != "" {
				if spec.Via, err = c.findVia(ctx, cl, r.via); err != nil {
					return err
				}
			}
			if r.admin != "" {
				admin, err := cl.FindRecord(ctx, r.admin, client.TypeAccount)
				if err != nil {
					return err
				}
				spec.AdminAccount = admin.Ref
				c.warnAdmin(admin, client.Ref{}, args[0])
			}
			if spec.Extras, err = r.extrasOf(ctx, cl); err != nil {
				return err
			}
			if r.rotator != "" {
				spec.Plugin = script.Plugin
				if spec.Rotator, spec.Config, err = c.rotatorOf(ctx, cl, &r, scriptPlace{folder: f.UID, title: args[0]}); err != nil {
					return err
				}
			}
			if r.discoverer != "" {
				if spec.Discoverer, err = c.discovererOf(ctx, cl, &r, scriptPlace{folder: f.UID, title: args[0]}); err != nil {
					return err
				}
			}
			ref, err := cl.AddResource(ctx, spec)
			if err != nil {
				return err
			}
			return c.added(ref, args[0])
		})
	})
	f := cmd.Flags()
	f.StringVar(&folder, "folder", "", "folder that it goes into")
	choiceVar(cmd, &kind, "type", "machine", resourceKinds, "machine, database or directory")
	f.StringVar(&notes, "notes-file", "", "`FILE` with the notes")
	r.flags(cmd)
	return help(cmd, `A resource's administrator is an account, and an account names its resource: add the
resource, then the administrator's account with --resource, then name it with
"rotunda resource edit --admin". Without --tls and without a host key agents
refuse targets that have one: "rotunda resource probe" shows and pins them.`,
		`rotunda resource add db1 --folder Databases --type database --pool dc1 --plugin postgres --host db1.internal --port 5432 --tls system
rotunda record add db1-admin --folder Admins --resource db1 --login rotunda --password-file admin.txt
rotunda resource edit db1 --admin db1-admin
rotunda resource test db1`)
}

// resourceType is the record type of one of resourceKinds.
func resourceType(kind string) string {
	switch kind {
	case "database":
		return client.TypeDatabase
	case "directory":
		return client.TypeDirectory
	}
	return client.TypeMachine
}

func (c *cli) resourceListCmd() *cobra.Command {
	var pg page
	var f recordFilter
	cmd := c.leaf("list", "list resources", func(ctx context.Context, _ []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			folder, err := f.folderOf(ctx, cl)
			if err != nil {
				return err
			}
			records, next, err := take(&pg, cl.Records(ctx, folder, resourceTypes[:]...), f.fits)
			if err != nil {
				return err
			}
			views := make([]recordView, 0, len(records))
			for _, r := range records {
				views = append(views, viewRecord(r))
			}
			return list(c, &pg, "resources", views, next, []string{"title", "address", "plugin", "tls", "state", "folder/uid"}, func(v recordView) []string {
				r := v.Resource
				if r == nil {
					r = &resourceView{}
				}
				return []string{v.Title, r.Address, r.Plugin, r.TLS, stateText(v.State, v.Reason), v.Folder + "/" + v.UID}
			})
		})
	})
	f.flags(cmd)
	pg.flags(cmd)
	return cmd
}

func (c *cli) resourceEditCmd() *cobra.Command {
	var r resourceFlags
	var title string
	var cmd *cobra.Command
	cmd = c.leaf("edit RESOURCE", "change a resource", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			found, err := cl.FindRecord(ctx, args[0], resourceTypes[:]...)
			if err != nil {
				return err
			}
			change, err := c.resourceEdit(ctx, cl, found, cmd.Flags().Changed, &r)
			if err != nil {
				return err
			}
			if change == nil && title == "" {
				return usagef("nothing to change was named").withHint("`rotunda resource edit --help` lists what can change")
			}
			if change != nil {
				c.warnUnlinked(found)
				if err := cl.EditResource(ctx, found.Ref, change); err != nil {
					return err
				}
			}
			if title != "" {
				if err := cl.EditRecord(ctx, found.Ref, client.RecordEdit{Title: &title}); err != nil {
					return err
				}
			}
			return c.done("changed " + found.Title)
		})
	})
	cmd.Flags().StringVar(&title, "title", "", "new title")
	r.flags(cmd)
	r.scripts.flags(cmd, "")
	return help(cmd, `Only what is named changes. The resource's statement is signed anew, and the former
one is withdrawn for ever.`, `rotunda resource edit db1 --host db1-new.internal
rotunda resource edit db1 --admin db1-admin
rotunda resource edit router1 --rotator acme-router,param.realm=local
rotunda resource edit db1 --discoverer postgres-roles
rotunda resource edit web1 --script restart-unit,record.host=web1,param.unit=nginx`)
}
