package client

import (
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Whoever edits a statement signs nothing that its signer had no right to name: that is
// left out, and all else stays.
func TestEditsLeaveOutWhatIsNotLinked(t *testing.T) {
	folder := seal.NewID()
	mine, theirs := Ref{Folder: folder, Record: seal.NewID()}, Ref{Folder: seal.NewID(), Record: seal.NewID()}
	unlinked := func(as ...string) (list []trust.Reference) {
		for _, a := range as {
			list = append(list, trust.Reference{Ref: theirs, As: a})
		}
		return list
	}
	script := &trustv1.ScriptUse{Script: mine.Proto(), Records: []*trustv1.Ref{theirs.Proto()}}
	hosted := &trustv1.ScriptUse{Script: theirs.Proto()}
	account := func(change func(*trustv1.Account)) *trustv1.Statement {
		a := &trustv1.Account{
			Resource: theirs.Proto(), Login: "root", PairAccount: theirs.Proto(), Scripts: []*trustv1.ScriptUse{script},
			Dependents: []*trustv1.Dependent{{Resource: mine.Proto()}, {Resource: theirs.Proto()}, {Resource: mine.Proto(), Script: hosted}},
		}
		change(a)
		return &trustv1.Statement{Subject: &trustv1.Statement_Account{Account: a}}
	}
	resource := func(change func(*trustv1.Resource)) *trustv1.Statement {
		r := &trustv1.Resource{
			Host: "db", Via: theirs.Proto(), AdminAccount: theirs.Proto(), Scripts: []*trustv1.ScriptUse{script}, Rotator: hosted,
			Extras: []*trustv1.Extra{{Name: "a", Account: mine.Proto()}, {Name: "b", Account: theirs.Proto()}},
		}
		change(r)
		return &trustv1.Statement{Subject: &trustv1.Statement_Resource{Resource: r}}
	}
	asIs := account(func(*trustv1.Account) {})
	resourceAsIs := resource(func(*trustv1.Resource) {})
	for _, row := range []struct {
		name     string
		unlinked []trust.Reference
		is, want *trustv1.Statement
	}{
		{"an account, all linked", nil, asIs, asIs},
		{"its resource", unlinked("resource"), asIs, account(func(a *trustv1.Account) { a.Resource = nil })},
		{"its pair", unlinked("pair"), asIs, account(func(a *trustv1.Account) { a.PairAccount = nil })},
		{"a dependent", unlinked("dependent"), asIs, account(func(a *trustv1.Account) { a.Dependents = slices.Delete(a.Dependents, 1, 2) })},
		{"a dependent's script", unlinked("script"), asIs, account(func(a *trustv1.Account) { a.Dependents = a.Dependents[:2] })},
		{"a script's record", unlinked("record"), asIs, account(func(a *trustv1.Account) { a.Scripts = nil })},
		{"a resource, all linked", nil, resourceAsIs, resourceAsIs},
		{"its administrator", unlinked("administrator"), resourceAsIs, resource(func(r *trustv1.Resource) { r.AdminAccount = nil })},
		{"its jump host", unlinked("via"), resourceAsIs, resource(func(r *trustv1.Resource) { r.Via = nil })},
		{"its rotator", unlinked("script"), resourceAsIs, resource(func(r *trustv1.Resource) { r.Rotator = nil })},
		{"an extra", unlinked("extra"), resourceAsIs, resource(func(r *trustv1.Resource) { r.Extras = r.Extras[:1] })},
		{"a script", []trust.Reference{{Ref: mine, As: "script"}}, resourceAsIs, resource(func(r *trustv1.Resource) { r.Scripts = nil })},
	} {
		t.Run(row.name, func(t *testing.T) {
			o := &opened{Record: &Record{Statement: row.is, Unlinked: row.unlinked}}
			if row.is.GetAccount() != nil {
				if got := accountOf(o); !proto.Equal(got, row.want.GetAccount()) {
					t.Errorf("the edit begins with %v, want %v", got, row.want.GetAccount())
				}
				return
			}
			if got := resourceOf(o); !proto.Equal(got, row.want.GetResource()) {
				t.Errorf("the edit begins with %v, want %v", got, row.want.GetResource())
			}
		})
	}
}

// A record that is not linked still tells what its value is worth by itself.
func TestValueOfUnlinked(t *testing.T) {
	e := newEstate(t)
	ctx := t.Context()
	c := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
	for _, want := range []ValueState{EditedOutside, NotLinked} {
		if want == NotLinked { // who rotates it may not read the resource any more
			e.must(c.Grant(ctx, e.folder, e.vault.pool, 0))
		}
		list, err := c.Get(ctx, e.account)
		e.must(err)
		r := list[0]
		if state, reason := r.ValueState(); r.State != want || state != EditedOutside || reason != string(trust.ValueUnattested) {
			t.Errorf("%s (%s), its value is %s (%s)", r.State, r.Reason, state, reason)
		}
	}
}
