package run

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// The jump hosts of a resource are signed like everything that aims a credential, and
// what the agent logs in with there reaches no plugin.
func TestJumpHosts(t *testing.T) {
	for name, c := range map[string]struct {
		bastion func(w *world, at trust.Ref, r *trustv1.Resource)
		pinned  bool
		class   sdk.Class // empty: it works
		reason  string
	}{
		"as its administrator": {func(*world, trust.Ref, *trustv1.Resource) {}, true, "", ""},
		"as its account jump": {func(w *world, _ trust.Ref, r *trustv1.Resource) {
			r.AdminAccount, r.Extras = nil, []*trustv1.Extra{{Name: trust.JumpExtra, Account: w.admin.Proto()}}
		}, true, "", ""},
		"not what the person saw": {func(*world, trust.Ref, *trustv1.Resource) {}, false, sdk.ClassInvalid, string(trust.PinMismatch)},
		"no ssh host": {func(_ *world, _ trust.Ref, r *trustv1.Resource) {
			r.Plugin = "postgres"
		}, true, sdk.ClassInvalid, "jump.plugin"},
		"of another pool": {func(w *world, _ trust.Ref, r *trustv1.Resource) {
			r.PoolId = seal.NewID().Bytes()
		}, true, sdk.ClassInvalid, string(trust.WrongPool)},
		"in a circle": {func(_ *world, at trust.Ref, r *trustv1.Resource) {
			r.Via = at.Proto()
		}, true, sdk.ClassInvalid, "jump.chain"},
		"nobody to log in as": {func(_ *world, _ trust.Ref, r *trustv1.Resource) {
			r.AdminAccount = nil
		}, true, sdk.ClassInvalid, "jump.login"},
	} {
		w := newWorld(t, false)
		at := w.ref()
		bastion := &trustv1.Resource{
			PoolId: w.pool.Bytes(), Plugin: "ssh", Host: "bastion.test", Port: 22,
			SshHostKeySha256: [][]byte{make([]byte, 32)}, AdminAccount: w.admin.Proto(),
		}
		c.bastion(w, at, bastion)
		w.put(at, "pamMachine", nil, &trustv1.Statement{Kind: trustv1.RecordKind_RECORD_KIND_RESOURCE, Subject: &trustv1.Statement_Resource{Resource: bastion}})
		behind := w.resource()
		behind.AdminAccount, behind.Via = w.admin.Proto(), at.Proto()
		behind.Extras = []*trustv1.Extra{{Name: trust.JumpExtra, Account: w.admin.Proto()}}
		w.putResource(behind)
		if c.pinned {
			w.pinned = []trust.Ref{at}
		}
		command := w.command(trustv1.Action_ACTION_ROTATE, seal.NewID())
		out, err := w.engine.Do(t.Context(), Job{ID: seal.ID(command.RunId), Account: w.account, Command: command})
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case c.reason == "" && (out.Credential != done || !w.opens()):
			t.Errorf("%s: %+v", name, out)
		case c.reason == "" && (w.target.opened.Way == [32]byte{} || w.target.opened.Dial == nil || len(w.target.opened.Allow) != 1 || len(w.target.extras) != 0):
			t.Errorf("%s: the session was opened straight on, or the plugin knows of the jump host: %+v, %d extras", name, w.target.opened.Allow, len(w.target.extras))
		case c.reason != "" && (out.Credential != failed || out.Class != c.class || out.Reason != c.reason || w.target.opens > 0):
			t.Errorf("%s: %+v, %d sessions", name, out, w.target.opens)
		}
	}
}

// A script's connections go by the way of the place that they are for, also where a driver dials
// again what a name led to: never straight, where another machine may have that address.
func TestScriptBehindJumpHosts(t *testing.T) {
	var by string
	to := func(name, leads string) pluginhost.DialFunc {
		return func(context.Context, string, string) (net.Conn, error) {
			by = name
			return ledTo{address: leads}, nil
		}
	}
	dial := dialPlaces([]string{"db.inner:5432", "API.test.:443"}, map[string]place{
		"db.inner:5432": {way: way{dial: to("bastion", "10.0.0.5:5432")}},
		"db.other:5432": {way: way{dial: to("another", "10.0.0.5:5432")}},
	}, to("straight", "192.0.2.7:443"))
	for _, c := range []struct{ address, by string }{
		{"10.0.0.5:5432", ""}, // nobody was led there yet
		{"db.inner:5432", "bastion"},
		{"10.0.0.5:5432", "bastion"},
		{"api.test:443", "straight"}, // a parameter's
		{"192.0.2.7:443", "straight"},
		{"API.test:0443", "straight"},
		{"10.0.0.6:5432", ""},
		{"db.other:5432", "another"},
		{"10.0.0.5:5432", ""}, // which of the two?
		{"db.inner:5432", "bastion"},
		{"10.0.0.5:5432", ""},
	} {
		by = ""
		_, err := dial(t.Context(), "tcp", c.address)
		if by != c.by || (err != nil) != (c.by == "") {
			t.Errorf("%s: by %q, %v; want by %q", c.address, by, err, c.by)
		}
	}
}

// ledTo is a connection to an address.
type ledTo struct {
	net.Conn
	address string
}

func (l ledTo) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(l.address))
}
