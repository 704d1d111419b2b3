package sdk

import (
	"context"
	"time"
)

// After is what is done when an account's secret has been changed: a unit restarted, a
// router told. Declared by Manifest.After.
//
// The resource is the one that it is done on, with its administrator's login where that is
// needed; what the statement says of this use is Resource.Config (see Manifest.Config).
type After interface {
	// Run does it. It must be repeatable (RunTwice): after a crash the agent does it again, and
	// so may a person. What it opens it closes again. An answer is Unknown, or an error, when a
	// sent change got no answer: no test of the kit's breaks one off.
	Run(context.Context, OpenRequest, AfterRequest) (AfterResponse, error)
}

// MaxOutput is the most that a Run says for people, in bytes; the rest is cut off.
const MaxOutput = 8 << 10

// AfterRequest is what happened.
type AfterRequest struct {
	Account Account
	Secret  Credential // the account's, as it is now; empty unless it is needed
	Former  Credential // the one before; likewise
	Records []Record   // further ones that it is about, in the order that it asked for them
	RunID   string     // of the agent's run
	Time    time.Time  // when the run began
}

// Record is a further login, or the place of one, that a Run is about.
type Record struct {
	Resource Resource
	Account  Account
	Secret   Credential
	Pins     map[string][]byte // as Host.Pins, of its resource
}

// AfterResponse tells what became of it. The zero value means not known.
type AfterResponse struct {
	Outcome Outcome // Changed: it is done; Unchanged: it is not, and will not be
	Class   Class   // with Unchanged
	Reason  string  // stable code, at most 64 bytes
	Output  string  // for people who may read the account, at most MaxOutput bytes
}
