package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// resourceFlags are what a resource's statement says.
type resourceFlags struct {
	pool, plugin, host, via string
	port                    uint16
	tls, serverName         string
	tlsKeys, sshKeys        []string
	firstKey                bool
	admin, configFile       string
	extras                  []string
	concurrency             uint32
	rotator, discoverer     string
	scripts                 scriptFlags
}

func (r *resourceFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.pool, "pool", "", "pool of agents that reach it")
	f.StringVar(&r.plugin, "plugin", "", "plugin that changes secrets on it, e.g. postgres, ssh")
	f.StringVar(&r.rotator, "rotator", "", "script that changes secrets on it, in place of a plugin, as `NAME[,param.P=V]`")
	f.StringVar(&r.discoverer, "discoverer", "", "script that finds its accounts, as `NAME[,param.P=V]` (none: ends it)")
	f.StringVar(&r.host, "host", "", "host name or address, as the agents see it")
	f.Uint16Var(&r.port, "port", 0, "port")
	f.StringVar(&r.via, "via", "", "ssh resource to jump through, as its account \"jump\" (--extra there) or its administrator (none: ends it)")
	choiceVar(cmd, &r.tls, "tls", "", tlsModes, "off, system (the agents' authorities), pin (the keys given alone decide)")
	f.StringVar(&r.serverName, "tls-name", "", "name in the target's certificate (default: the host)")
	f.StringSliceVar(&r.tlsKeys, "tls-key", nil, "SHA-256 of the target's public key, in `HEX`; may be repeated")
	f.StringSliceVar(&r.sshKeys, "host-key", nil, "`FINGERPRINT` of the target's ssh host key, SHA256:… as ssh-keygen -lf prints it, or in hexadecimal; may be repeated")
	f.BoolVar(&r.firstKey, "trust-first-key", false, "keep the first ssh host key seen: the network can lie once")
	f.StringVar(&r.admin, "admin", "", "account that changes other accounts' secrets there")
	f.StringArrayVar(&r.extras, "extra", nil, "further account that the plugin asks for, as `NAME=RECORD`; may be repeated (none: ends them)")
	f.Uint32Var(&r.concurrency, "concurrency", 0, "runs on it at once, at most 64 (0: four, or fewer where its plugin says so)")
	f.StringVar(&r.configFile, "config-file", "", "`FILE` with the plugin's settings, a JSON object")
}

func parseDigests(flag string, list []string, parse func(string) (seal.Digest, error)) ([]seal.Digest, error) {
	var out []seal.Digest
	for _, s := range list {
		d, err := parse(s)
		if err != nil {
			return nil, usagef("%s %q: %w", flag, s, err)
		}
		out = append(out, d)
	}
	return out, nil
}

func parseHex(s string) (seal.Digest, error) {
	return seal.ParseDigest(strings.ToLower(strings.ReplaceAll(s, ":", "")))
}

// tlsMode is the mode of one of tlsModes.
func (r *resourceFlags) tlsMode() trustv1.TlsMode {
	switch r.tls {
	case "off":
		return trustv1.TlsMode_TLS_MODE_OFF
	case "system":
		return trustv1.TlsMode_TLS_MODE_SYSTEM
	case "pin":
		return trustv1.TlsMode_TLS_MODE_PIN
	}
	return trustv1.TlsMode_TLS_MODE_UNSPECIFIED
}

// tlsOf gives the TLS part of a statement, nil for none.
func (r *resourceFlags) tlsOf() (*trustv1.Tls, error) {
	mode := r.tlsMode()
	keys, err := parseDigests("--tls-key", r.tlsKeys, parseHex)
	if err != nil {
		return nil, err
	}
	if mode == trustv1.TlsMode_TLS_MODE_UNSPECIFIED {
		if len(keys) > 0 || r.serverName != "" {
			return nil, usagef("--tls-key and --tls-name want --tls")
		}
		return nil, nil
	}
	if mode == trustv1.TlsMode_TLS_MODE_PIN && len(keys) == 0 {
		return nil, usagef("--tls pin wants --tls-key").withHint("add the resource with --tls system, then `rotunda resource probe` shows the keys and pins those that you accept")
	}
	t := &trustv1.Tls{Mode: mode, ServerName: r.serverName}
	for _, k := range keys {
		t.SpkiSha256 = append(t.SpkiSha256, k.Bytes())
	}
	return t, nil
}

