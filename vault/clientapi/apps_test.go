package clientapi_test

import (
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
)

// appScene is an application of two folders, which is everybody's target.
type appScene struct {
	s             *server
	o             *orgtest.Org
	admin         *client
	prod, test    seal.ID
	app, appAlone seal.ID // of both folders; of none
	program       []byte  // a client of app
}

func newAppScene(t *testing.T) *appScene {
	t.Helper()
	sc := &appScene{s: newServer(t), o: orgtest.New(t, time.Now), program: random(64)}
	sc.prod, sc.test = sc.o.Folder(t), sc.o.Folder(t)
	sc.app, sc.appAlone = sc.o.App(t, "ci"), sc.o.App(t, "new")
	sc.o.Grant(t, sc.prod, sc.app, trust.Read)
	sc.o.Grant(t, sc.test, sc.app, trust.Read)
	sc.admin = sc.s.found(sc.o)
	pub := sc.o.Agent(t, "agent", sc.o.Pool(t, "pool")).Device
	sc.admin.catchUp()
	for _, app := range []seal.ID{sc.app, sc.appAlone} {
		sc.admin.must(sc.admin.write(&clientv1.WriteOp{Op: &clientv1.WriteOp_PutApp{PutApp: &clientv1.PutApp{AppId: app.Bytes(), AppData: random(50), OwnerPub: pub}}}))
	}
	sc.admin.must(sc.admin.write(sc.putKey(sc.o.Admin.ID), &clientv1.WriteOp{Op: &clientv1.WriteOp_PutAppClient{PutAppClient: &clientv1.PutAppClient{
		AppId: sc.app.Bytes(), ClientId: sc.program, Name: "runner", EncryptedAppKey: random(60), TokenExpires: time.Now().Add(time.Hour).UnixMilli(),
	}}}))
	return sc
}

func (sc *appScene) putKey(to seal.ID) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutAppKey{PutAppKey: &clientv1.PutAppKey{
		AppId: sc.app.Bytes(), RecipientId: to.Bytes(), Sealed: random(seal.SealOverhead + 32),
	}}}
}

// reaches says what of the application a party gets at.
func (sc *appScene) reaches(t *testing.T, c *client) map[string]bool {
	t.Helper()
	got := map[string]bool{}
	list, err := c.ListApps(t.Context(), connect.NewRequest(&clientv1.ListAppsRequest{}))
	ok(t, err)
	for _, a := range list.Msg.Apps {
		if string(a.AppId) == string(sc.app[:]) {
			got["sees"] = true
			got["its copy"] = len(a.SealedKey) > 0
			got["clients"] = len(a.Clients) > 0
			got["who holds the key"] = len(a.HolderIds) > 0
		}
	}
	missing, err := sc.admin.ListMissingKeys(t.Context(), connect.NewRequest(&clientv1.ListMissingKeysRequest{}))
	ok(t, err)
	for _, m := range missing.Msg.Missing {
		if string(m.AppId) == string(sc.app[:]) && string(m.RecipientId) == string(c.party.ID[:]) {
			got["is to be given the key"] = true
		}
	}
	try := func(what string, by *client, op *clientv1.WriteOp) {
		_, err := by.write(op)
		got[what] = err == nil
		if err != nil {
			refused(t, err, "not_allowed")
		}
	}
	try("is given the key", sc.admin, sc.putKey(c.party.ID))
	try("gives the key", c, sc.putKey(sc.o.Admin.ID))
	try("adds a client", c, &clientv1.WriteOp{Op: &clientv1.WriteOp_PutAppClient{PutAppClient: &clientv1.PutAppClient{
		AppId: sc.app.Bytes(), ClientId: random(64), Name: "mine", EncryptedAppKey: random(60), TokenExpires: time.Now().Add(time.Hour).UnixMilli(),
	}}})
	try("ends a client", c, &clientv1.WriteOp{Op: &clientv1.WriteOp_RemoveAppClient{RemoveAppClient: &clientv1.RemoveAppClient{AppId: sc.app.Bytes(), ClientId: sc.program}}})
	for what, is := range got {
		if !is {
			delete(got, what)
		}
	}
	return got
}

// An application's key opens all its folders: who may not share each of them gets nothing
// of it, and by no folder of his own.
func TestWhoReachesAnApplication(t *testing.T) {
	all := []string{"sees", "clients", "who holds the key", "is to be given the key", "is given the key", "gives the key", "adds a client", "ends a client"}
	for _, test := range []struct {
		name  string
		given func(t *testing.T, sc *appScene, member seal.ID)
		want  []string
	}{
		{"nobody", nil, nil},
		{"shares one folder", func(t *testing.T, sc *appScene, member seal.ID) { sc.o.Grant(t, sc.test, member, trust.Share) }, []string{"sees"}},
		{"shares both", func(t *testing.T, sc *appScene, member seal.ID) {
			sc.o.Grant(t, sc.test, member, trust.Share)
			sc.o.Grant(t, sc.prod, member, trust.Share)
		}, all},
		{"shares both, and it is given a third", func(t *testing.T, sc *appScene, member seal.ID) {
			sc.o.Grant(t, sc.test, member, trust.Share)
			sc.o.Grant(t, sc.prod, member, trust.Share)
			sc.o.Grant(t, sc.o.Folder(t), sc.app, trust.Read)
		}, []string{"sees"}},
		{"shares the one that is left", func(t *testing.T, sc *appScene, member seal.ID) {
			sc.o.Grant(t, sc.test, member, trust.Share)
			sc.o.Grant(t, sc.prod, sc.app, 0)
		}, []string{"sees"}},
		{"reads and edits both", func(t *testing.T, sc *appScene, member seal.ID) {
			sc.o.Grant(t, sc.test, member, trust.Read|trust.Edit|trust.Operate)
			sc.o.Grant(t, sc.prod, member, trust.Read|trust.Edit|trust.Operate)
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			sc := newAppScene(t)
			p := sc.o.Member(t, "member", 0)
			if test.given != nil {
				test.given(t, sc, p.Owner)
			}
			sc.admin.catchUp()
			got := sc.reaches(t, sc.s.signIn(sc.o, p))
			for _, what := range test.want {
				if !got[what] {
					t.Errorf("not: %s", what)
				}
				delete(got, what)
			}
			if len(got) > 0 {
				t.Errorf("also: %v", got)
			}
		})
	}
}

// A member makes a folder and grants it to somebody else's application, or to one that has
// none yet: neither the log nor the server takes that.
func TestOwnFolderForAnApplication(t *testing.T) {
	sc := newAppScene(t)
	p := sc.o.Member(t, "mallory", 0)
	sc.admin.catchUp()
	c := sc.s.signIn(sc.o, p)
	folder := seal.NewID()
	own := sc.o.Sign(t, p, trust.NewFolderOps(sc.o.ID, folder, p.Owner, seal.NewKey())...)
	ok(t, second(c.write(appendOp(own))))
	sc.o.Add(t, own)
	sc.s.sent[sc.o] = len(sc.o.Changes)
	for _, app := range []seal.ID{sc.app, sc.appAlone} {
		change := sc.o.Log.NewChange(p.ID, time.Now(), trust.GrantOp(folder, app, trust.Read))
		signed, _, err := trust.SignChange(sc.o.ID, change, p.Sign)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.write(appendOp(signed))
		refused(t, err, "log_signer")
	}
	if got := sc.reaches(t, c); len(got) > 0 {
		t.Errorf("he reaches %v", got)
	}
}
