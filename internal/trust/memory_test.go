package trust

import (
	"iter"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// volatile is a memory that ends with the process. Its zero value is ready, and
// it is safe for concurrent use.
type volatile struct {
	mu         sync.Mutex
	statements map[Ref]StatementSeen
	values     map[Ref]ValueSeen
	settled    map[Ref]map[seal.Digest]bool
	commands   map[seal.ID]bool
	greatest   time.Time
	floor      time.Time
}

var _ AgentMemory = (*volatile)(nil)

// Statement is RecordMemory's.
func (m *volatile) Statement(r Ref) (StatementSeen, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.statements[r], nil
}

// RememberStatement is RecordMemory's.
func (m *volatile) RememberStatement(r Ref, s StatementSeen) error {
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
func (m *volatile) Value(r Ref) (ValueSeen, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values[r], nil
}

// RememberValue is RecordMemory's.
func (m *volatile) RememberValue(r Ref, v ValueSeen) error {
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
func (m *volatile) Settled(r Ref, d seal.Digest) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settled[r][d], nil
}

// Settle: see Settled.
func (m *volatile) Settle(r Ref, d seal.Digest) {
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
func (m *volatile) CommandKnown(id seal.ID) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.commands[id], nil
}

// KnowCommand: see CommandKnown.
func (m *volatile) KnowCommand(id seal.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.commands == nil {
		m.commands = map[seal.ID]bool{}
	}
	m.commands[id] = true
}

// GreatestTime is AgentMemory's; SeeTime raises it.
func (m *volatile) GreatestTime() (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.greatest, nil
}

// SeeTime: see GreatestTime.
func (m *volatile) SeeTime(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.After(m.greatest) {
		m.greatest = t
	}
}

// ReplayFloor is AgentMemory's; SetReplayFloor sets it.
func (m *volatile) ReplayFloor() (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.floor, nil
}

// SetReplayFloor: see ReplayFloor.
func (m *volatile) SetReplayFloor(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.floor = t
}

// replay appends changes in order and stops at the first that fails, with the log up
// to there.
func replay(org seal.Digest, changes iter.Seq[[]byte], now time.Time) (*Log, error) {
	l := NewLog(org)
	for signed := range changes {
		if _, err := l.Append(signed, now); err != nil {
			return l, err
		}
	}
	return l, nil
}
