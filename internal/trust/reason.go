package trust

import (
	"errors"
	"fmt"
)

// Reason is a stable code that says which check failed.
type Reason string

// The reason codes. Reasons describes each.
const (
	Malformed    Reason = "malformed"
	UnknownField Reason = "unknown_field"
	TooLarge     Reason = "too_large"

	LogFork     Reason = "log_fork"
	LogGap      Reason = "log_gap"
	LogSigner   Reason = "log_signer"
	LogRollback Reason = "log_rollback"
	LogStale    Reason = "log_stale"
	ClockFuture Reason = "clock_future"
	HeadMissing Reason = "head_missing"
	EnrolUsed   Reason = "enrol_used"
	CAMismatch  Reason = "ca_mismatch"

	LogRecovering Reason = "log_recovering"

	SignatureBad  Reason = "signature_bad"
	SignerUnknown Reason = "signer_unknown"
	NotAllowed    Reason = "not_allowed"

	FolderKeySwapped    Reason = "folder_key_swapped"
	FolderUnknown       Reason = "folder_unknown"
	RecipientUnverified Reason = "recipient_unverified"

	RecordCorrupt     Reason = "record_corrupt"
	RecordUnsigned    Reason = "record_unsigned"
	RecordSwapped     Reason = "record_swapped"
	RecordEdited      Reason = "record_edited"
	FolderMismatch    Reason = "folder_mismatch"
	StatementRollback Reason = "statement_rollback"
	StatementFork     Reason = "statement_fork"
	ValueRollback     Reason = "value_rollback"
	ValueUnattested   Reason = "value_unattested"
	ValueFork         Reason = "value_fork"
	PluginUnknown     Reason = "plugin_unknown"
	ScriptChanged     Reason = "script_changed"
	NotLinked         Reason = "not_linked"
	RecordMissing     Reason = "record_missing"

	SealOpen    Reason = "seal_open"
	WrongAgent  Reason = "wrong_agent"
	ClockBack   Reason = "clock_back"
	Lifetime    Reason = "lifetime"
	NotYet      Reason = "not_yet"
	Expired     Reason = "expired"
	Replayed    Reason = "replayed"
	ReplayFloor Reason = "replay_floor"
	LocalPolicy Reason = "local_policy"
	PinMismatch Reason = "pin_mismatch"

	WrongPool      Reason = "wrong_pool"
	MandateOff     Reason = "mandate_off"
	MandateExpired Reason = "mandate_expired"
	TooOften       Reason = "too_often"

	CandidateUnattested   Reason = "candidate_unattested"
	CandidateUnauthorised Reason = "candidate_unauthorised"
	CandidateRollback     Reason = "candidate_rollback"
	CandidateExpired      Reason = "candidate_expired"
	CandidateLostByVault  Reason = "candidate_lost_by_vault"

	ResultForged   Reason = "result_forged"
	RunOutstanding Reason = "run_outstanding"
	TargetIdentity Reason = "target_identity"
)

// ReasonInfo describes a reason code to people; the manual is made from it.
type ReasonInfo struct {
	Reason  Reason
	Meaning string // one line
	Do      string // what to do, one line
}

// Reasons lists every reason code, in the order of the checks.
func Reasons() []ReasonInfo { return append([]ReasonInfo(nil), reasons...) }

