package audit

import (
	"slices"
	"strings"
)

// Names of events. What each means, and its fields, stands in the Catalogue.
const (
	// Organisation and log.
	OrgCreated    = "org.created"
	LogAppended   = "log.appended"
	AppendRefused = "append.refused"
	LogRefused    = "log.refused"
	LogRollback   = "log_rollback"
	PolicySet     = "policy.set"
	RootReplaced  = "root.replaced"
	RecoveryUsed  = "recovery.used"

	ServerRestored  = "server.restored"
	ServerRecovered = "server.recovered"

	// People.
	MemberAdded      = "member.added"
	MemberRemoved    = "member.removed"
	DeviceEnrolled   = "device.enrolled"
	DeviceRemoved    = "device.removed"
	EnrolmentIssued  = "enrolment.issued"
	EnrolmentRemoved = "enrolment.removed"
	EnrolRefused     = "enrol.refused"
	SessionOpened    = "session.opened"
	SessionRefused   = "session.refused"
	GrantSet         = "grant.set"
	GrantWithdrawn   = "grant.withdrawn"

	// Agents.
	PoolAdded         = "pool.added"
	PoolRemoved       = "pool.removed"
	AgentEnrolled     = "agent.enrolled"
	AgentRemoved      = "agent.removed"
	AgentConnected    = "agent.connected"
	AgentDisconnected = "agent.disconnected"
	AgentRefused      = "agent.refused"
	ChannelRefused    = "channel.refused"
	PluginApproved    = "plugin.approved"
	PluginDropped     = "plugin.dropped"
	PluginRefused     = "plugin.refused"

	// Folders and records.
	FolderCreated       = "folder.created"
	FolderRekeyed       = "folder.rekeyed"
	RecordCreated       = "record.created"
	RecordEdited        = "record.edited"
	RecordDeleted       = "record.deleted"
	RecordRekeyed       = "record.rekeyed"
	RecordAdopted       = "record.adopted"
	RecordRevealed      = "record.revealed"
	RecordRefused       = "record.refused"
	RecordEditedOutside = "record_edited"
	ScriptReveals       = "script.reveals"
	ScriptStopped       = "script.stopped"
	ValueFork           = "value_fork"
	StatementSet        = "statement.set"
	StatementRestated   = "statement.restated"
	FileAdded           = "file.added"
	FileDeleted         = "file.deleted"

	// Machine applications.
	AppAdded         = "app.added"
	AppRemoved       = "app.removed"
	AppClientAdded   = "app.client_added"
	AppClientBound   = "app.client_bound"
	AppClientRemoved = "app.client_removed"
	AppClientRefused = "app.client_refused"
	AppFolderShared  = "app.folder_shared"

	// Schedules.
	ScheduleSet     = "schedule.set"
	SchedulePaused  = "schedule.paused"
	ScheduleResumed = "schedule.resumed"
	ScheduleDeleted = "schedule.deleted"
	ScheduleMissed  = "schedule.missed"
	ScheduleSkipped = "schedule.skipped"
	ScheduleBroken  = "schedule.broken"

	// Runs.
	RunQueued            = "run.queued"
	RunStarted           = "run.started"
	RunStaged            = "run.staged"
	RunCommitted         = "run.committed"
	RunFinished          = "run.finished"
	RunFailed            = "run.failed"
	RunRetry             = "run.retry"
	RunAlert             = "run.alert"
	RunWaiting           = "run.waiting"
	RunOverdue           = "run.overdue"
	RunDropped           = "run.dropped"
	RunRefused           = "run.refused"
	RunReleased          = "run.released"
	LeaseTaken           = "lease.taken_over"
	CandidateAbandoned   = "candidate.abandoned"
	CandidateRefused     = "candidate.refused"
	CandidateLostByVault = "candidate_lost_by_vault"
	TargetRefused        = "target.refused"

	// Commands.
	CommandSent    = "command.sent"
	CommandRefused = "command.refused"
	CommandExpired = "command.expired"
	CommandReplied = "command.replied"
	ResultRefused  = "result.refused"
	ClientRefused  = "client.refused"
)

// Kind documents the events of one name.
type Kind struct {
	Name    string
	Meaning string
	Reason  string // what its reason code may say; empty: it has none
	Fields  []Field
	by      uint8 // zero: the server alone
}

// Field documents one field of a kind of event. Ids are base64url.
type Field struct{ Name, Meaning string }

// Whose word an event may be.
const (
	byServer uint8 = 1 << iota
	byAgent
	byClient
)

func (k Kind) has(field string) bool {
	for _, f := range k.Fields {
		if f.Name == field {
			return true
		}
	}
	return false
}

// AgentMayReport reports whether an agent may bring an event of this name about
// itself: what it refused, and what it saw. Everything else only the server tells.
func AgentMayReport(name string) bool { return kinds[name].by&byAgent != 0 }

// HasField reports whether events of a name have a field.
func HasField(name, field string) bool { return kinds[name].has(field) }

// ClientMayNote reports whether a person's client may bring an event of this name.
func ClientMayNote(name string) bool { return kinds[name].by&byClient != 0 }

// Groups are what the names begin with, up to their first dot: "run.", "record.", and
// the few names without one.
func Groups() []string {
	var groups []string
	for _, k := range Catalogue {
		g, _, dotted := strings.Cut(k.Name, ".")
		if dotted {
			g += "."
		}
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	slices.Sort(groups)
	return groups
}

// Begins reports whether the name of some event begins so.
func Begins(prefix string) bool { return len(matching([]string{prefix})) > 0 }

// matching gives the catalogue's names that begin with one of the prefixes.
func matching(prefixes []string) []string {
	var names []string
	for _, k := range Catalogue {
		for _, p := range prefixes {
			if strings.HasPrefix(k.Name, p) {
				names = append(names, k.Name)
				break
			}
		}
	}
	return names
}

var kinds = func() map[string]Kind {
	m := make(map[string]Kind, len(Catalogue))
	for _, k := range Catalogue {
		m[k.Name] = k
	}
	return m
}()
