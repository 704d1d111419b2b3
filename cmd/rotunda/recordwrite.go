package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/span"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// accountFlags are what an account's statement says.
type accountFlags struct {
	resource   string
	login      string
	scope      string
	verify     string
	maxProbe   uint32
	pair       string
	dependents string
	drain      string
	sameLogin  bool
	policy     policyFlags
	scripts    scriptFlags
	generator  string
}

// accountOnly are the flags that say something of accounts alone.
var accountOnly = [...]string{
	"kind", "no-secret", "scope", "verify-mode", "max-probe", "dependents-file", "drain", "script", "drop-script", "generator", "same-login", "public-key-file", "key-id",
	"policy-length", "policy-lower", "policy-upper", "policy-digit", "policy-symbol", "policy-symbols", "policy-exclude",
}

func (a *accountFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.login, "login", "", "name that it logs in with")
	f.StringVar(&a.resource, "resource", "", "account: resource where it logs in")
	f.StringVar(&a.scope, "scope", "", "account: database, DN or host part that the login belongs to")
	choiceVar(cmd, &a.verify, "verify-mode", "", verifyModes, "account: login (a fresh login proves a new secret), or readback")
	f.Uint32Var(&a.maxProbe, "max-probe", 0, "account: failed logins that one run may cause (0: the plugin's own limit; 2 at least where the account rotates itself)")
	f.StringVar(&a.dependents, "dependents-file", "", "account: `FILE` with what uses the secret and gets each new one, in order: a JSON list of {resource, plugin or script, config}")
	f.StringVar(&a.drain, "drain", "", "account: how long the former secret, where it can, or the other account of the pair goes on working (0s: not at all)")
	f.BoolVar(&a.sameLogin, "same-login", false, "account: another record has this login on the resource, and the target takes them for two")
	a.policy.flags(cmd)
}

// drainTime is how long a former secret works.
func (a *accountFlags) drainTime() (time.Duration, error) {
	d, err := optionalSpan(a.drain)
	if err == nil && (d < 0 || d > trust.MaxDrain || d%time.Second != 0) {
		err = usagef("--drain %s: whole seconds, at most %s", a.drain, span.Text(trust.MaxDrain))
	}
	return d, err
}

// dependentsFrom reads the list of dependents, whose resources are named as
// everywhere.
func (c *cli) dependentsFrom(ctx context.Context, cl *client.Client, file string, of scriptPlace) ([]*trustv1.Dependent, error) {
	if file == "" {
		return nil, nil
	}
	b, err := c.p.readFile(file)
	if err != nil {
		return nil, err
	}
	var list []struct {
		Resource string          `json:"resource"`
		Plugin   string          `json:"plugin"`
		Script   string          `json:"script"` // in place of the plugin
		Config   json.RawMessage `json:"config"`
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&list); err != nil {
		return nil, usagef("--dependents-file %s: %w", file, err)
	}
	out := make([]*trustv1.Dependent, 0, len(list))
	for _, d := range list {
		ref, err := findResource(ctx, cl, d.Resource)
		if err != nil {
			return nil, err
		}
		one := &trustv1.Dependent{Resource: refProto(ref), Plugin: d.Plugin, Config: d.Config}
		if d.Script != "" {
			if err := c.scripted(ctx, cl, one, d.Script, d.Resource, ref, of); err != nil {
				return nil, err
			}
		}
		out = append(out, one)
	}
	return out, nil
}

// scripted has a script do what is done for a dependent.
func (c *cli) scripted(ctx context.Context, cl *client.Client, d *trustv1.Dependent, name, resource string, on client.Ref, of scriptPlace) error {
	if d.Plugin != "" {
		return usagef("a dependent on %s names a plugin and a script: it is one of them", resource)
	}
	s, err := findScript(ctx, cl, name)
	if err != nil {
		return err
	}
	if err := isOf(s, script.Dependents); err != nil {
		return err
	}
	if _, err := s.Manifest.Values(d.Config); err != nil {
		return usagef("the dependent on %s: %w", resource, err)
	}
	d.Plugin, d.Script = script.Plugin, s.Use()
	of.on = on
	return c.approves(ctx, cl, s, of, d.Script, "dependent on "+resource, d.Config)
}

