package client

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net/http/httptrace"
	"slices"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// MinPassphrase is the least length of a passphrase, in bytes.
const MinPassphrase = 8

// InitOptions make an organisation.
type InitOptions struct {
	Server        string      // host:port
	CAPin         seal.Digest // SHA-256 of the server CA's public key info; zero: the system's authorities
	SetupCode     sdk.Secret
	Member        string // name of the first administrator
	Device        string // name of this device
	Passphrase    sdk.Secret
	KitPassphrase sdk.Secret
	KitRecipients []string // age public keys whose owners open the kit's file, in place of a passphrase
	MaxAgeDays    uint32   // of the log's freshness; 0: 180
	ClientVersion string
	Now           func() time.Time // nil: time.Now
	// KeepKit stores the kit durably. It is called before the server hears of the
	// organisation: one without a kit would have lost its root.
	KeepKit func(Kit) error
}

// InitOrganisation makes the organisation's keys, its first two changes and
// this profile's device. The root key is in the kit alone when it returns.
// Kit and keys are on the disk before the server hears of them. Where no answer
// comes (reason no_answer), both may be of an organisation that is there: they stay.
// After every other error there is none, and the kit that was kept opens nothing.
func (p *Profile) InitOrganisation(ctx context.Context, o InitOptions) (Kit, error) {
	const op = "make the organisation"
	if err := p.free(op); err != nil {
		return Kit{}, err
	}
	if o.Member == "" || o.Device == "" || o.Passphrase.Len() < MinPassphrase || len(o.KitRecipients) == 0 && o.KitPassphrase.Len() < MinPassphrase {
		return Kit{}, invalid(op, "it needs the names of member and device, and passphrases of at least %d bytes", MinPassphrase)
	}
	if o.KeepKit == nil {
		return Kit{}, invalid(op, "the recovery kit is to be kept before the organisation is made: KeepKit")
	}
	to, err := openers(o.KitPassphrase, o.KitRecipients)
	if err != nil {
		return Kit{}, invalid(op, "the kit's recipients: %v", err)
	}
	if o.MaxAgeDays == 0 {
		o.MaxAgeDays = trust.DefaultAgeDays
	}
	_, root, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Kit{}, fail(op, err)
	}
	defer clear(root)
	recovery, err := seal.GenerateSealKey()
	if err != nil {
		return Kit{}, fail(op, err)
	}
	keys, err := enrol.MakeKeys(KindDevice)
	if err != nil {
		return Kit{}, fail(op, err)
	}
	public, err := keys.Public()
	if err != nil {
		return Kit{}, fail(op, err)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	now := o.Now()
	deviceID, recoveryID, memberID := seal.NewID(), seal.NewID(), seal.NewID()
	recoveryKeys := trust.EncodeKeys(recovery.Public(), nil)
	org, changes, err := trust.NewOrganisation(trust.Founding{
		Root: root, RecoveryID: recoveryID, RecoveryKeys: recoveryKeys, MemberID: memberID, MemberName: o.Member,
		Device: &trustv1.Entry{
			EntryId: deviceID.Bytes(), Name: o.Device, SignPub: keys.SignPub(), KeysDigest: seal.Hash(public).Bytes(),
			NotAfter: now.Add(trust.MaxDeviceAge).UnixMilli(),
		},
		Policy: &trustv1.Policy{MaxAgeDays: o.MaxAgeDays, SelfDevices: true},
	}, now)
	if err != nil {
		return Kit{}, ownChange(op, err, "the holder of the recovery kit")
	}
	sealKey, err := recovery.Bytes()
	if err != nil {
		return Kit{}, fail(op, err)
	}
	k := kitKeys{V: 1, OrgID: org, Recovery: recoveryID, Root: root.Seed(), Seal: sealKey}
	defer k.wipe()
	kit, err := sealKit(k, to)
	if err != nil {
		return Kit{}, fail(op, err)
	}
	conn, err := enrol.Dial(o.Server, o.CAPin, o.ClientVersion)
	if err != nil {
		return Kit{}, invalid(op, "%v", err)
	}
	defer conn.Close()
	if err := o.KeepKit(kit); err != nil {
		return Kit{}, fail("store the recovery kit", err)
	}
	if err := p.create(facts{Server: o.Server, CAPin: o.CAPin, OrgID: org, Entry: deviceID}, keys, o.Passphrase, changes); err != nil {
		return Kit{}, errors.Join(err, p.discard())
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	_, err = conn.CreateOrganisation(ctx, connect.NewRequest(&clientv1.CreateOrganisationRequest{
		SetupCode: o.SetupCode.ExposeString(), Changes: changes,
		Keys: []*clientv1.PutKeys{
			{EntryId: deviceID.Bytes(), Keys: public},
			{EntryId: recoveryID.Bytes(), Keys: recoveryKeys},
		},
	}))
	switch {
	case err == nil:
		return kit, nil
	case sent.Load() && enrol.AnswerLost(err):
		return Kit{}, &Error{
			Class: Unknown, Reason: "no_answer", Op: op, Err: err,
			Hint: "use this profile, and keep the recovery kit: only if the server does not know the organisation, move the kit and " + p.dir + " away and begin again",
		}
	}
	return Kit{}, errors.Join(fail(op, err), p.discard())
}

// JoinOptions make this profile a device of an existing organisation.
type JoinOptions struct {
	Token         sdk.Secret // rot1.…@host:port
	Passphrase    sdk.Secret
	ClientVersion string
}

// Join enrols this profile's device with a token. Compare the organisation's
// fingerprint (OrgID of Info) with what the giver of the token sees.
func (p *Profile) Join(ctx context.Context, o JoinOptions) error {
	const op = "join the organisation"
	if err := p.free(op); err != nil {
		return err
	}
	if o.Passphrase.Len() < MinPassphrase {
		return invalid(op, "a passphrase has at least %d bytes", MinPassphrase)
	}
	token, err := enrol.ParseToken(o.Token)
	if err != nil {
		return invalid(op, "%v", err)
	}
	saved := false
	_, err = enrol.Join(ctx, enrol.JoinOptions{
		Token: token, Want: KindDevice, Version: o.ClientVersion,
		// The keys are on the disk before the log names them.
		Save: func(id *enrol.Identity) error {
			saved = true
			return p.create(facts{Server: id.Server, CAPin: id.CAPin, OrgID: id.OrgID, Entry: id.Entry}, id.Keys, o.Passphrase, id.Changes)
		},
	})
	switch {
	case errors.Is(err, enrol.ErrOtherKind):
		return invalid(op, "%w", err)
	case errors.Is(err, enrol.ErrExpired):
		return &Error{Class: Denied, Reason: string(trust.Expired), Op: op, Err: err, Hint: "ask an administrator, or another device of yours, for a new token"}
	case err == nil || !saved:
		return fail(op, err)
	case enrol.AnswerLost(err):
		return &Error{
			Class: Unknown, Reason: "no_answer", Op: op, Err: err,
			Hint: "use this profile: if the server does not know the device, move " + p.dir + " away and use the token again",
		}
	}
	return fail(op, errors.Join(err, p.discard()))
}

// RecoverOptions make this profile an administrator's device again.
type RecoverOptions struct {
	Server        string
	CAPin         seal.Digest
	OrgID         seal.Digest // as the person knows it; zero: the kit's own
	Kit           []byte      // the age file, or nil
	KitPassphrase sdk.Secret
	KitIdentity   sdk.Secret // text of an age identity file, for a kit that was made for a key
	Paper         sdk.Secret // the paper's text, or empty
	Member        string     // existing member to give the device to; made an administrator when there is none of that name
	Device        string
	RemoveDevices []seal.ID // lost devices, removed in the same change
	EndRecovery   bool      // of a server that was put back from a backup: nobody else can
	Passphrase    sdk.Secret
	ClientVersion string
}

// Recovered is what Recover did besides enrolling the device.
type Recovered struct {
	NewMember     bool     // nobody of the name was there: he was made, as an administrator
	Removed       []string // devices, by their full names
	EndedRecovery bool     // of the server
}

// Recover enrols this profile's device by the recovery kit: the root signs the
// new device in and the lost ones out, and every folder key is sealed to it. What a
// removed device knows is ended by who goes on with its removal. What was done counts
// beside an error, too: the server's recovery may have ended.
func (p *Profile) Recover(ctx context.Context, o RecoverOptions) (Recovered, error) {
	const op = "recover the organisation"
	if err := p.free(op); err != nil {
		return Recovered{}, err
	}
	if o.Member == "" || o.Device == "" || o.Passphrase.Len() < MinPassphrase {
		return Recovered{}, invalid(op, "it needs the names of member and device, and a passphrase of at least %d bytes", MinPassphrase)
	}
	var kit kitKeys
	var err error
	if o.Paper.Len() > 0 {
		kit, err = readPaper(o.Paper)
	} else {
		kit, err = openKit(o.Kit, o.KitPassphrase, o.KitIdentity)
	}
	if err != nil {
		return Recovered{}, err
	}
	defer kit.wipe()
	if !o.OrgID.IsZero() && o.OrgID != kit.OrgID {
		return Recovered{}, invalid(op, "the kit is of another organisation: %s", kit.OrgID.Fingerprint())
	}
	root := ed25519.NewKeyFromSeed(kit.Root)
	defer clear(root)
	sealKey, err := seal.SealKeyFrom(kit.Seal)
	if err != nil {
		return Recovered{}, fail(op, err)
	}
	keys, err := enrol.MakeKeys(KindDevice)
	if err != nil {
		return Recovered{}, fail(op, err)
	}
	r := &recoverer{o: o, kit: kit, root: root, sealKey: sealKey, keys: keys, device: seal.NewID(), log: trust.NewLog(kit.OrgID)}
	if r.conn, err = enrol.Dial(o.Server, o.CAPin, o.ClientVersion); err != nil {
		return Recovered{}, invalid(op, "%v", err)
	}
	defer r.conn.Close()
	if _, err := r.conn.StartSession(ctx, enrol.Signer{OrgID: kit.OrgID, EntryID: kit.Recovery, Key: root}); err != nil {
		return Recovered{}, fail("sign in with the recovery kit", err)
	}
	if err := r.fetchLog(ctx); err != nil {
		return Recovered{}, fail(op, err)
	}
	if err := r.lostDevices(); err != nil {
		return Recovered{}, fail(op, err)
	}
	if o.EndRecovery {
		if err := r.endRecovery(ctx); err != nil {
			return Recovered{}, fail("end the recovery", err)
		}
	}
	for attempt := 1; ; attempt++ {
		err := r.write(ctx, p)
		if err == nil {
			return r.done, nil
		}
		if attempt == appendAttempts || !enrol.Retryable(err) {
			return Recovered{EndedRecovery: r.done.EndedRecovery}, fail(op, err)
		}
	}
}

// recoverer signs with the root.
type recoverer struct {
	o       RecoverOptions
	kit     kitKeys
	root    ed25519.PrivateKey
	sealKey *seal.SealKey
	keys    enrol.Keys
	device  seal.ID
	conn    *enrol.Conn
	log     *trust.Log
	changes [][]byte
	done    Recovered
}

// endRecovery lets the log of a restored server grow again.
func (r *recoverer) endRecovery(ctx context.Context) error {
	state, err := r.conn.GetRecovery(ctx, connect.NewRequest(&clientv1.GetRecoveryRequest{}))
	if err != nil || !state.Msg.Recovering {
		return err
	}
	_, err = r.conn.Write(ctx, connect.NewRequest(&clientv1.WriteRequest{Ops: []*clientv1.WriteOp{
		{Op: &clientv1.WriteOp_EndRecovery{EndRecovery: &clientv1.EndRecovery{Restored: state.Msg.Restored}}},
	}}))
	r.done.EndedRecovery = err == nil
	return err
}

func (r *recoverer) fetchLog(ctx context.Context) error {
	return enrol.FetchLog(ctx, r.conn, r.log, time.Now, func(signed [][]byte) error {
		r.changes = append(r.changes, signed...)
		return nil
	})
}

// lostDevices refuses an id that is no device's: whoever names it would believe that the
// device is out.
func (r *recoverer) lostDevices() error {
	for _, id := range r.o.RemoveDevices {
		if e, ok := r.log.Entry(id); !ok || e.Kind != KindDevice {
			return &Error{
				Class: NotFound, Reason: "not_found", Err: errors.New("the organisation has no device with the id " + id.String()),
				Hint: "no device was enrolled and none removed: recover without --remove-device; then `rotunda device list` has the ids, and `rotunda device remove` removes",
			}
		}
	}
	return nil
}

func (r *recoverer) write(ctx context.Context, p *Profile) error {
	turn, err := r.conn.TakeTurn(ctx, connect.NewRequest(&clientv1.TakeTurnRequest{Removal: true}))
	if err != nil {
		return err
	}
	if err := r.fetchLog(ctx); err != nil {
		return err
	}
	if err := r.lostDevices(); err != nil {
		return err
	}
	public, err := r.keys.Public()
	if err != nil {
		return err
	}
	now := time.Now()
	signed, _, err := trust.SignChange(r.kit.OrgID, r.log.NewChange(seal.ID{}, now, r.ops(public, now)...), r.root)
	if err != nil {
		return err
	}
	after := r.log.Clone()
	if _, err := after.Append(signed, now); err != nil {
		return ownChange("", err, "the holder of the recovery kit")
	}
	ops := []*clientv1.WriteOp{
		appendOp(signed),
		{Op: &clientv1.WriteOp_PutKeys{PutKeys: &clientv1.PutKeys{EntryId: r.device.Bytes(), Keys: public}}},
	}
	folders, err := r.folderKeys(ctx, after, public, now)
	if err != nil {
		return err
	}
	// The keys are on the disk before the log names them.
	if err := p.create(facts{Server: r.o.Server, CAPin: r.o.CAPin, OrgID: r.kit.OrgID, Entry: r.device}, r.keys, r.o.Passphrase, r.changes); err != nil {
		return err
	}
	_, err = r.conn.Write(ctx, connect.NewRequest(&clientv1.WriteRequest{Ops: append(ops, folders...), Turn: turn.Msg.Turn}))
	if err != nil {
		if !enrol.AnswerLost(err) {
			return errors.Join(err, p.discard())
		}
		return err
	}
	return nil
}

// ops put the device, its member where there is none, and remove what is lost.
func (r *recoverer) ops(public []byte, now time.Time) []*trustv1.Op {
	r.done.NewMember, r.done.Removed = false, nil
	var ops []*trustv1.Op
	owner := seal.ID{}
	for _, e := range r.log.Entries(KindMember) {
		if e.Name == r.o.Member || e.ID.String() == r.o.Member {
			owner = e.ID
		}
	}
	if owner.IsZero() {
		owner, r.done.NewMember = seal.NewID(), true
		ops = append(ops, trust.PutOp(&trustv1.Entry{EntryId: owner.Bytes(), Kind: KindMember, Name: r.o.Member, V: trust.Version}))
	}
	if !r.log.Roles(owner, seal.ID{}).Has(Admin) {
		ops = append(ops, trust.GrantOp(seal.ID{}, owner, trust.AllRoles))
	}
	ops = append(ops, trust.PutOp(&trustv1.Entry{
		EntryId: r.device.Bytes(), Kind: KindDevice, Name: r.o.Device, OwnerId: owner.Bytes(), SignPub: r.keys.SignPub(),
		KeysDigest: seal.Hash(public).Bytes(), V: trust.Version, Roles: uint32(trust.AllRoles), NotAfter: now.Add(trust.MaxDeviceAge).UnixMilli(),
	}))
	for _, id := range r.o.RemoveDevices {
		if e, ok := r.log.Entry(id); ok {
			ops = append(ops, trust.RemoveOp(id))
			r.done.Removed = append(r.done.Removed, r.log.FullName(e))
		}
	}
	return ops
}

// folderKeys seals every folder key that the recovery key opens to the new device.
func (r *recoverer) folderKeys(ctx context.Context, after *trust.Log, public []byte, now time.Time) ([]*clientv1.WriteOp, error) {
	var ops []*clientv1.WriteOp
	token := ""
	for {
		page, err := r.conn.ListFolders(ctx, connect.NewRequest(&clientv1.ListFoldersRequest{Page: &clientv1.Page{Size: 1000, Token: token}}))
		if err != nil {
			return nil, err
		}
		for _, v := range page.Msg.Folders {
			uid := idOr(v.FolderUid)
			key, err := trust.OpenFolderKey(after, r.kit.Recovery, r.sealKey, uid, v.KeyVersion, v.SealedKey)
			if err != nil {
				continue // of a folder whose maker's client sealed none: another member fills it in
			}
			sealed, err := trust.SealFolderKey(after, uid, key, r.device, public, now)
			key.Wipe()
			if err != nil {
				return nil, err
			}
			ops = append(ops, putFolderKey(uid, v.KeyVersion, r.device, sealed))
		}
		if page.Msg.Next == "" || page.Msg.Next == token {
			return slices.Clip(ops), nil
		}
		token = page.Msg.Next
	}
}
