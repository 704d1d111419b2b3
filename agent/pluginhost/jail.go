package pluginhost

import (
	"fmt"
	"os/exec"
	"strings"
)

// Isolation says what keeps plugins in, for doctor and the start-up log.
type Isolation struct {
	User         bool // a user id of its own: the agent's files and memory are out of reach
	Network      bool // an empty network: the dialer is the only way out
	Processes    bool // sees and signals no others, and its children die with it
	NoPrivileges bool // set-user-id programs give it nothing
	Landlock     int  // version of the kernel's Landlock that shuts paths; 0: none
	Sockets      bool // sockets with a path are shut, those of the host that every user may open among them
	Filter       bool // system calls are filtered: no socket that leads out, no memory that is not counted
	Alone        bool // it is one process, and can start no other
	Bounds       bool // of memory, descriptors, processes and file sizes
	Folder       bool // its root is one of its own in memory, with a private folder of a bounded size
	// Note says in a sentence what is missing and what to do; empty if nothing is.
	Note string
}

// String lists what is in force.
func (i Isolation) String() string {
	var all []string
	for _, one := range []struct {
		is   bool
		what string
	}{
		{i.User, "users of their own"},
		{i.Network, "an empty network"},
		{i.Processes, "no sight of other processes"},
		{i.NoPrivileges, "no new privileges"},
		{i.Landlock > 0, fmt.Sprintf("paths shut by Landlock (version %d)", i.Landlock)},
		{i.Sockets, "no sockets of the host"},
		{i.Filter, "filtered system calls"},
		{i.Alone, "no processes beside their own"},
		{i.Bounds, "bounded memory, files and descriptors"},
		{i.Folder, "a folder in memory"},
	} {
		if one.is {
			all = append(all, one.what)
		}
	}
	return strings.Join(all, ", ")
}

// The jail of each system (jail_*.go) has:
//
//	newJail(UserIDs, bounds) *jail                          finds out what is possible
//	(*jail).user() (uid int, release func(), error)         a user id for one process
//	(*jail).folder(dir string, uid int) (folder, func(), error)
//	(*jail).start(*exec.Cmd, confinement) (*child, error)   and bounds it
//	(*jail).tookEarly(*child) error                         once it has spoken
//	(*jail).used(*child), (*jail).taken(*child)             what it has used of processor and memory
//
// A confinement is what differs from process to process.
type confinement struct {
	uid    int // -1: the agent's own
	folder folder
	binary string
}

// child is a started process.
type child struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has been reaped
	kill   func()        // the process and, where the system can, its children; may be called at any time
}
