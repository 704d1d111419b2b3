package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A program may start others, which may leave its process group and its session. To find
// them all, it is started by a keeper: this binary once more, as a process that orphans
// below it are given to (PR_SET_CHILD_SUBREAPER). When the program ends, or the agent closes its
// end of a pipe, or dies, the keeper ends whatever is below it, and then itself.

// keeperName is the keeper's argument 0, by which it knows itself.
const keeperName = "rotunda-agent: keeper of a program"

// The keeper's files.
const (
	keeperLife    = 3 // its end of file: end everything
	keeperSays    = 4 // takes what became of the program
	keeperProgram = 5 // the program's file
)

// keeperWord is all that a keeper says.
type keeperWord struct {
	Failed string `json:"failed,omitempty"` // why the program was not started
	Status uint32 `json:"status,omitempty"` // its exit status
	Ended  bool   `json:"ended,omitempty"`  // it was ended by the keeper
}

// A keeper must be one in every program that this package is part of, tests too: whoever
// forgot to ask would start a second agent.
func init() {
	if len(os.Args) > 2 && os.Args[0] == keeperName {
		keep()
	}
}

// start runs a program to its end, under a keeper.
func start(cmd *exec.Cmd, file *os.File, real string, argv []string, e *end) error {
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		return notStarted(argv[0], err)
	}
	saysR, saysW, err := os.Pipe()
	if err != nil {
		_, _ = lifeR.Close(), lifeW.Close()
		return notStarted(argv[0], err)
	}
	defer func() { _, _ = lifeW.Close(), saysR.Close() }()
	cmd.Path, cmd.Err = "/proc/self/exe", nil // also when the file was replaced by a newer version
	cmd.Args = append([]string{keeperName, startPath(file, real)}, argv...)
	cmd.ExtraFiles = []*os.File{lifeR, saysW, file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = lifeW.Close
	err = cmd.Start()
	_, _ = lifeR.Close(), saysW.Close()
	if err != nil {
		return notStarted(argv[0], err)
	}
	_ = cmd.Wait() // the keeper's own status says nothing
	var w keeperWord
	said, _ := io.ReadAll(io.LimitReader(saysR, 4<<10))
	switch err := json.Unmarshal(said, &w); {
	case err != nil: // it was killed itself, and the program with it
		e.ended = true
	case w.Failed != "":
		return notStarted(argv[0], errors.New(w.Failed))
	default:
		e.ended = w.Ended
		e.status(syscall.WaitStatus(w.Status))
	}
	return nil
}

// startPath is what the kernel is given. The file that was looked at is what runs, whatever
// has its name by then; a text with an interpreter is opened by that once more, by its name,
// of which only root could have made another one's.
func startPath(file *os.File, real string) string {
	head := make([]byte, 2)
	if _, err := file.ReadAt(head, 0); err == nil && bytes.Equal(head, []byte("#!")) {
		return real
	}
	return "/proc/self/fd/" + strconv.Itoa(keeperProgram)
}

// keep is the keeper's whole life.
func keep() {
	runtime.LockOSThread() // its end would be the program's: see Pdeathsig
	for _, fd := range []int{keeperLife, keeperSays, keeperProgram} {
		unix.CloseOnExec(fd)
	}
	// Whoever ends the agent's whole group means the agent, which ends the keeper. Signals
	// that are handled, and not ignored, are in the program as ever.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	// What the program holds in its memory is not for files.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	w := keeperWord{}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		w.Failed = "its keeper: " + err.Error()
	} else if pid, err := syscall.ForkExec(os.Args[1], os.Args[2:], &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}); err != nil {
		w.Failed = whyNot(err)
	} else {
		shut()
		k := &keeper{pid: pid}
		go k.endWith(os.NewFile(keeperLife, "life"))
		w.Status, w.Ended = k.wait()
		clearBelow()
	}
	_ = json.NewEncoder(os.NewFile(keeperSays, "says")).Encode(w)
	os.Exit(0)
}

// shut closes the program's files, or nobody would notice that the program has closed them.
func shut() {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	for fd := range 3 {
		if err != nil || unix.Dup3(null, fd, unix.O_CLOEXEC) != nil {
			_ = unix.Close(fd)
		}
	}
}

// keeper is of one program.
type keeper struct {
	pid   int
	mu    sync.Mutex
	gone  bool // it has been waited for: its number may be another's
	ended bool
}

// endWith ends the program when the agent has closed its side, first politely.
func (k *keeper) endWith(life *os.File) {
	_, _ = life.Read(make([]byte, 1))
	k.signal(unix.SIGTERM)
	time.Sleep(endGrace)
	k.signal(unix.SIGKILL)
}

// signal is for the program and its process group.
func (k *keeper) signal(s unix.Signal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.gone {
		k.ended = true
		_ = unix.Kill(-k.pid, s)
		_ = unix.Kill(k.pid, s)
	}
}

// wait waits for the program. It looks first, and lets it go under the lock, so that no
// signal goes to a stranger.
func (k *keeper) wait() (status uint32, ended bool) {
	for unix.Waitid(unix.P_PID, k.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone = true
	_ = unix.Kill(-k.pid, unix.SIGKILL)
	var s unix.WaitStatus
	_, _ = unix.Wait4(k.pid, &s, 0, nil)
	return uint32(s), k.ended
}

// clearBelow ends all that is left below the keeper: the children of what it ends become its
// own. One that forks as fast as it is ended is given up after a while.
func clearBelow() {
	for stop := time.Now().Add(reapGrace - time.Second); time.Now().Before(stop); {
		for _, pid := range children() {
			_ = unix.Kill(pid, unix.SIGKILL) // not waited for yet, so the number is its own
		}
		switch pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); {
		case err == unix.ECHILD:
			return
		case err == nil && pid == 0: // they are on their way
			time.Sleep(time.Millisecond)
		}
	}
}

// children are the processes that this one is the parent of.
func children() (pids []int) {
	own := strconv.Itoa(os.Getpid())
	all, _ := os.ReadDir("/proc")
	for _, d := range all {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		// pid (name) state parent …, where the name may hold anything
		stat, _ := os.ReadFile("/proc/" + d.Name() + "/stat")
		_, after, _ := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(" "))
		if f := bytes.Fields(after); len(f) > 1 && string(f[1]) == own {
			pids = append(pids, pid)
		}
	}
	return pids
}
