package trust

import (
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
}

// Append verifies one Signed{Change} (4.1 steps 1–5) and applies it, all or
// nothing. The caller stores the bytes. A change that the log has already is no
// error. Reasons: Malformed, UnknownField, LogFork, LogGap, LogSigner,
// EnrolUsed, SignatureBad, ClockFuture.
func (l *Log) Append(signed []byte, now time.Time) (Appended, error) { panic("unbuilt") }
