package trust

import (
	"encoding/json"
	"regexp"
	"slices"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Bounds of a statement's lists and texts.
const (
	maxList   = 64
	maxPins   = 4 * maxList // a run's statements: also of dependents, of their jump hosts, of scripts
	maxConfig = 64 << 10
	maxText   = 1024
)

// MaxScripts bounds the scripts that one statement names, in whatever place.
const MaxScripts = maxList / 2

// PluginLua is the plugin that hosts scripts: a resource or dependent of it names one, and
// no other does.
const PluginLua = "lua"

// MaxDrain is the longest that who used a former secret may go on.
const MaxDrain = 30 * 24 * time.Hour

// MaxConcurrency bounds the runs at once that a resource's statement can allow.
const MaxConcurrency = 64

// checkStatement holds a statement's fields to their lengths and bounds.
func checkStatement(s *trustv1.Statement) error {
	f := &form{what: "statement"}
	f.version(s.V)
	f.head(s.LogEpoch, s.LogDigest)
	f.id("record_uid", s.RecordUid)
	f.id("folder_uid", s.FolderUid)
	f.size("key_check", s.KeyCheck, len(seal.Digest{}))
	f.must(s.Seq > 0 && s.Seq < 1<<62, "seq is %d", s.Seq)
	f.optional("prev", s.Prev, len(seal.Digest{}))
	f.must(s.Seq > 1 || len(s.Prev) == 0, "the first statement has a prev")
	f.time("issued", s.Issued)
	kind := trustv1.RecordKind_RECORD_KIND_UNSPECIFIED
	switch sub := s.Subject.(type) {
	case *trustv1.Statement_Resource:
		kind = trustv1.RecordKind_RECORD_KIND_RESOURCE
		checkResource(f, sub.Resource)
	case *trustv1.Statement_Account:
		kind = trustv1.RecordKind_RECORD_KIND_ACCOUNT
		checkAccount(f, sub.Account, s.Issued)
	case *trustv1.Statement_Script:
		kind = trustv1.RecordKind_RECORD_KIND_SCRIPT
		f.text("script's name", sub.Script.Name, maxText)
		f.optionalText("script's version", sub.Script.Version, maxText)
		f.text("script_kind", sub.Script.ScriptKind, maxText)
		f.size("script's sha256", sub.Script.Sha256, len(seal.Digest{}))
		f.size("script's manifest_sha256", sub.Script.ManifestSha256, len(seal.Digest{}))
	default:
		f.fail("it has no subject")
	}
	f.must(s.Kind == kind, "kind is %s, the subject's is %s", s.Kind, kind)
	return f.done()
}

func checkResource(f *form, r *trustv1.Resource) {
	f.id("pool_id", r.PoolId)
	f.text("plugin", r.Plugin, 64)
	f.optionalText("host", r.Host, maxText)
	f.must(r.Port <= 65535, "port is %d", r.Port)
	f.optionalRef("via", r.Via)
	if t := r.Tls; t != nil {
		f.must(t.Mode != trustv1.TlsMode_TLS_MODE_UNSPECIFIED, "tls has no mode")
		f.must(t.Mode != trustv1.TlsMode_TLS_MODE_PIN || len(t.SpkiSha256) > 0, "tls is pinned to no key")
		f.optionalText("server_name", t.ServerName, maxText)
		f.digests("spki_sha256", t.SpkiSha256)
	}
	f.digests("ssh_host_key_sha256", r.SshHostKeySha256)
	f.optionalRef("admin_account", r.AdminAccount)
	f.count("extras", len(r.Extras), maxList)
	for _, x := range r.Extras {
		f.text("extra's name", x.Name, 64)
		f.ref("extra", x.Account)
	}
	checkHosted(f, "the resource", r.Plugin, r.Rotator)
	checkAlone(f, "the discoverer", r.Discoverer)
	checkScripts(f, r.Scripts, uses(r.Rotator)+uses(r.Discoverer))
	f.count("bytes of config", len(r.Config), maxConfig)
	f.must(r.Concurrency <= MaxConcurrency, "concurrency is %d", r.Concurrency)
}

func checkAccount(f *form, a *trustv1.Account, issued int64) {
	f.ref("resource", a.Resource)
	f.optionalText("login", a.Login, maxText)
	f.optionalText("scope", a.Scope, maxText)
	f.optionalText("secret_kind", a.SecretKind, 64)
	if p := a.Policy; p != nil {
		f.must(p.Length <= 4096, "a password of %d characters", p.Length)
		f.must(uint64(p.MinLower)+uint64(p.MinUpper)+uint64(p.MinDigit)+uint64(p.MinSymbol) <= 4096, "the password policy's minima are too great")
		f.optionalText("symbols", p.Symbols, 256)
		f.optionalText("exclude", p.Exclude, 256)
	}
	f.must(a.VerifyMode == "" || a.VerifyMode == "login" || a.VerifyMode == "readback", "verify_mode %q", a.VerifyMode)
	f.must(a.MaxProbe <= 1000, "max_probe is %d", a.MaxProbe)
	f.optionalRef("pair_account", a.PairAccount)
	f.count("dependents", len(a.Dependents), maxList)
	scripted := 0
	for _, d := range a.Dependents {
		checkHosted(f, "a dependent", d.Plugin, d.Script)
		scripted += uses(d.Script)
		f.ref("dependent", d.Resource)
		f.text("dependent's plugin", d.Plugin, 64)
		f.count("bytes of a dependent's config", len(d.Config), maxConfig)
	}
	f.must(int64(a.DrainS) <= int64(MaxDrain.Seconds()), "drain_s is %d", a.DrainS)
	checkScripts(f, a.Scripts, scripted+uses(a.Generator))
	checkGenerator(f, a)
	if m := a.Mandate; m.GetEnabled() {
		f.must(int64(m.MinIntervalS) >= int64(MinInterval.Seconds()), "min_interval_s is %d, at least %v", m.MinIntervalS, MinInterval.Seconds())
		f.time("mandate's valid_until", m.ValidUntil)
		f.must(m.ValidUntil <= issued+MaxMandate.Milliseconds(), "the mandate lasts longer than %s", MaxMandate)
	}
}

// checkScripts is of the scripts that run after a rotation; others are those that the same
// statement names in other places.
func checkScripts(f *form, list []*trustv1.ScriptUse, others int) {
	f.count("scripts", len(list)+others, MaxScripts)
	for _, u := range list {
		checkUse(f, u)
		checkParameters(f, u)
		f.count("records of a script", len(u.Records), maxList)
		f.must(len(u.RecordNames) == len(u.Records), "a script has %d records and %d names of them", len(u.Records), len(u.RecordNames))
		for n, r := range u.Records {
			f.ref("script's record", r)
			if n < len(u.RecordNames) {
				name := u.RecordNames[n]
				f.must(recordName.MatchString(name), "a script's record is called %q", name)
				f.must(!slices.Contains(u.RecordNames[:n], name), "two of a script's records are called %q", name)
			}
		}
	}
}

// recordName is what a manifest can call a further record: package script, which this one
// does not need else, says the same.
var recordName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// checkGenerator is of the script that makes an account's secrets. A key pair is no text
// that a script could make.
func checkGenerator(f *form, a *trustv1.Account) {
	f.must(a.Generator == nil || a.SecretKind != "ssh_key" && a.SecretKind != "certificate", "a generator makes no %s", a.SecretKind)
	checkAlone(f, "the generator", a.Generator)
}

// checkAlone is of a script that is the only one in its place, and has parameters alone.
func checkAlone(f *form, what string, u *trustv1.ScriptUse) {
	if u == nil {
		return
	}
	checkUse(f, u)
	f.must(u.Order == 0 && len(u.Records) == 0 && len(u.RecordNames) == 0, "%s has an order or records", what)
	checkParameters(f, u)
}

func checkParameters(f *form, u *trustv1.ScriptUse) {
	f.count("bytes of a script's parameters", len(u.Parameters), maxConfig)
	f.must(len(u.Parameters) == 0 || isObject(u.Parameters), "a script's parameters are no JSON object")
}

func checkUse(f *form, u *trustv1.ScriptUse) {
	f.ref("script", u.Script)
	f.size("script's sha256", u.Sha256, len(seal.Digest{}))
}

// checkHosted is of a script in a plugin's place: the settings of that place are its
// parameters, and it has nothing else.
func checkHosted(f *form, what, plugin string, u *trustv1.ScriptUse) {
	f.must((plugin == PluginLua) == (u != nil), "%s of the plugin %s: a script belongs to %s, and to no other plugin", what, plugin, PluginLua)
	if u == nil {
		return
	}
	checkUse(f, u)
	f.must(u.Order == 0 && len(u.Parameters) == 0 && len(u.Records) == 0 && len(u.RecordNames) == 0, "the script of %s has an order, parameters or records of its own", what)
}

func uses(u *trustv1.ScriptUse) int {
	if u == nil {
		return 0
	}
	return 1
}

// isObject says whether bytes are one JSON object.
func isObject(b []byte) bool {
	var o map[string]json.RawMessage
	return json.Unmarshal(b, &o) == nil && o != nil
}

// digests wants a bounded list of 32-byte digests.
func (f *form) digests(name string, ds [][]byte) {
	f.count(name, len(ds), maxList)
	for _, d := range ds {
		f.size(name, d, len(seal.Digest{}))
	}
}