// config reads the plugin's settings.
func (r *resourceFlags) config(c *cli) ([]byte, error) {
	if r.configFile == "" {
		return nil, nil
	}
	b, err := c.p.readFile(r.configFile)
	if err != nil {
		return nil, err
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(b, &object); err != nil {
		return nil, usagef("--config-file %s: it must hold one JSON object", r.configFile)
	}
	return json.Marshal(object)
}

// rotatorOf is the script that rotates on a resource, and its parameters, which are the
// resource's settings.
func (c *cli) rotatorOf(ctx context.Context, cl *client.Client, r *resourceFlags, at scriptPlace) (*trustv1.ScriptUse, []byte, error) {
	if r.configFile != "" {
		return nil, nil, usagef("--rotator NAME,param.P=V says a script's parameters: --config-file is for plugins")
	}
	return c.useOf(ctx, cl, "--rotator", r.rotator, script.Rotator, at)
}

// discovererOf is the script that finds a resource's accounts; nil for none.
func (c *cli) discovererOf(ctx context.Context, cl *client.Client, r *resourceFlags, at scriptPlace) (*trustv1.ScriptUse, error) {
	if r.discoverer == "none" {
		return nil, nil
	}
	use, parameters, err := c.useOf(ctx, cl, "--discoverer", r.discoverer, script.Discoverer, at)
	if err != nil {
		return nil, err
	}
	use.Parameters = parameters
	return use, nil
}

func (r *resourceFlags) checkConcurrency() error {
	if r.concurrency > trust.MaxConcurrency {
		return usagef("--concurrency is %d: it is at most %d", r.concurrency, trust.MaxConcurrency)
	}
	return nil
}

// extrasOf looks the further accounts up.
func (r *resourceFlags) extrasOf(ctx context.Context, cl *client.Client) ([]*trustv1.Extra, error) {
	var out []*trustv1.Extra
	if len(r.extras) == 1 && r.extras[0] == "none" {
		return nil, nil
	}
	for _, s := range r.extras {
		name, record, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, usagef("--extra %q: write NAME=RECORD", s)
		}
		found, err := cl.FindRecord(ctx, record, client.TypeAccount)
		if err != nil {
			return nil, err
		}
		out = append(out, &trustv1.Extra{Name: name, Account: refProto(found.Ref)})
	}
	return out, nil
}

func findPool(ctx context.Context, cl *client.Client, name string) (seal.ID, error) {
	e, err := cl.Find(ctx, name, trustv1.EntryKind_ENTRY_KIND_POOL)
	if err != nil {
		return seal.ID{}, err
	}
	return seal.IDFrom(e.EntryId)
}

// warnAdmin tells of an administrator whose record says that he logs in elsewhere. It may
// be meant: one account can be good on many targets.
func (c *cli) warnAdmin(admin *client.Record, at client.Ref, title string) {
	if a := admin.Statement.GetAccount(); a != nil && refOf(a.Resource) != at {
		c.warn("%s is not an account of %s but of another resource: agents will log in to %s as %q with its secret, and no run works there unless it is taken",
			admin.Title, title, title, a.Login)
	}
}

// findVia finds a jump host, and tells of what agents would miss there.
func (c *cli) findVia(ctx context.Context, cl *client.Client, name string) (client.Ref, error) {
	found, err := cl.FindRecord(ctx, name, resourceTypes[:]...)
	if err != nil {
		return client.Ref{}, err
	}
	r := found.Statement.GetResource()
	login := r.GetAdminAccount() != nil || slices.ContainsFunc(r.GetExtras(), func(x *trustv1.Extra) bool { return x.Name == trust.JumpExtra })
	switch {
	case r.GetPlugin() != "ssh":
		return client.Ref{}, usagef("--via %s: it is a resource of the plugin %s; only ssh hosts lead further", found.Title, r.GetPlugin())
	case len(r.GetSshHostKeySha256()) == 0 && !r.GetTofu():
		c.warn("%s pins no host key yet: agents will not jump through it before `rotunda resource probe %s` has pinned one", found.Title, found.Title)
	case !login:
		c.warn("%s names nobody to log in as yet: `rotunda resource edit %s --extra %s=ACCOUNT`, or its administrator", found.Title, found.Title, trust.JumpExtra)
	}
	return found.Ref, nil
}

