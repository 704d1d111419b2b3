package trust

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// What a statement must not say, whoever signs it.
func TestStatementForm(t *testing.T) {
	w := newWorld(t)
	use := func(edit func(*trustv1.ScriptUse)) *trustv1.ScriptUse {
		u := &trustv1.ScriptUse{Script: w.ref(id(111)).Proto(), Sha256: make([]byte, 32)}
		if edit != nil {
			edit(u)
		}
		return u
	}
	resource := func(edit func(*trustv1.Resource)) func(*trustv1.Statement) {
		return func(s *trustv1.Statement) {
			r := w.resource()
			edit(r.GetResource())
			s.Kind, s.Subject = r.Kind, r.Subject
		}
	}
	repeat := func(r *trustv1.Ref, n int) []*trustv1.Ref { return slices.Repeat([]*trustv1.Ref{r}, n) }
	scripted := func(u *trustv1.ScriptUse) func(*trustv1.Statement) {
		return resource(func(r *trustv1.Resource) { r.Plugin, r.Rotator = PluginLua, u })
	}
	dependent := func(plugin string, u *trustv1.ScriptUse) func(*trustv1.Statement) {
		return func(s *trustv1.Statement) {
			s.GetAccount().Dependents = []*trustv1.Dependent{{Resource: s.GetAccount().Resource, Plugin: plugin, Script: u}}
		}
	}
	after := func(u *trustv1.ScriptUse, n int) func(*trustv1.Statement) {
		return func(s *trustv1.Statement) { s.GetAccount().Scripts = slices.Repeat([]*trustv1.ScriptUse{u}, n) }
	}
	makes := func(kind string, u *trustv1.ScriptUse) func(*trustv1.Statement) {
		return func(s *trustv1.Statement) { s.GetAccount().SecretKind, s.GetAccount().Generator = kind, u }
	}
	finds := func(u *trustv1.ScriptUse) func(*trustv1.Statement) {
		return resource(func(r *trustv1.Resource) { r.Discoverer = u })
	}
	concurrency := func(n uint32) func(*trustv1.Statement) {
		return func(s *trustv1.Statement) {
			r := w.resource()
			r.GetResource().Concurrency = n
			s.Kind, s.Subject = r.Kind, r.Subject
		}
	}
	for _, row := range []struct {
		name string
		edit func(*trustv1.Statement)
		want Reason
	}{
		{"as it should be", func(s *trustv1.Statement) {}, ""},
		{"unknown field", func(s *trustv1.Statement) { s.ProtoReflect().SetUnknown([]byte{0xa0, 0x01, 1}) }, UnknownField},
		{"newer format", func(s *trustv1.Statement) { s.V = 2 }, UnknownField},
		{"seq zero", func(s *trustv1.Statement) { s.Seq = 0 }, Malformed},
		{"the first with a prev", func(s *trustv1.Statement) { s.Prev = make([]byte, 32) }, Malformed},
		{"short uid", func(s *trustv1.Statement) { s.RecordUid = s.RecordUid[:15] }, Malformed},
		{"zero folder", func(s *trustv1.Statement) { s.FolderUid = make([]byte, 16) }, Malformed},
		{"short key check", func(s *trustv1.Statement) { s.KeyCheck = s.KeyCheck[:31] }, Malformed},
		{"kind of another subject", func(s *trustv1.Statement) { s.Kind = trustv1.RecordKind_RECORD_KIND_SCRIPT }, Malformed},
		{"no subject", func(s *trustv1.Statement) { s.Subject = nil }, Malformed},
		{"no resource", func(s *trustv1.Statement) { s.GetAccount().Resource = nil }, Malformed},
		{"reference without a folder", func(s *trustv1.Statement) { s.GetAccount().Resource.FolderUid = nil }, Malformed},
		{"mandate under a minute", func(s *trustv1.Statement) { s.GetAccount().Mandate.MinIntervalS = 59 }, Malformed},
		{"mandate of 401 days", func(s *trustv1.Statement) {
			s.GetAccount().Mandate.ValidUntil = s.Issued + (401 * day).Milliseconds()
		}, Malformed},
		{"as many runs at once as there may be", concurrency(MaxConcurrency), ""},
		{"more runs at once than there may be", concurrency(MaxConcurrency + 1), Malformed},
		{"a rotator that is a script", scripted(use(nil)), ""},
		{"a script's plugin without a script", scripted(nil), Malformed},
		{"a script of another plugin", resource(func(r *trustv1.Resource) { r.Rotator = use(nil) }), Malformed},
		{"a rotator with parameters of its own", scripted(use(func(u *trustv1.ScriptUse) { u.Parameters = []byte(`{}`) })), Malformed},
		{"a rotator in an order", scripted(use(func(u *trustv1.ScriptUse) { u.Order = 1 })), Malformed},
		{"a rotator with further records", scripted(use(func(u *trustv1.ScriptUse) { u.Records = []*trustv1.Ref{u.Script} })), Malformed},
		{"a rotator with a name of one", scripted(use(func(u *trustv1.ScriptUse) { u.RecordNames = []string{"a"} })), Malformed},
		{"a rotator without its hash", scripted(use(func(u *trustv1.ScriptUse) { u.Sha256 = nil })), Malformed},
		{"a rotator without a script", scripted(use(func(u *trustv1.ScriptUse) { u.Script = nil })), Malformed},
		{"a dependent that is a script", dependent(PluginLua, use(nil)), ""},
		{"a dependent of the script's plugin without one", dependent(PluginLua, nil), Malformed},
		{"a dependent of another plugin with a script", dependent("ssh", use(nil)), Malformed},
		{"a dependent with parameters of its own", dependent(PluginLua, use(func(u *trustv1.ScriptUse) { u.Parameters = []byte(`{}`) })), Malformed},
		{"as many scripts as there may be", after(use(nil), MaxScripts), ""},
		{"more scripts than there may be", after(use(nil), MaxScripts+1), Malformed},
		{"more of them, with those of dependents", func(s *trustv1.Statement) {
			after(use(nil), MaxScripts)(s)
			dependent(PluginLua, use(nil))(s)
		}, Malformed},
		{"more of them, with the rotator", func(s *trustv1.Statement) {
			scripted(use(nil))(s)
			s.GetResource().Scripts = slices.Repeat([]*trustv1.ScriptUse{use(nil)}, MaxScripts)
		}, Malformed},
		{"more of them, with the generator", func(s *trustv1.Statement) {
			after(use(nil), MaxScripts)(s)
			makes("", use(nil))(s)
		}, Malformed},
		{"a generator", makes("", use(nil)), ""},
		{"a generator of tokens, with parameters", makes("token", use(func(u *trustv1.ScriptUse) { u.Parameters = []byte(`{"n":8}`) })), ""},
		{"a generator of key pairs", makes("ssh_key", use(nil)), Malformed},
		{"a generator of certificates", makes("certificate", use(nil)), Malformed},
		{"a generator without its hash", makes("", use(func(u *trustv1.ScriptUse) { u.Sha256 = nil })), Malformed},
		{"a generator in an order", makes("", use(func(u *trustv1.ScriptUse) { u.Order = 1 })), Malformed},
		{"a generator with further records", makes("", use(func(u *trustv1.ScriptUse) { u.Records = []*trustv1.Ref{u.Script} })), Malformed},
		{"a generator with parameters that are a list", makes("", use(func(u *trustv1.ScriptUse) { u.Parameters = []byte(`[]`) })), Malformed},
		{"a generator with a name of one", makes("", use(func(u *trustv1.ScriptUse) { u.RecordNames = []string{"a"} })), Malformed},
		{"a discoverer", finds(use(nil)), ""},
		{"a discoverer with parameters", finds(use(func(u *trustv1.ScriptUse) { u.Parameters = []byte(`{"prefix":"app"}`) })), ""},
		{"a discoverer without its hash", finds(use(func(u *trustv1.ScriptUse) { u.Sha256 = nil })), Malformed},
		{"a discoverer in an order", finds(use(func(u *trustv1.ScriptUse) { u.Order = 1 })), Malformed},
		{"a discoverer with further records", finds(use(func(u *trustv1.ScriptUse) { u.Records, u.RecordNames = repeat(u.Script, 1), []string{"a"} })), Malformed},
		{"a discoverer with parameters that are a list", finds(use(func(u *trustv1.ScriptUse) { u.Parameters = []byte(`[]`) })), Malformed},
		{"more scripts than there may be, with the discoverer", func(s *trustv1.Statement) {
			finds(use(nil))(s)
			s.GetResource().Scripts = slices.Repeat([]*trustv1.ScriptUse{use(nil)}, MaxScripts)
		}, Malformed},
		{"parameters", after(use(func(u *trustv1.ScriptUse) { u.Parameters = []byte(`{"unit":"app"}`) }), 1), ""},
		{"further records", after(use(func(u *trustv1.ScriptUse) { u.Records, u.RecordNames = repeat(u.Script, 2), []string{"a", "b_2"} }), 1), ""},
		{"a further record without a name", after(use(func(u *trustv1.ScriptUse) { u.Records, u.RecordNames = repeat(u.Script, 2), []string{"a"} }), 1), Malformed},
		{"a name of no further record", after(use(func(u *trustv1.ScriptUse) { u.RecordNames = []string{"a"} }), 1), Malformed},
		{"further records of one name", after(use(func(u *trustv1.ScriptUse) { u.Records, u.RecordNames = repeat(u.Script, 2), []string{"a", "a"} }), 1), Malformed},
		{"a further record of an odd name", after(use(func(u *trustv1.ScriptUse) { u.Records, u.RecordNames = repeat(u.Script, 1), []string{"A.b"} }), 1), Malformed},
		{"parameters that are a list", after(use(func(u *trustv1.ScriptUse) { u.Parameters = []byte(`["app"]`) }), 1), Malformed},
		{"parameters that are two objects", after(use(func(u *trustv1.ScriptUse) { u.Parameters = []byte(`{}{}`) }), 1), Malformed},
		{"parameters that are too long", after(use(func(u *trustv1.ScriptUse) {
			u.Parameters = fmt.Appendf(nil, `{"unit":%q}`, strings.Repeat("x", 64<<10))
		}), 1), Malformed},
		{"unknown verify mode", func(s *trustv1.Statement) { s.GetAccount().VerifyMode = "never" }, Malformed},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := w.account()
			row.edit(s)
			_, err := OpenStatement(w.log, w.signStatement(w.bob.device, s))
			wantReason(t, err, row.want)
			if row.want == Malformed {
				_, _, err = SignStatement(w.log, w.bob.device.sign, s)
				wantReason(t, err, Malformed)
			}
		})
	}
	signed, digest, err := SignStatement(w.log, w.bob.device.sign, w.account())
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenStatement(w.log, signed)
	if err != nil || s.Digest != digest || s.Signer.ID != w.bob.device.id {
		t.Errorf("%+v, %v", s, err)
	}
}

