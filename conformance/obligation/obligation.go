// Package obligation says what each test of the conformance kit asks of a plugin, for
// whoever shows its outcome.
package obligation

// Obligation is one test.
type Obligation struct {
	Test string // its name
	Asks string // Markdown, one line
}

// All are in the order in which the kit runs them.
var All = []Obligation{
	{"FirstChange", "the target takes the new secret and refuses the old one, but for what `OldLives` allows, and the plugin says so of both; another account keeps its secret"},
	{"OpenIsReadOnly", "`Open` changes nothing"},
	{"VerifyIsFresh", "`Verify` logs in on a connection of its own, whatever session is open"},
	{"RejectedIsProven", "with the line cut at any write, or down, the right secret is never called rejected"},
	{"CloseTwice", "a session that is closed, and closed again, takes no other of the process with it"},
	{"ApplyTwice", "the same candidate again is `Changed` again, on the same session and on another"},
	{"LostReplyIsUnknown", "with the line cut before and after each write, what `Apply` says is true, and the same candidate can be applied afterwards"},
	{"LateReplyIsUnknown", "likewise where the target answers after the deadline"},
	{"CancelledHasNoEffect", "a call that is cancelled before anything of it has arrived changes nothing, neither then nor with a later session"},
	{"KillEveryStep", "the process is killed after each write; the next one applies the same candidate"},
	{"TwoAgents", "two that apply the same candidate at once leave the account with it"},
	{"ManyAtOnce", "with `Concurrency` above 1, so many accounts (eight at most) that are changed at once in one session get each its own new secret"},
	{"SelfChange", "with `Self`, an account changes its own secret without an administrator; the same candidate again is `Changed` again, in the same session and in one that the new secret opens"},
	{"PolicyIsUnchanged", "a candidate that the rules refuse is `Unchanged`, class `policy`"},
	{"MissingIsNotFound", "an account that is not there is `Unchanged`, class `not_found`, and is not made"},
	{"LockedIsUndecided", "the right secret of a locked account is not rejected; where the target refuses both alike, `Verify` asks an open session's administrator why"},
	{"WrongAdminIsAuth", "a wrong secret of the administrator is class `auth`, of `Open`"},
	{"WrongKeyIsAuth", "a target that shows another key than the pinned one is class `auth`, reason `target_identity`, of `Open`; `Verify` is undecided there, or an error, and tries no login where the target counts those that fail"},
	{"NoRightsIsPermission", "an administrator without rights is class `permission`, as an error of `Open` or as `Unchanged` of `Apply`, and nothing is changed"},
	{"DownIsUnreachable", "no connection is class `unreachable`"},
	{"HungEndsAtTheDeadline", "a target that is silent does not hold the call, and the agent need not kill the process"},
	{"DialsOnlyThroughDialer", "with the line down there is no other way to the target, and no answer from memory"},
	{"LoginBudget", "one `Verify` of a wrong secret costs one failed login"},
	{"OverlapKeepsCurrent", "with `Overlap`, `Apply` leaves the old secret working"},
	{"RetireTouchesOnlyOld", "`Retire` ends the old secret, and no other: neither another account's, nor a third one of the account's, where the target has room for it"},
	{"RetireTwice", "what is gone already is a success"},
	{"ListIsComplete", "`List` names all that an account has, or fails, with the line cut at any write"},
	{"MintKeepsOthers", "`Mint` ends nothing; where the target has no more room that is class `conflict`"},
	{"SweepOnlyNamed", "`Sweep` deletes what it is told, and no other; what is gone already is a success"},
	{"KillBetweenMintAndStage", "what was minted and then lost is found by a list from before, and swept by another process"},
	{"ReadbackAgrees", "`Readback` says what a login would"},
	{"PlanIsReadOnly", "`Plan` of a dependent changes nothing"},
	{"PlanHoldsNoSecret", "no secret is in a step: neither in its id, nor its title, nor its data"},
	{"PlanFails", "`Plan` of a dependent that cannot be given a secret is an error"},
	{"StepTwice", "`Do` gives the dependent the secret that it is called with, and `Undo` the former one; both can be repeated"},
	{"LostStepIsUnknown", "with the line cut before and after each write, what `Do` says is true, and the same step can be done afterwards"},
	{"ProvisionTwice", "an account is made, made again, given another secret, other groups and another end, removed, and removed again; it has the groups and the end that it was given, and no others; one that the plugin has not made is left alone by both verbs"},
	{"RunTwice", "`Run` of an `After` does what it is for, and `Changed` comes again when it is run again, by a process that is new, too"},
	{"Printable", "every printable ASCII character arrives as it is"},
	{"OddSecrets", "one and 128 characters, line breaks, quotes, spaces around, not ASCII, no text at all: taken as they are or refused, for certain"},
	{"HostileNames", "names that would do harm in a command are taken as they are, or refused, for certain"},
	{"ManifestMatches", "the manifest by hand is the one that the agent gets"},
	{"NoSecretInProc", "while a change is under way no secret is in arguments, environment, files, and a crash would write none"},
	{"NoLeftover", "sessions that are closed leave no connection, nor do logins: neither to the target nor, on Linux, in the plugin's process"},
	{"NoLeak", "10,000 calls with the line down leave neither descriptors nor memory, and sessions that are opened and closed for a while no descriptors"},
	{"NoSecretInTheLog", "no secret is in any log line or error of all of the above, however it is written; the agent takes out what is printed as it is"},
}
