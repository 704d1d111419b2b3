package client

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

func luaText(name, version, kind string, more ...string) []byte {
	lines := append([]string{"--[[ rotunda", fmt.Sprintf("name = %q", name), fmt.Sprintf("version = %q", version), fmt.Sprintf("kind = %q", kind), `about = "Does what is tested"`}, more...)
	return []byte(strings.Join(append(lines, "]]", "return {}", ""), "\n"))
}

// A script is stored, approved where it is used, updated, and approved anew in the same write.
func TestScripts(t *testing.T) {
	e := newEstate(t)
	ctx := t.Context()
	c := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
	e.vault.change(e.account.Record.Bytes(), func(r *clientv1.RecordView) { r.Staged = nil })
	unit := []string{"[parameters.unit]", `type = "string"`, `about = "x"`, "required = true", "[records.router]", `about = "x"`, `as = "resource"`}
	first := luaText("restart", "1", "after_rotation", unit...)
	ref, err := c.AddScript(ctx, ScriptSpec{Folder: e.folder, Text: first})
	e.must(err)
	s, err := c.Script(ctx, ref)
	e.must(err)
	if s.Title != "restart" || s.Manifest.Version != "1" || string(s.Text) != string(first) || s.SHA256 != seal.Hash(first) || s.State != InUse {
		t.Errorf("%s %s, %x, %s", s.Title, s.Manifest.Version, s.SHA256, s.State)
	}

	spec := ScriptUseSpec{Script: ref, SHA256: s.SHA256, Order: 1, Parameters: json.RawMessage(`{"unit":"app"}`), Records: map[string]Ref{"router": e.resource}}
	for name, bad := range map[string]struct {
		edit  func(*ScriptUseSpec)
		class Class
	}{
		"another file than the one that was seen": {func(s *ScriptUseSpec) { s.SHA256[0] ^= 1 }, Conflict},
		"no parameters":             {func(s *ScriptUseSpec) { s.Parameters = nil }, Invalid},
		"no further records":        {func(s *ScriptUseSpec) { s.Records = nil }, Invalid},
		"an account for a resource": {func(s *ScriptUseSpec) { s.Records = map[string]Ref{"router": e.account} }, Invalid},
		"a record of another name":  {func(s *ScriptUseSpec) { s.Records = map[string]Ref{"other": e.resource} }, Invalid},
	} {
		one := spec
		bad.edit(&one)
		if err := c.UseScript(ctx, e.account, one); ClassOf(err) != bad.class {
			t.Errorf("%s: %v", name, err)
		}
	}
	e.must(c.UseScript(ctx, e.account, spec))
	spec.Parameters = json.RawMessage(`{"unit":"db"}`)
	e.must(c.UseScript(ctx, e.account, spec)) // takes the former's place
	spec.Order = 2
	e.must(c.UseScript(ctx, e.resource, spec))
	uses := func() (says []string) {
		t.Helper()
		list, err := c.ScriptUses(ctx, ref)
		e.must(err)
		for _, u := range list {
			says = append(says, fmt.Sprintf("%s %s %d %s %t %s", u.Title, u.Place, u.Use.Order, u.Use.Parameters, u.Approved, u.By))
		}
		slices.Sort(says)
		return says
	}
	if got := uses(); !slices.Equal(got, []string{`app after a rotation 1 {"unit":"db"} true Ada / laptop`, `db1 after a rotation 2 {"unit":"db"} true Ada / laptop`}) {
		t.Errorf("uses: %q", got)
	}

	// A run pins the script, and what it says is Done.
	if out, err := c.RunScripts(ctx, []Ref{e.account}, RunOptions{}); err != nil || out[0].Err != nil || out[0].Action != "script" || out[0].State != Done {
		t.Errorf("run alone: %+v, %v", out, err)
	}

	second := luaText("restart", "2", "after_rotation", unit...)
	if err := c.UpdateScript(ctx, ref, luaText("other", "2", "after_rotation")); ClassOf(err) != Invalid {
		t.Errorf("by another script: %v", err)
	}
	if err := c.UpdateScript(ctx, ref, luaText("restart", "2", "after_rotation", "[records.router]", `about = "x"`, `as = "resource"`), e.account); err == nil {
		t.Error("approved for parameters that it does not take")
	}
	e.must(c.UpdateScript(ctx, ref, second, e.account))
	if got := uses(); !slices.Equal(got, []string{`app after a rotation 1 {"unit":"db"} true Ada / laptop`, `db1 after a rotation 2 {"unit":"db"} false Ada / laptop`}) {
		t.Errorf("uses after the update: %q", got)
	}
	if err := c.ApproveScript(ctx, e.resource, ref, seal.Hash(first)); ClassOf(err) != Conflict {
		t.Errorf("the former file approved: %v", err)
	}
	e.must(c.ApproveScript(ctx, e.resource, ref, seal.Hash(second)))
	if got := uses(); strings.Contains(fmt.Sprint(got), "false") {
		t.Errorf("uses after the approval: %q", got)
	}

	e.must(c.DropScript(ctx, e.account, ref))
	e.must(c.DropScript(ctx, e.resource, ref))
	if got := uses(); len(got) > 0 {
		t.Errorf("uses after all were dropped: %q", got)
	}
	if err := c.DropScript(ctx, e.account, ref); ClassOf(err) != Invalid {
		t.Errorf("dropped twice: %v", err)
	}
	e.must(c.DropScript(ctx, e.resource, e.script))
	if out, err := c.RunScripts(ctx, []Ref{e.account}, RunOptions{}); err != nil || ReasonOf(out[0].Err) != "scripts.none" {
		t.Errorf("run without any: %+v, %v", out, err)
	}
}

