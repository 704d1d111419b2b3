package local

import "golang.org/x/sys/unix"

func setxattr(path string, list []byte) error { return unix.Setxattr(path, access, list, 0) }
