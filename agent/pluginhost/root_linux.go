package pluginhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// enter gives the calling thread, and what it forks, a root of its own: a file system in
// memory that has what a plugin may read, its binary and its private folder. What is not
// there can be neither opened nor connected to, sockets that every user may open among it.
// Where the folder is on disk, nothing is done.
func (c confinement) enter() error {
	if c.folder.file < 0 {
		return nil
	}
	if err := ownMounts(); err != nil {
		return err
	}
	defer unix.Umask(unix.Umask(0)) // the thread's own from here on, as its root is
	memory, err := newMemory(maxRoot, 0, "0755", 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(memory) }()
	root := c.folder.dir
	if err := attach(memory, root); err != nil {
		return err
	}
	for _, path := range readable {
		if err := show(root, path, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(root, root), 0o755); err != nil {
		return err
	}
	if err := attach(c.folder.file, filepath.Join(root, root)); err != nil {
		return err
	}
	for path, attr := range map[string]uint64{c.binary: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID, "/dev/null": unix.MOUNT_ATTR_NOEXEC, "/dev/urandom": unix.MOUNT_ATTR_NOEXEC} {
		if err := show(root, path, attr); err != nil {
			return err
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	// pivot_root(2): the old root is put upon the new one, and taken from it.
	return errors.Join(
		os.NewSyscallError("pivot_root", unix.PivotRoot(".", ".")),
		os.NewSyscallError("umount", unix.Unmount(".", unix.MNT_DETACH)))
}

// maxRoot is of the folders and links that stand for the system's.
const maxRoot = 1 << 20

// show puts a path of the host, with what is mounted beneath it, under a root. A link is
// put there as a link: it leads to what is shown, or nowhere.
func show(root, path string, attr uint64) error {
	at := filepath.Join(root, path)
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	switch {
	case info.Mode().Type() == os.ModeSymlink:
		to, err := os.Readlink(path)
		if err != nil {
			return err
		}
		return os.Symlink(to, at)
	case info.IsDir():
		err = os.MkdirAll(at, 0o755)
	default:
		if _, err = os.Lstat(at); errors.Is(err, fs.ErrNotExist) { // else it lies below what is shown already
			err = os.WriteFile(at, nil, 0o644)
		}
	}
	if err != nil {
		return err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(tree) }()
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attr}); err != nil {
		return &os.PathError{Op: "mount_setattr", Path: path, Err: err}
	}
	return attach(tree, at)
}

func attach(mount int, at string) error {
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: at, Err: err}
	}
	return nil
}

// ownMounts gives the calling thread mounts of its own; what is unmounted elsewhere goes
// from them, too.
func ownMounts() error {
	return errors.Join(
		os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNS)),
		os.NewSyscallError("mount", unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")))
}

// mayEnter tries it on a thread that is thrown away, over a folder that every system has
// and in which nothing lies that is shown.
func mayEnter() error {
	memory, err := newMemory(1<<20, 0, "0700", 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(memory) }()
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("own program: %w", err)
	}
	done := make(chan error)
	go onOtherThread(func() { done <- confinement{folder: folder{dir: "/proc", file: memory}, binary: exe}.enter() })
	return <-done
}