// Scripts stand in plugins' places, too: what uses them is listed, pinned and updated alike.
func TestScriptsAsPlugins(t *testing.T) {
	e := newEstate(t)
	ctx := t.Context()
	c := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
	e.vault.change(e.account.Record.Bytes(), func(r *clientv1.RecordView) { r.Staged = nil })
	add := func(text []byte) *Script {
		t.Helper()
		ref, err := c.AddScript(ctx, ScriptSpec{Folder: e.folder, Text: text})
		e.must(err)
		s, err := c.Script(ctx, ref)
		e.must(err)
		return s
	}
	rotator := add(luaText("rotator", "1", "rotator", "[rotator]", `kinds = ["password"]`))
	dependent := add(luaText("dependent", "1", "dependents"))
	finder := add(luaText("finder", "1", "discoverer"))
	resource, err := c.AddResource(ctx, ResourceSpec{Folder: e.folder, Type: TypeMachine, Title: "router", Pool: e.vault.pool, Plugin: trust.PluginLua, Rotator: rotator.Use(), Discoverer: finder.Use(), Host: "router", Port: 22})
	e.must(err)
	account, err := c.AddAccount(ctx, AccountSpec{Folder: e.folder, Title: "root", Resource: resource, Login: "root", Dependents: []*trustv1.Dependent{
		{Resource: e.resource.Proto(), Plugin: trust.PluginLua, Script: dependent.Use()},
	}})
	e.must(err)
	if err := c.UseScript(ctx, account, ScriptUseSpec{Script: rotator.Ref, SHA256: rotator.SHA256}); ClassOf(err) != Invalid {
		t.Errorf("a rotator after a rotation: %v", err)
	}
	list, err := c.get(ctx, []Ref{account, resource})
	e.must(err)
	for _, row := range []struct {
		name    string
		action  trustv1.Action
		account *opened
		want    []Ref
	}{
		{"of a run", trustv1.Action_ACTION_ROTATE, list[0], []Ref{account, resource, e.resource, rotator.Ref, dependent.Ref}},
		{"of a test", trustv1.Action_ACTION_TEST, nil, []Ref{resource, rotator.Ref}},
		{"of a discovery", trustv1.Action_ACTION_DISCOVER, nil, []Ref{resource, finder.Ref}},
	} {
		pins, err := c.pinsOf(ctx, "test", row.action, row.account, list[1])
		e.must(err)
		var got []Ref
		for _, p := range pins {
			ref, err := refFrom(p.Record)
			e.must(err)
			got = append(got, ref)
		}
		if !slices.Equal(got, row.want) {
			t.Errorf("%s: pins %v, want %v", row.name, got, row.want)
		}
	}
	e.must(c.UpdateScript(ctx, rotator.Ref, luaText("rotator", "2", "rotator", "[rotator]", `kinds = ["password"]`), resource))
	e.must(c.UpdateScript(ctx, dependent.Ref, luaText("dependent", "2", "dependents"), account))
	e.must(c.UpdateScript(ctx, finder.Ref, luaText("finder", "2", "discoverer"), resource))
	for _, s := range []*Script{rotator, dependent, finder} {
		uses, err := c.ScriptUses(ctx, s.Ref)
		if err != nil || len(uses) != 1 || !uses[0].Approved {
			t.Errorf("%s: %+v, %v", s.Manifest.Name, uses, err)
		}
	}
}

