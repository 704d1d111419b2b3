package trust

import (
	"sync"
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

// Volatile is a memory that ends with the process. Its zero value is ready, and
// it is safe for concurrent use.
type Volatile struct {
	mu         sync.Mutex
	statements map[Ref]StatementSeen
	values     map[Ref]ValueSeen
	settled    map[Ref]map[seal.Digest]bool
	commands   map[seal.ID]bool
	greatest   time.Time
	floor      time.Time
}

var _ AgentMemory = (*Volatile)(nil)

// Statement is RecordMemory's.
func (m *Volatile) Statement(r Ref) (StatementSeen, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.statements[r], nil
}

// RememberStatement is RecordMemory's.
func (m *Volatile) RememberStatement(r Ref, s StatementSeen) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.statements == nil {
		m.statements = map[Ref]StatementSeen{}
	}
	if s.Seq > m.statements[r].Seq {
		m.statements[r] = s
	}
	return nil
}

// Value is RecordMemory's.
func (m *Volatile) Value(r Ref) (ValueSeen, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values[r], nil
}

// RememberValue is RecordMemory's.
func (m *Volatile) RememberValue(r Ref, v ValueSeen) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.values == nil {
		m.values = map[Ref]ValueSeen{}
	}
	if v.Seq > m.values[r].Seq {
		m.values[r] = v
	}
	return nil
}

// Settled is AgentMemory's; Settle notes a candidate as committed or abandoned.
func (m *Volatile) Settled(r Ref, d seal.Digest) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settled[r][d], nil
}

// Settle: see Settled.
func (m *Volatile) Settle(r Ref, d seal.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.settled == nil {
		m.settled = map[Ref]map[seal.Digest]bool{}
	}
	if m.settled[r] == nil {
		m.settled[r] = map[seal.Digest]bool{}
	}
	m.settled[r][d] = true
}

// CommandKnown is AgentMemory's; KnowCommand notes a command's id.
func (m *Volatile) CommandKnown(id seal.ID) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.commands[id], nil
}

// KnowCommand: see CommandKnown.
func (m *Volatile) KnowCommand(id seal.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.commands == nil {
		m.commands = map[seal.ID]bool{}
	}
	m.commands[id] = true
}

// GreatestTime is AgentMemory's; SeeTime raises it.
func (m *Volatile) GreatestTime() (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.greatest, nil
}

// SeeTime: see GreatestTime.
func (m *Volatile) SeeTime(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.After(m.greatest) {
		m.greatest = t
	}
}

// ReplayFloor is AgentMemory's; SetReplayFloor sets it.
func (m *Volatile) ReplayFloor() (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.floor, nil
}

// SetReplayFloor: see ReplayFloor.
func (m *Volatile) SetReplayFloor(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.floor = t
}
