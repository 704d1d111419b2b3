package pluginhost

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_X86_64
	foreign   = 0x40000000 // numbers of the x32 way of calling begin here
	mmap      = unix.SYS_MMAP
)

var oldForks = []uint32{unix.SYS_FORK, unix.SYS_VFORK}
