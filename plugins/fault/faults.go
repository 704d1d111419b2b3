package main

// A fault is something that a plugin does wrong.
type fault string

// The faults, and beside each the test of the conformance kit that finds it. Any other
// name, none by default, is no fault.
const (
	// Apply, after which the agent must know where it stands.
	lostIsUnchanged   fault = "lost-is-unchanged"   // LostReplyIsUnknown
	lostIsChanged     fault = "lost-is-changed"     // LostReplyIsUnknown
	neverSent         fault = "never-sent"          // LostReplyIsUnknown: NotSent of what was sent
	lateIsUnchanged   fault = "late-is-unchanged"   // LateReplyIsUnknown
	closesAll         fault = "closes-all"          // CloseTwice: others' sessions, too
	onceOnly          fault = "once-only"           // ApplyTwice: the same candidate again is refused
	needsOld          fault = "needs-old"           // KillEveryStep: a change that is begun again must find the old secret
	firstComeOnly     fault = "first-come-only"     // TwoAgents: the candidate that somebody else has set is refused
	endsCurrent       fault = "ends-current"        // OverlapKeepsCurrent
	keepsOld          fault = "keeps-old"           // FirstChange: nothing in the manifest says so
	changesAll        fault = "changes-all"         // FirstChange: other accounts, too
	mixesAccounts     fault = "mixes-accounts"      // ManyAtOnce: the one that it was told of last counts
	selfNotBuilt      fault = "self-is-not-built"   // SelfChange
	losesItself       fault = "loses-itself"        // SelfChange: once its secret has ended, so has its session
	policyIsUnknown   fault = "policy-is-unknown"   // PolicyIsUnchanged
	missingIsPolicy   fault = "missing-is-policy"   // MissingIsNotFound
	makesTheMissing   fault = "makes-the-missing"   // MissingIsNotFound
	reasonIsText      fault = "reason-is-text"      // MissingIsNotFound: reasons are codes
	noRightsIsPolicy  fault = "no-rights-is-policy" // NoRightsIsPermission
	dropsCharacters   fault = "drops-characters"    // Printable
	trimsSecrets      fault = "trims-secrets"       // OddSecrets
	pastesNames       fault = "pastes-names"        // HostileNames
	deafToTheDeadline fault = "deaf"                // HungEndsAtTheDeadline
	finishesLater     fault = "finishes-later"      // CancelledHasNoEffect: with the next session, when nobody asks for it

	// Retire, which must end the old secret and nothing else.
	endsEverything fault = "ends-everything"   // RetireTouchesOnlyOld
	endsAllButKeep fault = "ends-all-but-keep" // RetireTouchesOnlyOld: a third one, of which it knows nothing
	retireOnce     fault = "retire-once"       // RetireTwice

	// Secrets that the target makes.
	mintNotSent   fault = "mint-not-sent"   // LostReplyIsUnknown: NotSent of what was sent
	mintAgain     fault = "mint-again"      // LostReplyIsUnknown: a request without an answer is sent again
	mintMakesRoom fault = "mint-makes-room" // MintKeepsOthers
	listFirstPage fault = "list-first-page" // ListIsComplete
	listAsFar     fault = "list-as-far"     // ListIsComplete: what was read before the line broke is all
	sweepAll      fault = "sweep-all"       // SweepOnlyNamed
	sweepOnce     fault = "sweep-once"      // SweepOnlyNamed: what is gone already is an error
	sweepOwnAlone fault = "sweep-own-alone" // KillBetweenMintAndStage: only what this process made
	printsMinted  fault = "mint-is-printed" // NoSecretInTheLog

	// Open.
	trustsAnyKey     fault = "trusts-any-key"     // WrongKeyIsAuth
	namesNoIdentity  fault = "names-no-identity"  // WrongKeyIsAuth: as if the target had refused the secret
	openDoesNotLook  fault = "open-does-not-look" // WrongAdminIsAuth
	silenceIsRefusal fault = "silence-is-refusal" // DownIsUnreachable
	openChanges      fault = "open-changes"       // OpenIsReadOnly

	// Verify, which overwrites something when it says rejected.
	allElseIsRejected fault = "all-else-is-rejected" // RejectedIsProven
	lockedIsRejected  fault = "locked-is-rejected"   // LockedIsUndecided
	neverAsks         fault = "never-asks"           // FirstChange
	livingIsRejected  fault = "living-is-rejected"   // FirstChange: of an old secret that the target still takes
	believesItself    fault = "believes-itself"      // VerifyIsFresh
	triesTwice        fault = "tries-twice"          // LoginBudget
	verifiesAnyKey    fault = "verifies-any-key"     // WrongKeyIsAuth: in a login, and not in Open
	readsWhatItLikes  fault = "reads-what-it-likes"  // ReadbackAgrees
	asBefore          fault = "as-before"            // DialsOnlyThroughDialer: where no answer comes, the last one counts

	// Dependents.
	planChanges      fault = "plan-changes"       // PlanIsReadOnly
	planHoldsSecrets fault = "plan-holds-secrets" // PlanHoldsNoSecret
	planNamesSecrets fault = "plan-names-secrets" // PlanHoldsNoSecret: in a title
	plansAnything    fault = "plans-anything"     // PlanFails
	doesOnce         fault = "does-once"          // StepTwice
	doesNothing      fault = "does-nothing"       // StepTwice
	undoesNothing    fault = "undoes-nothing"     // StepTwice
	lostStepIsDone   fault = "lost-step-is-done"  // LostStepIsUnknown
	lostStepIsNot    fault = "lost-step-is-not"   // LostStepIsUnknown
	lostLastIsNot    fault = "lost-last-is-not"   // LostStepIsUnknown: of the last step, which logs in first
	lastIsIdle       fault = "last-is-idle"       // LostStepIsUnknown: its success says nothing of the others

	// After a rotation.
	runsOnce    fault = "runs-once"    // RunTwice
	runsNothing fault = "runs-nothing" // RunTwice

	// Accounts that come and go.
	takesOver       fault = "takes-over"        // ProvisionTwice: an account that it has not made
	removesAny      fault = "removes-any"       // ProvisionTwice: likewise
	provisionsOnce  fault = "provisions-once"   // ProvisionTwice
	ignoresGroups   fault = "ignores-groups"    // ProvisionTwice
	keepsGroups     fault = "keeps-groups"      // ProvisionTwice: of an account that is given fewer
	ignoresUntil    fault = "ignores-until"     // ProvisionTwice
	keepsUntil      fault = "keeps-until"       // ProvisionTwice: of an account that is given another end
	removesNothing  fault = "removes-nothing"   // ProvisionTwice
	missesTheRemove fault = "misses-the-remove" // ProvisionTwice: what is gone already is no success

	// What it says of itself.
	twoFaced fault = "two-faced" // ManifestMatches: a plugin of its own, since no settings choose a manifest

	// What it leaves behind.
	writesSecrets    fault = "writes-secrets"    // NoSecretInProc
	printsSecrets    fault = "prints-secrets"    // NoSecretInTheLog
	leaks            fault = "leaks"             // NoLeak
	keepsSessions    fault = "keeps-sessions"    // NoLeak: a connection of each, when it is closed
	keepsConnections fault = "keeps-connections" // NoLeftover: of each login
)
