package trust

import (
	"crypto/ed25519"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// SignStatement fills in v and the log's head and signs. It refuses a statement
// that no reader would decode (Malformed); rights are checked by CheckSigner and
// CheckLinks.
func SignStatement(l *Log, key ed25519.PrivateKey, s *trustv1.Statement) (signed []byte, digest seal.Digest, err error) {
	s = proto.CloneOf(s)
	h := l.Head()
	s.V, s.LogEpoch, s.LogDigest = Version, h.Epoch, h.Digest.Bytes()
	if err := checkStatement(s); err != nil {
		return nil, seal.Digest{}, err
	}
	return signEnvelope(seal.KindStatement, l.Org(), s, key)
}

// Statement is a decoded statement whose signature holds.
type Statement struct {
	*trustv1.Statement
	Ref    Ref
	Digest seal.Digest
	Signed []byte
	Signer Entry // the device
}

// Pool is the pool of a resource's statement; zero for other kinds.
func (s *Statement) Pool() seal.ID {
	if r := s.GetResource(); r != nil {
		return seal.ID(r.PoolId)
	}
	return seal.ID{}
}

// OpenStatement decodes a Signed{Statement} and checks signer, signature and log
// head, and the signer's roles for the record itself (4.2 step 4): SignerUnknown,
// SignatureBad, NotAllowed, LogGap, LogFork, Malformed, UnknownField. What it
// names is CheckLinks' business.
func OpenStatement(l *Log, signed []byte) (*Statement, error) {
	env, err := openEnvelope(seal.KindStatement, signed, MaxSigned, 1)
	if err != nil {
		return nil, err
	}
	signer, err := liveSigner(l, env, trustv1.EntryKind_ENTRY_KIND_DEVICE)
	if err != nil {
		return nil, err
	}
	p := &trustv1.Statement{}
	if err := decode("statement", env.body, MaxSigned, p); err != nil {
		return nil, err
	}
	if err := checkStatement(p); err != nil {
		return nil, err
	}
	s := &Statement{p, Ref{seal.ID(p.FolderUid), seal.ID(p.RecordUid)}, env.digest(l.Org()), signed, signer}
	if err := l.CheckHead(p.LogEpoch, p.LogDigest); err != nil {
		return nil, err
	}
	if signer.Expired(time.UnixMilli(p.Issued)) {
		return nil, fail(SignerUnknown, "device %q signed the statement after its time was over", l.FullName(signer))
	}
	return s, CheckSigner(l, s)
}

// liveSigner finds an envelope's one signer among the live entries of a kind and
// verifies the signature, before anything of the body is used.
func liveSigner(l *Log, env *envelope, kinds ...trustv1.EntryKind) (Entry, error) {
	e, ok := l.EntryByKey(env.keyID(0))
	for _, k := range kinds {
		if ok && e.Kind == k {
			return e, env.verify(0, e.SignPub, l.Org())
		}
	}
	return Entry{}, fail(SignerUnknown, "the signer of a %s is not live in the log", env.kind)
}

// CheckSigner says whether the statement's signer has, now, the roles that the
// record itself asks for: Edit; Operate too for a resource and for an enabled
// mandate: NotAllowed.
func CheckSigner(l *Log, s *Statement) error {
	need := Edit
	if s.Kind == trustv1.RecordKind_RECORD_KIND_RESOURCE || s.GetAccount().GetMandate().GetEnabled() {
		need |= Operate
	}
	if has := l.Roles(s.Signer.ID, s.Ref.Folder); !has.Has(need) {
		return fail(NotAllowed, "device %q signed the statement of %s, which needs %s, with %s", l.FullName(s.Signer), s.Ref, need, has)
	}
	return nil
}

// JumpExtra is the name of the extra of an ssh resource by which agents log in on their
// way to what is behind it; without one they do so as its administrator. No plugin gets it.
const JumpExtra = "jump"

// Reference is a record that a statement names.
type Reference struct {
	Ref   Ref
	As    string // resource, via, administrator, extra, pair, dependent, record, script
	Needs Roles  // of the signer, in the record's folder
}

// References lists every record that a statement names, with what naming it asks
// of the signer: Operate on a resource's folder, Read and Operate on an account's.
// A script asks for ApproveScript in the folder of the record that uses it, which
// CheckLinks checks.
func References(s *trustv1.Statement) []Reference {
	const account = Read | Operate
	var refs []Reference
	add := func(as string, r *trustv1.Ref, needs Roles) {
		if r != nil {
			refs = append(refs, Reference{mustRef(r), as, needs})
		}
	}
	var scripts []*trustv1.ScriptUse
	switch sub := s.Subject.(type) {
	case *trustv1.Statement_Resource:
		add("via", sub.Resource.Via, Operate)
		add("administrator", sub.Resource.AdminAccount, account)
		for _, x := range sub.Resource.Extras {
			add("extra", x.Account, account)
		}
		add("script", sub.Resource.Rotator.GetScript(), 0)
		add("script", sub.Resource.Discoverer.GetScript(), 0)
		scripts = sub.Resource.Scripts
	case *trustv1.Statement_Account:
		add("resource", sub.Account.Resource, Operate)
		add("pair", sub.Account.PairAccount, account)
		for _, d := range sub.Account.Dependents {
			add("dependent", d.Resource, Operate)
			add("script", d.Script.GetScript(), 0)
		}
		add("script", sub.Account.Generator.GetScript(), 0)
		scripts = sub.Account.Scripts
	}
	for _, u := range scripts {
		add("script", u.Script, 0)
		for _, r := range u.Records {
			add("record", r, account)
		}
	}
	return refs
}

// MayName says whether a device may sign that a record of a folder names another one.
func MayName(l *Log, device, folder seal.ID, r Reference) bool {
	if r.As == "script" && !l.Roles(device, folder).Has(ApproveScript) {
		return false
	}
	return l.Roles(device, r.Ref.Folder).Has(r.Needs)
}

// Unlinked lists what a statement names on which its signer has no right: why CheckLinks
// refuses it, whatever the pool.
func Unlinked(l *Log, s *Statement) []Reference {
	return slices.DeleteFunc(References(s.Statement), func(r Reference) bool { return MayName(l, s.Signer.ID, s.Ref.Folder, r) })
}

// CheckLinks is 4.2 step 9, for one record: the statement's signer still has the
// rights of 3.2 in the folder of everything that it names, and the pool may read
// each. pool is the account's resource's, or the resource's own; zero leaves the
// pool out (a client that cannot read the resource). NotLinked.
func CheckLinks(l *Log, s *Statement, pool seal.ID) error {
	for _, r := range References(s.Statement) {
		switch has := l.Roles(s.Signer.ID, r.Ref.Folder); {
		case MayName(l, s.Signer.ID, s.Ref.Folder, r):
		case has.Has(r.Needs):
			return fail(NotLinked, "device %q may not let a script into folder %s", l.FullName(s.Signer), s.Ref.Folder)
		default:
			return fail(NotLinked, "%s names %s as %s, which needs %s there; device %q has %s", s.Ref, r.Ref, r.As, r.Needs, l.FullName(s.Signer), has)
		}
		if !pool.IsZero() && !l.Roles(pool, r.Ref.Folder).Has(Read) {
			return fail(NotLinked, "%s names %s as %s, which the pool may not read", s.Ref, r.Ref, r.As)
		}
	}
	return nil
}

// FormerStatement opens the statement that a later one names as its former, by its
// digest alone: that chain is what the later ones' signers vouched for. The signer is
// the zero Entry where its word counts no longer, so that nothing is built on it.
func FormerStatement(l *Log, signed []byte, digest seal.Digest) (*Statement, error) {
	env, err := openEnvelope(seal.KindStatement, signed, MaxSigned, 1)
	if err != nil {
		return nil, err
	}
	if env.digest(l.Org()) != digest {
		return nil, fail(StatementFork, "a former statement is another than the one that the next one names")
	}
	if s, err := OpenStatement(l, signed); err == nil {
		return s, nil
	}
	p := &trustv1.Statement{}
	if err := decode("statement", env.body, MaxSigned, p); err != nil {
		return nil, err
	}
	if err := checkStatement(p); err != nil {
		return nil, err
	}
	return &Statement{p, Ref{seal.ID(p.FolderUid), seal.ID(p.RecordUid)}, digest, signed, Entry{}}, nil
}
