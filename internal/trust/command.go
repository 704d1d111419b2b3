package trust

import (
	"crypto/ed25519"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// SealCommand fills in v and the log's head, signs the command with the device's
// key and seals it to the agent that it names, whose encoded Keys are agentKeys.
// Pins: the account first where there is one, then the resource, then whatever
// else. The digest is the cause that results will carry.
func SealCommand(l *Log, device seal.ID, key ed25519.PrivateKey, agentKeys []byte, c *trustv1.Command, now time.Time) (frame *trustv1.CommandFrame, digest seal.Digest, err error) {
	panic("unbuilt")
}

// Command is a decoded command whose signature holds.
type Command struct {
	*trustv1.Command
	ID      seal.ID
	Account Ref // zero: none
	Pins    []Pin
	Digest  seal.Digest
	Signed  []byte // the body to journal
	Signer  Entry  // the device
}

// Pin names a statement that the command's signer saw.
type Pin struct {
	Ref    Ref
	Digest seal.Digest
}

// Target is the record whose folder decides about OPERATE: the account, or the
// resource (the first pin) where none is named; zero for info.
func (c *Command) Target() Ref {
	if c.Account.IsZero() && len(c.Pins) > 0 {
		return c.Pins[0].Ref
	}
	return c.Account
}

// OpenCommand is 4.3 steps 1 to 7, local policy aside. The caller journals the
// command's Signed before it acts. On LogGap the caller fetches the log and asks
// again, once. On Replayed the caller acknowledges and looks for the unfinished
// run in its journal.
func OpenCommand(l *Log, m AgentMemory, me seal.ID, k *seal.SealKey, f *trustv1.CommandFrame, now time.Time) (*Command, error) {
	panic("unbuilt")
}

// ReadCommand reads a command back from the journal: decoded, its signature
// checked against the log, its time and id not.
func ReadCommand(l *Log, signed []byte) (*Command, error) { panic("unbuilt") }

// CheckPins is 4.3 step 9: every pin is among the records used with its digest,
// and beside the pinned ones only the administrator, the extras and the scripts'
// further records that their statements name are used: PinMismatch.
func CheckPins(c *Command, used ...*Statement) error { panic("unbuilt") }

// CheckStaging is 4.3 step 10: a run that is not staged within StagingTime of the
// command's issued is dropped: Expired.
func (c *Command) CheckStaging(now time.Time) error { panic("unbuilt") }
