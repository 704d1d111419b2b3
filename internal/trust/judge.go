package trust

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Appended says what Append did.
type Appended struct {
	Epoch  uint64
	Digest seal.Digest
	New    bool            // false: the log had this very change already
	Change *trustv1.Change // decoded; nil if not New
	Signer seal.ID         // entry that signed; zero: the root
	// Former are the entries that the change removed or replaced, as they were.
	Former map[seal.ID]Entry
}

func openChange(signed []byte) (*envelope, *trustv1.Change, error) {
	env, err := openEnvelope(seal.KindLog, signed, MaxSigned, 2)
	if err != nil {
		return nil, nil, err
	}
	c := &trustv1.Change{}
	return env, c, decode("change", env.body, MaxSigned, c)
}

// Has reports whether the log has this very change.
func (l *Log) Has(signed []byte) bool {
	env, c, err := openChange(signed)
	if err != nil {
		return false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return c.Epoch < uint64(len(l.s.digests)) && l.s.digests[c.Epoch] == env.digest(l.s.signedFor(c))
}

// signedFor is the organisation that a change's signature covers: change 0 is
// signed before there is an id.
func (s *state) signedFor(c *trustv1.Change) seal.Digest {
	if c.Epoch == 0 {
		return seal.Digest{}
	}
	return s.org
}

// Append verifies one Signed{Change} (4.1 steps 1 to 5) and applies it, all or
// nothing. The caller stores the bytes. A change that the log has already is no
// error. Reasons: Malformed, UnknownField, TooLarge, LogFork, LogGap, LogSigner,
// EnrolUsed, SignatureBad, ClockFuture.
func (l *Log) Append(signed []byte, now time.Time) (Appended, error) {
	// 1. Decode, lengths, unknown fields.
	env, c, err := openChange(signed)
	if err != nil {
		return Appended{}, err
	}
	if err := checkChange(c); err != nil {
		return Appended{}, err
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.s
	org := s.signedFor(c)
	digest := env.digest(org)

	// 2. Epoch and prev.
	next := uint64(len(s.digests))
	switch {
	case c.Epoch < next && s.digests[c.Epoch] == digest:
		return Appended{Epoch: c.Epoch, Digest: digest}, nil
	case c.Epoch < next:
		return Appended{}, fail(LogFork, "change %d is another than the one that is known", c.Epoch)
	case c.Epoch > next:
		return Appended{}, fail(LogGap, "change %d came, %d is missing", c.Epoch, next)
	case c.Epoch == 0 && s.pinned && digest != s.org:
		return Appended{}, fail(LogFork, "change 0 is another organisation's")
	case c.Epoch > 0 && seal.Digest(c.Prev) != s.digests[next-1]:
		return Appended{}, fail(LogFork, "change %d follows another change than the one that is known", c.Epoch)
	}

	// 3. Signer, issued, signature, each op.
	j := &judge{s: s, c: c, org: org, granted: map[seal.ID]bool{}, former: map[seal.ID]Entry{}}
	if err := j.change(env); err != nil {
		j.undo()
		return Appended{}, err
	}

	// 4. Times.
	if time.UnixMilli(c.Issued).After(now.Add(Skew)) {
		j.undo()
		return Appended{}, fail(ClockFuture, "change %d was issued at %s", c.Epoch, stamp(c.Issued))
	}
	if c.ValidUntil > c.Issued+s.policy.MaxAge.Milliseconds() {
		j.undo()
		return Appended{}, fail(Malformed, "change %d is valid for longer than the policy allows", c.Epoch)
	}

	// 5. Apply.
	if c.Epoch == 0 {
		s.org = digest
	}
	s.digests = append(s.digests, digest)
	s.issued, s.validUntil = c.Issued, c.ValidUntil
	s.floors.settle()
	return Appended{c.Epoch, digest, true, c, j.signer, j.former}, nil
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

// judge holds one change to the rules of 3.1 while it applies it.
type judge struct {
	s   *state
	c   *trustv1.Change
	org seal.Digest

	signer  seal.ID          // entry; zero: the root
	keyID   seal.ID          // the key that signed
	granted map[seal.ID]bool // new folders that this change granted to their maker
	former  map[seal.ID]Entry
	undos   []func()
}

// replaces notes an entry that was there before this change, and is about to go.
func (j *judge) replaces(id seal.ID) {
	if e, ok := j.s.entry(id); ok && e.Epoch != j.c.Epoch {
		j.former[id] = e
	}
}

// undo takes back what was applied so far, newest first.
func (j *judge) undo() {
	for n := len(j.undos) - 1; n >= 0; n-- {
		j.undos[n]()
	}
}

// set puts a value into one of the state's maps and notes how to take it back.
func set[K comparable, V any](j *judge, m map[K]V, k K, v V) {
	old, had := m[k]
	m[k] = v
	j.undos = append(j.undos, func() {
		if had {
			m[k] = old
		} else {
			delete(m, k)
		}
	})
}

// drop deletes a value from one of the state's maps.
func drop[K comparable, V any](j *judge, m map[K]V, k K) {
	old, had := m[k]
	if !had {
		return
	}
	delete(m, k)
	j.undos = append(j.undos, func() { m[k] = old })
}

func (j *judge) refuse(format string, args ...any) error { return fail(LogSigner, format, args...) }

// change judges signer, times, signature and ops.
func (j *judge) change(env *envelope) error {
	s, c := j.s, j.c
	j.keyID = env.keyID(0)

	switch c.Epoch {
	case 0:
		return j.changeZero(env)
	case 1:
		if err := checkChangeOne(c); err != nil {
			return err
		}
		if !j.isRoot() {
			return j.refuse("change 1 is not signed by the root")
		}
	}

	// The signer is the root or a live entry, within its time.
	var signer Entry
	if !j.isRoot() {
		var ok bool
		if signer, ok = s.entry(s.keys[j.keyID]); !ok {
			if _, used := s.used[j.keyID]; used {
				return fail(EnrolUsed, "the enrolment of this key is used")
			}
			return j.refuse("change %d is signed by nobody who is live in the log", c.Epoch)
		}
		j.signer = signer.ID
		if !signer.NotAfter.IsZero() && c.Issued > signer.NotAfter.UnixMilli() {
			return j.refuse("%s signed change %d after its time was over", s.describe(signer.ID), c.Epoch)
		}
	}
	if c.Issued < s.issued {
		return j.refuse("change %d is issued before the former one", c.Epoch)
	}
	pub := s.root
	if !j.isRoot() {
		pub = signer.SignPub
	}
	if err := env.verify(0, pub, j.org); err != nil {
		return err
	}

	switch {
	case j.isRoot():
	case signer.Kind == trustv1.EntryKind_ENTRY_KIND_DEVICE:
	case signer.Kind == trustv1.EntryKind_ENTRY_KIND_ENROLMENT:
		if c.ValidUntil != s.validUntil {
			return j.refuse("an enrolment may not change valid_until")
		}
		return j.successor(env, signer)
	default:
		return j.refuse("%s may not sign changes", s.describe(signer.ID))
	}
	if len(env.sigs) != 1 {
		return fail(Malformed, "change %d with %s", c.Epoch, plural(len(env.sigs), "signature"))
	}

	// Only an administrator or the root may move valid_until, or say nothing else.
	renew := j.isRoot() || j.isAdmin()
	if c.ValidUntil != s.validUntil && !renew {
		return j.refuse("%s may not change valid_until", s.describe(j.signer))
	}
	if len(c.Ops) == 0 && !renew {
		return j.refuse("%s may not append a change without ops", s.describe(j.signer))
	}
	for n, op := range c.Ops {
		if err := j.op(op); err != nil {
			if e, ok := err.(*Error); ok {
				e.At = fmt.Sprintf("change %d, op %d", c.Epoch, n)
			}
			return err
		}
	}
	return nil
}

// changeZero: root and policy, signed by that root.
func (j *judge) changeZero(env *envelope) error {
	s, c := j.s, j.c
	if len(env.sigs) != 1 || len(c.Ops) != 2 || c.Ops[0].GetRoot() == nil || c.Ops[1].GetPolicy() == nil {
		return fail(Malformed, "change 0 holds a root and a policy, and nothing else")
	}
	pub := ed25519.PublicKey(c.Ops[0].GetRoot().SignPub)
	if keyID(pub) != j.keyID {
		return j.refuse("change 0 is not signed by the root that it names")
	}
	if err := env.verify(0, pub, j.org); err != nil {
		return err
	}
	root, policy := s.root, s.policy
	j.undos = append(j.undos, func() { s.root, s.policy = root, policy })
	s.root, s.policy = pub, policyOf(c.Ops[1].GetPolicy())
	return nil
}

// checkChangeOne: recovery, the first member, his grant, his device.
func checkChangeOne(c *trustv1.Change) error {
	bad := fail(Malformed, "change 1 puts the recovery entry, the first member, his grant of every role on the zero folder, and his device")
	if len(c.Ops) != 4 {
		return bad
	}
	recovery, member, grant, device := c.Ops[0].GetPut(), c.Ops[1].GetPut(), c.Ops[2].GetGrant(), c.Ops[3].GetPut()
	if recovery.GetKind() != trustv1.EntryKind_ENTRY_KIND_RECOVERY ||
		member.GetKind() != trustv1.EntryKind_ENTRY_KIND_MEMBER ||
		device.GetKind() != trustv1.EntryKind_ENTRY_KIND_DEVICE ||
		string(device.GetOwnerId()) != string(member.GetEntryId()) ||
		string(grant.GetTo()) != string(member.GetEntryId()) ||
		!seal.ID(grant.GetFolderUid()).IsZero() || !Roles(grant.GetRoles()).Has(Admin) || !Roles(device.GetRoles()).Has(Admin) {
		return bad
	}
	return nil
}

// successor: an enrolment's key, with the new key beside it, puts exactly its own
// successor, while whoever signed the enrolment could still sign it: a token kept
// by a demoted administrator is void. That uses the enrolment up.
func (j *judge) successor(env *envelope, enrolment Entry) error {
	s, c := j.s, j.c
	var put *trustv1.Entry
	if len(c.Ops) == 1 {
		put = c.Ops[0].GetPut()
	}
	if put == nil || len(env.sigs) != 2 {
		return j.refuse("%s may sign one put alone, together with the new key", s.describe(enrolment.ID))
	}
	e := entryOf(put)
	if e.ID != enrolment.ID || e.Kind != enrolment.TargetKind || e.Owner != enrolment.Owner || e.Roles != enrolment.Roles || e.Name != enrolment.Name {
		return j.refuse("%s may put only its own successor: same id, owner, name and roles", s.describe(enrolment.ID))
	}
	if keyID(e.SignPub) != env.keyID(1) || j.keyID == env.keyID(1) {
		return j.refuse("the second signature is not by a new key, the one that is put")
	}
	if err := env.verify(1, e.SignPub, j.org); err != nil {
		return err
	}
	if by := enrolment.PutBy; !by.IsZero() && !s.roles(by, seal.ID{}).Has(Admin) && !s.mayAddOwnDevice(by, enrolment) {
		return j.refuse("%s is void: %s, who made it, may make it no more; have a new token made", s.describe(enrolment.ID), s.describe(by))
	}
	if err := j.checkPut(e); err != nil {
		return err
	}
	drop(j, s.keys, j.keyID)
	set(j, s.used, j.keyID, enrolment.ID)
	j.replaces(enrolment.ID)
	drop(j, s.entries, enrolment.ID)
	j.apply(e)
	return nil
}

// isRoot: judged anew for each op, since a root op ends the former root.
func (j *judge) isRoot() bool { return keyID(j.s.root) == j.keyID }

func (j *judge) isAdmin() bool { return j.roles(seal.ID{}).Has(Admin) }

// roles are the signer's in a folder, in the state that the former op left.
func (j *judge) roles(folder seal.ID) Roles { return j.s.roles(j.signer, folder) }

// member is the signer's member.
func (j *judge) member() seal.ID {
	if e, ok := j.s.entries[j.signer]; ok {
		return e.Owner
	}
	return seal.ID{}
}