// A record whose file is another than the one that was signed is shown as such, and nobody
// approves it.
func TestScriptsThatWereChanged(t *testing.T) {
	e := newEstate(t)
	ctx := t.Context()
	c := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
	text := luaText("restart", "1", "after_rotation")
	ref, err := c.AddScript(ctx, ScriptSpec{Folder: e.folder, Text: text})
	e.must(err)
	e.vault.change(ref.Record.Bytes(), func(r *clientv1.RecordView) {
		key, err := seal.UnwrapKey(c.folders.keys[e.folder].key, r.RecordKey)
		e.must(err)
		other := record.New(TypeScript, "restart")
		e.must(other.SetText(record.ScriptText, luaText("restart", "1", "after_rotation", `reveals = "Everything"`)))
		b, err := other.JSON()
		e.must(err)
		r.Data = trust.SealData(key, b)
	})
	if _, err := c.Script(ctx, ref); ReasonOf(err) != string(trust.ScriptChanged) {
		t.Errorf("shown: %v", err)
	}
	if err := c.UseScript(ctx, e.resource, ScriptUseSpec{Script: ref, SHA256: seal.Hash(text)}); ReasonOf(err) != string(trust.ScriptChanged) {
		t.Errorf("used: %v", err)
	}
	listed := map[Ref]error{}
	for s, err := range c.Scripts(ctx, e.folder) {
		e.must(err)
		if listed[s.Ref] = s.Err; (s.Manifest == nil) != (s.Err != nil) {
			t.Errorf("%s: a manifest beside the error %v", s.Title, s.Err)
		}
	}
	if len(listed) != 2 || ReasonOf(listed[ref]) != string(trust.ScriptChanged) || listed[e.script] != nil {
		t.Errorf("listed: %v", listed)
	}
	if _, err := c.AddScript(ctx, ScriptSpec{Folder: e.folder, Text: []byte("print(1)")}); ClassOf(err) != Invalid {
		t.Errorf("a file without a manifest: %v", err)
	}
}

// Who may not let scripts into a folder approves none there.
func TestScriptsNeedApproval(t *testing.T) {
	e := newEstate(t)
	ctx := t.Context()
	c := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
	text := luaText("restart", "1", "after_rotation")
	ref, err := c.AddScript(ctx, ScriptSpec{Folder: e.folder, Text: text})
	e.must(err)
	b := e.asBob(c)
	if err := b.UseScript(ctx, e.resource, ScriptUseSpec{Script: ref, SHA256: seal.Hash(text)}); ReasonOf(err) != string(trust.NotLinked) || ClassOf(err) != Denied {
		t.Errorf("%v", err)
	}
}

// Nor does who approves get an administrator by his script whom he may not read.
func TestScriptsThatWorkAsAdministrator(t *testing.T) {
	e := newEstate(t)
	ctx := t.Context()
	c := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
	e.vault.change(e.account.Record.Bytes(), func(r *clientv1.RecordView) { r.Staged = nil })
	e.must(c.Grant(ctx, e.folder, e.bob, Read|Edit|Operate|ApproveScript))
	text := luaText("restart", "1", "after_rotation", `needs = ["admin"]`)
	ref, err := c.AddScript(ctx, ScriptSpec{Folder: e.folder, Text: text})
	e.must(err)
	spec := ScriptUseSpec{Script: ref, SHA256: seal.Hash(text)}
	b := e.asBob(c)
	e.must(b.UseScript(ctx, e.account, spec))
	apart, err := c.AddFolder(ctx, "Administrators")
	e.must(err)
	e.must(c.Grant(ctx, apart.UID, e.vault.pool, Read))
	admin, err := c.AddAccount(ctx, AccountSpec{Folder: apart.UID, Title: "root", Resource: e.resource, Login: "root"})
	e.must(err)
	e.must(c.EditResource(ctx, e.resource, func(r *trustv1.Resource) error { r.AdminAccount = admin.Proto(); return nil }))
	if err := e.asBob(c).UseScript(ctx, e.account, spec); ReasonOf(err) != string(trust.NotLinked) || ClassOf(err) != Denied {
		t.Errorf("one whom he may not read: %v", err)
	}
	e.must(c.UseScript(ctx, e.account, spec))
	e.must(c.EditResource(ctx, e.resource, func(r *trustv1.Resource) error { r.AdminAccount = nil; return nil }))
	if err := c.UseScript(ctx, e.account, spec); ReasonOf(err) != "administrator.none" {
		t.Errorf("where there is none: %v", err)
	}
}

