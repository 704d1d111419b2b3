// Package script reads the manifest of a Lua script: what the script is, which parameters it
// takes, and all that it asks for. It stands as TOML in the comment at the top of the file:
//
//	--[[ rotunda
//	name    = "restart-unit"
//	version = "1.0.0"
//	kind    = "after_rotation"
//	about   = "Restarts a systemd unit on the account's resource."
//	needs   = ["admin"]
//	modules = ["ssh"]
//	hosts   = ["resource"]
//	[parameters.unit]
//	type = "string"
//	about = "The unit's name."
//	required = true
//	]]
//
// People approve a script by what its manifest says, the agent holds the script to it, and
// the host of scripts gives it nothing else: all three read it here.
// docs/scripts/manifest.md is the reference.
package script

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// Limits of a script and of its manifest.
const (
	MaxText       = 256 << 10 // bytes of a script
	MaxManifest   = 16 << 10  // bytes of the comment
	MaxParameters = 64 << 10  // bytes of the parameters of a use, as JSON

	maxList     = 64   // of anything in a list
	maxRecords  = 16   // further records
	maxSentence = 512  // bytes of a sentence for people
	maxValue    = 4096 // bytes of any other string of the manifest
)

// Plugin is the name of the plugin that hosts scripts: what a statement names where it uses
// one as a rotator or a dependent.
const Plugin = "lua"

// Kind says when a script runs.
type Kind string

// The kinds of script.
const (
	Rotator       Kind = "rotator"        // it changes the secret
	AfterRotation Kind = "after_rotation" // it runs when the secret has changed
	Dependents    Kind = "dependents"     // it gives the new secret to who uses it
	Generator     Kind = "generator"      // it makes the new secret
	Discoverer    Kind = "discoverer"     // it finds the accounts that a target has
)

// Kinds are all of them.
var Kinds = []Kind{Rotator, AfterRotation, Dependents, Generator, Discoverer}

// What a script may need: any of it where it runs after a rotation, the administrator alone
// where it is a dependent.
const (
	NeedAdmin  = "admin"  // the resource's administrator
	NeedSecret = "secret" // the account's secret as it is now
	NeedFormer = "former" // the one before
)

// Modules are the names of all modules that a script may ask for.
var Modules = []string{
	"log", "secret", "json", "yaml", "xml", "base64", "hex", "hash", "jwt", "totp", "regex", "template", "text", "time", "retry",
	"http", "ssh", "telnet", "sql", "ldap", "winrm", "kube", "exec", "file", "state",
}

// Manifest is what a script says of itself.
type Manifest struct {
	Name       string
	Version    string
	Kind       Kind
	About      string // one sentence, shown before anybody approves the script
	Needs      []string
	Modules    []string // what require gives
	Hosts      []string // "resource", "parameters.NAME", "records.NAME", or host:port; see Places
	Programs   []string // on the agent's host, absolute, or "parameters.NAME"; see Commands
	Files      []string // on the agent's host, absolute, or "parameters.NAME"; see Paths
	Reveals    string   // why secret:reveal() is needed; empty: it is refused
	Parameters []Parameter
	Records    []Record // further records; a use names them by name, see Bind
	Rotates    *Rotates // kind rotator; else nil
	Comment    []byte   // the manifest's own bytes, from its first dash to its last bracket
}

// Record is a further record that the script works with.
type Record struct {
	Name  string
	About string
	As    string // AsResource or AsAccount
}

// What a script gets of a further record.
const (
	AsResource = "resource" // its address, and its administrator's login
	AsAccount  = "account"  // its login and secret, and where it logs in
)

// Rotates is how a rotator's targets are, as [sdk.Manifest] says it.
type Rotates struct {
	Kinds, Overlap                  []sdk.Kind
	Self, NoLogin                   bool
	Concurrency, LoginTries, MaxLen int
	Forbid                          string
	Settle, OldLives                time.Duration
}

