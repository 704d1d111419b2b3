package trust

import (
	"cmp"
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Entry is a live party of the directory.
type Entry struct {
	ID         seal.ID
	Kind       trustv1.EntryKind
	Name       string
	Owner      seal.ID           // member of a device, pool of an agent; of an enrolment: its successor's
	TargetKind trustv1.EntryKind // enrolment: device or agent
	SignPub    ed25519.PublicKey // device, agent, enrolment
	KeysDigest seal.Digest       // device, agent, recovery
	AppCheck   seal.Digest       // app
	V          uint32            // newest message format it reads
	NotAfter   time.Time         // device, enrolment; zero for the others
	Roles      Roles             // mask of a device, or of the device that an enrolment makes
	Unattended bool              // enrolment: its token carries folder keys
	PutBy      seal.ID           // entry that signed it; zero: the root
	Epoch      uint64            // change that put it last
}

// Expired reports whether the entry's time is over at now.
func (e Entry) Expired(now time.Time) bool { return !e.NotAfter.IsZero() && now.After(e.NotAfter) }

// Grant is one right: of a member, a pool or an app, on a folder or, with the
// zero folder, on all of them and the organisation.
type Grant struct {
	Folder seal.ID
	To     seal.ID
	Roles  Roles
}

// FolderState is what the log says of a folder key.
type FolderState struct {
	UID     seal.ID
	Version uint32
	Check   seal.Digest
	Epoch   uint64 // change that declared this version
}

// Plugin is a plugin binary that the log lets agents start.
type Plugin struct {
	Name, Version, OS, Arch string
	SHA256                  seal.Digest
}

// Policy is the organisation's policy.
type Policy struct {
	MaxAge      time.Duration // of the log without a renewal by an administrator
	SelfDevices bool          // members may enrol further devices of their own
}

// Head names the newest change.
type Head struct {
	Epoch      uint64
	Digest     seal.Digest
	Issued     time.Time
	ValidUntil time.Time
}

// Log is the verified replay of an organisation's changes: its directory and
// access list. It keeps no bytes of the changes; callers store those themselves.
// It is safe for concurrent use.
type Log struct {
	mu sync.RWMutex
	s  state
}

// state is what the changes so far amount to. judge.go alone changes it.
type state struct {
	pinned bool // org was given, not learnt from change 0
	org    seal.Digest
	root   ed25519.PublicKey
	policy Policy

	digests    []seal.Digest // of every change, by epoch
	issued     int64         // of the newest change, Unix ms
	validUntil int64

	entries  map[seal.ID]*Entry // live; an Entry is never altered once it is here
	gone     map[seal.ID]bool   // ids that were removed: they never come back
	keys     map[seal.ID]seal.ID
	used     map[seal.ID]seal.ID // by key id of a consumed enrolment: the entry that it became
	recovery seal.ID
	grants   map[seal.ID]map[seal.ID]Roles // party, folder
	shared   map[seal.ID]map[seal.ID]bool  // app, folders that it was ever granted
	named    map[seal.ID]bool              // folder uids that any op has named
	folders  map[seal.ID]FolderState
	floors   floors
	plugins  map[seal.Digest]Plugin
}

// floors are by far the most numerous: one for each record. Clones share those
// that are settled, so that a clone costs little.
type floors struct {
	settled map[Ref]uint64 // never altered
	newer   map[Ref]uint64 // go before the settled ones
}

func (f *floors) of(r Ref) uint64 {
	if n, ok := f.newer[r]; ok {
		return n
	}
	return f.settled[r]
}

// settle makes the newer ones settled once they have become many, so rarely that
// it costs little for each.
func (f *floors) settle() {
	if len(f.newer) <= 1000+len(f.settled)/16 {
		return
	}
	all := make(map[Ref]uint64, len(f.settled)+len(f.newer))
	maps.Copy(all, f.settled)
	maps.Copy(all, f.newer)
	f.settled, f.newer = all, map[Ref]uint64{}
}

// NewLog is a log without changes. A zero org takes the organisation from change
// 0: whoever does so must then compare the head that his token names
// (ContainsDigest), or show the fingerprint.
func NewLog(org seal.Digest) *Log {
	return &Log{s: state{
		pinned:  !org.IsZero(),
		org:     org,
		entries: map[seal.ID]*Entry{},
		gone:    map[seal.ID]bool{},
		keys:    map[seal.ID]seal.ID{},
		used:    map[seal.ID]seal.ID{},
		grants:  map[seal.ID]map[seal.ID]Roles{},
		shared:  map[seal.ID]map[seal.ID]bool{},
		named:   map[seal.ID]bool{},
		folders: map[seal.ID]FolderState{},
		floors:  floors{newer: map[Ref]uint64{}},
		plugins: map[seal.Digest]Plugin{},
	}}
}

// Clone is an independent copy: the honest server appends to a clone inside its
// transaction and puts it in place after the commit.
func (l *Log) Clone() *Log {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s := l.s
	s.digests = slices.Clip(s.digests) // the next append copies
	s.entries = maps.Clone(s.entries)
	s.gone = maps.Clone(s.gone)
	s.keys = maps.Clone(s.keys)
	s.used = maps.Clone(s.used)
	s.grants = maps.Clone(s.grants)
	for id, folders := range s.grants {
		s.grants[id] = maps.Clone(folders)
	}
	s.shared = maps.Clone(s.shared)
	for id, folders := range s.shared {
		s.shared[id] = maps.Clone(folders)
	}
	s.named = maps.Clone(s.named)
	s.folders = maps.Clone(s.folders)
	s.floors.newer = maps.Clone(s.floors.newer)
	s.plugins = maps.Clone(s.plugins)
	return &Log{s: s}
}

// Adopt brings this log to where newer is: a clone of it, with the changes that the
// caller has stored since. newer is used no more. So a log never knows more than its
// store: what could not be stored comes again.
func (l *Log) Adopt(newer *Log) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.s = newer.s
}

