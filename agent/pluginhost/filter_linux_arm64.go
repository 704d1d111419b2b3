package pluginhost

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_AARCH64
	foreign   = 0xffffffff
	mmap      = unix.SYS_MMAP
)

var oldForks []uint32
