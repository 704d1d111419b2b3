package pluginhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

type jail struct {
	iso    Isolation
	users  users
	flags  uintptr // namespaces
	bounds bounds
}

func newJail(ids UserIDs, b bounds) *jail {
	keepFiles()
	j := &jail{users: users{ids}, bounds: b}
	j.iso.NoPrivileges = true
	j.iso.Landlock = landlockVersion()
	j.iso.User = os.Geteuid() == 0 && j.allowed(ids.First, 0)
	const empty = unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC
	switch {
	case j.iso.User && j.allowed(ids.First, empty):
		j.flags = empty
	case j.iso.User:
		j.iso.Note = "the agent is root but may not make namespaces: plugins can connect by themselves; give it CAP_SYS_ADMIN"
	case j.allowed(-1, empty|unix.CLONE_NEWUSER):
		j.flags = empty | unix.CLONE_NEWUSER
		j.iso.Note = "plugins run as the agent's own user: their files are its files but for Landlock; run the packaged service, which starts as root"
	default:
		j.sameUser()
	}
	j.iso.Network = j.flags&unix.CLONE_NEWNET != 0
	j.iso.Processes = j.flags&unix.CLONE_NEWPID != 0
	j.iso.Filter = filters()
	// Who may make a user namespace may make processes with it.
	j.iso.Alone = j.iso.Filter && j.iso.Network && j.iso.User
	// To bound a process of another user is to be that user for a moment, whom the plugin may
	// then signal: it must not be able to name the agent.
	j.iso.Bounds = mayBound() && boundStack(b.stack) == nil && (!j.iso.User || j.iso.Processes)
	noRoot := errors.New("not tried")
	if j.iso.User && j.iso.Network {
		noRoot = mayEnter()
	}
	j.iso.Folder = noRoot == nil
	j.iso.Sockets = j.iso.Folder || j.iso.Landlock > 0 && shutsSockets()
	j.lacks(noRoot)
	return j
}

// keepFiles keeps from plugins what whoever started the agent may have left open to it. Files
// of the agent's own are closed to them from the beginning.
func keepFiles() {
	open, _ := os.ReadDir("/proc/self/fd")
	for _, f := range open {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// lacks adds to the note what cannot be done here. Of an agent that is not root, or makes
// no namespaces, the note says already what would give it the rest.
func (j *jail) lacks(noRoot error) {
	var all []string
	whole := j.iso.User && j.iso.Network
	if !whole {
		all = append(all, j.iso.Note, "one of them can fill the disk, and take more memory by further processes")
		if !j.iso.Bounds {
			all = append(all, "they take files and descriptors without a bound")
		}
	}
	if j.iso.Landlock == 0 && !j.iso.Folder {
		all = append(all, "this kernel has no Landlock: plugins reach every file and socket that all users do")
	}
	if j.iso.Landlock > 0 && !j.iso.Sockets {
		all = append(all, openSockets)
	}
	if !j.iso.Filter {
		all = append(all, "this kernel does not filter system calls: plugins can start processes, take memory that is not counted, and use AF_VSOCK")
	}
	if whole && !j.iso.Bounds {
		all = append(all, "this system lets nobody bound what plugins use of memory, files and descriptors (prlimit)")
	}
	if whole && !j.iso.Folder {
		all = append(all, fmt.Sprintf("plugins' folders are on disk, where they can fill it: Linux 5.14 or later has them in memory (%v)", noRoot))
	}
	j.iso.Note = strings.Join(all, "; ")
}

// openSockets is said where plugins have no root of their own, and the kernel's Landlock knows
// no right to connect by a path.
const openSockets = "this kernel does not shut sockets with a path: plugins reach those that every user of this machine may open, such as D-Bus or systemd-resolved (which looks up names): run the agent where there are none, or as root on Linux 5.14 or later"

// sameUser is for an agent that is not root and may make no namespaces. Its memory is
// closed to processes of its own user then, plugins among them: Landlock alone would
// not do, since the thread that starts a plugin shares its confinement, and the
// agent's memory. (With namespaces those keep the plugin out.)
func (j *jail) sameUser() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	j.iso.Note = "no user namespaces: plugins run as the agent's own user and share its network, only Landlock keeps them from its files; run the packaged service, which starts as root"
	if j.iso.Landlock == 0 {
		j.iso.Note = "plugins are not isolated: they can read the agent's files, its keys among them; run the packaged service, which starts as root"
	}
}

// allowed tries to start a program that does not exist: the kernel refuses the
// namespaces or the user before it looks for the program.
func (j *jail) allowed(uid int, flags uintptr) bool {
	cmd := exec.Command("/proc/self/does-not-exist")
	cmd.SysProcAttr = attr(uid, flags)
	return errors.Is(cmd.Start(), fs.ErrNotExist)
}

// user gives a process a user id that nothing else has: -1 where plugins run as the
// agent's own.
func (j *jail) user() (uid int, release func(), err error) {
	if !j.iso.User {
		return -1, func() {}, nil
	}
	return j.users.take(swept)
}

func attr(uid int, flags uintptr) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if uid >= 0 {
		a.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	return a
}

// start confines a thread, forks from it, and keeps it until the child has ended:
// the confinement is inherited, and a parent-death signal comes when the thread
// that forked ends, not the process. The thread is thrown away afterwards.
//
// Where a plugin can see the agent's threads and only Landlock tells the two apart,
// the thread goes at once, and with it the signal: it could be stopped by a plugin
// that shares its confinement, and all others with it. The death pipe is left.
func (j *jail) start(cmd *exec.Cmd, c confinement) (*child, error) {
	keep := j.iso.User || j.iso.Processes || j.iso.Landlock == 0
	cmd.SysProcAttr = attr(c.uid, j.flags)
	if !keep {
		cmd.SysProcAttr.Pdeathsig = 0
	}
	ch := &child{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go onOtherThread(func() {
		err := j.confine(c)
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			if err = j.bound(cmd.Process.Pid, c.uid); err != nil {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}
		}
		started <- err
		switch {
		case err != nil:
			close(ch.exited)
		case keep:
			_ = cmd.Wait()
			close(ch.exited)
		default:
			go func() {
				_ = cmd.Wait()
				close(ch.exited)
			}()
		}
	})
	if err := <-started; err != nil {
		<-ch.exited
		return nil, err
	}
	ch.kill = func() {
		_ = cmd.Process.Kill()
		if !j.iso.Processes { // else the kernel kills the children of the namespace's first process
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	}
	return ch, nil
}

// onOtherThread runs f on a thread that ends with it. The process's first thread
// never ends, and stands for the whole process in /proc: it is left alone.
func onOtherThread(f func()) {
	runtime.LockOSThread() // never unlocked, but for the first thread
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() {
		defer close(done)
		onOtherThread(f)
	}()
	<-done
}

func (j *jail) confine(c confinement) error {
	if err := c.enter(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if j.iso.Landlock > 0 {
		if err := j.landlock(c); err != nil {
			return err
		}
	}
	if j.iso.Filter {
		return setFilter(filter(j.flags))
	}
	return nil
}

// What a plugin may read besides its own: the system's programs and libraries, and
// what says how certificates and time zones are.
var readable = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/ca-certificates.conf",
	"/var/lib/ca-certificates", // of openSUSE
	"/etc/localtime", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
}

const (
	landFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE
	landRead = landFile | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landDev  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE
)

func landlockVersion() int {
	v, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return 0
	}
	return int(v)
}

// landlock shuts the calling thread, and what it forks, off from all paths but the
// readable ones, the binary and the private folder, from TCP and from abstract
// sockets. It is a second fence behind user and network, and the only one for files
// where plugins run as the agent's user.
func (j *jail) landlock(c confinement) error {
	all := uint64(unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1) // version 1
	attr := unix.LandlockRulesetAttr{}
	size := unsafe.Sizeof(attr.Handled_access_fs)
	if j.iso.Landlock >= 2 {
		all |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if j.iso.Landlock >= 3 {
		all |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if j.iso.Landlock >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		size += unsafe.Sizeof(attr.Handled_access_net)
	}
	if j.iso.Landlock >= 5 {
		all |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if j.iso.Landlock >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
		size += unsafe.Sizeof(attr.Scoped)
	}
	if shutsSockets() {
		all |= unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX
	}
	attr.Handled_access_fs = all
	set, err := landlockCreate(&attr, size)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(set) }()
	rules := map[string]uint64{c.binary: landFile, c.folder.dir: attr.Handled_access_fs, "/dev/null": landDev, "/dev/urandom": landDev}
	for _, path := range readable {
		rules[path] = landRead
	}
	for path, access := range rules {
		if err := landlockAllow(set, path, access); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &os.PathError{Op: "landlock", Path: path, Err: err}
		}
	}
	if _, _, e := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(set), 0, 0); e != 0 {
		return os.NewSyscallError("landlock_restrict_self", e)
	}
	return nil
}

