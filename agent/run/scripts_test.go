package run

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/agent/policy"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// scriptRan is what a script was run with. The secrets are wiped when the run is over.
type scriptRan struct {
	name string
	job  pluginhost.Job
	sdk.AfterRequest
	admin, secret, former string
	records               []string // their secrets
}

func (f *fakeTarget) Run(_ context.Context, p pluginhost.Plugin, j pluginhost.Job, r sdk.AfterRequest) (sdk.AfterResponse, error) {
	m, err := script.Parse([]byte(p.Script.Value()))
	if err != nil {
		return sdk.AfterResponse{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	ran := scriptRan{m.Name, j, r, j.Admin.Secret.ExposeString(), r.Secret.Secret.ExposeString(), r.Former.Secret.ExposeString(), nil}
	for _, one := range r.Records {
		ran.records = append(ran.records, one.Secret.Secret.ExposeString())
	}
	f.ran = append(f.ran, ran)
	if f.script != nil {
		return f.script(ran)
	}
	return sdk.AfterResponse{Outcome: sdk.Changed, Output: "hello from " + m.Name}, nil
}

// scripts are the names of those that ran.
func (f *fakeTarget) scripts() (names []string) {
	for _, r := range f.ran {
		names = append(names, r.name)
	}
	return names
}

// scriptText is a script of which more is said than name, kind and version.
func scriptText(name string, kind script.Kind, more ...string) []byte {
	lines := append([]string{
		"--[[ rotunda", fmt.Sprintf("name = %q", name), `version = "1.0.0"`, fmt.Sprintf("kind = %q", kind), `about = "Does what is tested"`,
	}, more...)
	return []byte(strings.Join(append(lines, "]]", "return {}"), "\n") + "\n")
}

// script stores one, and gives the use that approves it. It is pinned by commands.
func (w *world) script(name string, kind script.Kind, more ...string) *trustv1.ScriptUse {
	ref := w.ref()
	w.pinned = append(w.pinned, ref)
	return w.scriptAt(ref, scriptText(name, kind, more...), nil)
}

func (w *world) scriptAt(ref trust.Ref, text []byte, edit func(*trustv1.Script)) *trustv1.ScriptUse {
	w.t.Helper()
	m, err := script.Parse(text)
	must(w.t, err)
	s := &trustv1.Script{
		Name: m.Name, Version: m.Version, ScriptKind: string(m.Kind), Sha256: seal.Hash(text).Bytes(), ManifestSha256: seal.Hash(m.Comment).Bytes(),
	}
	if edit != nil {
		edit(s)
	}
	w.put(ref, "script", text, &trustv1.Statement{Kind: trustv1.RecordKind_RECORD_KIND_SCRIPT, Subject: &trustv1.Statement_Script{Script: s}})
	return &trustv1.ScriptUse{Script: ref.Proto(), Sha256: seal.Hash(text).Bytes()}
}

// use signs the account's statement anew with scripts, and whatever else edit does.
func (w *world) use(edit func(*trustv1.Account), uses ...*trustv1.ScriptUse) {
	s := w.accountStatement("app", &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: w.now.Add(time.Hour).UnixMilli()})
	s.GetAccount().Scripts = uses
	if edit != nil {
		edit(s.GetAccount())
	}
	w.put(w.account, "pamUser", []byte("old"), s)
}

// useOnResource likewise.
func (w *world) useOnResource(edit func(*trustv1.Resource), uses ...*trustv1.ScriptUse) {
	r := w.resource()
	r.AdminAccount, r.Scripts = w.admin.Proto(), uses
	if edit != nil {
		edit(r)
	}
	w.putResource(r)
}

// apart is a folder that this agent reads, and in which only the first device has rights.
func (w *world) apart() seal.ID {
	w.t.Helper()
	folder, key := seal.NewID(), seal.NewKey()
	e, _ := w.log.Entry(w.device.id)
	w.change(append(trust.NewFolderOps(w.log.Org(), folder, e.Owner, key), trust.GrantOp(folder, w.pool, trust.Read))...)
	sealed, err := trust.SealFolderKey(w.log, folder, key, w.agent.id, w.agent.keys, w.now)
	must(w.t, err)
	w.vault.further = append(w.vault.further, ksm.ExtFolder{FolderUID: folder.Bytes(), KeyVersion: 1, Sealed: sealed})
	if w.keys == nil {
		w.keys = map[seal.ID]seal.Key{}
	}
	w.keys[folder] = key
	return folder
}

// signedByBob: he signs the statements from now on, and has no rights in further folders.
func (w *world) signedByBob(roles trust.Roles) { w.signer, _ = w.bob(roles) }

// editedUnread: the account is in a folder of its own, where Bob may do all but read.
func (w *world) editedUnread() {
	w.account = trust.Ref{Folder: w.apart(), Record: seal.NewID()}
	device, member := w.bob(everyRole)
	w.change(trust.GrantOp(w.account.Folder, member, everyRole&^(trust.Read|trust.Share)))
	w.signer = device
}

const everyRole = trust.Read | trust.Edit | trust.Operate | trust.Share | trust.ApproveScript

// detail is what the record's readers are told of the newest run.
func (w *world) detail() (*trust.Result, string) {
	w.t.Helper()
	result, err := trust.OpenResult(w.log, w.vault.last.Result)
	must(w.t, err)
	if len(w.vault.last.Detail) == 0 {
		return result, ""
	}
	key, err := seal.UnwrapKey(w.folderKey, w.row().RecordKey)
	must(w.t, err)
	d, err := trust.OpenDetail(w.log.Org(), key, result, w.vault.last.Detail)
	must(w.t, err)
	return result, d.Text
}

// Scripts run after the rotation, first the account's, then the resource's, each in its
// order; each gets what its manifest asks for, and nothing else.
func TestScripts(t *testing.T) {
	w := newWorld(t, false)
	all := w.script("all", script.AfterRotation, `needs = ["admin", "secret", "former"]`, `hosts = ["resource"]`, "[parameters.unit]", `type = "string"`, `about = "x"`, "required = true")
	all.Order, all.Parameters = 2, []byte(`{"unit":"app"}`)
	nothing := w.script("nothing", script.AfterRotation)
	nothing.Order = 1
	last := w.script("last", script.AfterRotation, `needs = ["secret"]`)
	w.signedByBob(everyRole)
	w.scriptAt(mustRef(nothing.Script), scriptText("nothing", script.AfterRotation), nil) // he wrote it, another approves it
	w.signer = w.device
	w.use(nil, all, nothing)
	w.useOnResource(nil, last)
	out, err := w.rotate()
	if err != nil || out.Credential != done || out.Scripts != done || out.Reason != "" || out.Later || !w.opens() {
		t.Fatalf("%+v, %v", out, err)
	}
	if got := w.target.scripts(); !slices.Equal(got, []string{"nothing", "all", "last"}) {
		t.Fatalf("they ran in the order %v", got)
	}
	current, _ := w.secret(w.account)
	for n, want := range []struct {
		admin, secret, former string
		allow                 int
	}{{}, {"adminpw", current, "old", 1}, {"", current, "", 0}} {
		r := w.target.ran[n]
		if r.admin != want.admin || r.secret != want.secret || r.former != want.former || len(r.job.Allow) != want.allow {
			t.Errorf("%s was given an administrator %v, the secret %v, the former %v and %v to go to", r.name, r.admin != "", r.secret != "", r.former != "", r.job.Allow)
		}
		if r.Account.Name != "app" || r.RunID == "" || r.job.Progress != nil {
			t.Errorf("%s: account %q of run %q", r.name, r.Account.Name, r.RunID)
		}
	}
	if got := string(w.target.ran[1].job.Resource.Config); got != `{"unit":"app"}` {
		t.Errorf("parameters %s", got)
	}
	result, text := w.detail()
	if len(result.ScriptSha256) != 3 || result.Scripts != done {
		t.Errorf("the result names %d scripts, outcome %s", len(result.ScriptSha256), result.Scripts)
	}
	for _, want := range []string{
		fmt.Sprintf("script all 1.0.0, sha256 %x, approved by %s: done\nhello from all", all.Sha256, w.log.FullName(w.entry(w.device))),
		fmt.Sprintf("script nothing 1.0.0, sha256 %x, approved by %s: done", nothing.Sha256, w.log.FullName(w.entry(w.device))), "script last 1.0.0",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the detail lacks %q: %s", want, text)
		}
	}
	if len(w.told) != 0 {
		t.Errorf("events %v", w.told)
	}
}