// asBob is a client of the member's who has no right to approve.
func (e *estate) asBob(c *Client) *Client {
	e.t.Helper()
	b := e.client(e.vault, filepath.Join(e.t.TempDir(), "memory"))
	b.facts.Entry, b.keys = e.phone, e.phoneKeys
	b.folders.put(e.folder, 1, c.folders.keys[e.folder].key)
	return b
}

// The further records of a use belong to their names: nobody approves a file that would have
// them stand for something else, nor one that works as an administrator whom he may not read.
func TestApprovalsOfOtherRecords(t *testing.T) {
	e := newEstate(t)
	ctx := t.Context()
	c := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
	e.vault.change(e.account.Record.Bytes(), func(r *clientv1.RecordView) { r.Staged = nil })
	as := func(name, as string) []string {
		return []string{"[records." + name + "]", `about = "x"`, fmt.Sprintf("as = %q", as)}
	}
	version := 0
	text := func(lines ...[]string) []byte {
		version++
		return luaText("restart", fmt.Sprint(version), "after_rotation", slices.Concat(lines...)...)
	}
	first := text(as("cheap", "resource"), as("login", "account"))
	ref, err := c.AddScript(ctx, ScriptSpec{Folder: e.folder, Text: first})
	e.must(err)
	e.must(c.UseScript(ctx, e.account, ScriptUseSpec{Script: ref, SHA256: seal.Hash(first), Records: map[string]Ref{"cheap": e.resource, "login": e.account}}))
	for name, other := range map[string][]byte{
		"one more":                             text(as("other", "account"), as("cheap", "resource"), as("login", "account")),
		"one less":                             text(as("cheap", "resource")),
		"another name":                         text(as("vault", "resource"), as("login", "account")),
		"an account where the resource stands": text(as("cheap", "account"), as("login", "account")),
	} {
		if err := c.UpdateScript(ctx, ref, other, e.account); ClassOf(err) != Invalid {
			t.Errorf("updated and approved, %s: %v", name, err)
		}
	}
	e.must(c.UpdateScript(ctx, ref, text(as("vault", "resource"), as("login", "account"))))
	s, err := c.Script(ctx, ref)
	e.must(err)
	if err := c.ApproveScript(ctx, e.account, ref, s.SHA256); ReasonOf(err) != "script.records" {
		t.Errorf("approved with another name: %v", err)
	}
	e.must(c.UpdateScript(ctx, ref, text(as("login", "account"), as("cheap", "resource")), e.account))
	uses, err := c.ScriptUses(ctx, ref)
	e.must(err)
	if len(uses) != 1 || !uses[0].Approved {
		t.Fatalf("in another order: %+v", uses)
	}
	for n, name := range uses[0].Use.RecordNames {
		if got, _ := refFrom(uses[0].Use.Records[n]); got != map[string]Ref{"cheap": e.resource, "login": e.account}[name] {
			t.Errorf("%s is %s", name, got)
		}
	}

	apart, err := c.AddFolder(ctx, "Administrators")
	e.must(err)
	e.must(c.Grant(ctx, apart.UID, e.vault.pool, Read))
	admin, err := c.AddAccount(ctx, AccountSpec{Folder: apart.UID, Title: "root", Resource: e.resource, Login: "root"})
	e.must(err)
	e.must(c.EditResource(ctx, e.resource, func(r *trustv1.Resource) error { r.AdminAccount = admin.Proto(); return nil }))
	e.must(c.Grant(ctx, e.folder, e.bob, Read|Edit|Operate|ApproveScript))
	working := text([]string{`needs = ["admin"]`}, as("login", "account"), as("cheap", "resource"))
	e.must(c.UpdateScript(ctx, ref, working))
	if err := e.asBob(c).ApproveScript(ctx, e.account, ref, seal.Hash(working)); ReasonOf(err) != string(trust.NotLinked) || ClassOf(err) != Denied {
		t.Errorf("approved by one who may not read the administrator: %v", err)
	}
	e.must(c.ApproveScript(ctx, e.account, ref, seal.Hash(working)))
}