// 4.2 step 9: rights in the folder of everything that a statement names.
func TestCheckLinks(t *testing.T) {
	base := newWorld(t)
	g := id(61) // Dave's folder, which pool P reads; Bob has what the row says
	base.do(base.dave.device, NewFolderOps(base.org, g, base.dave.member, fixedKey(61))...)
	base.do(base.alice.device, GrantOp(g, base.p, Read))
	there := Ref{g, id(110)}.Proto()
	account := func(f func(a *trustv1.Account)) *trustv1.Statement {
		s := base.account()
		f(s.GetAccount())
		return s
	}
	resource := func(f func(r *trustv1.Resource)) *trustv1.Statement {
		s := base.resource()
		f(s.GetResource())
		return s
	}
	script := &trustv1.ScriptUse{Script: base.ref(id(111)).Proto(), Sha256: make([]byte, 32)}
	for _, row := range []struct {
		name string
		s    *trustv1.Statement
		bob  Roles // on g
		more ops   // by Alice
		want Reason
	}{
		{"all in one folder", base.account(), 0, nil, ""},
		{"resource there, with OPERATE", account(func(a *trustv1.Account) { a.Resource = there }), Operate, nil, ""},
		{"resource there, without", account(func(a *trustv1.Account) { a.Resource = there }), Read | Edit, nil, NotLinked},
		{"administrator there, with both", resource(func(r *trustv1.Resource) { r.AdminAccount = there }), Read | Operate, nil, ""},
		{"administrator there, with OPERATE alone", resource(func(r *trustv1.Resource) { r.AdminAccount = there }), Operate, nil, NotLinked},
		{"administrator there, without a role", resource(func(r *trustv1.Resource) { r.AdminAccount = there }), 0, nil, NotLinked},
		{"extra there, with OPERATE alone", resource(func(r *trustv1.Resource) { r.Extras = []*trustv1.Extra{{Name: "x", Account: there}} }), Operate, nil, NotLinked},
		{"jump host there, with OPERATE", resource(func(r *trustv1.Resource) { r.Via = there }), Operate, nil, ""},
		{"jump host there, with READ alone", resource(func(r *trustv1.Resource) { r.Via = there }), Read, nil, NotLinked},
		{"dependent there, with READ alone", account(func(a *trustv1.Account) { a.Dependents = []*trustv1.Dependent{{Resource: there, Plugin: "x"}} }), Read, nil, NotLinked},
		{"pair there, with READ alone", account(func(a *trustv1.Account) { a.PairAccount = there }), Read, nil, NotLinked},
		{"script, not approved", account(func(a *trustv1.Account) { a.Scripts = []*trustv1.ScriptUse{script} }), 0, nil, NotLinked},
		{"script, approved in the folder that uses it", account(func(a *trustv1.Account) { a.Scripts = []*trustv1.ScriptUse{script} }), 0, ops{GrantOp(base.folder, base.bob.member, AllRoles&^Admin)}, ""},
		{"a generator, not approved", account(func(a *trustv1.Account) { a.Generator = script }), 0, nil, NotLinked},
		{"a generator, approved", account(func(a *trustv1.Account) { a.Generator = script }), 0, ops{GrantOp(base.folder, base.bob.member, AllRoles&^Admin)}, ""},
		{"a rotator that is a script, not approved", resource(func(r *trustv1.Resource) { r.Plugin, r.Rotator = PluginLua, script }), 0, nil, NotLinked},
		{"a rotator that is a script, approved", resource(func(r *trustv1.Resource) { r.Plugin, r.Rotator = PluginLua, script }), 0, ops{GrantOp(base.folder, base.bob.member, AllRoles&^Admin)}, ""},
		{"a discoverer, not approved", resource(func(r *trustv1.Resource) { r.Discoverer = script }), 0, nil, NotLinked},
		{"a discoverer, approved", resource(func(r *trustv1.Resource) { r.Discoverer = script }), 0, ops{GrantOp(base.folder, base.bob.member, AllRoles&^Admin)}, ""},
		{"a dependent that is a script, not approved", account(func(a *trustv1.Account) {
			a.Dependents = []*trustv1.Dependent{{Resource: a.Resource, Plugin: PluginLua, Script: script}}
		}), 0, nil, NotLinked},
		{"a dependent there that is a script, approved here", account(func(a *trustv1.Account) {
			a.Dependents = []*trustv1.Dependent{{Resource: there, Plugin: PluginLua, Script: script}}
		}), Operate, ops{GrantOp(base.folder, base.bob.member, AllRoles&^Admin)}, ""},
		{"script there, approved there alone", account(func(a *trustv1.Account) {
			a.Scripts = []*trustv1.ScriptUse{{Script: there, Sha256: make([]byte, 32)}}
		}), Read | Edit | Operate | ApproveScript, nil, NotLinked},
		{"script's record there, with READ alone", account(func(a *trustv1.Account) {
			u := proto.CloneOf(script)
			u.Records, u.RecordNames = []*trustv1.Ref{there}, []string{"there"}
			a.Scripts = []*trustv1.ScriptUse{u}
		}), Read, ops{GrantOp(base.folder, base.bob.member, AllRoles&^Admin)}, NotLinked},
		{"the pool may not read there", account(func(a *trustv1.Account) { a.Resource = there }), Operate, ops{GrantOp(g, base.p, 0)}, NotLinked},
		{"the signer's right ended", base.account(), 0, ops{GrantOp(base.folder, base.bob.member, Read|Edit)}, NotLinked},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := base.fork(t)
			s := w.open(w.bob.device, row.s)
			w.do(w.alice.device, append(slices.Clone(row.more), GrantOp(g, w.bob.member, row.bob))...)
			wantReason(t, CheckLinks(w.log, s, w.p), row.want)
		})
	}
}
