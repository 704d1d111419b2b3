package trust

import (
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Authority is why a candidate was staged; exactly one field is set. It lies
// beside the candidate under the record's extension key.
type Authority struct {
	Command   []byte      // Signed{Command}
	Mandate   seal.Digest // of the account's statement
	Committed []byte      // Signed{Result} of this agent, of a lower number, when it heals a lost commit
}

// The first byte of an encoded authority.
const (
	authorityCommand   = 1
	authorityMandate   = 2
	authorityCommitted = 3
)

// SealAuthority encrypts an authority beside its candidate: one byte that says
// which, then its bytes.
func SealAuthority(org seal.Digest, recordKey seal.Key, record seal.ID, a Authority) []byte {
	var b []byte
	switch {
	case len(a.Command) > 0:
		b = append([]byte{authorityCommand}, a.Command...)
	case len(a.Committed) > 0:
		b = append([]byte{authorityCommitted}, a.Committed...)
	default:
		b = append([]byte{authorityMandate}, a.Mandate[:]...)
	}
	return seal.SealExt(org, recordKey, record, seal.ExtAuthority, b)
}

// OpenAuthority opens what SealAuthority made: CandidateUnauthorised.
func OpenAuthority(org seal.Digest, recordKey seal.Key, record seal.ID, blob []byte) (Authority, error) {
	b, err := seal.OpenExt(org, recordKey, record, seal.ExtAuthority, blob)
	if err != nil {
		return Authority{}, &Error{Reason: CandidateUnauthorised, What: "authority", Err: err}
	}
	if len(b) > 1 {
		switch rest := b[1:]; {
		case b[0] == authorityCommand:
			return Authority{Command: rest}, nil
		case b[0] == authorityCommitted:
			return Authority{Committed: rest}, nil
		case b[0] == authorityMandate && len(rest) == len(seal.Digest{}):
			return Authority{Mandate: seal.Digest(rest)}, nil
		}
	}
	return Authority{}, fail(CandidateUnauthorised, "an authority of no kind")
}

// Candidate is an outstanding candidate that an agent may probe and commit.
type Candidate struct {
	Data       []byte // clear JSON
	DataDigest seal.Digest
	Result     *Result
	// NoApply says why the candidate must not be applied (CandidateUnauthorised,
	// CandidateExpired); nil if it may.
	NoApply error
}

// CheckCandidate is 4.5 steps 1 to 3. value is CheckValue's newest attestation,
// nil for none. LogStale, CandidateUnattested, CandidateRollback, LogGap.
func CheckCandidate(l *Log, m AgentMemory, me seal.ID, account *Record, pool seal.ID, value *Value, c ServedCandidate, now time.Time) (*Candidate, error) {
	if err := l.CheckFresh(now); err != nil {
		return nil, err
	}
	// 1. A staged result whose word counts attests the staged data, which opens.
	ref := account.Ref
	r, err := OpenResult(l, c.Result)
	if reason := ReasonOf(err); reason == LogGap || reason == LogFork {
		return nil, err
	}
	if err == nil && r.Phase != trustv1.Phase_PHASE_STAGED {
		err = fail(Malformed, "a result of phase %s", r.Phase)
	}
	if err == nil {
		err = CheckWord(l, r, ref, pool)
	}
	digest := seal.Hash(c.Data)
	if err == nil && seal.Digest(r.DataDigest) != digest {
		err = fail(Malformed, "the result attests other data")
	}
	if err != nil {
		return nil, &Error{Reason: CandidateUnattested, What: "candidate of " + ref.String(), Err: err}
	}
	data, err := seal.OpenGCM(account.Key, c.Data, nil)
	if err != nil {
		return nil, &Error{Reason: CandidateUnattested, What: "candidate of " + ref.String(), Err: err}
	}
	out := &Candidate{Data: data, DataDigest: digest, Result: r}
	heals, err := checkAuthority(l, account, pool, r, c.Authority, now)
	out.NoApply = err

	// 2. The next value, and none that is settled.
	seen, err := m.Value(ref)
	if err != nil {
		return nil, err
	}
	last := seen.Seq
	if value != nil {
		last = max(last, value.Seq)
	}
	settled, err := m.Settled(ref, digest)
	if err != nil {
		return nil, err
	}
	switch {
	case heals && r.ValueSeq > last && r.ValueSeq <= last+MaxFloorRaise:
		// A lost commit is staged again above everything known: a gap is right.
	case r.ValueSeq != last+1:
		return nil, fail(CandidateRollback, "candidate %d of %s, %d would be next", r.ValueSeq, ref, last+1)
	case settled:
		return nil, fail(CandidateRollback, "candidate %d of %s is settled already", r.ValueSeq, ref)
	}

	// 3. Young, or mine.
	if staged := time.UnixMilli(r.Time); out.NoApply == nil && r.Signer.ID != me && !now.Before(staged.Add(CandidateAge)) {
		out.NoApply = fail(CandidateExpired, "candidate of %s was staged at %s", ref, stamp(r.Time))
	}
	return out, nil
}

// checkAuthority: the stored command's signature, signer, Operate and account (its
// expiry aside), or the current statement's mandate. heals: the authority is an earlier
// commit of the staging agent's own, which was lost. It is not held against the data: what
// is brought back is encrypted anew, with what persons have edited since, or was staged
// after that commit. So it allows a gap in the numbers, and no apply.
func checkAuthority(l *Log, account *Record, pool seal.ID, staged *Result, blob []byte, now time.Time) (heals bool, err error) {
	a, err := OpenAuthority(l.Org(), account.Key, account.Ref.Record, blob)
	if err != nil {
		return false, err
	}
	switch {
	case len(a.Command) > 0:
		c, err := ReadCommand(l, a.Command)
		if err != nil {
			return false, &Error{Reason: CandidateUnauthorised, What: "its command", Err: err}
		}
		switch {
		case c.Action != trustv1.Action_ACTION_ROTATE || c.Account != account.Ref || c.Digest != seal.Digest(staged.Cause) ||
			string(c.AgentId) != string(staged.By) || string(c.RunId) != string(staged.RunId):
			return false, fail(CandidateUnauthorised, "its command is for something else")
		case !l.Roles(c.Signer.ID, account.Ref.Folder).Has(Operate):
			return false, fail(CandidateUnauthorised, "device %q, which signed its command, may not operate in the folder", l.FullName(c.Signer))
		}
		// 4.3 step 10 held when it was staged. The time is the staging agent's word: one
		// that lies can only move it to where CandidateAge ends it.
		issued, at := time.UnixMilli(c.Issued), time.UnixMilli(staged.Time)
		if at.Before(issued.Add(-Skew)) || at.After(issued.Add(StagingTime+Skew)) || at.After(now.Add(Skew)) {
			return false, fail(CandidateUnauthorised, "its command was issued at %s, and it was staged at %s", stamp(c.Issued), stamp(staged.Time))
		}
		return false, nil

	case len(a.Committed) > 0:
		r, err := OpenResult(l, a.Committed)
		if err == nil {
			err = CheckWord(l, r, account.Ref, pool)
		}
		if err != nil {
			return false, &Error{Reason: CandidateUnauthorised, What: "its earlier commit", Err: err}
		}
		if r.Phase != trustv1.Phase_PHASE_COMMITTED || r.Signer.ID != staged.Signer.ID || r.ValueSeq >= staged.ValueSeq {
			return false, fail(CandidateUnauthorised, "its earlier commit is of something else")
		}
		return true, fail(ValueRollback, "it brings a lost value back: it is probed and committed, never applied")
	}
	if err := checkMandate(l, account.Statement, now); err != nil {
		return false, &Error{Reason: CandidateUnauthorised, What: "its mandate", Err: err}
	}
	return false, nil
}