func (w *world) entry(p party) trust.Entry {
	e, _ := w.log.Entry(p.id)
	return e
}

// What cannot run after a change keeps it from being made, and nothing is dialled.
func TestScriptsThatCannotRun(t *testing.T) {
	const linked = string(trust.NotLinked)
	changed := string(trust.ScriptChanged)
	account := []string{"[records.other]", `about = "x"`, `as = "account"`}
	resource := []string{"[records.other]", `about = "x"`, `as = "resource"`}
	for name, c := range map[string]struct {
		set    func(w *world)
		reason string
	}{
		"another file, approved elsewhere": {func(w *world) {
			u := w.script("a", script.AfterRotation)
			w.use(nil, u)
			w.scriptAt(mustRef(u.Script), scriptText("a", script.AfterRotation, `reveals = "everything"`), nil)
		}, changed},
		"a file that its statement does not name": {func(w *world) {
			u := w.script("a", script.AfterRotation)
			u = w.scriptAt(mustRef(u.Script), scriptText("a", script.AfterRotation), func(s *trustv1.Script) { s.Sha256 = make([]byte, 32) })
			u.Sha256 = make([]byte, 32)
			w.use(nil, u)
		}, changed},
		"a manifest that its statement does not name": {func(w *world) {
			w.use(nil, w.scriptAt(w.ref(), scriptText("a", script.AfterRotation), func(s *trustv1.Script) { s.ManifestSha256 = make([]byte, 32) }))
		}, changed},
		"another name than its statement's": {func(w *world) {
			w.use(nil, w.scriptAt(w.ref(), scriptText("a", script.AfterRotation), func(s *trustv1.Script) { s.Name = "b" }))
		}, changed},
		"another version": {func(w *world) {
			w.use(nil, w.scriptAt(w.ref(), scriptText("a", script.AfterRotation), func(s *trustv1.Script) { s.Version = "2" }))
		}, changed},
		"another kind than its statement's": {func(w *world) {
			w.use(nil, w.scriptAt(w.ref(), scriptText("a", script.AfterRotation), func(s *trustv1.Script) { s.ScriptKind = "rotator" }))
		}, changed},
		"a kind that does not belong there": {func(w *world) { w.use(nil, w.script("a", script.Dependents)) }, "script.kind"},
		"no such record": {func(w *world) {
			u := w.script("a", script.AfterRotation)
			w.use(nil, u)
			delete(w.vault.records, mustRef(u.Script).Record)
		}, string(trust.RecordMissing)},
		"not approved by who may": {func(w *world) {
			u := w.script("a", script.AfterRotation)
			w.signedByBob(everyRole &^ trust.ApproveScript)
			w.use(nil, u)
		}, linked},
		"parameters": {func(w *world) {
			u := w.script("a", script.AfterRotation)
			u.Parameters = []byte(`{"x":1}`)
			w.use(nil, u)
		}, "parameters"},
		"a further record too few": {func(w *world) { w.use(nil, w.script("a", script.AfterRotation, account...)) }, "script.records"},
		"a further record of another name": {func(w *world) {
			u := w.script("a", script.AfterRotation, account...)
			u.Records, u.RecordNames = []*trustv1.Ref{w.admin.Proto()}, []string{"another"}
			w.use(nil, u)
		}, "script.records"},
		"the local policy": {func(w *world) {
			w.use(nil, w.script("a", script.AfterRotation))
			p, err := policy.Parse(`actions.allow = ["rotate", "verify"]`)
			must(w.t, err)
			w.engine.Policy = p
		}, string(trust.LocalPolicy)},
		"an administrator where there is none": {func(w *world) {
			w.use(nil, w.script("a", script.AfterRotation, `needs = ["admin"]`))
			w.useOnResource(func(r *trustv1.Resource) { r.AdminAccount = nil })
		}, "administrator.none"},
		"the administrator, approved by one who may not read him": {func(w *world) {
			w.admin = trust.Ref{Folder: w.apart(), Record: seal.NewID()}
			w.put(w.admin, "pamUser", []byte("adminpw"), w.accountStatement("admin", nil))
			w.useOnResource(nil)
			u := w.script("a", script.AfterRotation, `needs = ["admin"]`)
			w.signedByBob(everyRole)
			w.use(nil, u)
		}, linked},
		"the resource's further secrets, likewise": {func(w *world) {
			extra := trust.Ref{Folder: w.apart(), Record: seal.NewID()}
			w.put(extra, "pamUser", []byte("x"), w.accountStatement("x", nil))
			w.useOnResource(func(r *trustv1.Resource) { r.Extras = []*trustv1.Extra{{Name: "x", Account: extra.Proto()}} })
			u := w.script("a", script.AfterRotation, `needs = ["admin"]`)
			w.signedByBob(everyRole)
			w.use(nil, u)
		}, linked},
		"the secrets of an account that the approver on its resource may not read": {func(w *world) {
			w.account = trust.Ref{Folder: w.apart(), Record: seal.NewID()}
			w.use(nil)
			u := w.script("a", script.AfterRotation, `needs = ["secret"]`)
			w.signedByBob(everyRole) // in the resource's folder alone
			w.useOnResource(nil, u)
		}, linked},
		"its former secret alone, likewise": {func(w *world) {
			w.account = trust.Ref{Folder: w.apart(), Record: seal.NewID()}
			w.use(nil)
			u := w.script("a", script.AfterRotation, `needs = ["former"]`)
			w.signedByBob(everyRole)
			w.useOnResource(nil, u)
		}, linked},
		"the account's secret, approved by who edits it and may not read it": {func(w *world) {
			u := w.script("a", script.AfterRotation, `needs = ["secret"]`)
			w.editedUnread()
			w.use(nil, u)
		}, linked},
		"a dependent of it, likewise": {func(w *world) {
			u := w.script("a", script.Dependents)
			w.editedUnread()
			w.use(func(a *trustv1.Account) {
				a.Dependents = []*trustv1.Dependent{{Resource: w.res.Proto(), Plugin: trust.PluginLua, Script: u}}
			})
		}, linked},
		"a further record's administrator, likewise": {func(w *world) {
			admin := trust.Ref{Folder: w.apart(), Record: seal.NewID()}
			w.put(admin, "pamUser", []byte("x"), w.accountStatement("x", nil))
			other := w.other(func(r *trustv1.Resource) { r.AdminAccount = admin.Proto() })
			u := w.script("a", script.AfterRotation, resource...)
			u.Records, u.RecordNames = []*trustv1.Ref{other.Proto()}, []string{"other"}
			w.signedByBob(everyRole)
			w.use(nil, u)
		}, linked},
		"a further record's own statement names what its signer may not": {func(w *world) {
			apart := trust.Ref{Folder: w.apart(), Record: seal.NewID()}
			r := w.resource()
			w.put(apart, "pamMachine", nil, &trustv1.Statement{Kind: trustv1.RecordKind_RECORD_KIND_RESOURCE, Subject: &trustv1.Statement_Resource{Resource: r}})
			u := w.script("a", script.AfterRotation, account...)
			other := w.ref()
			u.Records, u.RecordNames = []*trustv1.Ref{other.Proto()}, []string{"other"}
			w.use(nil, u)
			w.signedByBob(everyRole)
			s := w.accountStatement("other", nil)
			s.GetAccount().Resource = apart.Proto()
			w.put(other, "pamUser", []byte("otherpw"), s)
		}, linked},
		"a further record of another pool": {func(w *world) {
			u := w.script("a", script.AfterRotation, resource...)
			u.Records, u.RecordNames = []*trustv1.Ref{w.other(func(r *trustv1.Resource) { r.PoolId = seal.NewID().Bytes() }).Proto()}, []string{"other"}
			w.use(nil, u)
		}, string(trust.WrongPool)},
		"a further record that is an account": {func(w *world) {
			u := w.script("a", script.AfterRotation, resource...)
			u.Records, u.RecordNames = []*trustv1.Ref{w.admin.Proto()}, []string{"other"}
			w.use(nil, u)
		}, string(trust.RecordSwapped)},
		"two identities at one address": {func(w *world) {
			u := w.script("a", script.AfterRotation, append([]string{`hosts = ["resource", "records.other"]`}, resource...)...)
			u.Records, u.RecordNames = []*trustv1.Ref{w.other(func(r *trustv1.Resource) { r.Host, r.SshHostKeySha256 = "DB.test.", [][]byte{make([]byte, 32)} }).Proto()}, []string{"other"}
			w.use(nil, u)
		}, "script.identity"},
		"one address with and without TLS": {func(w *world) {
			u := w.script("a", script.AfterRotation, append([]string{`hosts = ["records.other"]`}, resource...)...)
			u.Records, u.RecordNames = []*trustv1.Ref{w.other(func(r *trustv1.Resource) { r.Host, r.Tls = "db.test", nil }).Proto()}, []string{"other"}
			w.use(nil, u)
		}, "script.identity"},
		"a rotator that was changed": {func(w *world) {
			u := w.script("a", script.Rotator, "[rotator]", `kinds = ["password"]`)
			w.useOnResource(func(r *trustv1.Resource) { r.Plugin, r.Rotator = trust.PluginLua, u })
			w.scriptAt(mustRef(u.Script), scriptText("a", script.Rotator, `reveals = "everything"`, "[rotator]", `kinds = ["password"]`), nil)
		}, changed},
		"a dependent that was changed": {func(w *world) {
			u := w.script("a", script.Dependents)
			w.use(func(a *trustv1.Account) {
				a.Dependents = []*trustv1.Dependent{{Resource: w.other(nil).Proto(), Plugin: trust.PluginLua, Script: u}}
			})
			w.scriptAt(mustRef(u.Script), scriptText("a", script.Dependents, `reveals = "everything"`), nil)
		}, changed},
		"a dependent whose administrator its approver may not read": {func(w *world) {
			admin := trust.Ref{Folder: w.apart(), Record: seal.NewID()}
			w.put(admin, "pamUser", []byte("x"), w.accountStatement("x", nil))
			other := w.other(func(r *trustv1.Resource) { r.AdminAccount = admin.Proto() })
			u := w.script("a", script.Dependents, `needs = ["admin"]`)
			w.signedByBob(everyRole)
			w.use(func(a *trustv1.Account) {
				a.Dependents = []*trustv1.Dependent{{Resource: other.Proto(), Plugin: trust.PluginLua, Script: u}}
			})
		}, linked},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, false)
			dialled := false
			w.engine.Dial = func(context.Context, string, string) (net.Conn, error) {
				dialled = true
				return nil, errors.New("it must not be dialled")
			}
			c.set(w)
			out, err := w.run(seal.NewID())
			if err != nil || out.Credential != failed || out.Reason != c.reason || out.Later {
				t.Errorf("%+v, %v; want %s", out, err, c.reason)
			}
			if len(w.target.applied)+len(w.target.ran)+len(w.target.plans)+w.target.opens > 0 || w.row().Staged != nil || dialled {
				t.Error("something was touched")
			}
		})
	}
}