// rotates are the kinds of secret of the plugins that come with every agent.
var rotates = map[string][]string{
	"ad":       {client.SecretPassword},
	"aws":      {client.SecretPassword, client.SecretAPIKey},
	"ldap":     {client.SecretPassword},
	"mongodb":  {client.SecretPassword},
	"mysql":    {client.SecretPassword},
	"postgres": {client.SecretPassword},
	"redis":    {client.SecretPassword},
	"ssh":      {client.SecretPassword, client.SecretSSHKey},
}

// warnKind tells of a secret that no rotation will change. Which kinds other plugins
// rotate is known on the agents' hosts alone.
func (c *cli) warnKind(kind string, resource *client.Record) {
	plugin := resource.Statement.GetResource().GetPlugin()
	kinds, known := rotates[plugin]
	if kind != "" && known && !slices.Contains(kinds, kind) {
		c.warn("the plugin %s of %s rotates no secret of kind %s: it is kept, and each rotation of it fails", plugin, resource.Title, kind)
	}
}

func refProto(r client.Ref) *trustv1.Ref {
	return &trustv1.Ref{FolderUid: r.Folder.Bytes(), RecordUid: r.Record.Bytes()}
}

// secretFlags say where a record's secret comes from.
type secretFlags struct {
	source    secretSource
	none      bool
	publicKey string
	keyID     string
	notes     string
}

func (s *secretFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&s.source.stdin, "password-stdin", false, "read the secret from standard input")
	f.StringVar(&s.source.file, "password-file", "", "`FILE` with the secret")
	f.StringVar(&s.publicKey, "public-key-file", "", "ssh_key: `FILE` with the public half, to have it compared; it follows from the private key")
	f.StringVar(&s.keyID, "key-id", "", "api_key, token: the `ID` that the target has for it, by which a rotation ends it")
	f.StringVar(&s.notes, "notes-file", "", "`FILE` with the notes")
}

func (c *cli) textFile(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	b, err := c.p.readFile(name)
	return strings.TrimRight(string(b), "\n"), err
}

func (c *cli) recordAddCmd() *cobra.Command {
	var folder, url, kind string
	var a accountFlags
	var s secretFlags
	var cmd *cobra.Command
	cmd = c.leaf("add TITLE", "add a record: an account with --resource, else a login that is only kept", func(ctx context.Context, args []string) error {
		if folder == "" {
			return usagef("record add wants --folder")
		}
		for _, name := range accountOnly {
			if a.resource == "" && cmd.Flags().Changed(name) {
				return usagef("--%s is for accounts: name the resource where it logs in with --resource", name)
			}
		}
		if s.none && s.source.given() {
			return usagef("--no-secret excludes --password-stdin and --password-file")
		}
		notes, err := c.textFile(s.notes)
		if err != nil {
			return err
		}
		public, err := c.textFile(s.publicKey)
		if err != nil {
			return err
		}
		policy, err := a.policy.policy()
		if err != nil {
			return err
		}
		drain, err := a.drainTime()
		if err != nil {
			return err
		}
		return c.with(ctx, func(cl *client.Client) error {
			f, err := cl.FindFolder(ctx, folder)
			if err != nil {
				return err
			}
			var resource client.Ref
			if a.resource != "" {
				r, err := cl.FindRecord(ctx, a.resource, resourceTypes[:]...)
				if err != nil {
					return err
				}
				resource = r.Ref
				c.warnKind(kind, r)
			}
			dependents, err := c.dependentsFrom(ctx, cl, a.dependents, scriptPlace{folder: f.UID, title: args[0]})
			if err != nil {
				return err
			}
			var secret sdk.Secret
			if !s.none {
				if secret, err = c.secretInput(s.source, "secret of "+args[0]+": "); err != nil {
					return err
				}
			}
			var ref client.Ref
			if a.resource == "" {
				ref, err = cl.AddLogin(ctx, client.LoginSpec{Folder: f.UID, Title: args[0], Login: a.login, URL: url, Notes: notes, Secret: secret})
			} else {
				ref, err = cl.AddAccount(ctx, client.AccountSpec{
					Folder: f.UID, Title: args[0], Resource: resource, Login: a.login, Scope: a.scope, SecretKind: kind,
					Secret: secret, PublicKey: public, KeyID: s.keyID, Policy: policy, VerifyMode: a.verify, MaxProbe: a.maxProbe,
					Dependents: dependents, Drain: drain, Notes: notes, URL: url, SameLogin: a.sameLogin,
				})
			}
			if err != nil {
				return err
			}
			return c.added(ref, args[0])
		})
	})
	f := cmd.Flags()
	f.StringVar(&folder, "folder", "", "folder that it goes into")
	f.StringVar(&url, "url", "", "its address, for people")
	choiceVar(cmd, &kind, "kind", "", secretKinds, "account: what the secret is: password, ssh_key, api_key, token (default password)")
	f.BoolVar(&s.none, "no-secret", false, "account: there is no secret yet, the first rotation sets it")
	a.flags(cmd)
	s.flags(cmd)
	return help(cmd, `Titles are unique in their folder, since commands name records by them. A login on a
resource has one record for each kind of secret (a password and an ssh_key are two):
a rotation of one would end the secret of the other.`, `rotunda record add app --folder Databases --resource db1 --login app --password-file app.txt
printf %s "$PW" | rotunda record add "web shop" --folder Web --login shop --url https://shop.example.net --password-stdin`)
}