// SDK is the manifest as the agent is told it. It bears the plugin's name, since that is
// what statements and the agent know the script by.
func (m *Manifest) SDK() sdk.Manifest {
	out := sdk.Manifest{
		Name: Plugin, Version: m.Version,
		Dependents: m.Kind == Dependents, After: m.Kind == AfterRotation, Generator: m.Kind == Generator, Discoverer: m.Kind == Discoverer,
	}
	if r := m.Rotates; r != nil {
		out.Kinds, out.Overlap, out.Self, out.NoLogin = slices.Clone(r.Kinds), slices.Clone(r.Overlap), r.Self, r.NoLogin
		out.Concurrency, out.LoginTries, out.MaxLen, out.Forbid = r.Concurrency, r.LoginTries, r.MaxLen, r.Forbid
		out.Settle, out.OldLives = r.Settle, r.OldLives
	}
	return out
}

var secretKinds = []sdk.Kind{sdk.Password, sdk.SSHKey, sdk.APIKey, sdk.Token, sdk.Certificate}

var (
	nameRE    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	versionRE = regexp.MustCompile(`^[0-9][0-9A-Za-z.+-]{0,31}$`)
	fieldRE   = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`) // a parameter or a record: a name in Lua
)

// The keys of each table, in the order of the manual.
var (
	topKeys       = []string{"name", "version", "kind", "about", "needs", "modules", "hosts", "programs", "files", "reveals", "parameters", "records", "rotator"}
	parameterKeys = []string{"type", "about", "required", "default", "pattern", "values"}
	recordKeys    = []string{"about", "as"}
	rotatorKeys   = []string{"kinds", "self", "no_login", "concurrency", "login_tries", "max_len", "forbid", "overlap", "settle", "old_lives"}
)

// needs are all that a manifest can need.
var needs = []string{NeedAdmin, NeedSecret, NeedFormer}

// Parse reads a script's manifest. It is strict: what it does not know is an error, of type
// [*Error].
func Parse(text []byte) (*Manifest, error) {
	if err := checkText(text); err != nil {
		return nil, err
	}
	comment, inner, err := comment(text)
	if err != nil {
		return nil, err
	}
	top, err := decode(inner)
	if err != nil {
		return nil, err
	}
	m := &Manifest{Comment: slices.Clone(comment)}
	m.read(top)
	if top.r.err != nil { // never a nil *Error in an error
		return nil, top.r.err
	}
	return m, nil
}

func (m *Manifest) read(t *table) {
	t.only(topKeys...)
	m.Name = t.text("name", true, maxValue)
	t.must(nameRE.MatchString(m.Name), "name", "is not a name", "a-z, 0-9 and -, a letter first, at most 63")
	m.Version = t.text("version", true, maxValue)
	t.must(versionRE.MatchString(m.Version), "version", "is no version", `such as "1.0.0": a digit first, then digits, letters, dots, + and -, at most 32`)
	m.Kind = Kind(t.oneOf("kind", names(Kinds)))
	m.About = t.sentence("about", true)
	m.Reveals = t.sentence("reveals", false)
	m.Needs = t.listOf("needs", needs)
	m.needs(t)
	m.Modules = t.listOf("modules", Modules)
	m.parameters(t)
	m.records(t)
	m.places(t)
	m.rotates(t)
	m.generates(t)
}

// generates is of a script that makes secrets: it works with none, and reaches nothing.
func (m *Manifest) generates(t *table) {
	if m.Kind != Generator {
		return
	}
	for _, key := range []string{"hosts", "programs", "files"} {
		t.must(len(t.list(key)) == 0, key, "is not for scripts of kind generator", "leave it out: what makes a secret reaches nothing")
	}
}

// needs are of secrets that a kind of script can do without.
func (m *Manifest) needs(t *table) {
	switch m.Kind {
	case Rotator:
		t.must(len(m.Needs) == 0, "needs", "is not for scripts of kind rotator", "leave it out: a rotator gets what each of its functions works with")
	case Discoverer:
		t.must(len(m.Needs) == 0, "needs", "is not for scripts of kind discoverer", "leave it out: what finds accounts gets the resource's administrator, and no other secret")
	case Generator:
		t.must(len(m.Needs) == 0, "needs", "is not for scripts of kind generator", "leave it out: what makes a secret gets none")
	case Dependents:
		t.must(!slices.Contains(m.Needs, NeedSecret) && !slices.Contains(m.Needs, NeedFormer), "needs", "has more than \"admin\"", "remove the rest: a dependents script gets the secret that each of its functions hands on")
	}
}

func (m *Manifest) parameters(t *table) {
	for _, one := range t.tables("parameters", maxList) {
		m.Parameters = append(m.Parameters, parameter(one))
	}
}

func (m *Manifest) records(t *table) {
	t.must(m.Kind == AfterRotation || !t.has("records"), "records", "is for scripts of kind after_rotation", "a rotator's further secrets are its resource's (rotunda resource edit --extra): job.extras has them")
	for _, one := range t.tables("records", maxRecords) {
		one.only(recordKeys...)
		m.Records = append(m.Records, Record{
			Name: one.name(), About: one.sentence("about", true),
			As: one.oneOf("as", []string{AsResource, AsAccount}),
		})
	}
}

func (m *Manifest) rotates(t *table) {
	given := t.has("rotator")
	if m.Kind != Rotator {
		t.must(!given, "rotator", "is for scripts of kind rotator", "remove the table, or set kind")
		return
	}
	t.must(given, "rotator", "is missing", `a script of kind rotator says what its targets are like: [rotator] with kinds = ["password"]`)
	r := t.table("rotator")
	r.only(rotatorKeys...)
	m.Rotates = &Rotates{
		Kinds: kindsOf(r.listOf("kinds", names(secretKinds))), Overlap: kindsOf(r.listOf("overlap", names(secretKinds))),
		Self: r.boolean("self"), NoLogin: r.boolean("no_login"),
		Concurrency: r.integer("concurrency", 64), LoginTries: r.integer("login_tries", 5), MaxLen: r.integer("max_len", sdk.MaxSecret),
		Forbid: r.text("forbid", false, 256),
		Settle: r.duration("settle", time.Hour), OldLives: r.duration("old_lives", 30*24*time.Hour),
	}
	r.must(len(m.Rotates.Kinds) > 0, "kinds", "names no kind of secret", "one or more of "+strings.Join(names(secretKinds), ", "))
	for _, k := range m.Rotates.Overlap {
		r.must(slices.Contains(m.Rotates.Kinds, k), "overlap", "names a kind that kinds does not", "overlap lists those of kinds of which old and new both work until retire")
	}
}

func kindsOf(list []string) (out []sdk.Kind) {
	for _, s := range list {
		out = append(out, sdk.Kind(s))
	}
	return out
}

func names[T ~string](list []T) (out []string) {
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}

// Parameter is the one of a name, nil where there is none.
func (m *Manifest) Parameter(name string) *Parameter {
	for i := range m.Parameters {
		if m.Parameters[i].Name == name {
			return &m.Parameters[i]
		}
	}
	return nil
}

// Bind says where each of the further records stands among those of a use, which are called
// names: the same names, in whatever order. Whoever approved a use gave each record to its
// name, and another file of the script moves none to another.
func (m *Manifest) Bind(names []string) ([]int, error) {
	var at []int
	var want []string
	for _, r := range m.Records {
		want = append(want, r.Name)
		at = append(at, slices.Index(names, r.Name))
	}
	if len(names) != len(want) || slices.Contains(at, -1) {
		return nil, fmt.Errorf("it works with the further records %s, and is given %s", inWords(want), inWords(names))
	}
	return at, nil
}

func inWords(names []string) string {
	if len(names) == 0 {
		return "(none)"
	}
	return strings.Join(names, ", ")
}