// other is a further resource, with the world's administrator.
func (w *world) other(edit func(*trustv1.Resource)) trust.Ref {
	ref, r := w.ref(), w.resource()
	r.Host, r.AdminAccount = "other.test", w.admin.Proto()
	if edit != nil {
		edit(r)
	}
	w.put(ref, "pamMachine", nil, &trustv1.Statement{Kind: trustv1.RecordKind_RECORD_KIND_RESOURCE, Subject: &trustv1.Statement_Resource{Resource: r}})
	return ref
}

// A host key that is to be seen first is looked for only by who has the right to be there.
func TestFurtherRecordsAreDialledAfterTheRights(t *testing.T) {
	for reason, edit := range map[string]func(*trustv1.Account){
		string(trust.MandateOff): func(a *trustv1.Account) { a.Mandate = nil },
		"probe":                  nil,
	} {
		w := newWorld(t, false)
		var dialled []string
		w.engine.Dial = func(_ context.Context, _, address string) (net.Conn, error) {
			dialled = append(dialled, address)
			return nil, errors.New("nobody is there")
		}
		u := w.script("a", script.AfterRotation, `hosts = ["records.other"]`, "[records.other]", `about = "x"`, `as = "resource"`)
		u.Records, u.RecordNames = []*trustv1.Ref{w.other(func(r *trustv1.Resource) { r.Tofu = true }).Proto()}, []string{"other"}
		w.use(edit, u)
		var want []string
		if reason == "probe" {
			want = []string{"other.test:5432"}
		}
		if out, err := w.run(seal.NewID()); err != nil || out.Reason != reason || !slices.Equal(dialled, want) || len(w.target.applied) > 0 {
			t.Errorf("%s: %+v, %v, dialled %v", reason, out, err, dialled)
		}
	}
}

