package trust

import (
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// Activity is what an agent's journal knows of an account's scheduled runs.
// Times older than the mandate's interval may be left out.
type Activity struct {
	Starts    []time.Time
	Staged    []time.Time // new candidates made
	Committed []time.Time
}

// CheckMandate is 4.4 steps 1 to 3 for a run that the server asked for: LogStale,
// WrongPool, MandateOff, MandateExpired, NotAllowed, TooOften. results are the
// account's Signed{Result}s as served. The caller journals the start.
func CheckMandate(l *Log, me seal.ID, account, resource *Statement, a Activity, results [][]byte, now time.Time) error {
	panic("unbuilt")
}

// Authority is why a candidate was staged; exactly one field is set. It lies
// beside the candidate under the record's extension key.
type Authority struct {
	Command   []byte      // Signed{Command}
	Mandate   seal.Digest // of the account's statement
	Committed []byte      // Signed{Result} of this agent, when it heals a lost commit
}

// SealAuthority encrypts an authority beside its candidate.
func SealAuthority(org seal.Digest, recordKey seal.Key, record seal.ID, a Authority) []byte {
	panic("unbuilt")
}

// OpenAuthority opens what SealAuthority made: CandidateUnauthorised.
func OpenAuthority(org seal.Digest, recordKey seal.Key, record seal.ID, blob []byte) (Authority, error) {
	panic("unbuilt")
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
// nil for none. LogStale, CandidateUnattested, CandidateRollback.
func CheckCandidate(l *Log, m AgentMemory, me seal.ID, account *Record, pool seal.ID, value *Value, c ServedCandidate, now time.Time) (*Candidate, error) {
	panic("unbuilt")
}