// Where a use leads a script is said with what parameters and records make of the manifest.
func TestReachOfScripts(t *testing.T) {
	e := newEstate(t)
	ctx := t.Context()
	c := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
	text := luaText("restart", "1", "after_rotation", `modules = ["exec", "file"]`, `hosts = ["resource", "parameters.page", "records.login"]`,
		`programs = ["parameters.program"]`, `files = ["/etc/a"]`,
		"[parameters.page]", `type = "url"`, `about = "x"`, `default = "https://evil.test/x"`,
		"[parameters.program]", `type = "string"`, `about = "x"`, `default = "/bin/sh"`,
		"[records.login]", `about = "x"`, `as = "account"`)
	ref, err := c.AddScript(ctx, ScriptSpec{Folder: e.folder, Text: text})
	e.must(err)
	s, err := c.Script(ctx, ref)
	e.must(err)
	u := s.Use()
	u.Records, u.RecordNames = []*trustv1.Ref{e.account.Proto()}, []string{"login"}
	for name, row := range map[string]struct {
		on         Ref
		parameters string
		want       string
	}{
		"in an account":                       {e.account, "", "false [db1:5432 evil.test:443] [/bin/sh] [/etc/a]"},
		"on a resource":                       {e.resource, `{"page":"http://good.test"}`, "false [db1:5432 good.test:80] [/bin/sh] [/etc/a]"},
		"on one that is not there":            {Ref{}, `{"program":"/bin/true"}`, "true [evil.test:443 db1:5432] [/bin/true] [/etc/a]"},
		"with a parameter that is not a path": {e.account, `{"program":"sh"}`, "parameter program"},
	} {
		got, err := c.ReachOf(ctx, s.Manifest, ScriptUse{Use: u, Given: []byte(row.parameters), On: row.on})
		says := fmt.Sprint(got.Resource, " ", got.Hosts, " ", got.Programs, " ", got.Files)
		if err != nil {
			says = err.Error()
		} else if len(got.Records) != 1 || got.Records[0].Title != "app" || got.Records[0].Address != "db1:5432" {
			t.Errorf("%s: records %+v", name, got.Records)
		}
		if !strings.Contains(says, row.want) {
			t.Errorf("%s: %s, want %s", name, says, row.want)
		}
	}
}