// Org is the organisation's id; zero before change 0 if none was pinned.
func (l *Log) Org() seal.Digest {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.org
}

// Next is the epoch of the change that would come next: the number of changes.
func (l *Log) Next() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return uint64(len(l.s.digests))
}

// Head names the newest change; zero for an empty log.
func (l *Log) Head() Head {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.head()
}

func (s *state) head() Head {
	n := len(s.digests)
	if n == 0 {
		return Head{}
	}
	return Head{uint64(n - 1), s.digests[n-1], time.UnixMilli(s.issued), time.UnixMilli(s.validUntil)}
}

// DigestAt is the digest of the change with that epoch.
func (l *Log) DigestAt(epoch uint64) (seal.Digest, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if epoch >= uint64(len(l.s.digests)) {
		return seal.Digest{}, false
	}
	return l.s.digests[epoch], true
}

// ContainsDigest reports whether some change has that digest: a token's holder
// requires it, else HeadMissing (keys.md 3.6).
func (l *Log) ContainsDigest(d seal.Digest) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Contains(l.s.digests, d)
}

// CheckHead compares a head that a message carries with this log: LogGap if the
// log must be fetched up to it first, LogFork if the signer saw another log.
func (l *Log) CheckHead(epoch uint64, digest []byte) error {
	d, err := seal.DigestFrom(digest)
	if err != nil {
		return &Error{Reason: Malformed, What: "log head", Err: err}
	}
	mine, ok := l.DigestAt(epoch)
	if !ok {
		return fail(LogGap, "a message refers to change %d, this log ends before it", epoch)
	}
	if mine != d {
		return fail(LogFork, "a message refers to another change %d than this log's", epoch)
	}
	return nil
}

// CheckServer compares the head that a server claims with this log (4.1 step
// 6): LogRollback if the server's is lower, in which case the caller keeps this
// log and sends the missing changes back; LogFork if it differs; nil if it is
// equal or newer, in which case the caller fetches from Next.
func (l *Log) CheckServer(epoch uint64, digest seal.Digest) error {
	mine, ok := l.DigestAt(epoch)
	switch {
	case !ok:
		return nil
	case mine != digest:
		return fail(LogFork, "the server's change %d is not this log's", epoch)
	case epoch+1 < l.Next():
		return fail(LogRollback, "the server's log ends with change %d, this one with %d", epoch, l.Next()-1)
	}
	return nil
}