// A script goes to the places of its manifest, each with the identity of its own record.
func TestPlacesOfScripts(t *testing.T) {
	w := newWorld(t, false)
	pin := func(b byte) [][]byte { return [][]byte{append(make([]byte, 31), b)} }
	w.useOnResource(func(r *trustv1.Resource) { r.SshHostKeySha256 = pin(1) })
	router := w.other(func(r *trustv1.Resource) { r.Host, r.SshHostKeySha256 = "Router.test", pin(2) })
	silent := w.other(func(r *trustv1.Resource) { r.Host, r.Tofu = "silent.test", true }) // never dialled: no key is looked for
	account := w.ref()
	w.put(account, "pamUser", []byte("apipw"), func() *trustv1.Statement {
		s := w.accountStatement("api", nil)
		s.GetAccount().Resource = w.other(func(r *trustv1.Resource) { r.Host, r.SshHostKeySha256 = "api.test", pin(3) }).Proto()
		return s
	}())
	u := w.script("a", script.AfterRotation,
		`hosts = ["records.api", "records.router", "parameters.hook", "log.test:514"]`, "[parameters.hook]", `type = "url"`, `about = "x"`, "required = true",
		"[records.router]", `about = "x"`, `as = "resource"`, "[records.api]", `about = "x"`, `as = "account"`, "[records.silent]", `about = "x"`, `as = "resource"`)
	u.Parameters = []byte(`{"hook":"https://hook.test/x"}`)
	// In another order than the manifest's: each belongs to its name.
	u.Records, u.RecordNames = []*trustv1.Ref{silent.Proto(), router.Proto(), account.Proto()}, []string{"silent", "router", "api"}
	w.use(nil, u)
	if out, err := w.rotate(); err != nil || out.Scripts != done {
		t.Fatalf("%+v, %v", out, err)
	}
	r := w.target.ran[0]
	if want := []string{"api.test:5432", "router.test:5432", "hook.test:443", "log.test:514"}; !slices.Equal(r.job.Allow, want) {
		t.Errorf("it may go to %v", r.job.Allow)
	}
	if len(r.job.Pins) != 2 || r.job.Pins["router.test:5432"][31] != 2 || r.job.Pins["api.test:5432"][31] != 3 {
		t.Errorf("pins of %d places", len(r.job.Pins))
	}
	for n, want := range []struct{ address, login, secret string }{
		{"router.test:5432", "admin", "adminpw"}, {"api.test:5432", "api", "apipw"}, {"silent.test:5432", "admin", "adminpw"},
	} {
		got := r.Records[n]
		if got.Resource.Address != want.address || got.Account.Name != want.login || r.records[n] != want.secret {
			t.Errorf("record %d: %s at %s", n+1, got.Account.Name, got.Resource.Address)
		}
	}
	if r.admin+r.secret+r.former != "" {
		t.Error("it was given secrets that it does not ask for")
	}
}

