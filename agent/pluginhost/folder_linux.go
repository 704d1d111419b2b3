package pluginhost

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// folder is a plugin's private folder. Where the kernel can, it is a file system in
// memory of a bounded size, which is mounted for the plugin alone: the agent reaches it by
// its descriptor, and nothing of it is left when both have ended, however they ended.
type folder struct {
	dir  string // as the plugin sees it
	at   string // as the agent does
	file int    // the file system; -1 where dir is a folder on disk
}

// folder makes the private folder of a process.
func (j *jail) folder(dir string, uid int) (folder, func(), error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return folder{}, nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) }
	if !j.iso.Folder {
		var err error
		if uid >= 0 {
			err = os.Chown(dir, uid, uid)
		}
		return folder{dir, dir, -1}, remove, err
	}
	// The agent connects to a socket in it: no link there may lead it elsewhere.
	fd, err := newMemory(j.bounds.folder, uid, "0700", unix.MOUNT_ATTR_NOSYMFOLLOW)
	if err != nil {
		remove()
		return folder{}, nil, err
	}
	return folder{dir, fmt.Sprintf("/proc/self/fd/%d", fd), fd}, func() { _ = unix.Close(fd); remove() }, nil
}

// newMemory makes a file system that is mounted nowhere.
func newMemory(size uint64, uid int, mode string, attr int) (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer func() { _ = unix.Close(fs) }()
	owner := fmt.Sprint(uid)
	for _, o := range [][2]string{
		{"size", fmt.Sprint(size)}, {"nr_inodes", fmt.Sprint(maxInodes)}, {"mode", mode}, {"uid", owner}, {"gid", owner},
	} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, fmt.Errorf("fsconfig %s: %w", o[0], err)
		}
	}
	_ = unix.FsconfigSetFlag(fs, "noswap") // from Linux 6.4 on: then nothing of it reaches a disk
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC|attr)
	return fd, os.NewSyscallError("fsmount", err)
}
