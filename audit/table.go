package audit

// Catalogue lists every event that Rotunda writes.
var Catalogue = []Kind{
	// Organisation and log.
	{
		Name:    OrgCreated,
		Meaning: "An organisation was made: changes 0 and 1 are stored.",
		Fields:  []Field{{"server_version", "version of the server"}},
	},
	{
		Name:    LogAppended,
		Meaning: "A signed change was added to the log.",
		Fields:  []Field{{"epoch", "number of the change"}, {"ops", "kinds of its operations, comma separated"}},
	},
	{
		Name:    AppendRefused,
		Meaning: "A change offered for the log was refused.",
		Reason:  "check of the log that failed",
		by:      byServer | byAgent,
		Fields:  []Field{{"epoch", "number that the change claims"}},
	},
	{
		Name:    LogRefused,
		Meaning: "An agent or client did not accept the log that the server showed, and stopped using it.",
		Reason:  "log_fork, log_gap, log_signer, log_stale, signature_bad, clock_future, malformed",
		by:      byAgent | byClient,
		Fields:  []Field{{"epoch", "head that the party holds"}, {"served", "head that the server showed"}},
	},
	{
		Name:    LogRollback,
		Meaning: "An agent or client holds a longer log than the server and sent the missing changes back.",
		Reason:  "log_rollback",
		by:      byServer | byAgent | byClient,
		Fields:  []Field{{"epoch", "head that the party holds"}, {"served", "head that the server showed"}},
	},
	{
		Name:    PolicySet,
		Meaning: "The organisation's policy was changed.",
		Fields:  []Field{{"max_age_days", "how long the log stays fresh without a change"}, {"self_devices", "true: members enrol further devices of their own"}},
	},
	{
		Name:    RootReplaced,
		Meaning: "The root key was replaced.",
	},
	{
		Name:    RecoveryUsed,
		Meaning: "The root key of the recovery kit signed a change.",
		Fields:  []Field{{"epoch", "number of the change"}},
	},
	{
		Name:    ServerRestored,
		Meaning: "The server's database was put back from a backup. Until an administrator ends the recovery, the log takes only what was signed before, and schedules are held.",
		Fields:  []Field{{"epoch", "head of the log that came back"}},
	},
	{
		Name:    ServerRecovered,
		Meaning: "An administrator ended the recovery from a restored backup: the log grows again.",
		Fields:  []Field{{"restored", "when the backup was put back, Unix milliseconds"}},
	},

	// People.
	{
		Name:    MemberAdded,
		Meaning: "A member was put into the log.",
		Fields:  []Field{{"entry", "entry id"}, {"name", "name in the log"}},
	},
	{
		Name:    MemberRemoved,
		Meaning: "A member was removed; his devices are void.",
		Fields:  []Field{{"entry", "entry id"}, {"name", "name in the log"}},
	},
	{
		Name:    DeviceEnrolled,
		Meaning: "A member's device was enrolled.",
		Fields:  []Field{{"entry", "entry id"}, {"name", "name in the log"}, {"owner", "entry id of the member"}},
	},
	{
		Name:    DeviceRemoved,
		Meaning: "A member's device was removed.",
		Fields:  []Field{{"entry", "entry id"}, {"name", "name in the log"}, {"owner", "entry id of the member"}},
	},
	{
		Name:    EnrolmentIssued,
		Meaning: "An enrolment token was made.",
		Fields:  []Field{{"entry", "entry id, and that of its successor"}, {"name", "name in the log"}, {"kind", "device or agent"}, {"not_after", "end of its time, Unix milliseconds"}},
	},
	{
		Name:    EnrolmentRemoved,
		Meaning: "An unused enrolment was withdrawn.",
		Fields:  []Field{{"entry", "entry id"}, {"name", "name in the log"}},
	},
	{
		Name:    EnrolRefused,
		Meaning: "An enrolment was refused.",
		Reason:  "enrol_used, enrol_expired, log_signer",
		Fields:  []Field{{"entry", "entry id"}, {"address", "network address that it came from"}},
	},
	{
		Name:    SessionOpened,
		Meaning: "A device signed in to the client API.",
		Fields:  []Field{{"address", "network address that it came from"}, {"client_version", "version of the client"}},
	},
	{
		Name:    SessionRefused,
		Meaning: "A sign-in with a known entry was refused.",
		Reason:  "signature_bad, expired, revoked",
		Fields:  []Field{{"address", "network address that it came from"}},
	},
	{
		Name:    GrantSet,
		Meaning: "A member, pool or application was granted roles on a folder.",
		Fields:  []Field{{"to", "entry id"}, {"roles", "roles, comma separated"}, {"all", "true: on every folder and the organisation"}},
	},
	{
		Name:    GrantWithdrawn,
		Meaning: "A grant was withdrawn.",
		Fields:  []Field{{"to", "entry id"}, {"all", "true: on every folder and the organisation"}},
	},

	// Agents.
	{
		Name:    PoolAdded,
		Meaning: "A pool was put into the log.",
		Fields:  []Field{{"entry", "entry id"}, {"name", "name in the log"}},
	},
	{
		Name:    PoolRemoved,
		Meaning: "A pool was removed.",
		Fields:  []Field{{"entry", "entry id"}, {"name", "name in the log"}},
	},
	{
		Name:    AgentEnrolled,
		Meaning: "An agent was enrolled.",
		Fields:  []Field{{"entry", "entry id"}, {"name", "name in the log"}, {"pool", "entry id of its pool"}},
	},
	{
		Name:    AgentRemoved,
		Meaning: "An agent was removed from the log; its channel is closed.",
		Fields:  []Field{{"entry", "entry id"}, {"name", "name in the log"}, {"pool", "entry id of its pool"}},
	},
	{
		Name:    AgentConnected,
		Meaning: "An agent opened its channel.",
		Fields:  []Field{{"address", "network address that it came from"}, {"version", "version of the agent"}, {"os", "operating system"}, {"arch", "processor architecture"}, {"node", "server node that holds the channel"}},
	},
	{
		Name:    AgentDisconnected,
		Meaning: "An agent's channel ended.",
		Reason:  "closed, dead, slow, replaced, revoked, malformed, restarting",
		Fields:  []Field{{"node", "server node that held the channel"}},
	},
	{
		Name:    AgentRefused,
		Meaning: "A known agent could not open its channel, or would drive an account of another pool. Told at most once in ten minutes for each agent.",
		Reason:  "signature_bad, revoked, wrong_org, wrong_pool",
		Fields:  []Field{{"address", "network address that it came from"}, {"node", "server node that was asked for a channel"}},
	},
	{
		Name:    ChannelRefused,
		Meaning: "An agent ended its channel, since the other end did what no router does.",
		Reason:  "malformed",
		by:      byAgent,
	},
	{
		Name:    PluginApproved,
		Meaning: "The hash of a plugin binary was put into the log.",
		Fields:  []Field{{"name", "name of the plugin"}, {"version", "its version"}, {"os", "operating system"}, {"arch", "processor architecture"}, {"sha256", "hash of the binary, hex"}},
	},
	{
		Name:    PluginDropped,
		Meaning: "The hash of a plugin binary was taken out of the log.",
		Fields:  []Field{{"sha256", "hash of the binary, hex"}},
	},
	{
		Name:    PluginRefused,
		Meaning: "An agent did not start a plugin.",
		Reason:  "plugin_unknown, plugin_broken",
		by:      byAgent,
		Fields:  []Field{{"name", "name of the plugin"}, {"sha256", "hash that the binary should have, hex; empty where there is none that may run"}},
	},

	// Folders and records.
	{
		Name:    FolderCreated,
		Meaning: "A shared folder was made.",
	},
	{
		Name:    FolderRekeyed,
		Meaning: "A folder has a new key.",
		Fields:  []Field{{"key_version", "version of the new key"}},
	},
	{
		Name:    RecordCreated,
		Meaning: "A record was made.",
		Fields:  []Field{{"kind", "record type"}, {"client", "name of the machine client, where one did it"}},
	},
	{
		Name:    RecordEdited,
		Meaning: "A record's data was replaced by a person or a machine client.",
		Fields:  []Field{{"revision", "new revision"}, {"client", "name of the machine client, where one did it"}},
	},
	{
		Name:    RecordDeleted,
		Meaning: "A record was deleted.",
		Fields:  []Field{{"client", "name of the machine client, where one did it"}},
	},
	{
		Name:    RecordRekeyed,
		Meaning: "A record has a new key of its own, and the same content.",
		Fields:  []Field{{"key_version", "version of the folder's key"}},
	},
	{
		Name:    RecordAdopted,
		Meaning: "A person adopted a value that a foreign client wrote.",
		Fields:  []Field{{"value_seq", "number of the value"}},
	},
	{
		Name:    RecordRevealed,
		Meaning: "A person's client showed or copied a secret. The client says so itself; a manipulated one need not.",
		by:      byClient,
	},
	{
		Name:    RecordRefused,
		Meaning: "A record was not used, since a check failed.",
		Reason:  "the check, such as record_swapped, record_unsigned, statement_rollback, value_unattested, not_allowed, not_linked",
		by:      byServer | byAgent | byClient,
	},
	{
		Name:    RecordEditedOutside,
		Meaning: "A foreign client changed host, port or login in a record's JSON. The statement was used instead.",
		Reason:  "record_edited",
		by:      byAgent,
		Fields:  []Field{{"what", "names of the fields that differ, comma separated"}},
	},
	{
		Name:    ScriptReveals,
		Meaning: "A run, or the test of a resource or a discovery of its accounts, used a script that may see secrets in clear, as its approved manifest asks for.",
		by:      byAgent,
		Fields:  []Field{{"sha256", "hash of the script's file, hex"}, {"why", "what its manifest says it is for"}},
	},
	{
		Name:    ScriptStopped,
		Meaning: "A script was ended by force, failed by a fault of its own, or asked for what it may not have: a place, a program or a file that nobody approved.",
		Reason:  "plugin_start, plugin_crashed, plugin_deadline, plugin_deaf, plugin_protocol, script.error, dial.refused, local.policy, local.manifest",
		by:      byAgent,
		Fields:  []Field{{"sha256", "hash of the script's file, hex"}},
	},
	{
		Name:    ValueFork,
		Meaning: "Two agents gave an account a value of the same number: the server let both work on it. What the target has is in the record in the end.",
		Reason:  "value_fork",
		by:      byAgent,
	},
	{
		Name:    StatementSet,
		Meaning: "A record's signed statement was set or replaced.",
		Fields:  []Field{{"seq", "number of the statement"}},
	},
	{
		Name:    StatementRestated,
		Meaning: "An agent gave a restored server back a statement that it had lost.",
		Fields:  []Field{{"seq", "number of the statement"}},
	},
	{
		Name:    FileAdded,
		Meaning: "A file was attached to a record.",
		Fields:  []Field{{"file", "uid of the file"}, {"size", "bytes of ciphertext"}, {"client", "name of the machine client, where one did it"}},
	},
	{
		Name:    FileDeleted,
		Meaning: "A file was deleted.",
		Fields:  []Field{{"file", "uid of the file"}, {"client", "name of the machine client, where one did it"}},
	},

	// Machine applications.
	{
		Name:    AppAdded,
		Meaning: "A secrets-manager application was put into the log.",
		Fields:  []Field{{"entry", "entry id"}, {"name", "name in the log"}},
	},
	{
		Name:    AppRemoved,
		Meaning: "An application was removed; its clients are revoked.",
		Fields:  []Field{{"entry", "entry id"}, {"name", "name in the log"}},
	},
	{
		Name:    AppClientAdded,
		Meaning: "A machine client was made.",
		Fields:  []Field{{"app", "entry id of the application"}, {"client", "name of the client"}, {"binding", "token or configuration"}},
	},
	{
		Name:    AppClientBound,
		Meaning: "A machine client redeemed its one-time token.",
		Fields:  []Field{{"app", "entry id of the application"}, {"client", "name of the client"}, {"address", "network address that it came from"}},
	},
	{
		Name:    AppClientRemoved,
		Meaning: "A machine client was revoked.",
		Fields:  []Field{{"app", "entry id of the application"}, {"client", "name of the client"}},
	},
	{
		Name:    AppClientRefused,
		Meaning: "A known machine client was refused.",
		Reason:  "signature_invalid, access_denied, locked_address, expired",
		Fields:  []Field{{"app", "entry id of the application"}, {"client", "name of the client"}, {"address", "network address that it came from"}},
	},
	{
		Name:    AppFolderShared,
		Meaning: "A folder's key was wrapped for an application.",
		Fields:  []Field{{"app", "entry id of the application"}, {"key_version", "version of the folder's key"}},
	},

	// Schedules.
	{
		Name:    ScheduleSet,
		Meaning: "An account's rotation was set.",
		Fields:  []Field{{"schedule", "schedule in words"}, {"next", "next firing, Unix milliseconds"}},
	},
	{
		Name:    SchedulePaused,
		Meaning: "An account's schedule was paused.",
	},
	{
		Name:    ScheduleResumed,
		Meaning: "An account's schedule goes on.",
		Fields:  []Field{{"next", "next firing, Unix milliseconds"}},
	},
	{
		Name:    ScheduleDeleted,
		Meaning: "An account's schedule was deleted.",
	},
	{
		Name:    ScheduleMissed,
		Meaning: "Firings were missed while the server was down or the run before was still under way.",
		Reason:  "down or busy",
		Fields:  []Field{{"count", "how many; at most 1000 are counted"}, {"first", "first of them, Unix milliseconds"}, {"last", "last of them, Unix milliseconds"}, {"policy", "skip or once"}},
	},
	{
		Name:    ScheduleSkipped,
		Meaning: "A firing changed nothing: the secret was changed within the mandate's least interval before.",
		Reason:  "too_often",
		Fields:  []Field{{"next", "next firing, Unix milliseconds; empty where there is none"}},
	},
	{
		Name:    ScheduleBroken,
		Meaning: "A stored schedule can no longer be read: the account is not rotated until it is set again.",
		Reason:  "schedule_bad",
	},

	// Runs.
	{
		Name:    RunQueued,
		Meaning: "A run was made and waits for an agent.",
		Fields:  []Field{{"cause", "person, schedule or recover"}, {"action", "rotate, verify or script"}},
	},
	{
		Name:    RunStarted,
		Meaning: "An agent took the account's lease for a run.",
		Fields:  []Field{{"cause", "person, schedule or recover"}, {"action", "rotate, verify or script"}, {"epoch", "the lease's epoch"}, {"attempt", "number of the attempt"}},
	},
	{
		Name:    RunStaged,
		Meaning: "A run's candidate is stored beside the record.",
		Fields:  []Field{{"epoch", "the lease's epoch"}, {"value_seq", "number of the value"}},
	},
	{
		Name:    RunCommitted,
		Meaning: "The candidate is the account's secret now.",
		Fields:  []Field{{"epoch", "the lease's epoch"}, {"value_seq", "number of the value"}},
	},
	{
		Name:    RunFinished,
		Meaning: "A run ended well.",
		Reason:  "why, where an outcome is not done",
		Fields:  []Field{{"credential", "outcome: none, done, failed, unverifiable, pending"}, {"dependents", "outcome, likewise"}, {"scripts", "outcome, likewise"}, {"class", "error class, where there is one"}},
	},
	{
		Name:    RunFailed,
		Meaning: "A run ended without a new secret.",
		Reason:  "why",
		Fields:  []Field{{"class", "error class"}, {"failures", "failures in a row"}, {"credential", "outcome: none, done, failed, unverifiable, pending"}, {"dependents", "outcome, likewise"}, {"scripts", "outcome, likewise"}},
	},
	{
		Name:    RunRetry,
		Meaning: "A failed run will be tried again.",
		Reason:  "why the run before failed",
		Fields:  []Field{{"failures", "failures in a row"}, {"at", "when, Unix milliseconds"}},
	},
	{
		Name:    RunAlert,
		Meaning: "A person has to look: a run or its account's schedule goes on no more by itself.",
		Reason:  "why",
		Fields:  []Field{{"class", "error class"}, {"failures", "failures in a row"}},
	},
	{
		Name:    RunWaiting,
		Meaning: "No agent of the pool is connected: the run waits. Told once for each run.",
		Reason:  "no_agent",
		Fields:  []Field{{"pool", "entry id of the pool"}},
	},
	{
		Name:    RunOverdue,
		Meaning: "A run has been under way for much longer than runs take. Told once for each run.",
		Reason:  "overdue",
		Fields:  []Field{{"state", "state of the run"}, {"since", "when it was made, Unix milliseconds"}},
	},
	{
		Name:    RunDropped,
		Meaning: "A run that had not started was dropped.",
		Reason:  "why: by a person, or expired",
	},
	{
		Name:    RunRefused,
		Meaning: "An agent refused a scheduled run.",
		Reason:  "the check, such as wrong_pool, mandate_off, mandate_expired, not_allowed, too_often",
		by:      byAgent,
	},
	{
		Name:    RunReleased,
		Meaning: "An agent gave a run's lease back, to be tried again.",
		Reason:  "why",
		Fields:  []Field{{"epoch", "the lease's epoch"}},
	},
	{
		Name:    LeaseTaken,
		Meaning: "An agent's lease ran out and another agent took the account over.",
		Fields:  []Field{{"epoch", "the new lease's epoch"}, {"former", "entry id of the agent before"}},
	},
	{
		Name:    CandidateAbandoned,
		Meaning: "A candidate was proven rejected, and is in the record's history.",
		Reason:  "why",
		Fields:  []Field{{"epoch", "the lease's epoch"}, {"value_seq", "number of the value"}},
	},
	{
		Name:    CandidateRefused,
		Meaning: "An agent or client did not believe an outstanding candidate.",
		Reason:  "candidate_unattested, candidate_unauthorised, candidate_rollback, candidate_expired",
		by:      byAgent | byClient,
	},
	{
		Name:    CandidateLostByVault,
		Meaning: "The server lost a candidate that it had acknowledged. The agent stored its own copy again.",
		Reason:  "candidate_lost_by_vault",
		by:      byAgent,
	},
	{
		Name:    TargetRefused,
		Meaning: "A target answered with another identity than the statement names. No credential was sent.",
		Reason:  "target_identity",
		by:      byAgent,
		Fields:  []Field{{"resource", "uid of the resource"}},
	},

	// Commands.
	{
		Name:    CommandSent,
		Meaning: "A person's signed command was put into an agent's outbox.",
		Fields:  []Field{{"command", "command id"}, {"to", "entry id of the agent"}, {"expires", "end of its time, Unix milliseconds"}},
	},
	{
		Name:    CommandRefused,
		Meaning: "An agent refused a command for good.",
		Reason:  "the check, such as seal_open, signature_bad, signer_unknown, not_allowed, expired, replayed, pin_mismatch",
		by:      byServer | byAgent,
		Fields:  []Field{{"command", "command id"}},
	},
	{
		Name:    CommandExpired,
		Meaning: "A command was not taken before its time was over, and was dropped.",
		Reason:  "expired",
		Fields:  []Field{{"command", "command id"}, {"to", "entry id of the agent"}},
	},
	{
		Name:    CommandReplied,
		Meaning: "An agent replied to a command that starts no run.",
		Fields:  []Field{{"command", "command id"}},
	},
	{
		Name:    ResultRefused,
		Meaning: "A signed result was not believed.",
		Reason:  "result_forged, signature_bad, signer_unknown, malformed",
		by:      byServer | byClient,
	},
	{
		Name:    ClientRefused,
		Meaning: "A person's client refused what the server showed it.",
		Reason:  "the check, such as recipient_unverified, folder_key_swapped, result_forged",
		by:      byClient,
	},
}
