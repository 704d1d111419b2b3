// Package fault lets a test stop a process at a named point, and set its clock off.
// It exists only in builds with the tag "fault"; in every other build its functions
// are empty and inlined away, and no environment variable or file reaches them.
//
// A test names a folder in ROTUNDA_FAULT_DIR and arms a point by writing a file of
// the point's name there, whose text is the action:
//
//	kill    the process sends itself SIGKILL
//	stop    the process sends itself SIGSTOP
//	block   the caller waits until the file NAME.hit is removed
//
// When the point is reached the file is renamed to NAME.hit before the action, so
// that a point fires once and the test can see that it did. The file "clock" holds
// a duration (such as -24h) by which Now is off; clock.hit is there once somebody has
// asked for that time. A switch is on while a file of its
// name is there: by it a test has a server skip a check that an honest one makes.
// The file "heard", where it is there, gets all that Heard is given: by it a server
// writes down what it decrypts, as that of a curious operator would.
package fault
