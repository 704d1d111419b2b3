// Package exitcode is the codes that all programs of Rotunda end with: scripts and
// service managers branch on them.
package exitcode

import (
	"errors"
	"strconv"
)

// Code is a code that a program ends with. Codes are stable: a new situation takes a
// new number, or the nearest old one.
type Code int

// The codes.
const (
	OK          Code = 0
	Internal    Code = 1
	Usage       Code = 2
	NotFound    Code = 3
	Denied      Code = 4
	Conflict    Code = 5
	Unreachable Code = 6
	Pending     Code = 7
	Failed      Code = 8
	Locked      Code = 9
	Findings    Code = 10
	Partly      Code = 11
	Declined    Code = 12
	Interrupted Code = 130
)

// Row is a line of the documented table.
type Row struct {
	Code    Code
	Name    string
	Meaning string // of the command line
	Service string // of rotunda-server and rotunda-agent; empty: they do not end with it
}

// Table is the documented table.
func Table() []Row {
	return []Row{
		{OK, "ok", "done", "done, or stopped by a signal as asked"},
		{Internal, "internal", "a fault of the program or of this machine; nothing else fits", "the same"},
		{Usage, "usage", "the command line, a file or an input is not understood", "the command line, the settings, a backup, a plugin's manifest or a file of the program's own folder cannot be used as it is"},
		{NotFound, "not_found", "no such record, folder, run, member, file, …, or a name that fits several", "this host is not enrolled; the token's file, the backup or a plugin's manifest, file or version is not there; the server has made no database, key or setup code yet"},
		{Denied, "denied", "the rights do not reach, or a check refused what the server served (see the reason)", "the token is refused, a check refused what the server served, a plugin is not as its publisher signed it or of one whose word is not taken, or the passphrase of the key file is wrong"},
		{Conflict, "conflict", "somebody else changed it first, it exists already, or a run is outstanding", "the port, the folder or the database is in use; the backup's file is there already, or the folder to restore into is not empty; this host is enrolled already; the plugin is installed already, is older than the one in use, or has the name of one that came with the agent"},
		{Unreachable, "unreachable", "the server, or an agent that could do it, cannot be reached now", "the server cannot be reached (enrol), or no agent answers (status)"},
		{Pending, "pending", "not decided yet: still running, or the outcome is unknown and Rotunda finds out later", "whether the token is used up is not known (enrol)"},
		{Failed, "failed", "the run ended and the credential was not changed, verifying said no, or a test of a plugin or a script failed", ""},
		{Locked, "locked", "the device store is locked and no passphrase was to be had", "the key file is locked and no passphrase was to be had"},
		{Findings, "findings", "doctor found something that needs a person, a script has something wrong in it, or a removal left folders into which nobody could look", "doctor found something, or status says that the agent is not well"},
		{Partly, "partly", "the credential is in use, changed if that was asked, but dependents or scripts failed", ""},
		{Declined, "declined", "asked, and the answer was no, or none was given: what was asked about is not done", ""},
		{Interrupted, "interrupted", "stopped by a signal; work that was started goes on at the agent", ""},
	}
}

// Name is what the documented table calls a code.
func (c Code) Name() string {
	for _, row := range Table() {
		if row.Code == c {
			return row.Name
		}
	}
	return strconv.Itoa(int(c))
}

type coded struct {
	code Code
	err  error
}

func (c *coded) Error() string { return c.err.Error() }
func (c *coded) Unwrap() error { return c.err }

// With says how the program ends for an error, unless something nearer to its cause has
// said so. The nil error stays nil.
func With(code Code, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*coded](err); ok {
		return err
	}
	return &coded{code, err}
}

// Of is what With said, other where nothing was said; OK for nil.
func Of(err error, other Code) Code {
	if err == nil {
		return OK
	}
	if c, ok := errors.AsType[*coded](err); ok {
		return c.code
	}
	return other
}
