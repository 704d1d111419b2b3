package pluginhost

import "os/exec"

// Isolation says what keeps plugins in, for doctor and the start-up log.
type Isolation struct {
	User         bool // a user id of its own: the agent's files and memory are out of reach
	Network      bool // an empty network: the dialer is the only way out
	Processes    bool // sees and signals no others, and its children die with it
	NoPrivileges bool // set-user-id programs give it nothing
	Landlock     int  // version of the kernel's Landlock that shuts paths; 0: none
	// Note says in a sentence what is missing and what to do; empty if nothing is.
	Note string
}

// The jail of each system (jail_*.go) has:
//
//	newJail(UserIDs) *jail                            finds out what is possible
//	(*jail).user() (uid int, release func(), error)   a user id for one process
//	(*jail).start(*exec.Cmd, confinement) (*child, error)
//
// A confinement is what differs from process to process.
type confinement struct {
	uid    int    // -1: the agent's own
	dir    string // private folder
	binary string
}

// child is a started process.
type child struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has been reaped
	kill   func()        // the process and, where the system can, its children; may be called at any time
}