// added is the result of a command that made a record.
func (c *cli) added(ref client.Ref, title string) error {
	v := struct {
		UID    string `json:"uid"`
		Folder string `json:"folder_uid"`
		Title  string `json:"title"`
	}{ref.Record.String(), ref.Folder.String(), title}
	return c.emit(v, func(w io.Writer) { pairs(w, "title", title, "uid", v.UID) })
}

func (c *cli) recordEditCmd() *cobra.Command {
	var title, url string
	var revision int64
	var newSecret bool
	var a accountFlags
	var s secretFlags
	var cmd *cobra.Command
	cmd = c.leaf("edit RECORD", "change a record", func(ctx context.Context, args []string) error {
		set := cmd.Flags().Changed
		if newSecret && s.source.given() {
			return usagef("--new-secret asks for the secret: it excludes --password-stdin and --password-file")
		}
		e := client.RecordEdit{Revision: revision, SameLogin: a.sameLogin}
		if set("title") {
			e.Title = &title
		}
		if set("url") {
			e.URL = &url
		}
		if set("notes-file") {
			notes, err := c.textFile(s.notes)
			if err != nil {
				return err
			}
			e.Notes = &notes
		}
		if set("public-key-file") {
			public, err := c.textFile(s.publicKey)
			if err != nil {
				return err
			}
			e.PublicKey = &public
		}
		if set("key-id") {
			e.KeyID = &s.keyID
		}
		policy, err := a.policy.policy()
		if err != nil {
			return err
		}
		return c.with(ctx, func(cl *client.Client) error {
			r, err := cl.FindRecord(ctx, args[0])
			if err != nil {
				return err
			}
			if revision != 0 && r.Revision != revision {
				return failf(exitConflict, "out_of_sync", "%s has revision %d, not %d: nothing was changed", r.Title, r.Revision, revision).
					withHint("`rotunda record get` shows what it holds now")
			}
			account := r.Type == client.TypeAccount
			if set("login") && !account {
				e.Login = &a.login
			}
			if newSecret || s.source.given() {
				secret, err := c.secretInput(s.source, "new secret of "+r.Title+": ")
				if err != nil {
					return err
				}
				e.Secret = &secret
			}
			if !account && (set("script") || set("drop-script")) {
				return failf(exitUsage, "no_account", "%s is no account", r.Title).
					withHint("a script that runs after the rotations of all accounts of a resource: `rotunda resource edit RESOURCE --script NAME`")
			}
			signed, err := c.accountEdit(ctx, cl, placeOf(r), set, &a, policy)
			if err != nil {
				return err
			}
			if signed != nil && !account {
				return failf(exitUsage, "no_account", "%s is no account: --resource, --scope and the like belong to accounts", r.Title)
			}
			if a.sameLogin && !account {
				return failf(exitUsage, "no_account", "%s is no account: --same-login belongs to accounts", r.Title)
			}
			if account && r.Statement == nil && signed != nil && !set("resource") {
				return usagef("%s has no statement that holds: name its resource, too, with --resource", r.Title)
			}
			values := e.Title != nil || e.URL != nil || e.Notes != nil || e.PublicKey != nil || e.KeyID != nil || e.Login != nil || e.Secret != nil
			if !values && signed == nil {
				return usagef("nothing to change was named").withHint("`rotunda record edit --help` lists what can change")
			}
			// The statement first: a secret for another login must not be live before it.
			if signed != nil {
				c.warnUnlinked(r)
				if err := cl.EditAccount(ctx, r.Ref, a.sameLogin, signed); err != nil {
					return err
				}
				e.Revision = 0 // the statement has moved it on
			}
			if values {
				if err := cl.EditRecord(ctx, r.Ref, e); err != nil {
					return err
				}
			}
			return c.done("changed " + r.Title)
		})
	})
	f := cmd.Flags()
	f.StringVar(&title, "title", "", "new title")
	f.StringVar(&url, "url", "", "new address")
	f.Int64Var(&revision, "revision", 0, "revision that you saw: if somebody changed it since, nothing is changed (0: the newest)")
	f.BoolVar(&newSecret, "new-secret", false, "ask for a new secret")
	a.flags(cmd)
	s.flags(cmd)
	a.scripts.flags(cmd, "account: ")
	f.StringVar(&a.generator, "generator", "", "account: script that makes its new secrets in place of the policy, as `NAME[,param.P=V]`; \"none\" ends it")
	f.StringVar(&a.pair, "pair", "", "account: the other account of an A/B pair; \"none\" ends it")
	return help(cmd, `Only what is named changes. Values are stored under the revision that is there (or
--revision): a change in between is a conflict. What an account's statement says
(login, resource, scope, policy and so on) is signed anew, and the former
statement is withdrawn for ever.`, `rotunda record edit app --new-secret
rotunda record edit app --policy-length 40 --policy-exclude '"'
rotunda record edit app --script restart-unit,record.host=web1,param.unit=app.service
rotunda record edit door --generator pin,param.digits=8`)
}