// A former file is the one of its hash, whatever the server shows beside it.
func TestFormerScript(t *testing.T) {
	e := newEstate(t)
	ctx := t.Context()
	c := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
	keep := func(why string) {
		e.vault.change(e.script.Record.Bytes(), func(r *clientv1.RecordView) {
			e.vault.history = append(e.vault.history, &clientv1.HistoryView{RecordKey: r.RecordKey, Data: r.Data, Why: why})
		})
	}
	e.vault.history = append(e.vault.history, &clientv1.HistoryView{RecordKey: []byte{1}, Data: []byte{2}})
	keep("replaced")
	second, third := luaText("notify", "2", "after_rotation"), luaText("notify", "3", "after_rotation")
	e.must(c.UpdateScript(ctx, e.script, second))
	s, err := c.Script(ctx, e.script)
	e.must(err)
	for name, row := range map[string]struct{ text, want []byte }{
		"the first": {estateScript, estateScript}, "the one that it has": {second, second}, "one that it never had": {third, nil},
	} {
		if got, err := c.FormerScript(ctx, s, seal.Hash(row.text)); err != nil || string(got) != string(row.want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// What scripts made of a run stands in its outcome.
func TestOutcomesOfScripts(t *testing.T) {
	const none, done, failed, pending = trustv1.Outcome_OUTCOME_NONE, trustv1.Outcome_OUTCOME_DONE, trustv1.Outcome_OUTCOME_FAILED, trustv1.Outcome_OUTCOME_PENDING
	for _, row := range []struct {
		action              string
		credential, scripts trustv1.Outcome
		want                OutcomeState
	}{
		{actionRotate, done, none, Done},
		{actionRotate, done, done, Done},
		{actionRotate, done, failed, DonePartly},
		{actionRotate, done, pending, DonePartly},
		{actionScript, none, done, Done},
		{actionScript, none, failed, NotDone},
		{actionScript, failed, none, NotDone},
	} {
		if got := outcomeState(row.action, &trustv1.Result{Credential: row.credential, Dependents: none, Scripts: row.scripts}); got != row.want {
			t.Errorf("%s, credential %s, scripts %s: %s, want %s", row.action, row.credential, row.scripts, got, row.want)
		}
	}
}

// Whoever signs a statement anew is shown all that changed of its scripts.
func TestDifferenceOfScripts(t *testing.T) {
	title := func(r *trustv1.Ref) string { return string(r.GetRecordUid()) }
	ref := func(name string) *trustv1.Ref { return &trustv1.Ref{RecordUid: []byte(name)} }
	use := func() *trustv1.ScriptUse {
		return &trustv1.ScriptUse{Script: ref("s"), Sha256: []byte{1}, Parameters: []byte(`{"a":1}`), Records: []*trustv1.Ref{ref("x"), ref("a")}, RecordNames: []string{"one", "two"}}
	}
	account := func(edit func(*trustv1.Account)) *trustv1.Statement {
		a := &trustv1.Account{Scripts: []*trustv1.ScriptUse{use()}, Dependents: []*trustv1.Dependent{{Resource: ref("r"), Plugin: "lua", Script: use()}}}
		edit(a)
		return &trustv1.Statement{Subject: &trustv1.Statement_Account{Account: a}}
	}
	resource := func(edit func(*trustv1.Resource)) *trustv1.Statement {
		r := &trustv1.Resource{Plugin: "lua", Rotator: use()}
		edit(r)
		return &trustv1.Statement{Subject: &trustv1.Statement_Resource{Resource: r}}
	}
	c := &Client{now: time.Now, log: trust.NewLog(seal.Digest{})}
	for name, row := range map[string]struct {
		was, is *trustv1.Statement
		says    string
	}{
		"the order of records": {account(func(*trustv1.Account) {}), account(func(a *trustv1.Account) { slices.Reverse(a.Scripts[0].Records) }), "records one=x two=a → "},
		"their names":          {account(func(*trustv1.Account) {}), account(func(a *trustv1.Account) { slices.Reverse(a.Scripts[0].RecordNames) }), "records two=x one=a"},
		"the file":             {account(func(*trustv1.Account) {}), account(func(a *trustv1.Account) { a.Scripts[0].Sha256 = []byte{2} }), "sha256 02"},
		"a dependent's file":   {account(func(*trustv1.Account) {}), account(func(a *trustv1.Account) { a.Dependents[0].Script.Sha256 = []byte{2} }), "script s, sha256 02"},
		"the generator":        {account(func(*trustv1.Account) {}), account(func(a *trustv1.Account) { a.Generator = use() }), `generator: (none) → s, sha256 01, parameters {"a":1}`},
		"the generator's parameters": {account(func(a *trustv1.Account) { a.Generator = use() }), account(func(a *trustv1.Account) {
			a.Generator = use()
			a.Generator.Parameters = []byte(`{"a":2}`)
		}), `parameters {"a":2}`},
		"the discoverer":     {resource(func(*trustv1.Resource) {}), resource(func(r *trustv1.Resource) { r.Discoverer = use() }), `discoverer: (none) → s, sha256 01, parameters {"a":1}`},
		"the rotator's file": {resource(func(*trustv1.Resource) {}), resource(func(r *trustv1.Resource) { r.Rotator.Sha256 = []byte{2} }), "rotator: s, sha256 01 → s, sha256 02"},
		"nothing":            {resource(func(*trustv1.Resource) {}), resource(func(*trustv1.Resource) {}), ""},
	} {
		got := strings.Join(difference(c.factsOf(row.was, title), c.factsOf(row.is, title)), "\n")
		if row.says == "" && got != "" || !strings.Contains(got, row.says) {
			t.Errorf("%s: %q", name, got)
		}
		if proto.Equal(row.was, row.is) != (row.says == "") {
			t.Errorf("%s: the test compares a statement with itself", name)
		}
	}
}