// One that fails keeps no other from running, nor the credential from being done.
func TestScriptFails(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(w *world) (sdk.AfterResponse, error)
		says   string
	}{
		"it says so": {func(*world) (sdk.AfterResponse, error) {
			return sdk.AfterResponse{Outcome: sdk.Unchanged, Class: sdk.ClassNotFound, Reason: "unit.missing", Output: "no such unit"}, nil
		}, "not done (unit.missing)\nno such unit"},
		"no clear answer": {func(*world) (sdk.AfterResponse, error) { return sdk.AfterResponse{}, nil }, "failed, perhaps half done (script.unclear)"},
		"an error": {func(*world) (sdk.AfterResponse, error) {
			return sdk.AfterResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "dial.timeout"}
		}, "failed, perhaps half done (dial.timeout)"},
		"its reason is a secret": {func(w *world) (sdk.AfterResponse, error) {
			current, _ := w.secret(w.account)
			return sdk.AfterResponse{Outcome: sdk.Unchanged, Reason: current, Output: "look: " + current + " and adminpw"}, nil
		}, "not done (malformed)\nlook: [secret] and [secret]"},
	} {
		w := newWorld(t, false)
		w.use(nil, w.script("first", script.AfterRotation), w.script("second", script.AfterRotation))
		w.target.script = func(r scriptRan) (sdk.AfterResponse, error) {
			if r.name == "first" {
				return c.answer(w)
			}
			return sdk.AfterResponse{Outcome: sdk.Changed}, nil
		}
		out, err := w.rotate()
		if err != nil || out.Credential != done || out.Scripts != failed || out.Reason != trust.ScriptsFailed || out.Class == "" || out.Later || !w.opens() {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		if !slices.Equal(w.target.scripts(), []string{"first", "second"}) {
			t.Errorf("%s: %v ran", name, w.target.scripts())
		}
		result, text := w.detail()
		if !strings.Contains(text, c.says) || strings.Contains(result.Reason+text, "adminpw") {
			t.Errorf("%s: the detail lacks %q: %s", name, c.says, text)
		}
		if !trust.Finished(w.log, w.row().Recent, result.RunId, w.pool) {
			t.Errorf("%s: a script that failed counts as a secret that still works", name)
		}
	}
}

// A run that was interrupted goes on with the script that may have been running, and not
// with those that are done.
func TestScriptsAreGoneOnWith(t *testing.T) {
	for n, want := range [][]string{{"a", "a", "b", "c"}, {"a", "b", "b", "c"}, {"a", "b", "c", "c"}} {
		w := newWorld(t, false)
		w.use(nil, w.script("a", script.AfterRotation), w.script("b", script.AfterRotation))
		w.useOnResource(nil, w.script("c", script.AfterRotation))
		id := seal.NewID()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w.target.script = func(scriptRan) (sdk.AfterResponse, error) {
			if len(w.target.ran) == n+1 {
				cancel()
				return sdk.AfterResponse{}, errCrash
			}
			return sdk.AfterResponse{Outcome: sdk.Changed}, nil
		}
		w.vault.state[id] = "queued"
		if out, err := w.engine.Do(ctx, Job{ID: id, Account: w.account}); !errors.Is(err, context.Canceled) {
			t.Fatalf("at %d: %+v, %v", n, out, err)
		}
		w.target.script = nil
		w.later(2 * time.Minute)
		if out, err := w.run(id); err != nil || out.Scripts != done || out.Credential != done {
			t.Fatalf("at %d, again: %+v, %v", n, out, err)
		}
		if !slices.Equal(w.target.scripts(), want) || len(w.target.applied) != 1 {
			t.Errorf("at %d: %v ran, want %v", n, w.target.scripts(), want)
		}
	}
}

// One that has had no process and no turn has done nothing: the run comes again for it, and
// for nothing before it. What a script says of itself is no word on that.
func TestScriptsThatWait(t *testing.T) {
	host := func(reason pluginhost.Reason) error {
		return fmt.Errorf("x: %w", &pluginhost.Error{Reason: reason, Plugin: "lua", NotSent: true})
	}
	for name, c := range map[string]struct {
		err   error
		again bool
		says  string
	}{
		"no process in time":        {host(pluginhost.PluginBusy), true, ""},
		"its connections were cut":  {host(pluginhost.SessionClosed), true, ""},
		"no process could start":    {host(pluginhost.PluginStart), true, ""},
		"the process had ended":     {host(pluginhost.PluginCrashed), true, ""},
		"the process ended with it": {&pluginhost.Error{Reason: pluginhost.PluginCrashed, Plugin: "lua"}, false, "failed, perhaps half done (plugin_crashed)"},
		"it cannot be sent":         {host(pluginhost.BadRequest), false, "not done (bad_request)"},
		"its own word":              {&sdk.Error{Class: sdk.ClassUnreachable, Reason: "plugin_busy", NotSent: true}, false, "failed, perhaps half done (plugin_busy)"},
	} {
		for _, alone := range []bool{false, true} {
			w := newWorld(t, false)
			w.use(nil, w.script("a", script.AfterRotation), w.script("b", script.AfterRotation), w.script("c", script.AfterRotation))
			w.target.script = func(r scriptRan) (sdk.AfterResponse, error) {
				if r.name == "b" {
					return sdk.AfterResponse{}, c.err
				}
				return sdk.AfterResponse{Outcome: sdk.Changed}, nil
			}
			job, credential := Job{ID: seal.NewID(), Account: w.account}, done
			if alone {
				job.Command, credential = w.command(trustv1.Action_ACTION_RUN_SCRIPT, job.ID), trustv1.Outcome_OUTCOME_NONE
			}
			w.vault.state[job.ID] = "queued"
			out, err := w.engine.Do(t.Context(), job)
			result, text := w.detail()
			if !c.again {
				if err != nil || out.Scripts != failed || out.Later || !slices.Equal(w.target.scripts(), []string{"a", "b", "c"}) || !strings.Contains(text, c.says) {
					t.Errorf("%s: %+v, %v: %v ran", name, out, err, w.target.scripts())
				}
				continue
			}
			if err != nil || out.Credential != credential || out.Scripts != trustv1.Outcome_OUTCOME_PENDING || out.Reason != "scripts.pending" || !out.Later || !w.vault.last.Retry {
				t.Fatalf("%s: %+v, %v", name, out, err)
			}
			if result.Scripts != trustv1.Outcome_OUTCOME_PENDING || !strings.Contains(text, "script a 1.0.0") || !strings.Contains(text, "done") {
				t.Errorf("%s: told %s, %s", name, result.Scripts, text)
			}
			w.target.script, w.target.ran = nil, nil
			w.later(time.Minute)
			if !alone { // when it is taken up again there may be none either
				w.target.unscripted = c.err
				if out, err := w.engine.Do(t.Context(), job); err != nil || out.Reason != "scripts.pending" || !out.Later || len(w.target.ran) > 0 {
					t.Errorf("%s, without a process: %+v, %v", name, out, err)
				}
				w.target.unscripted = nil
				w.later(time.Minute)
			}
			if out, err := w.engine.Do(t.Context(), job); err != nil || out.Scripts != done || out.Credential != credential || out.Later || out.Reason != "" {
				t.Errorf("%s, again: %+v, %v", name, out, err)
			}
			if !slices.Equal(w.target.scripts(), []string{"b", "c"}) || len(w.target.applied) > 1 {
				t.Errorf("%s: %v ran again", name, w.target.scripts())
			}
		}
	}
}