var reasons = []ReasonInfo{
	{Malformed, "a message breaks its format: a length, a bound, trailing bytes, or an op that makes no sense", "treat what was served as altered; if your own client made it, report the defect"},
	{UnknownField, "a message carries a field, a value or a format number that this version does not know", "upgrade this agent or client"},
	{TooLarge, "a message is larger than its bound", "treat what was served as altered"},

	{LogFork, "two different changes claim the same place in the log, or a message's signer saw another log than this party", "stop: compare fingerprints and log heads with an administrator over another way, then look for a removed administrator who still signs"},
	{LogGap, "a change is missing, or a message refers to a change that the server has not shown", "fetch the log again; if the server keeps withholding it, treat the server as hostile"},
	{LogSigner, "a change is signed by somebody who may not make it", "the honest server refuses such a change: find out how it came into the log"},
	{LogRollback, "the server shows an older log than this party has seen", "the missing changes are sent back; ask whether a backup was restored (it is marked by `rotunda-server restore` or `rotunda-server restored`), and if none was, treat the server as hostile"},
	{LogRecovering, "the server was put back from a backup, and takes only changes that were signed before", "let agents and devices connect, so that they send back what the server has lost; then an administrator runs `rotunda org end-recovery`"},
	{LogStale, "no administrator has renewed the log in time, or the server hides the renewal", "let an administrator's client connect once: it appends the renewal"},
	{ClockFuture, "a change is dated in the future", "check this host's clock, then the signer's"},
	{HeadMissing, "the log that the server shows does not contain the change that the token names", "stop: the server shows another organisation or an older log; check the address, then treat the server as hostile"},
	{EnrolUsed, "the enrolment token was used already", "if you did not use it, somebody else did: remove the entry that it made, then make a new token"},
	{CAMismatch, "the server's certificate authority is not the one that the token names", "check the address; somebody may stand between you and the server"},

	{SignatureBad, "a signature does not fit the message", "treat what was served as altered"},
	{SignerUnknown, "the signer is not live in the log, or past its time", "if the signer was removed on purpose, an entitled person signs the record anew, `rotunda record edit ACCOUNT --resource RESOURCE`; `rotunda doctor` lists such records, each with its command"},
	{NotAllowed, "the signer lacks the role that this needs", "an administrator grants the role, or somebody who has it signs"},

	{FolderKeySwapped, "the folder key that the server gave is not the one of the log", "fetch again; if it stays so, treat the server as hostile"},
	{FolderUnknown, "the log knows no such folder", "treat what was served as made by the server"},
	{RecipientUnverified, "a recipient's public keys are not those of the log, or its entry is gone or past its time", "nothing was sealed: fetch the log and the keys again; if it stays so, treat the server as hostile"},

	{RecordCorrupt, "the record does not open under its folder's key", "restore it from history, or treat the server as hostile"},
	{RecordUnsigned, "the record has no statement, so agents do not use it", "sign one, `rotunda record edit ACCOUNT --resource RESOURCE`; then `rotunda record adopt` makes the value count"},
	{RecordSwapped, "the record's statement belongs to another record", "treat the server as hostile"},
	{RecordEdited, "the record's own fields differ from its signed statement; the statement is used", "find out which client edited the record, and set it right"},
	{FolderMismatch, "the record's statement belongs to another folder", "treat the server as hostile, or move the record with your client"},
	{StatementRollback, "the statement served is older than one that is known", "fetch again; ask whether a backup was restored"},
	{StatementFork, "two different statements have the same number", "find out which of the signers is deceived, and sign a newer one"},
	{ValueRollback, "the value served is older than one that is known", "it is not used; ask whether a backup was restored, and if none was, treat the server as hostile"},
	{ValueUnattested, "no agent and no entitled person has signed for this value", "look at the value, then adopt it with record adopt or restore the former one"},
	{ValueFork, "two agents committed different values with the same number", "look which of them opens the account, then set it with record edit"},
	{ScriptChanged, "a script is not the one that was approved: its file, its manifest or its signed statement is another than the record says that uses it", "look at what changed (`rotunda script show`), then approve it anew with `rotunda script approve`"},
	{PluginUnknown, "the plugin binary is neither built in nor approved in the log", "restore the plugin's file on the agent's host, or approve it with `rotunda plugin approve`"},
	{NotLinked, "a record names another on which its signer has no right, or which the pool may not read", "somebody with rights in both folders signs the record, or an administrator grants them"},
	{RecordMissing, "a record that another names is not there: it was removed, or the server hides it", "name another: `rotunda resource edit RESOURCE --admin ACCOUNT`, or `rotunda record edit ACCOUNT --resource RESOURCE`; `rotunda doctor` tells which is missing"},

	{SealOpen, "the command does not open for this agent", "treat the frame as altered on its way; send the command again"},
	{WrongAgent, "the command names another agent", "send a command to this agent"},
	{ClockBack, "the agent's clock is earlier than a time that it has already seen", "set the clock of the agent's host; if it is right and was ahead before, `rotunda-agent reset-clock` there"},
	{Lifetime, "the command lives longer than ten minutes", "if your own client made it, report the defect"},
	{NotYet, "the command is not valid yet", "compare the clocks of the signer's machine and of the agent's host"},
	{Expired, "the command came too late, or its run did not get to staging in time", "send it again; if it is refused again, compare the clocks of this machine and of the agent's host"},
	{Replayed, "the command was taken already", "nothing: it counts once"},
	{ReplayFloor, "the agent's journal was lost, and the command is older than that loss", "send it again"},
	{LocalPolicy, "the local policy of the agent's host forbids it", "the agent's log names the rule: the host's administrator changes it in the policy file, or makes that file where there is none"},
	{PinMismatch, "a record is not the one that the person saw when signing", "look at the record again, then send the command again"},

	{WrongPool, "this agent is not of the resource's pool", "nothing, if an agent of the right pool runs; else look why the server asked this one"},
	{MandateOff, "the account's statement allows no scheduled runs", "enable the schedule with your client"},
	{MandateExpired, "the permission for scheduled runs has ended", "sign the account's statement anew"},
	{TooOften, "a scheduled run came sooner than the account's mandate allows", "nothing after a rotation by hand; if it repeats, `rotunda rotation preview` shows what the mandate allows"},

	{CandidateUnattested, "no agent of the pool signed for the value that is staged, or the one that did was removed", "settle it with `rotunda run abandon RUN`: it is kept in the record's history, and an agent tries which secret the target has"},
	{CandidateUnauthorised, "the value was staged without a command or a mandate that holds", "it is probed but not applied; settle it with `rotunda run abandon RUN`"},
	{CandidateRollback, "the value that is staged is an old one", "it is not used, and `rotunda run abandon RUN` clears it; treat the server as hostile"},
	{CandidateExpired, "the value was staged too long ago by another agent", "it is probed but not applied; a new run makes a new one"},
	{CandidateLostByVault, "the server lost a value that was staged; the agent's kept copy was stored again", "nothing; ask whether a backup was restored"},

	{ResultForged, "a result or reply does not come from an agent that may give it, or answers something else", "do not believe it; look at the record"},
	{RunOutstanding, "a run's new value is staged for this account", "wait for the run (`rotunda run watch RUN`), or settle it with `rotunda run abandon RUN`"},
	{TargetIdentity, "the target's TLS or host key is not the one in the statement", "find out whether the target's key was changed on purpose, then probe and sign the new one"},
}

// Meaning says what a reason means, in one line; empty for codes of others.
func (r Reason) Meaning() string { return r.info().Meaning }

// Hint says what to do about a reason, in one line; empty for codes of others.
func (r Reason) Hint() string { return r.info().Do }

func (r Reason) info() ReasonInfo {
	for _, i := range reasons {
		if i.Reason == r {
			return i
		}
	}
	return ReasonInfo{}
}

// Error says which check failed, on what.
type Error struct {
	Reason Reason
	At     string // the place in a larger whole, e.g. an op of a change
	What   string // what was checked and what is wrong with it; no secrets
	Err    error  // cause, or nil
}

func (e *Error) Error() string {
	s := string(e.Reason)
	if e.At != "" {
		s += ": " + e.At
	}
	if e.What != "" {
		s += ": " + e.What
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// ReasonOf is the reason code of an error, "" where it has none.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}

func fail(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, What: fmt.Sprintf(format, args...)}
}