// accountEdit gives the change of an account's statement that the flags ask
// for, nil for none. References are looked up before anything is signed.
func (c *cli) accountEdit(ctx context.Context, cl *client.Client, at scriptPlace, set func(string) bool, a *accountFlags, policy *trustv1.PasswordPolicy) (func(*trustv1.Account) error, error) {
	var changes []func(*trustv1.Account)
	if set("resource") {
		ref, err := findResource(ctx, cl, a.resource)
		if err != nil {
			return nil, err
		}
		changes = append(changes, func(t *trustv1.Account) { t.Resource = refProto(ref) })
		at.on = ref
	}
	if set("pair") {
		var pair *trustv1.Ref
		if a.pair != "none" {
			r, err := cl.FindRecord(ctx, a.pair, client.TypeAccount)
			if err != nil {
				return nil, err
			}
			pair = refProto(r.Ref)
		}
		changes = append(changes, func(t *trustv1.Account) { t.PairAccount = pair })
	}
	if set("dependents-file") {
		list, err := c.dependentsFrom(ctx, cl, a.dependents, at)
		if err != nil {
			return nil, err
		}
		changes = append(changes, func(t *trustv1.Account) { t.Dependents = list })
	}
	if set("drain") {
		d, err := a.drainTime()
		if err != nil {
			return nil, err
		}
		changes = append(changes, func(t *trustv1.Account) { t.DrainS = uint32(d / time.Second) })
	}
	if set("script") || set("drop-script") {
		change, err := a.scripts.change(ctx, c, cl, at)
		if err != nil {
			return nil, err
		}
		changes = append(changes, func(t *trustv1.Account) { t.Scripts = change(t.Scripts) })
	}
	if set("generator") {
		var use *trustv1.ScriptUse
		if a.generator != "none" {
			made, parameters, err := c.useOf(ctx, cl, "--generator", a.generator, script.Generator, at)
			if err != nil {
				return nil, err
			}
			made.Parameters = parameters
			use = made
		}
		changes = append(changes, func(t *trustv1.Account) { t.Generator = use })
	}
	if set("scope") {
		changes = append(changes, func(t *trustv1.Account) { t.Scope = a.scope })
	}
	if set("verify-mode") {
		changes = append(changes, func(t *trustv1.Account) { t.VerifyMode = a.verify })
	}
	if set("max-probe") {
		changes = append(changes, func(t *trustv1.Account) { t.MaxProbe = a.maxProbe })
	}
	if policy != nil {
		changes = append(changes, func(t *trustv1.Account) { t.Policy = policy })
	}
	login := set("login")
	if len(changes) == 0 && !login {
		return nil, nil
	}
	return func(t *trustv1.Account) error {
		if login {
			t.Login = a.login
		}
		for _, change := range changes {
			change(t)
		}
		return nil
	}, nil
}

