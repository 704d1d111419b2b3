// Package orgtest makes organisations for the vault's tests: a real log, signed
// by real keys, with whatever parties and folders a test needs.
package orgtest

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Org is an organisation as its administrator's client holds it.
type Org struct {
	ID      seal.Digest
	Root    ed25519.PrivateKey
	Log     *trust.Log
	Changes [][]byte
	Admin   *Party // device of the first administrator
	Keys    map[seal.ID][]byte
	Folders map[seal.ID]seal.Key

	now func() time.Time
}

// Party is a device or an agent.
type Party struct {
	ID     seal.ID
	Owner  seal.ID // member or pool
	Sign   ed25519.PrivateKey
	Seal   *seal.SealKey
	Device []byte // an agent's P-256 point
	// DeviceKey is its private half, by which an agent signs its requests.
	DeviceKey *ecdsa.PrivateKey
	Keys      []byte // encoded
}

// New founds an organisation.
func New(t testing.TB, now func() time.Time) *Org {
	t.Helper()
	o := &Org{Keys: map[seal.ID][]byte{}, Folders: map[seal.ID]seal.Key{}, now: now}
	o.Root = signKey(t)
	o.Admin = o.party(t, false)
	o.Admin.Owner = seal.NewID()
	recovery := o.party(t, false)
	o.Keys[recovery.ID] = recovery.Keys
	o.Keys[o.Admin.ID] = o.Admin.Keys
	var err error
	o.ID, o.Changes, err = trust.NewOrganisation(trust.Founding{
		Root: o.Root, RecoveryID: recovery.ID, RecoveryKeys: recovery.Keys, MemberID: o.Admin.Owner, MemberName: "Ada",
		Device: &trustv1.Entry{
			EntryId: o.Admin.ID.Bytes(), Name: "ada's laptop", SignPub: o.Admin.Sign.Public().(ed25519.PublicKey),
			KeysDigest: seal.Hash(o.Admin.Keys).Bytes(), NotAfter: now().Add(trust.MaxDeviceAge).UnixMilli(),
		},
	}, now())
	must(t, err)
	o.Log = trust.NewLog(o.ID)
	for _, c := range o.Changes {
		_, err := o.Log.Append(c, now())
		must(t, err)
	}
	return o
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func signKey(t testing.TB) ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return key
}

func (o *Org) party(t testing.TB, agent bool) *Party {
	p := &Party{ID: seal.NewID(), Sign: signKey(t)}
	var err error
	p.Seal, err = seal.GenerateSealKey()
	must(t, err)
	if agent {
		p.DeviceKey, err = seal.GenerateDeviceKey()
		must(t, err)
		p.Device, err = seal.DevicePub(p.DeviceKey)
		must(t, err)
	}
	p.Keys = trust.EncodeKeys(p.Seal.Public(), p.Device)
	return p
}

// Sign signs ops as the next change without adding it to the organisation's log.
func (o *Org) Sign(t testing.TB, by *Party, ops ...*trustv1.Op) []byte {
	t.Helper()
	signed, _, err := trust.SignChange(o.ID, o.Log.NewChange(by.ID, o.now(), ops...), by.Sign)
	must(t, err)
	return signed
}

// Change signs ops as the administrator and adds them.
func (o *Org) Change(t testing.TB, ops ...*trustv1.Op) []byte {
	t.Helper()
	return o.ChangeBy(t, o.Admin, ops...)
}

// ChangeBy signs ops as somebody and adds them.
func (o *Org) ChangeBy(t testing.TB, by *Party, ops ...*trustv1.Op) []byte {
	t.Helper()
	signed := o.Sign(t, by, ops...)
	o.Add(t, signed)
	return signed
}

// Add adds a signed change.
func (o *Org) Add(t testing.TB, signed []byte) {
	t.Helper()
	_, err := o.Log.Append(signed, o.now())
	must(t, err)
	o.Changes = append(o.Changes, signed)
}

// Member adds a member with roles on every folder and one device.
func (o *Org) Member(t testing.TB, name string, roles trust.Roles) *Party {
	t.Helper()
	p := o.party(t, false)
	p.Owner = seal.NewID()
	ops := []*trustv1.Op{trust.PutOp(&trustv1.Entry{
		EntryId: p.Owner.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_MEMBER, Name: name, V: trust.Version,
	})}
	if roles != 0 {
		ops = append(ops, trust.GrantOp(seal.ID{}, p.Owner, roles))
	}
	ops = append(ops, trust.PutOp(&trustv1.Entry{
		EntryId: p.ID.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_DEVICE, Name: name + "'s device", OwnerId: p.Owner.Bytes(), V: trust.Version,
		SignPub: p.Sign.Public().(ed25519.PublicKey), KeysDigest: seal.Hash(p.Keys).Bytes(),
		NotAfter: o.now().Add(trust.MaxDeviceAge).UnixMilli(), Roles: uint32(trust.AllRoles),
	}))
	o.Change(t, ops...)
	o.Keys[p.ID] = p.Keys
	return p
}