// shutsSockets reports whether the kernel shuts sockets with a path: else it refuses the bit.
func shutsSockets() bool {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX}
	fd, err := landlockCreate(&attr, unsafe.Sizeof(attr.Handled_access_fs))
	if err != nil {
		return false
	}
	return unix.Close(fd) == nil
}

func landlockCreate(a *unix.LandlockRulesetAttr, size uintptr) (int, error) {
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(a)), size, 0)
	if e != 0 {
		return -1, os.NewSyscallError("landlock_create_ruleset", e)
	}
	return int(fd), nil
}

func landlockAllow(set int, path string, access uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR { // rights of folders are refused on files
		access &= landFile | landDev | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	// The kernel's struct is packed: 8 bytes and 4.
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	_, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(set), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// swept ends what an earlier agent may have left running under a plugin's user. Under
// a user that no agent has had since the machine started, nothing is a plugin's: then
// it reports whether the user is free.
func swept(uid int, ours bool) (free bool, err error) {
	pids, err := processesOf("/proc", uid)
	if err != nil {
		return false, fmt.Errorf("look what runs under user %d: %w", uid, err)
	}
	if !ours {
		return len(pids) == 0, nil
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	return true, nil
}

// whoSeesAll is said where proc hides others' processes.
const whoSeesAll = "where proc is mounted with hidepid=, the agent needs the group of its gid=, or CAP_SYS_PTRACE"

// processesOf lists the processes that run under a user. The owner of their folders in
// proc would not do: a process can make that root. What cannot be read may be of that user:
// it is an error, but for a process that has ended meanwhile. So is a proc that hides others'
// processes: it hides the first of them, too, unless that has no more rights than the agent.
func processesOf(proc string, uid int) (pids []int, err error) {
	all, err := os.ReadDir(proc) // no Glob: that would list the folder of each process, too
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(all, func(d fs.DirEntry) bool { return d.Name() == "1" }) {
		return nil, fmt.Errorf("%s does not show all processes: %s", proc, whoSeesAll)
	}
	for _, d := range all {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		status, err := os.ReadFile(filepath.Join(proc, d.Name(), "status"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("%w: %s", err, whoSeesAll)
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(status)) {
			if ids, ok := strings.CutPrefix(line, "Uid:"); ok && slices.Contains(strings.Fields(ids), strconv.Itoa(uid)) {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}