// What is taken up again is what the statements say now: a script that is done is not done
// again unless it was given something else, and the local policy is asked anew.
func TestScriptsThatChangedOnTheWay(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *world, u *trustv1.ScriptUse)
		ran    []string
		ends   trustv1.Outcome
	}{
		"nothing": {func(*world, *trustv1.ScriptUse) {}, []string{"a", "b", "b"}, done},
		"the parameters of one that is done": {func(w *world, u *trustv1.ScriptUse) {
			u.Parameters = []byte(`{"x":"2"}`)
		}, []string{"a", "b", "a", "b"}, done},
		"the file of one that is done": {func(w *world, u *trustv1.ScriptUse) {
			w.scriptAt(mustRef(u.Script), scriptText("a", script.AfterRotation), nil)
		}, []string{"a", "b", "b"}, done},
		"the file of one that is not": {func(w *world, _ *trustv1.ScriptUse) {
			w.scriptAt(w.pinned[1], scriptText("b", script.AfterRotation, `reveals = "everything"`), nil)
		}, []string{"a", "b"}, failed},
		"the local policy": {func(w *world, _ *trustv1.ScriptUse) {
			p, err := policy.Parse(`actions.allow = ["rotate", "verify"]`)
			must(w.t, err)
			w.engine.Policy = p
		}, []string{"a", "b"}, failed},
	} {
		w := newWorld(t, false)
		a := w.script("a", script.AfterRotation, "[parameters.x]", `type = "string"`, `about = "x"`, `default = "1"`)
		b := w.script("b", script.AfterRotation)
		w.useOnResource(nil, a, b)
		id := seal.NewID()
		ctx, cancel := context.WithCancel(t.Context())
		w.target.script = func(r scriptRan) (sdk.AfterResponse, error) {
			if r.name == "b" {
				cancel()
				return sdk.AfterResponse{}, errCrash
			}
			return sdk.AfterResponse{Outcome: sdk.Changed}, nil
		}
		w.vault.state[id] = "queued"
		if out, err := w.engine.Do(ctx, Job{ID: id, Account: w.account}); !errors.Is(err, context.Canceled) {
			t.Fatalf("%s: %+v, %v", name, out, err)
		}
		cancel()
		w.target.script = nil
		c.change(w, a)
		w.useOnResource(nil, a, b)
		w.later(2 * time.Minute)
		if out, err := w.run(id); err != nil || out.Scripts != c.ends || out.Credential != done || out.Later {
			t.Errorf("%s, again: %+v, %v", name, out, err)
		}
		if !slices.Equal(w.target.scripts(), c.ran) {
			t.Errorf("%s: %v ran, want %v", name, w.target.scripts(), c.ran)
		}
	}
}

// The scripts of a run that has ended do not run because somebody says that it is due.
func TestScriptsOfARunThatEnded(t *testing.T) {
	for name, c := range map[string]struct {
		again func(w *world)
		ran   int
	}{
		"it is announced again": {func(*world) {}, 0},
		"its words are kept back": {func(w *world) {
			w.row().Recent = slices.DeleteFunc(w.row().Recent, func(signed []byte) bool {
				r, err := trust.OpenResult(w.log, signed)
				must(w.t, err)
				return r.Phase == trustv1.Phase_PHASE_FINISHED
			})
		}, 0},
		"with another script": {func(w *world) { w.useOnResource(nil, w.script("b", script.AfterRotation)) }, 0},
		"to another agent":    {func(w *world) { w.another() }, 0},
		"to another agent, much later, and its words are kept back": {func(w *world) {
			w.another()
			w.row().Recent = w.row().Recent[1:]
			w.later(journal.ScriptsLive)
		}, 0},
	} {
		w := newWorld(t, false)
		w.useOnResource(nil, w.script("a", script.AfterRotation))
		id := seal.NewID()
		if out, err := w.run(id); err != nil || out.Scripts != done {
			t.Fatalf("%s: %+v, %v", name, out, err)
		}
		w.target.ran = nil
		w.later(10 * time.Minute)
		c.again(w)
		w.vault.state[id] = "queued"
		if out, err := w.run(id); err != nil || len(w.target.ran) != c.ran || out.Later || len(w.target.applied) != 1 {
			t.Errorf("%s: %v ran: %+v, %v", name, w.target.scripts(), out, err)
		}
	}

	// Nor is the id of a run that has ended of use for another: its scripts would count as done.
	for name, again := range map[string]func(w *world) (trust.Ref, []string){
		"of another account": func(w *world) (trust.Ref, []string) {
			other := w.ref()
			s := w.accountStatement("app2", &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: w.now.Add(time.Hour).UnixMilli()})
			w.put(other, "pamUser", []byte("old2"), s)
			w.target.secrets["app2"] = "old2"
			return other, nil
		},
		"of the same account, here":             func(w *world) (trust.Ref, []string) { return w.account, nil },
		"of the same account, by another agent": func(w *world) (trust.Ref, []string) { w.another(); return w.account, []string{"a"} },
	} {
		w := newWorld(t, false)
		w.useOnResource(nil, w.script("a", script.AfterRotation))
		id := seal.NewID()
		for _, run := range []seal.ID{id, seal.NewID()} { // the second one has set another secret since
			if out, err := w.run(run); err != nil || out.Scripts != done {
				t.Fatalf("%s: %+v, %v", name, out, err)
			}
			w.later(10 * time.Minute)
		}
		w.target.ran = nil
		ref, want := again(w)
		w.vault.state[id] = "queued"
		out, err := w.engine.Do(t.Context(), Job{ID: id, Account: ref})
		if err != nil || !slices.Equal(w.target.scripts(), want) || want == nil && (out.Reason != string(trust.Replayed) || len(w.target.applied) != 2) {
			t.Errorf("%s: %v ran: %+v, %v", name, w.target.scripts(), out, err)
		}
	}

	// Nor do those that were named after a run whose commit ended it.
	w := newWorld(t, false)
	id := seal.NewID()
	if out, err := w.run(id); err != nil || out.Credential != done {
		t.Fatalf("%+v, %v", out, err)
	}
	w.later(10 * time.Minute)
	w.useOnResource(nil, w.script("a", script.AfterRotation))
	w.vault.state[id] = "queued"
	if out, err := w.run(id); err != nil || len(w.target.ran) != 0 {
		t.Errorf("named since: %v ran: %+v, %v", w.target.scripts(), out, err)
	}
}

