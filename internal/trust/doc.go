// Package trust holds the rules of who is believed: the organisation's log of
// signed changes and its replay, and the checks of statements, commands,
// results, mandates and candidates. Agents, clients and the honest server use
// the same code.
//
// Everything that a server serves enters through a function of this package, is
// decoded strictly, and leaves either verified or as an *Error with a reason
// code. The first step that fails gives the code. No function here reads a
// clock: now is a parameter.
//
// Decoding is stricter than protobuf's: unknown fields and enum values at any
// depth are "unknown_field"; trailing bytes, wrong lengths, a singular field
// given twice and two members of one oneof are "malformed". The order of fields
// and the length of varints are free, since a body is signed, kept and compared
// as the bytes received.
package trust

import "time"

// Bounds. Times on the wire are Unix milliseconds.
const (
	// Version is the newest message format that this code reads and writes.
	Version = 1
	// Skew is how far two honest clocks may differ.
	Skew = 120 * time.Second
	// MaxSigned bounds a Signed log change, statement or result, in bytes.
	MaxSigned = 1 << 20
	// MaxSealedCommand bounds the sealed part of a command frame, in bytes.
	MaxSealedCommand = 64 << 10
	// MaxOps bounds the ops of one change.
	MaxOps = 10_000
	// MaxName bounds names of entries, in bytes.
	MaxName = 256
	// MaxFloorRaise bounds how far one op may raise a floor.
	MaxFloorRaise = 1_000_000
	// MaxAgeDays bounds the policy's max_age_days; DefaultAgeDays is its start.
	MaxAgeDays     = 400
	DefaultAgeDays = 180
	// MaxDeviceAge bounds a device's not_after, counted from the change's issued.
	MaxDeviceAge = 400 * 24 * time.Hour
	// MaxEnrolmentAge bounds an enrolment's not_after; DefaultEnrolmentAge is usual.
	MaxEnrolmentAge     = 7 * 24 * time.Hour
	DefaultEnrolmentAge = 24 * time.Hour
	// MaxLifetime bounds a command's expires − issued; DefaultLifetime is usual.
	MaxLifetime     = 10 * time.Minute
	DefaultLifetime = 2 * time.Minute
	// FollowDelay is the least gap between a command's expires and the not_before
	// of the command that follows it.
	FollowDelay = 240 * time.Second
	// StagingTime is how long after issued a command's run may still stage.
	StagingTime = 60 * time.Minute
	// MaxMandate bounds a mandate's valid_until, counted from the statement's issued.
	MaxMandate = 400 * 24 * time.Hour
	// MinInterval is the least min_interval_s of a mandate.
	MinInterval = 60 * time.Second
	// StartGap is the least time between two starts of one account's scheduled runs, and
	// between two times that one of its runs is taken up again.
	StartGap = 30 * time.Second
	// MaxNewCandidates is how many candidates may be made within a mandate's interval.
	MaxNewCandidates = 3
	// CandidateAge is how long another agent's candidate may still be applied.
	CandidateAge = 4 * time.Hour
)
