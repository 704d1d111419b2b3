package trust

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// What a statement must not say, whoever signs it.
func TestStatementForm(t *testing.T) {
	w := newWorld(t)
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
		{"script's record there, with READ alone", account(func(a *trustv1.Account) {
			u := proto.CloneOf(script)
			u.Records = []*trustv1.Ref{there}
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