// A person has the scripts run, and nothing else.
func TestScriptsAlone(t *testing.T) {
	w := newWorld(t, false)
	w.useOnResource(nil, w.script("a", script.AfterRotation, `needs = ["admin", "secret"]`))
	order := func() (Outcome, error) {
		command := w.command(trustv1.Action_ACTION_RUN_SCRIPT, seal.NewID())
		w.vault.state[seal.ID(command.RunId)] = "queued"
		return w.engine.Do(t.Context(), Job{ID: seal.ID(command.RunId), Account: w.account, Command: command})
	}
	none := trustv1.Outcome_OUTCOME_NONE
	out, err := order()
	if err != nil || out.Credential != none || out.Scripts != done || out.Later {
		t.Fatalf("%+v, %v", out, err)
	}
	if len(w.target.applied)+w.target.logins > 0 || w.row().Staged != nil || w.target.secrets["app"] != "old" {
		t.Error("the secret was touched")
	}
	if r := w.target.ran[0]; r.secret != "old" || r.admin != "adminpw" {
		t.Error("it was not given the secret that is in use")
	}

	// What they are told of is the run that set the secret, once there was one.
	if out, err := w.rotate(); err != nil || out.Scripts != done {
		t.Fatalf("%+v, %v", out, err)
	}
	if out, err := order(); err != nil || out.Scripts != done {
		t.Fatalf("%+v, %v", out, err)
	}
	if ran := w.target.ran; len(ran) != 3 || ran[0].RunID == ran[1].RunID || ran[1].RunID != ran[2].RunID {
		t.Errorf("they were told of the runs %q, %q and %q", ran[0].RunID, ran[1].RunID, ran[2].RunID)
	}

	w.target.script = func(scriptRan) (sdk.AfterResponse, error) {
		return sdk.AfterResponse{Outcome: sdk.Unchanged, Reason: "x"}, nil
	}
	if out, err := order(); err != nil || out.Credential != none || out.Scripts != failed || out.Reason != trust.ScriptsFailed {
		t.Errorf("one that fails: %+v, %v", out, err)
	}
	w.target.ran = nil
	w.row().Staged = &ksm.ExtStaged{Owner: "agent"}
	if out, err := order(); err != nil || out.Credential != failed || out.Reason != string(trust.RunOutstanding) || len(w.target.ran) > 0 {
		t.Errorf("while the secret is being changed: %+v, %v", out, err)
	}
	w.row().Staged = nil
	w.vault.action = "script"
	if out, err := w.run(seal.NewID()); err != nil || out.Reason != string(trust.Malformed) || len(w.target.ran) > 0 {
		t.Errorf("without a person's command: %+v, %v", out, err)
	}
	w.vault.action = ""
	w.pinned = nil
	if out, err := order(); err != nil || out.Reason != string(trust.PinMismatch) || len(w.target.ran) > 0 {
		t.Errorf("not what the person saw: %+v, %v", out, err)
	}
	w.useOnResource(nil)
	if out, err := order(); err != nil || out.Scripts != none || out.Reason != "scripts.none" {
		t.Errorf("where there are none: %+v, %v", out, err)
	}
}

// A script in a plugin's place goes where its manifest says, with the pins of its resource,
// and its steps are told to nobody.
func TestScriptsAsPlugins(t *testing.T) {
	w := newWorld(t, false)
	rotator := w.script("rotator", script.Rotator, `hosts = ["resource", "log.test:514"]`, "[rotator]", `kinds = ["password"]`)
	dependent := w.script("dependent", script.Dependents, `hosts = ["parameters.at"]`, "[parameters.at]", `type = "address"`, `about = "x"`, "required = true")
	w.useOnResource(func(r *trustv1.Resource) {
		r.Plugin, r.Rotator, r.SshHostKeySha256 = trust.PluginLua, rotator, [][]byte{make([]byte, 32)}
	})
	other := w.other(func(r *trustv1.Resource) { r.SshHostKeySha256 = [][]byte{make([]byte, 32)} })
	w.pinned = append(w.pinned, other)
	admins := w.script("admins", script.Dependents, `needs = ["admin"]`)
	w.use(func(a *trustv1.Account) {
		a.Dependents = []*trustv1.Dependent{
			{Resource: other.Proto(), Plugin: trust.PluginLua, Script: dependent, Config: []byte(`{"at":"hook.test:443"}`)},
			{Resource: other.Proto(), Plugin: trust.PluginLua, Script: admins},
		}
	})
	var planned []pluginhost.Job
	var admin []string
	w.target.plan = func(j pluginhost.Job) ([]sdk.Step, error) {
		planned, admin = append(planned, j), append(admin, j.Admin.Secret.ExposeString())
		return []sdk.Step{{ID: "one"}}, nil
	}
	out, err := w.rotate()
	if err != nil || out.Credential != done || out.Dependents != done || !w.opens() {
		t.Fatalf("%+v, %v", out, err)
	}
	at := w.target.opened
	if !slices.Equal(at.Allow, []string{"db.test:5432", "log.test:514"}) || len(at.Pins) != 1 || len(at.Pins["db.test:5432"]) != 32 || at.Progress != nil {
		t.Errorf("the rotator may go to %v, with pins of %d", at.Allow, len(at.Pins))
	}
	if !slices.Equal(planned[0].Allow, []string{"hook.test:443"}) || len(planned[0].Pins) != 0 || !slices.Equal(admin, []string{"", "adminpw"}) {
		t.Errorf("the dependent may go to %v, with pins of %d; who has the administrator: %d", planned[0].Allow, len(planned[0].Pins), len(admin))
	}
	result, _ := w.detail()
	if len(result.ScriptSha256) != 3 || result.Scripts != trustv1.Outcome_OUTCOME_NONE {
		t.Errorf("the result names %d scripts, outcome %s", len(result.ScriptSha256), result.Scripts)
	}
}

