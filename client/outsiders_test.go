package client

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// history is a log that grows, with two folders, a member with a device, a pool with an
// agent, and an application.
type history struct {
	t       *testing.T
	now     time.Time
	log     *trust.Log
	changes [][]byte
	admin   seal.ID
	sign    ed25519.PrivateKey

	f, g, bob, phone, pool, agent, app, token seal.ID
	names                                     map[seal.ID]string
}

func newHistory(t *testing.T) *history {
	t.Helper()
	h := &history{
		t: t, now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), admin: seal.NewID(),
		f: seal.NewID(), g: seal.NewID(), bob: seal.NewID(), phone: seal.NewID(), pool: seal.NewID(), agent: seal.NewID(), app: seal.NewID(),
	}
	h.names = map[seal.ID]string{h.f: "f", h.g: "g"}
	var root, sign ed25519.PrivateKey
	for _, k := range []*ed25519.PrivateKey{&root, &sign} {
		_, key, err := ed25519.GenerateKey(nil)
		h.must(err)
		*k = key
	}
	h.sign = sign
	ada := seal.NewID()
	org, changes, err := trust.NewOrganisation(trust.Founding{
		Root: root, RecoveryID: seal.NewID(), RecoveryKeys: h.keys(false), MemberID: ada, MemberName: "Ada", Device: h.party(h.admin, KindDevice, ada, "laptop", sign),
	}, h.now)
	h.must(err)
	h.log = trust.NewLog(org)
	for _, c := range changes {
		_, err := h.log.Append(c, h.now)
		h.must(err)
	}
	h.changes = changes
	h.do(trust.NewFolderOps(org, h.f, ada, seal.NewKey())...)
	h.do(trust.NewFolderOps(org, h.g, ada, seal.NewKey())...)
	h.do(
		trust.PutOp(&trustv1.Entry{EntryId: h.bob.Bytes(), Kind: KindMember, Name: "Bob", V: trust.Version}), h.put(h.phone, KindDevice, h.bob, "phone"),
		trust.PutOp(&trustv1.Entry{EntryId: h.pool.Bytes(), Kind: KindPool, Name: "dc1", V: trust.Version}), h.put(h.agent, KindAgent, h.pool, "gw1"),
		trust.PutOp(&trustv1.Entry{EntryId: h.app.Bytes(), Kind: KindApp, Name: "terraform", V: trust.Version, AppCheck: make([]byte, 32)}),
		trust.GrantOp(h.f, h.bob, Read|Share), trust.GrantOp(h.g, h.pool, Read), trust.GrantOp(h.f, h.app, Read),
	)
	return h
}

func (h *history) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) keys(agent bool) []byte {
	h.t.Helper()
	k, err := seal.GenerateSealKey()
	h.must(err)
	if !agent {
		return trust.EncodeKeys(k.Public(), nil)
	}
	d, err := seal.GenerateDeviceKey()
	h.must(err)
	pub, err := seal.DevicePub(d)
	h.must(err)
	return trust.EncodeKeys(k.Public(), pub)
}

func (h *history) party(id seal.ID, kind trustv1.EntryKind, owner seal.ID, name string, sign ed25519.PrivateKey) *trustv1.Entry {
	e := &trustv1.Entry{
		EntryId: id.Bytes(), Kind: kind, Name: name, OwnerId: owner.Bytes(), V: trust.Version, SignPub: sign.Public().(ed25519.PublicKey),
		KeysDigest: seal.Hash(h.keys(kind == KindAgent)).Bytes(),
	}
	if kind == KindDevice {
		e.NotAfter, e.Roles = h.now.Add(300*24*time.Hour).UnixMilli(), uint32(trust.AllRoles)
	}
	return e
}

func (h *history) put(id seal.ID, kind trustv1.EntryKind, owner seal.ID, name string) *trustv1.Op {
	_, key, err := ed25519.GenerateKey(nil)
	h.must(err)
	return trust.PutOp(h.party(id, kind, owner, name, key))
}

func (h *history) do(ops ...*trustv1.Op) {
	h.t.Helper()
	signed, _, err := trust.SignChange(h.log.Org(), h.log.NewChange(h.admin, h.now, ops...), h.sign)
	h.must(err)
	_, err = h.log.Append(signed, h.now)
	h.must(err)
	h.changes = append(h.changes, signed)
}

func (h *history) unattended(owner seal.ID) *trustv1.Op {
	h.token = seal.NewID()
	put := trust.NewEnrolment(h.token, seal.NewKey(), KindAgent, owner, "gw2", 0, h.now.Add(time.Hour))
	put.Unattended = true
	return trust.PutOp(put)
}

func (h *history) rekey(folder seal.ID) {
	h.t.Helper()
	state, _ := h.log.Folder(folder)
	h.do(trust.FolderOp(h.log.Org(), folder, state.Version+1, seal.NewKey()))
}

