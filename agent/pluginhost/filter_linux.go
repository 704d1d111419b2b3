package pluginhost

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The filter of system calls makes a plugin one process, with no memory but its own and no
// sockets but those that its empty network shuts. What it refuses
// fails in the plugin as if its user had no right to it.
var refused = append([]uint32{
	// Memory that no bound counts.
	unix.SYS_MEMFD_CREATE, unix.SYS_MEMFD_SECRET, unix.SYS_SHMGET, unix.SYS_MSGGET, unix.SYS_SEMGET, unix.SYS_IO_SETUP, unix.SYS_MQ_OPEN,
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
	// Ways into others, and out of namespaces.
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD, unix.SYS_UNSHARE, unix.SYS_SETNS,
	// System calls by another way, which the filter would not see.
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	// What a plugin has no use for, and where kernels have had holes.
	unix.SYS_USERFAULTFD, unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN,
}, oldForks...)

// families are those of sockets that an empty network and Landlock shut. Others, AF_VSOCK
// among them, know no networks of their own, and would lead out.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// sizes are the options by which sockets get more of the kernel's memory than they have to
// begin with.
var sizes = []uint32{unix.SO_SNDBUF, unix.SO_RCVBUF, unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE}

// Where the kernel's seccomp_data has its fields; of arguments the low half, on machines
// that are little-endian.
const (
	atNumber = 0
	atArch   = 4
	atArgs   = 16
)

const (
	load    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	and     = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	equal   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	atLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	anyBit  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	give    = unix.BPF_RET | unix.BPF_K
)

func fails(e unix.Errno) unix.SockFilter {
	return unix.SockFilter{Code: give, K: unix.SECCOMP_RET_ERRNO | uint32(e)}
}

var allow = unix.SockFilter{Code: give, K: unix.SECCOMP_RET_ALLOW}

// filter is the program for plugins that are forked with these flags. The agent's thread
// that forks them has it, too: it may fork with the namespaces that only the agent has
// the right to make. Without those the two cannot be told apart, and forks are allowed.
func filter(flags uintptr) []unix.SockFilter {
	p := []unix.SockFilter{
		{Code: load, K: atArch},
		{Code: equal, K: auditArch, Jt: 1},
		fails(unix.EPERM),
		{Code: load, K: atNumber},
		{Code: atLeast, K: foreign, Jf: 1},
		fails(unix.EPERM),
	}
	on := func(number uint32, then ...unix.SockFilter) {
		p = append(append(p, unix.SockFilter{Code: equal, K: number, Jf: uint8(len(then))}), then...)
	}
	for _, n := range refused {
		on(n, fails(unix.EPERM))
	}
	on(unix.SYS_CLONE3, fails(unix.ENOSYS)) // its flags are not to be seen here: libraries fall back to clone
	if flags&unix.CLONE_NEWNET != 0 {
		const kinds = unix.CLONE_NEWNET | unix.CLONE_NEWUSER
		on(
			unix.SYS_CLONE,
			unix.SockFilter{Code: load, K: atArgs},
			unix.SockFilter{Code: anyBit, K: unix.CLONE_THREAD, Jt: 2},
			unix.SockFilter{Code: and, K: kinds},
			unix.SockFilter{Code: equal, K: uint32(flags) & kinds, Jf: 1},
			allow,
			fails(unix.EPERM),
		)
	}
	for _, n := range []uint32{unix.SYS_SOCKET, unix.SYS_SOCKETPAIR} {
		then := []unix.SockFilter{{Code: load, K: atArgs}}
		for i, f := range families {
			then = append(then, unix.SockFilter{Code: equal, K: f, Jt: uint8(len(families) - i)})
		}
		on(n, append(then, fails(unix.EAFNOSUPPORT), allow)...)
	}
	const option = atArgs + 2*8
	bigger := []unix.SockFilter{{Code: load, K: option}}
	for i, o := range sizes {
		bigger = append(bigger, unix.SockFilter{Code: equal, K: o, Jt: uint8(len(sizes) - i)})
	}
	on(unix.SYS_SETSOCKOPT, append(bigger, allow, fails(unix.EPERM))...)
	const flagsOfMmap = atArgs + 3*8
	on(
		mmap,
		unix.SockFilter{Code: load, K: flagsOfMmap},
		unix.SockFilter{Code: anyBit, K: unix.MAP_GROWSDOWN, Jt: 2},
		unix.SockFilter{Code: and, K: unix.MAP_SHARED | unix.MAP_ANONYMOUS},
		unix.SockFilter{Code: equal, K: unix.MAP_SHARED | unix.MAP_ANONYMOUS, Jf: 1},
		fails(unix.EPERM),
		allow,
	)
	return append(p, allow)
}

// filters reports whether this kernel has filters, and this program one for the machine.
func filters() bool {
	action := uint32(unix.SECCOMP_RET_ERRNO)
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	return auditArch != 0 && e == 0
}

// setFilter filters the system calls of the calling thread and of what it forks.
func setFilter(p []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); e != 0 {
		return os.NewSyscallError("seccomp", e)
	}
	return nil
}
