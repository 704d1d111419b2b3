package enrol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Identity is who a party has become.
type Identity struct {
	OrgID  seal.Digest
	Entry  seal.ID
	Kind   trustv1.EntryKind // device or agent
	Name   string
	Owner  seal.ID // member or pool
	Server string
	CAPin  seal.Digest
	Keys   Keys

	Log     *trust.Log
	Changes [][]byte // the log's signed changes, from change 0 on

	// Folders counts the folder keys that came with the token. The others are
	// sealed to the new party by whoever made the token, or any member with SHARE.
	Folders int
}

// JoinOptions say how to join.
type JoinOptions struct {
	Token   Token
	Want    trustv1.EntryKind // device or agent: a token of the other kind is refused unused
	Version string            // of this program, shown to administrators
	Now     func() time.Time  // nil: time.Now

	// Save stores the identity durably. It is called before the token is used up,
	// so that a crash in between loses no keys whose entry is in the log. nil: not
	// called. Its Identity lacks the party's own change, which the next fetch brings.
	Save func(*Identity) error
}

// Join enrols a new party with a token (keys.md 3.6): it signs in, verifies the
// whole log, requires the change that the token names, makes its keys and puts
// its entry in place of the enrolment. Reasons: ca_mismatch, enrol_used,
// head_missing, and those of the log's checks.
func Join(ctx context.Context, o JoinOptions) (*Identity, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	raw := o.Token.Seed.Expose()
	defer clear(raw)
	seed, err := seal.KeyFrom(raw)
	if err != nil {
		return nil, ErrToken
	}
	defer seed.Wipe()
	enrolKey := seal.EnrolSignKey(seed)
	defer clear(enrolKey)

	conn, err := Dial(o.Token.Server, o.Token.CAPin, o.Version)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	session, err := conn.StartSession(ctx, Signer{Key: enrolKey})
	if errors.Is(err, ErrKeyUnknown) {
		return nil, &trust.Error{Reason: trust.EnrolUsed, What: "the server knows no such open token: it was used or withdrawn, or is not of this server"}
	}
	if err != nil {
		return nil, fmt.Errorf("sign in with the token: %w", err)
	}

	// The organisation is whichever the log's first change makes it; that it is
	// the right one, the token's digest says.
	l := trust.NewLog(seal.Digest{})
	var changes [][]byte
	keep := func(signed [][]byte) error { changes = append(changes, signed...); return nil }
	if err := FetchLog(ctx, conn, l, o.Now, keep); err != nil {
		return nil, fmt.Errorf("fetch the log: %w", err)
	}
	if !l.ContainsDigest(o.Token.Head) || l.Org() != session.OrgID {
		return nil, &trust.Error{Reason: trust.HeadMissing, What: "the server's log does not hold the change that the token names"}
	}
	e, err := enrolment(l, session.Signer, o)
	if err != nil {
		return nil, err
	}
	id := &Identity{
		OrgID: l.Org(), Entry: e.ID, Kind: e.TargetKind, Name: e.Name, Owner: e.Owner,
		Server: o.Token.Server, CAPin: o.Token.CAPin, Log: l, Changes: changes,
	}
	if id.Keys, err = MakeKeys(e.TargetKind); err != nil {
		return nil, err
	}
	blob, err := fetchBlob(ctx, conn, id, seed)
	if err != nil {
		return nil, err
	}
	defer blob.Wipe()
	if o.Save != nil {
		if err := o.Save(id); err != nil {
			return nil, fmt.Errorf("store the new identity: %w", err)
		}
	}
	for attempt := 1; ; attempt++ {
		err := consume(ctx, conn, id, enrolKey, blob, o)
		if err == nil {
			return id, nil
		}
		if done, e := consumed(ctx, conn, id); e == nil && done {
			return id, nil // only the answer was lost
		}
		if attempt == maxAttempts || !Retryable(err) {
			return nil, err
		}
	}
}

