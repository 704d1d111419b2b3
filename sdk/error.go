package sdk

// Class of an error or of an Unchanged outcome decides what the agent does next.
type Class string

// The classes. Others are read as internal.
const (
	ClassInvalid     Class = "invalid"     // the request or the resource's config makes no sense
	ClassAuth        Class = "auth"        // the target refused the administrator's secret
	ClassPermission  Class = "permission"  // the administrator may not do this
	ClassNotFound    Class = "not_found"   // the account does not exist
	ClassPolicy      Class = "policy"      // the target's rules refuse this candidate, now and for ever
	ClassConflict    Class = "conflict"    // a person must decide
	ClassUnreachable Class = "unreachable" // no answer, or none of use; later again
	ClassUnsupported Class = "unsupported" // this target cannot do that
	ClassInternal    Class = "internal"    // the plugin is at fault
)

// MaxReason is the longest reason code, in bytes. A code has a-z, 0-9, dot and
// underscore only, so that it can be logged and counted as it is.
const MaxReason = 64

// Error is an error with a class. It crosses to the agent: class, reason and NotSent
// as they are, the text of Err scrubbed of the job's secrets and never matched.
type Error struct {
	Class  Class
	Reason string // stable code, such as policy.history
	// NotSent says that nothing which could change a secret reached the target in this call:
	// a login and a question may have. Without it an error from Apply, Mint or Retire is an
	// unknown outcome. Set it only where the code has not begun to send the change.
	NotSent bool
	Err     error
}

func (e *Error) Error() string {
	s := string(e.Class) + ": " + e.Reason
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// MadeNothing says whether an error of Mint proves that the target made nothing: it was
// not asked, or it refused.
func (e *Error) MadeNothing() bool {
	switch e.Class {
	case ClassInvalid, ClassAuth, ClassPermission, ClassNotFound, ClassPolicy, ClassConflict, ClassUnsupported:
		return true
	default:
		return e.NotSent
	}
}

func (e *Error) Unwrap() error { return e.Err }