// resourceEdit gives the change of a resource's statement that the flags ask
// for, nil for none. Names are looked up before anything is signed.
func (c *cli) resourceEdit(ctx context.Context, cl *client.Client, at *client.Record, set func(string) bool, r *resourceFlags) (func(*trustv1.Resource) error, error) {
	var changes []func(*trustv1.Resource)
	add := func(change func(*trustv1.Resource)) { changes = append(changes, change) }
	if set("pool") {
		id, err := findPool(ctx, cl, r.pool)
		if err != nil {
			return nil, err
		}
		add(func(t *trustv1.Resource) { t.PoolId = id.Bytes() })
	}
	if set("via") {
		var via *trustv1.Ref
		if r.via != "none" {
			ref, err := c.findVia(ctx, cl, r.via)
			if err != nil {
				return nil, err
			}
			via = refProto(ref)
		}
		add(func(t *trustv1.Resource) { t.Via = via })
	}
	if set("admin") {
		var admin *trustv1.Ref
		if r.admin != "none" {
			found, err := cl.FindRecord(ctx, r.admin, client.TypeAccount)
			if err != nil {
				return nil, err
			}
			admin = refProto(found.Ref)
			c.warnAdmin(found, at.Ref, at.Title)
		}
		add(func(t *trustv1.Resource) { t.AdminAccount = admin })
	}
	if set("extra") {
		extras, err := r.extrasOf(ctx, cl)
		if err != nil {
			return nil, err
		}
		add(func(t *trustv1.Resource) { t.Extras = extras })
	}
	if set("tls") || set("tls-key") || set("tls-name") {
		tls, err := r.tlsOf()
		if err != nil {
			return nil, err
		}
		add(func(t *trustv1.Resource) { t.Tls = tls })
	}
	if set("host-key") {
		keys, err := parseDigests("--host-key", r.sshKeys, client.ParseSSHFingerprint)
		if err != nil {
			return nil, err
		}
		add(func(t *trustv1.Resource) {
			t.SshHostKeySha256 = nil
			for _, k := range keys {
				t.SshHostKeySha256 = append(t.SshHostKeySha256, k.Bytes())
			}
		})
	}
	if set("config-file") {
		config, err := r.config(c)
		if err != nil {
			return nil, err
		}
		add(func(t *trustv1.Resource) { t.Config = config })
	}
	if set("plugin") && set("rotator") {
		return nil, usagef("--plugin and --rotator exclude each other")
	}
	if set("plugin") {
		add(func(t *trustv1.Resource) { t.Plugin, t.Rotator = r.plugin, nil })
	}
	place := placeOf(at)
	if set("host") || set("port") {
		place.on = client.Ref{} // the address that it has is not the one that it will have
	}
	if set("rotator") {
		use, config, err := c.rotatorOf(ctx, cl, r, place)
		if err != nil {
			return nil, err
		}
		add(func(t *trustv1.Resource) { t.Plugin, t.Rotator, t.Config = script.Plugin, use, config })
	}
	if set("discoverer") {
		use, err := c.discovererOf(ctx, cl, r, place)
		if err != nil {
			return nil, err
		}
		add(func(t *trustv1.Resource) { t.Discoverer = use })
	}
	if set("script") || set("drop-script") {
		change, err := r.scripts.change(ctx, c, cl, place)
		if err != nil {
			return nil, err
		}
		add(func(t *trustv1.Resource) { t.Scripts = change(t.Scripts) })
	}
	if set("host") {
		add(func(t *trustv1.Resource) { t.Host = r.host })
	}
	if set("port") {
		add(func(t *trustv1.Resource) { t.Port = uint32(r.port) })
	}
	if set("trust-first-key") {
		add(func(t *trustv1.Resource) { t.Tofu = r.firstKey })
	}
	if set("concurrency") {
		if err := r.checkConcurrency(); err != nil {
			return nil, err
		}
		add(func(t *trustv1.Resource) { t.Concurrency = r.concurrency })
	}
	if len(changes) == 0 {
		return nil, nil
	}
	return func(t *trustv1.Resource) error {
		for _, change := range changes {
			change(t)
		}
		return nil
	}, nil
}