// Pool adds a pool.
func (o *Org) Pool(t testing.TB, name string) seal.ID {
	t.Helper()
	return o.plain(t, trustv1.EntryKind_ENTRY_KIND_POOL, name, nil)
}

// App adds a machine application.
func (o *Org) App(t testing.TB, name string) seal.ID {
	t.Helper()
	return o.plain(t, trustv1.EntryKind_ENTRY_KIND_APP, name, seal.Hash([]byte(name)).Bytes())
}

func (o *Org) plain(t testing.TB, kind trustv1.EntryKind, name string, check []byte) seal.ID {
	t.Helper()
	id := seal.NewID()
	o.Change(t, trust.PutOp(&trustv1.Entry{EntryId: id.Bytes(), Kind: kind, Name: name, AppCheck: check, V: trust.Version}))
	return id
}

// Agent adds an agent to a pool.
func (o *Org) Agent(t testing.TB, name string, pool seal.ID) *Party {
	t.Helper()
	p := o.party(t, true)
	p.Owner = pool
	o.Change(t, trust.PutOp(&trustv1.Entry{
		EntryId: p.ID.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_AGENT, Name: name, OwnerId: pool.Bytes(), V: trust.Version,
		SignPub: p.Sign.Public().(ed25519.PublicKey), KeysDigest: seal.Hash(p.Keys).Bytes(),
	}))
	o.Keys[p.ID] = p.Keys
	return p
}

// Folder adds a folder of the administrator's.
func (o *Org) Folder(t testing.TB) seal.ID {
	t.Helper()
	folder, key := seal.NewID(), seal.NewKey()
	o.Change(t, trust.NewFolderOps(o.ID, folder, o.Admin.Owner, key)...)
	o.Folders[folder] = key
	return folder
}

// Grant lets a member, pool or app do something in a folder.
func (o *Org) Grant(t testing.TB, folder, to seal.ID, roles trust.Roles) {
	t.Helper()
	o.Change(t, trust.GrantOp(folder, to, roles))
}

// Enrolment is an open enrolment and its token's seed.
type Enrolment struct {
	Entry trust.Entry
	Seed  seal.Key
}

// Enrolment adds an enrolment.
func (o *Org) Enrolment(t testing.TB, target trustv1.EntryKind, owner seal.ID) Enrolment {
	t.Helper()
	return o.enrolment(t, target, owner, false)
}

// Unattended adds an enrolment whose token carries folder keys.
func (o *Org) Unattended(t testing.TB, target trustv1.EntryKind, owner seal.ID) Enrolment {
	t.Helper()
	return o.enrolment(t, target, owner, true)
}

func (o *Org) enrolment(t testing.TB, target trustv1.EntryKind, owner seal.ID, unattended bool) Enrolment {
	t.Helper()
	id, seed := seal.NewID(), seal.NewKey()
	roles := trust.Roles(0)
	if target == trustv1.EntryKind_ENTRY_KIND_DEVICE {
		roles = trust.AllRoles
	}
	put := trust.NewEnrolment(id, seed, target, owner, "new", roles, o.now().Add(trust.DefaultEnrolmentAge))
	put.Unattended = unattended
	o.Change(t, trust.PutOp(put))
	e, ok := o.Log.Entry(id)
	if !ok {
		t.Fatal("the enrolment is not in the log")
	}
	return Enrolment{e, seed}
}

// Join signs the change by which a new party takes an enrolment's place.
func (o *Org) Join(t testing.TB, e Enrolment) (*Party, []byte) {
	t.Helper()
	p := o.party(t, e.Entry.TargetKind == trustv1.EntryKind_ENTRY_KIND_AGENT)
	p.ID, p.Owner = e.Entry.ID, e.Entry.Owner
	put := trust.Successor(e.Entry, p.Sign.Public().(ed25519.PublicKey), p.Keys, o.now().Add(trust.MaxDeviceAge))
	change := o.Log.NewChange(e.Entry.ID, o.now(), trust.PutOp(put))
	signed, _, err := trust.SignChange(o.ID, change, seal.EnrolSignKey(e.Seed), p.Sign)
	must(t, err)
	return p, signed
}