// CheckFresh is LogStale once the log's valid_until (and the skew) has passed,
// and for an empty log. OpenCommand, CheckMandate,
// CheckValue and CheckCandidate call it.
func (l *Log) CheckFresh(now time.Time) error {
	h := l.Head()
	if h.Digest.IsZero() {
		return fail(LogStale, "this party has no log yet")
	}
	if now.After(h.ValidUntil.Add(Skew)) {
		return fail(LogStale, "the log was valid until %s", h.ValidUntil.UTC().Format(time.RFC3339))
	}
	return nil
}

// RenewalDue reports that a third of the log's time is gone: an administrator's
// client then appends a change without ops. Warn reports that half is gone:
// agents, doctor and metrics then name the date.
func (l *Log) RenewalDue(now time.Time) bool { return l.elapsed(now, 3) }

// Warn: see RenewalDue.
func (l *Log) Warn(now time.Time) bool { return l.elapsed(now, 2) }

// elapsed reports whether the first of so many parts of the log's time is over.
func (l *Log) elapsed(now time.Time, parts time.Duration) bool {
	h, p := l.Head(), l.Policy()
	return now.After(h.ValidUntil.Add(-p.MaxAge).Add(p.MaxAge / parts))
}

// ValidUntil is the end of the log's freshness.
func (l *Log) ValidUntil() time.Time { return l.Head().ValidUntil }

// Entry is the live entry of an id.
func (l *Log) Entry(id seal.ID) (Entry, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.entry(id)
}

func (s *state) entry(id seal.ID) (Entry, bool) {
	e, ok := s.entries[id]
	if !ok {
		return Entry{}, false
	}
	return *e, true
}

// FullName is an entry's name as people are told it: of a device "member / device", of
// an agent "pool / agent". Two people's devices may bear one name.
func (l *Log) FullName(e Entry) string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.fullName(e)
}

func (s *state) fullName(e Entry) string {
	if owner, ok := s.entries[e.Owner]; ok {
		return owner.Name + " / " + e.Name
	}
	return e.Name
}

// EntryByKey is the live entry whose signing key has that key id.
func (l *Log) EntryByKey(keyID seal.ID) (Entry, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.entry(l.s.keys[keyID])
}

// EnrolUsed is the entry for which an enrolment's key has been used up.
func (l *Log) EnrolUsed(keyID seal.ID) (entry seal.ID, used bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	entry, used = l.s.used[keyID]
	return entry, used
}

// Entries lists the live entries of the given kinds (none: all), ordered by
// name and id.
func (l *Log) Entries(kinds ...trustv1.EntryKind) []Entry {
	return l.list(func(e *Entry) bool { return len(kinds) == 0 || slices.Contains(kinds, e.Kind) })
}

// Owned lists the live entries that an entry owns, ordered by name and id: a
// member's devices, a pool's agents, and the enrolments of either.
func (l *Log) Owned(owner seal.ID) []Entry {
	return l.list(func(e *Entry) bool { return e.Owner == owner && !owner.IsZero() })
}

func (l *Log) list(want func(*Entry) bool) []Entry {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []Entry
	for _, e := range l.s.entries {
		if want(e) {
			out = append(out, *e)
		}
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), slices.Compare(a.ID[:], b.ID[:]))
	})
	return out
}

// Roles is what an entry may do in a folder now: by grants on the folder and on
// the zero folder; of a device its member's, masked; of an agent its pool's. An
// entry that is not live has none. Time is not considered (Entry.Expired).
func (l *Log) Roles(entry, folder seal.ID) Roles {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.roles(entry, folder)
}

func (s *state) roles(id, folder seal.ID) Roles {
	e, ok := s.entries[id]
	if !ok {
		return 0
	}
	mask := AllRoles
	switch e.Kind {
	case trustv1.EntryKind_ENTRY_KIND_DEVICE:
		id, mask = e.Owner, e.Roles.full()
	case trustv1.EntryKind_ENTRY_KIND_AGENT:
		id = e.Owner
	}
	return (s.grants[id][folder] | s.grants[id][seal.ID{}]).full() & mask
}

// GrantsTo lists the grants of a member, pool or app, ordered by folder.
func (l *Log) GrantsTo(party seal.ID) []Grant {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []Grant
	for folder, roles := range l.s.grants[party] {
		out = append(out, Grant{folder, party, roles})
	}
	slices.SortFunc(out, func(a, b Grant) int { return slices.Compare(a.Folder[:], b.Folder[:]) })
	return out
}