// outsiders in words: name, the change after the common ones that shut him out, and each
// folder with the change whose key he does not know.
func (h *history) outsiders() string {
	h.t.Helper()
	r := replay{log: trust.NewLog(h.log.Org())}
	for _, c := range h.changes {
		h.must(r.add(c, h.now))
	}
	const common = 4 // the last change that every history has
	c := &Client{log: h.log}
	var out []string
	for _, o := range c.stillOutside(r.found) {
		text := fmt.Sprintf("%s@%d", o.Name, o.Epoch-common)
		slices.SortFunc(o.Folders, func(a, b OutsideFolder) int { return strings.Compare(h.names[a.UID], h.names[b.UID]) })
		for _, f := range o.Folders {
			since := "known"
			if f.Rekeyed > 0 {
				since = fmt.Sprint(f.Rekeyed - common)
			}
			text += " " + h.names[f.UID] + ":" + since
		}
		if len(o.Apps) > 0 {
			text += " apps"
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// Who is outside, of what, since when: the log's word alone.
func TestOutsiders(t *testing.T) {
	for _, row := range []struct {
		name string
		do   func(h *history)
		want string
	}{
		{"nobody", func(*history) {}, ""},
		{"a re-keying by itself", func(h *history) { h.rekey(h.f) }, ""},
		{"a member", func(h *history) { h.do(trust.RemoveOp(h.bob)) }, "Bob@1 f:known apps"},
		{"a member, and what he knew is re-keyed", func(h *history) { h.do(trust.RemoveOp(h.bob)); h.rekey(h.g); h.rekey(h.f); h.rekey(h.f) }, "Bob@1 f:3 apps"},
		{"re-keyed before", func(h *history) { h.rekey(h.f); h.do(trust.RemoveOp(h.bob)) }, "Bob@2 f:known apps"},
		{"a device", func(h *history) { h.do(trust.RemoveOp(h.phone)) }, "Bob / phone@1 f:known apps"},
		{"a device, then its member, who has no other", func(h *history) { h.do(trust.RemoveOp(h.phone)); h.do(trust.RemoveOp(h.bob)) }, "Bob / phone@1 f:known apps; Bob@2"},
		{"an agent", func(h *history) { h.do(trust.RemoveOp(h.agent)) }, "dc1 / gw1@1 g:known"},
		{"a pool", func(h *history) { h.do(trust.RemoveOp(h.pool)) }, "dc1@1 g:known"},
		{"a pool's grant", func(h *history) { h.do(trust.GrantOp(h.g, h.pool, 0)) }, "dc1@1 g:known"},
		{"an application", func(h *history) { h.do(trust.RemoveOp(h.app)) }, "terraform@1 f:known"},
		{"an application whose key a member held", func(h *history) { h.do(trust.RemoveOp(h.bob)); h.do(trust.RemoveOp(h.app)) }, "Bob@1 f:known; terraform@2 f:known"},
		{"a grant that is withdrawn", func(h *history) { h.do(trust.GrantOp(h.f, h.bob, 0)) }, "Bob@1 f:known apps"},
		{"and given again", func(h *history) { h.do(trust.GrantOp(h.f, h.bob, 0)); h.do(trust.GrantOp(h.f, h.bob, Read)) }, ""},
		{"a grant that is lessened", func(h *history) { h.do(trust.GrantOp(h.f, h.bob, Read)) }, ""},
		{"withdrawn, re-keyed, then removed", func(h *history) {
			h.do(trust.GrantOp(h.f, h.bob, 0))
			h.rekey(h.f)
			h.do(trust.RemoveOp(h.bob))
		}, "Bob@1 f:2 apps; Bob@3"},
		{"removal and new key in one change", func(h *history) {
			h.do(trust.RemoveOp(h.bob), trust.FolderOp(h.log.Org(), h.f, 2, seal.NewKey()))
		}, "Bob@1 f:known apps"}, // whether he was given it is not clear: it is taken to be known
		{"lessened, then withdrawn", func(h *history) { h.do(trust.GrantOp(h.f, h.bob, Read)); h.do(trust.GrantOp(h.f, h.bob, 0)) }, "Bob@1 apps; Bob@2 f:known"},
		{"an application that is given a folder which a holder of its key may not read", func(h *history) { h.do(trust.GrantOp(h.g, h.app, Read)) }, "Bob@1 apps"},
		{"and which he may read", func(h *history) { h.do(trust.GrantOp(h.g, h.bob, Read)); h.do(trust.GrantOp(h.g, h.app, Read)) }, ""},
		{"and share", func(h *history) { h.do(trust.GrantOp(h.g, h.bob, Share)); h.do(trust.GrantOp(h.g, h.app, Read)) }, ""},
		{"an unattended token", func(h *history) { h.do(h.unattended(h.pool)); h.do(trust.RemoveOp(h.token)) }, "dc1 / gw2@2 g:known"},
		{"an unattended token, and what it opened is re-keyed", func(h *history) { h.do(h.unattended(h.pool)); h.do(trust.RemoveOp(h.token)); h.rekey(h.g) }, "dc1 / gw2@2 g:3"},
		{"an unattended token, void since its maker's device is removed", func(h *history) { h.do(h.unattended(h.pool)); h.do(trust.RemoveOp(h.admin)) }, "Ada / laptop@2 f:known g:known apps; dc1 / gw2@2 g:known"},
		{"a pool's grant, of which there was an unattended token alone", func(h *history) {
			dc2 := seal.NewID()
			h.do(trust.PutOp(&trustv1.Entry{EntryId: dc2.Bytes(), Kind: KindPool, Name: "dc2", V: trust.Version}), trust.GrantOp(h.f, dc2, Read))
			h.do(h.unattended(dc2))
			h.do(trust.GrantOp(h.f, dc2, 0))
		}, "dc2@3 f:known"},
		{"a token", func(h *history) {
			id := seal.NewID()
			h.do(trust.PutOp(trust.NewEnrolment(id, seal.NewKey(), KindDevice, h.bob, "tablet", trust.AllRoles, h.now.Add(time.Hour))))
			h.do(trust.RemoveOp(id))
		}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newHistory(t)
			row.do(h)
			if got := h.outsiders(); got != row.want {
				t.Errorf("outside: %q, want %q", got, row.want)
			}
		})
	}
}
