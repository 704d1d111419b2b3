// Package pluginhost runs the agent's plugins: one process for each resource in use,
// shut in, supervised, and ended when idle.
//
//	host.Open    -> Session -> Apply, Retire, Readback, Close     administrative, shared
//	host.Verify  -> verdict                                       a fresh login each time
//	host.Plan, Do, Undo, Provision, Deprovision, Run              each on its own
//
// A script is a plugin of its own (Scripted): its process is one of the binary that runs
// scripts, which is told that one script before anything else. A spare process (Config.Spare)
// waits for the next one.
//
// # What a plugin process can reach
//
// It is taken for hostile. It gets no environment, no descriptors but its own, a
// private folder, and a dialer that reaches the addresses of the job in hand, which may be
// the agent itself (Target.Local). It
// runs from a private copy of a binary whose hash was checked while copying. What
// else keeps it in depends on the system; Isolation says what is in force:
//
//	Linux, agent is root     a user of its own, no network, no sight of other processes,
//	                         no new privileges, a root in memory with its own folder and the
//	                         system's programs and certificates, paths shut by Landlock, too;
//	                         it is one process, which starts no other
//	Linux, agent is not      the same but for user and root, where the kernel allows user
//	                         namespaces, and with processes to a number; elsewhere Landlock
//	                         alone, and the agent's memory is closed to its own user
//	macOS                    a user of its own where the agent is root
//	Windows                  a job object, so that it dies with the agent
//
// Where it has no root of its own, filesystem sockets that everybody may open (D-Bus, a
// PostgreSQL socket of mode 0777) stay reachable if the kernel's Landlock does not shut them,
// which Isolation.Note then says: let none be open to others on the agent's machine.
//
// # What a plugin process can use up
//
// On Linux: 512 MiB of memory, 16 MiB of files (on disk, where the agent is not root: 32
// MiB each, and as many as it likes), 1,024 descriptors, three quarters of the machine's
// processors in the long run and a minute at once, 50 lines of the log a second. Memory
// that no bound counts (shared, of other processes, of files without a name) is kept from
// it by a filter of system calls, so that no control groups are needed, which containers
// and services seldom have (docs/decisions/0017-bounds-without-control-groups.md). Ends
// for such a reason, and addresses that it asked for in vain, are in the agent's log.
//
// # What a plugin process can do to the agent
//
// Crash, hang, print garbage, speak another protocol, lie. Each ends in an *Error with
// a stable reason; the others carry on. The agent makes no use of go-plugin's broker,
// stdio stream or log parser, all of which trust the plugin: it starts the process,
// does the handshake and mutual TLS through go-plugin, and then dials by itself.
//
// # Deadlines
//
// The context of each call is its deadline. When it ends, the agent closes the
// session's connections, cancels the call in the plugin, takes the answer if one comes
// after all, and kills the process if none has come 2 s later.
package pluginhost
