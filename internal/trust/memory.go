package trust

import (
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// StatementSeen is the newest statement of a record that a party has accepted.
type StatementSeen struct {
	Seq    uint64
	Digest seal.Digest
	Signed []byte // Signed{Statement}, to send back to a server that lost it
}

// ValueSeen is the newest attested value of an account that a party has accepted.
type ValueSeen struct {
	Seq    uint64
	Digest seal.Digest // H(ciphertext)
	Former seal.Digest // of the value before: tells an old value from a foreign one
	Set    uint64      // number of the value that set the secret in it
}

// RecordMemory remembers, per record, what a party has seen. It only merges
// upwards. Errors are those of the disk, never "unknown": the zero value is that.
type RecordMemory interface {
	Statement(Ref) (StatementSeen, error)
	RememberStatement(Ref, StatementSeen) error
	Value(Ref) (ValueSeen, error)
	RememberValue(Ref, ValueSeen) error
}

// AgentMemory is what an agent's journal remembers besides.
type AgentMemory interface {
	RecordMemory
	// Settled reports whether this agent knows a candidate (H(ciphertext)) of the
	// account as committed or abandoned.
	Settled(Ref, seal.Digest) (bool, error)
	// CommandKnown reports whether the command's id is journalled.
	CommandKnown(id seal.ID) (bool, error)
	// GreatestTime is the greatest time that the journal has seen.
	GreatestTime() (time.Time, error)
	// ReplayFloor is the time up to which commands are refused; zero for none.
	ReplayFloor() (time.Time, error)
}
