package client

import (
	"errors"
	"fmt"
)

// Class says what kind of failure an error is, so that a program can choose
// its exit code without reading text.
type Class string

// The classes.
const (
	Invalid     Class = "invalid"     // what the caller asked for makes no sense
	Locked      Class = "locked"      // the device's store is locked: unlock it
	Denied      Class = "denied"      // the log gives no such right
	NotFound    Class = "not_found"   // no such thing, or it may not be read
	Conflict    Class = "conflict"    // somebody else was faster, or a candidate is outstanding
	Unreachable Class = "unreachable" // the server, or an agent, did not answer
	Refused     Class = "refused"     // a check failed: what the server served is not to be trusted
	Failed      Class = "failed"      // the run, the test or the probe ended badly
	Unknown     Class = "unknown"     // the outcome is not known yet; nothing is lost
	Internal    Class = "internal"    // a defect or a full disk
)

// Error is every error of this package: what failed, on what, and what to do.
type Error struct {
	Class  Class
	Reason string // stable code, e.g. recipient_unverified
	Op     string // what was being done, e.g. "rotate db1/app"
	Hint   string // what to do; may be empty
	Err    error  // may be nil
}

func (e *Error) Error() string {
	s := e.Reason
	if e.Op != "" {
		s = e.Op + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// ClassOf is the class of an error, Internal for one that is not of this package.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return Internal
}

// ReasonOf is the stable reason code of an error, or "".
func ReasonOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

func invalid(op, format string, args ...any) error {
	return &Error{Class: Invalid, Reason: "invalid", Op: op, Err: fmt.Errorf(format, args...)}
}

func notFound(op, format string, args ...any) error {
	return &Error{Class: NotFound, Reason: "not_found", Op: op, Err: fmt.Errorf(format, args...)}
}
