package sdk

import "time"

// Manifest says what a plugin is and what its targets are like. The agent believes
// it; [Serve] and the first Open check it against the code.
type Manifest struct {
	Name    string // a-z, 0-9, - and _; the name that resources choose the plugin by
	Version string // of the plugin, for people
	Kinds   []Kind // kinds of credential that it rotates; at least one, if it has a Rotator
	// Overlap lists the kinds of credential of which old and new both work until Retire;
	// the Session is a [Retirer]. Of other kinds the old one ends with Apply.
	Overlap []Kind
	// Minted lists the kinds of credential that the target makes; the Session is a
	// [Minter]. They are among Overlap, too. The agent makes the others.
	Minted []Kind
	// Self: accounts can change their own secret, without an administrator.
	Self bool
	// NoLogin: some accounts cannot log in; Verify says Undecided, no_login for them.
	NoLogin bool
	// Readback: the Session is a [Readback].
	Readback bool
	// Concurrency is how many verbs the plugin can serve at once on one resource; 0
	// means 1. How many it is given, up to that, is the resource's owner's choice.
	Concurrency int
	// LoginTries is how many failed logins one run may cause; 0 means 1. Recovery with an
	// administrator probes the candidate only; for an account that rotates itself it is 2
	// at least, whatever is said here.
	LoginTries int
	// OldLives: the old secret may stay valid this long without being a failure.
	OldLives time.Duration
	// Settle: Rejected is not proven before this much time after Apply.
	Settle time.Duration
	// SettleIf names a boolean setting of the resource, in Config, that says whether Settle
	// holds for it: some targets of a kind replicate, others do not. Empty: for all.
	SettleIf string
	// MaxLen is the longest secret that the targets take, in bytes; 0 means no limit.
	MaxLen int
	// Forbid lists the characters that the targets do not take in a secret.
	Forbid string
	// Dependents: the Plugin has some.
	Dependents bool
	// Dependent is like Config: the settings of a dependent, which stand in the account's
	// statement.
	Dependent any
	// Provision: the Plugin makes accounts.
	Provision bool
	// After: the Plugin does something when a secret has been changed.
	After bool
	// Generator: the Plugin makes secrets.
	Generator bool
	// Discoverer: the Plugin finds accounts.
	Discoverer bool
	// Config is a pointer to a struct; schema and documentation are made from its tags,
	// see [DecodeConfig]. Nil means that the plugin has no settings.
	Config any
}

// Plugin is one entry of [Serve].
type Plugin struct {
	Manifest   Manifest
	Rotator    Rotator     // nil: it rotates nothing, and has another of these
	Dependents Dependents  // nil: none
	Provision  Provisioner // nil: it makes no accounts
	After      After       // nil: it does nothing after a rotation
	Generator  Generator   // nil: it makes no secrets
	Discoverer Discoverer  // nil: it finds no accounts
}