const (
	maxAttempts = 8
	// joinTime bounds the whole: a thousand may wait for their turn at the log, and a
	// server that says nothing is no server.
	joinTime = 5 * time.Minute
)

// ErrExpired: the token's time is over, by this host's clock.
var ErrExpired = errors.New("the token is expired")

// ErrOtherKind: the token makes an agent where a device was wanted, or the other way
// round. It is not used up.
var ErrOtherKind = errors.New("the token is not")

// enrolment is the live enrolment that the token stands for.
func enrolment(l *trust.Log, s Signer, o JoinOptions) (trust.Entry, error) {
	e, ok := l.Entry(s.EntryID)
	if !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_ENROLMENT || seal.KeyID(seal.AlgEd25519, e.SignPub) != s.keyID() {
		return trust.Entry{}, &trust.Error{Reason: trust.EnrolUsed, What: "the log holds no open enrolment for this token"}
	}
	if e.Expired(o.Now()) {
		return trust.Entry{}, fmt.Errorf("%w: it was good until %s; ask for a new one, if this host's clock is right", ErrExpired, e.NotAfter.UTC().Format(time.RFC3339))
	}
	if e.TargetKind != o.Want {
		return trust.Entry{}, fmt.Errorf("%w for %s", ErrOtherKind, kindWord(o.Want))
	}
	return e, nil
}

func kindWord(k trustv1.EntryKind) string {
	if k == trustv1.EntryKind_ENTRY_KIND_AGENT {
		return "an agent: it makes a person's device"
	}
	return "a person's device: it makes an agent"
}

// consume signs and appends the one change that puts the new party in place of
// its enrolment, with the keys of the blob sealed to itself.
func consume(ctx context.Context, conn *Conn, id *Identity, enrolKey []byte, blob Blob, o JoinOptions) error {
	turn, err := conn.TakeTurn(ctx, connect.NewRequest(&clientv1.TakeTurnRequest{}))
	if err != nil {
		return fmt.Errorf("take a turn at the log: %w", err)
	}
	keep := func(signed [][]byte) error { id.Changes = append(id.Changes, signed...); return nil }
	if err := FetchLog(ctx, conn, id.Log, o.Now, keep); err != nil {
		return fmt.Errorf("fetch the log: %w", err)
	}
	e, ok := id.Log.Entry(id.Entry)
	if !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_ENROLMENT {
		return &trust.Error{Reason: trust.EnrolUsed, What: "somebody else used the token just now, or it was withdrawn"}
	}
	keys, err := id.Keys.Public()
	if err != nil {
		return err
	}
	now := o.Now()
	put := trust.PutOp(trust.Successor(e, id.Keys.SignPub(), keys, now.Add(trust.MaxDeviceAge)))
	signed, _, err := trust.SignChange(id.OrgID, id.Log.NewChange(id.Entry, now, put), enrolKey, id.Keys.Sign)
	if err != nil {
		return fmt.Errorf("sign the new entry: %w", err)
	}
	after := id.Log.Clone()
	if _, err := after.Append(signed, now); err != nil {
		return fmt.Errorf("the new entry: %w", err)
	}
	ops := []*clientv1.WriteOp{
		{Op: &clientv1.WriteOp_Append{Append: signed}},
		{Op: &clientv1.WriteOp_PutKeys{PutKeys: &clientv1.PutKeys{EntryId: id.Entry.Bytes(), Keys: keys}}},
	}
	folders := 0
	for _, k := range blob.Keys {
		key, err := seal.KeyFrom(k.Key)
		if err != nil {
			return err
		}
		sealed, err := trust.SealFolderKey(after, k.Folder, key, id.Entry, keys, now)
		key.Wipe()
		if err != nil {
			continue // re-keyed or withdrawn since the token was made: it comes by the usual way, or not at all
		}
		folders++
		ops = append(ops, &clientv1.WriteOp{Op: &clientv1.WriteOp_PutFolderKey{PutFolderKey: &clientv1.PutFolderKey{
			FolderUid: k.Folder.Bytes(), KeyVersion: k.Version, RecipientId: id.Entry.Bytes(), Sealed: sealed,
		}}})
	}
	if _, err := conn.Write(ctx, connect.NewRequest(&clientv1.WriteRequest{Ops: ops, Turn: turn.Msg.Turn})); err != nil {
		return fmt.Errorf("append the new entry: %w", err)
	}
	id.Log, id.Folders = after, folders
	id.Changes = append(id.Changes, signed)
	return nil
}