// onResource is a command on a resource, with its pins.
func (w *world) onResource(action trustv1.Action, pins ...trust.Ref) *trust.Command {
	w.t.Helper()
	c := &trustv1.Command{
		Id: seal.NewID().Bytes(), AgentId: w.agent.id.Bytes(), Action: action,
		Issued: w.now.UnixMilli(), Expires: w.now.Add(2 * time.Minute).UnixMilli(),
	}
	for _, ref := range pins {
		c.Pins = append(c.Pins, &trustv1.Pin{Record: ref.Proto(), Digest: w.statements[ref].Bytes()})
	}
	frame, _, err := trust.SealCommand(w.log, w.device.id, w.device.sign, w.agent.keys, c, w.now)
	must(w.t, err)
	command, err := trust.OpenCommand(w.log, w.engine.Journal, w.agent.id, w.agent.seal, frame, w.now)
	must(w.t, err)
	return command
}

// The resource's administrator is tried by the script that rotates its accounts.
func TestOfAScriptedResource(t *testing.T) {
	w := newWorld(t, false)
	u := w.script("rotator", script.Rotator, `hosts = ["resource"]`, "[rotator]", `kinds = ["password"]`)
	w.useOnResource(func(r *trustv1.Resource) { r.Plugin, r.Rotator = trust.PluginLua, u })
	order := func() error {
		return w.engine.Test(t.Context(), w.onResource(trustv1.Action_ACTION_TEST, w.res, w.pinned[0]))
	}
	if err := order(); err != nil || w.target.opens != 1 || !slices.Equal(w.target.opened.Allow, []string{"db.test:5432"}) {
		t.Errorf("%v, %d sessions to %v", err, w.target.opens, w.target.opened.Allow)
	}
	u = w.scriptAt(w.pinned[0], scriptText("rotator", script.Rotator, `reveals = "everything"`, "[rotator]", `kinds = ["password"]`), nil)
	if err := order(); trust.ReasonOf(err) != trust.ScriptChanged || w.target.opens != 1 || len(w.told) != 0 {
		t.Errorf("one that was changed: %v, events %v", err, w.told)
	}
	w.useOnResource(func(r *trustv1.Resource) { r.Plugin, r.Rotator = trust.PluginLua, u })
	if err := order(); err != nil || len(w.told) != 1 || w.told[0].Name != "script.reveals" || w.told[0].Fields["why"] != "everything" || seal.ID(w.told[0].Record.Record) != w.res.Record {
		t.Errorf("one that may see secrets in clear: %v, events %v", err, w.told)
	}
}

// Of a script that may see secrets in clear is told, once for each run.
func TestScriptsThatReveal(t *testing.T) {
	w := newWorld(t, false)
	u := w.script("a", script.AfterRotation, `reveals = "The router takes its key in a form of its own"`)
	later := w.scriptAt(w.pinned[0], scriptText("a", script.AfterRotation, `reveals = "The router takes its key in a form of its own"`), nil)
	later.Order = 1
	w.use(nil, u, later)
	if out, err := w.rotate(); err != nil || out.Scripts != done || len(w.target.ran) != 2 {
		t.Fatalf("%+v, %v", out, err)
	}
	if len(w.told) != 1 || w.told[0].Name != "script.reveals" || w.told[0].Fields["sha256"] != fmt.Sprintf("%x", u.Sha256) || w.told[0].Fields["why"] != "The router takes its key in a form of its own" {
		t.Errorf("events %+v", w.told)
	}
}

// A plugin's code that is a secret is told to nobody.
func TestReasonsThatAreSecrets(t *testing.T) {
	w := newWorld(t, false)
	w.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: r.Candidate.Secret.ExposeString()}, nil
	}
	out, err := w.run(seal.NewID())
	if result, text := w.detail(); err != nil || out.Reason != string(trust.Malformed) || result.Reason != string(trust.Malformed) || strings.Contains(text, w.target.applied[0]) {
		t.Errorf("%s, %s, %v", out.Reason, result.Reason, err)
	}
	for _, signed := range w.row().Recent {
		if strings.Contains(string(signed), w.target.applied[0]) {
			t.Error("a result has the secret in it")
		}
	}
}

// A result has room for as many scripts as two statements can name.
func TestManyScripts(t *testing.T) {
	w := newWorld(t, false)
	began := time.Now()
	w.engine.Leases = NewLeases(func() time.Time { return time.Time{} }, func(int) {}, func() time.Time { return began }) // it takes long on a busy machine
	var a, r []*trustv1.ScriptUse
	for n := range trust.MaxScripts {
		a = append(a, w.script(fmt.Sprintf("a%d", n), script.AfterRotation))
		r = append(r, w.script(fmt.Sprintf("r%d", n), script.AfterRotation))
	}
	w.use(nil, a...)
	w.useOnResource(nil, r...)
	w.target.script = func(scriptRan) (sdk.AfterResponse, error) {
		return sdk.AfterResponse{Outcome: sdk.Changed, Output: strings.Repeat("é", sdk.MaxOutput/2)}, nil
	}
	out, err := w.rotate()
	must(t, err)
	if result, text := w.detail(); out.Scripts != done || len(result.ScriptSha256) != 2*trust.MaxScripts || len(w.vault.last.Result) > 32<<10 || len(text) > 80<<10 {
		t.Errorf("%+v, %v: %d scripts, %d bytes of result, %d of text", out.Scripts, err, len(result.ScriptSha256), len(w.vault.last.Result), len(text))
	}
}