func (c *cli) recordImportCmd() *cobra.Command {
	var folder string
	cmd := c.leaf("import FILE", "add records from CSV", func(ctx context.Context, args []string) error {
		if folder == "" {
			return usagef("record import wants --folder")
		}
		var data []byte
		var err error
		if args[0] == "-" {
			data, err = c.readStdin()
		} else {
			data, err = c.p.readFile(args[0])
		}
		if err != nil {
			return err
		}
		defer clear(data)
		return c.with(ctx, func(cl *client.Client) error {
			f, err := cl.FindFolder(ctx, folder)
			if err != nil {
				return err
			}
			meter := c.meter("imported")
			rep, err := cl.ImportCSV(ctx, f.UID, bytes.NewReader(data), meter.at)
			meter.end()
			return errors.Join(c.showImport(rep), err)
		})
	})
	cmd.Flags().StringVar(&folder, "folder", "", "folder that they go into")
	return help(cmd, `The file's first line names its columns: title, login, password, url, notes; for
accounts also resource (name or uid), scope, kind and key_id. The password of an account
of kind ssh_key is the private key, in quotes, with its line ends. Lines that cannot be
added are listed and the others are added; the exit code is then 2. Such is also a line
whose title, or whose login on its resource, a record or a line before has. "-" is
standard input. Delete the file afterwards: it holds secrets in clear.`, `rotunda record import old-vault.csv --folder Web`)
}

func (c *cli) showImport(rep client.ImportReport) error {
	type line struct {
		Line   int    `json:"line"`
		Reason string `json:"reason"`
		Error  string `json:"error"`
	}
	v := struct {
		Added  int    `json:"added"`
		Failed []line `json:"failed"`
	}{rep.Added, []line{}}
	for _, f := range rep.Failed {
		cl := classify(f.Err)
		v.Failed = append(v.Failed, line{f.Line, cl.reason, cl.Error()})
	}
	err := c.emit(v, func(w io.Writer) {
		printLine(w, "added %d record%s", v.Added, plural(v.Added))
		for _, f := range v.Failed {
			printLine(w, "line %d: %s (%s)", f.Line, f.Error, f.Reason)
		}
	})
	if err == nil && len(v.Failed) > 0 {
		return failf(exitUsage, "import_lines", "%d line%s of the file could not be added", len(v.Failed), plural(len(v.Failed))).
			withHint("mend those lines and import them alone: the others are in")
	}
	return err
}