// consumed asks whether the new key is in the log although the answer to its
// append was lost. If so, the identity's own log lacks that change; the next
// fetch brings it.
func consumed(ctx context.Context, conn *Conn, id *Identity) (bool, error) {
	mine := Signer{Key: id.Keys.Sign}
	c, err := conn.Challenge(ctx, connect.NewRequest(&clientv1.ChallengeRequest{KeyId: mine.keyID().Bytes()}))
	if err != nil {
		return false, err
	}
	got, err := seal.IDFrom(c.Msg.EntryId)
	return err == nil && got == id.Entry, nil
}

// Retryable reports whether an append failed only because another party was
// faster, or the answer was lost: sign and try again.
func Retryable(err error) bool {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return false
	}
	switch reason, _ := ErrorReason(err); reason {
	case "turn_taken", "out_of_sync", string(trust.LogFork), string(trust.LogGap):
		return true
	}
	return ce.Code() == connect.CodeUnavailable || ce.Code() == connect.CodeAborted
}

// AnswerLost reports that a write may have worked: the server has not said that it did not.
// An answer that broke off, cannot be read, or came from something between, is none.
func AnswerLost(err error) bool {
	var answer *connect.Error
	if !errors.As(err, &answer) {
		return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	}
	switch answer.Code() {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled:
		return true
	}
	return !connect.IsWireError(err)
}

// Blob is what an unattended token carries at the server: folder keys, under the
// token's seed.
type Blob struct {
	Keys []BlobKey `json:"keys"`
}

// BlobKey is one folder key.
type BlobKey struct {
	Folder  seal.ID `json:"folder"`
	Version uint32  `json:"version"`
	Key     []byte  `json:"key"` // 32
}

// Wipe overwrites the keys.
func (b *Blob) Wipe() {
	for _, k := range b.Keys {
		clear(k.Key)
	}
}

// SealBlob encrypts a blob under a token's seed, for its entry.
func SealBlob(org seal.Digest, seed seal.Key, entry seal.ID, b Blob) ([]byte, error) {
	plain, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return seal.SealEnrolBlob(org, seed, entry, plain), nil
}

// OpenBlob opens and checks the form of what SealBlob made.
func OpenBlob(org seal.Digest, seed seal.Key, entry seal.ID, box []byte) (Blob, error) {
	plain, err := seal.OpenEnrolBlob(org, seed, entry, box)
	if err != nil {
		return Blob{}, fmt.Errorf("the keys that came with the token: %w", err)
	}
	defer clear(plain)
	var b Blob
	if json.Unmarshal(plain, &b) != nil {
		return Blob{}, errors.New("the keys that came with the token are not readable")
	}
	for _, k := range b.Keys {
		if len(k.Key) != seal.KeySize {
			return Blob{}, errors.New("the keys that came with the token have a wrong length")
		}
	}
	return b, nil
}

func fetchBlob(ctx context.Context, conn *Conn, id *Identity, seed seal.Key) (Blob, error) {
	answer, err := conn.GetEnrolBlob(ctx, connect.NewRequest(&clientv1.GetEnrolBlobRequest{}))
	if connect.CodeOf(err) == connect.CodeNotFound {
		return Blob{}, nil
	}
	if err != nil {
		return Blob{}, fmt.Errorf("fetch the keys that came with the token: %w", err)
	}
	if len(answer.Msg.Blob) == 0 {
		return Blob{}, nil
	}
	return OpenBlob(id.OrgID, seed, id.Entry, answer.Msg.Blob)
}