// GrantsOn lists the grants on a folder (not those on zero), ordered by party.
func (l *Log) GrantsOn(folder seal.ID) []Grant {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []Grant
	for party, folders := range l.s.grants {
		if roles, ok := folders[folder]; ok {
			out = append(out, Grant{folder, party, roles})
		}
	}
	slices.SortFunc(out, func(a, b Grant) int { return slices.Compare(a.To[:], b.To[:]) })
	return out
}

// MayHoldApp reports whether a member or device may hold an application's key: an
// administrator, or who may SHARE each folder that the application was ever granted.
// A folder that was withdrawn counts: what was wrapped under the key stays so. An
// application that never had a folder is the administrators' alone: whoever holds its key
// reads what it is granted next.
func (l *Log) MayHoldApp(entry, app seal.ID) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.mayHoldApp(entry, app)
}

func (s *state) mayHoldApp(entry, app seal.ID) bool {
	if s.roles(entry, seal.ID{}).Has(Admin) {
		return true
	}
	for folder := range s.shared[app] {
		if !s.roles(entry, folder).Has(Share) {
			return false
		}
	}
	return len(s.shared[app]) > 0
}

// AppFolders lists the folders that an application was ever granted, ordered by uid.
func (l *Log) AppFolders(app seal.ID) []seal.ID {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.SortedFunc(maps.Keys(l.s.shared[app]), func(a, b seal.ID) int { return slices.Compare(a[:], b[:]) })
}

// Readers lists the devices and agents that may hold a folder's key, and the
// recovery entry, ordered by name and id.
func (l *Log) Readers(folder seal.ID) []Entry {
	return l.list(func(e *Entry) bool {
		switch e.Kind {
		case trustv1.EntryKind_ENTRY_KIND_DEVICE, trustv1.EntryKind_ENTRY_KIND_AGENT:
			return l.s.roles(e.ID, folder).Has(Read)
		}
		return e.Kind == trustv1.EntryKind_ENTRY_KIND_RECOVERY
	})
}

// Folder is what the log says of a folder's key.
func (l *Log) Folder(uid seal.ID) (FolderState, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	f, ok := l.s.folders[uid]
	return f, ok
}

// Folders lists every folder, ordered by uid.
func (l *Log) Folders() []FolderState {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.SortedFunc(maps.Values(l.s.folders), func(a, b FolderState) int { return slices.Compare(a.UID[:], b.UID[:]) })
}

// Floor is the least seq of a record's statement that may still be used.
func (l *Log) Floor(r Ref) uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.floors.of(r)
}

// Plugin is the approved plugin binary with that digest.
func (l *Log) Plugin(sha256 seal.Digest) (Plugin, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	p, ok := l.s.plugins[sha256]
	return p, ok
}

// Plugins lists the approved plugin binaries, ordered by name, version and digest.
func (l *Log) Plugins() []Plugin {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.SortedFunc(maps.Values(l.s.plugins), func(a, b Plugin) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), slices.Compare(a.SHA256[:], b.SHA256[:]))
	})
}

// Policy is the organisation's policy.
func (l *Log) Policy() Policy {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.policy
}

// Root is the root's public key.
func (l *Log) Root() ed25519.PublicKey {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Clone(l.s.root)
}

// Recovery is the entry to whose seal key every folder key is also sealed.
func (l *Log) Recovery() (Entry, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.entry(l.s.recovery)
}

// describe names an entry to people.
func (s *state) describe(id seal.ID) string {
	if id.IsZero() {
		return "the root"
	}
	if e, ok := s.entries[id]; ok {
		return fmt.Sprintf("%s %q", kindName(e.Kind), s.fullName(*e))
	}
	return id.String()
}

func kindName(k trustv1.EntryKind) string {
	switch k {
	case trustv1.EntryKind_ENTRY_KIND_MEMBER:
		return "member"
	case trustv1.EntryKind_ENTRY_KIND_POOL:
		return "pool"
	case trustv1.EntryKind_ENTRY_KIND_DEVICE:
		return "device"
	case trustv1.EntryKind_ENTRY_KIND_AGENT:
		return "agent"
	case trustv1.EntryKind_ENTRY_KIND_APP:
		return "app"
	case trustv1.EntryKind_ENTRY_KIND_ENROLMENT:
		return "enrolment"
	case trustv1.EntryKind_ENTRY_KIND_RECOVERY:
		return "recovery"
	}
	return "entry"
}
