package proof

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/vault/work"
)

// fault is what goes wrong while runs stand at a step.
type fault struct {
	name string
	at   extent
	// strike makes it, and gives what heals it. heal fails the test where the programs
	// did not feel the fault: then nothing was proven.
	strike func(t *testing.T, w *matrix) (heal func())
	// lasts is how long it is left to work.
	lasts time.Duration
	// mute: nobody can ask the vault meanwhile.
	mute bool
	// moves: others take the runs over meanwhile.
	moves bool
	// left says why this machine cannot have it.
	left func(w *matrix) (why string)
}

// extent is at which points a fault is struck, and how often.
type extent int

const (
	beforeSteps extent = iota // once, at runs before each step
	allPoints                 // at runs before each step, and then at runs after each
	eachPoint                 // before and after each step, each by itself
)

func (f fault) needs(w *matrix) string {
	if f.left == nil {
		return ""
	}
	return f.left(w)
}

// pastLease is longer than a lease lives without a sign of its agent (10 s), and long
// enough for another agent to be told.
const pastLease = 13 * time.Second

// lasting is what a fault is called that lasted so long: past a lease only if it did.
func (f fault) lasting(d time.Duration) string {
	if d > work.Term {
		return f.name
	}
	name := strings.TrimSuffix(f.name, " past the lease")
	return strings.TrimSuffix(name, " past its lease")
}

// What ends before the lease is not called past it, and is counted by a name of its own.
func TestFaultIsCalledByHowLongItLasted(t *testing.T) {
	if pastLease <= work.Term {
		t.Errorf("past the lease is %s, a lease %s", pastLease, work.Term)
	}
	called := map[string]string{}
	for _, f := range allFaults() {
		short, long := f.lasting(work.Term), f.lasting(f.lasts)
		if long != f.name {
			t.Errorf("%s, left to work %s, is called %s", f.name, f.lasts, long)
		}
		if strings.Contains(short, "lease") {
			t.Errorf("%s, ended before the lease, is called %s", f.name, short)
		}
		for _, name := range slices.Compact([]string{short, long}) {
			if called[name] != "" {
				t.Errorf("%s and %s are both called %s", called[name], f.name, name)
			}
			called[name] = f.name
		}
	}
	if got := (fault{name: "link stalled past the lease"}).lasting(2 * time.Second); got != "link stalled" {
		t.Errorf("a link that stalled for two seconds is called %q", got)
	}
}

var kills = []fault{
	{name: "agent killed", at: eachPoint, strike: func(t *testing.T, w *matrix) func() {
		w.agent.Kill()
		return func() { must(t, w.agent.Start(t.Context())) }
	}},
	{name: "server killed", at: eachPoint, mute: true, strike: func(t *testing.T, w *matrix) func() {
		w.Server.Kill()
		return func() { w.serverBack(t) }
	}},
	{name: "plugin killed", at: allPoints, strike: func(t *testing.T, w *matrix) func() {
		killed := killPlugins(t, w.agent.Pid())
		return func() { w.felt(t, killed > 0, "no plugin was running") }
	}},
}

var absences = []fault{
	{name: "agent killed, and away past its lease", lasts: pastLease, moves: true, strike: func(t *testing.T, w *matrix) func() {
		w.agent.Kill()
		return func() { must(t, w.agent.Start(t.Context())) }
	}},
	{name: "agent stopped past its lease", lasts: pastLease, moves: true, strike: func(t *testing.T, w *matrix) func() {
		must(t, w.agent.Pause())
		return func() {
			must(t, w.agent.Resume())
			must(t, w.agent.WaitConnected(t.Context()))
		}
	}},
	{name: "server away past the lease", mute: true, lasts: pastLease, strike: func(t *testing.T, w *matrix) func() {
		w.Server.Kill()
		return func() { w.serverBack(t) }
	}},
}

var links = []fault{
	{name: "link cut past the lease", lasts: pastLease, strike: func(t *testing.T, w *matrix) func() {
		before := w.link.traffic()
		w.link.close()
		return func() {
			w.felt(t, w.link.traffic() != before, "the agent did not try to reach the server")
			w.link.reopen()
			must(t, w.agent.WaitConnected(t.Context()))
		}
	}},
	{name: "link stalled past the lease", lasts: pastLease, strike: func(t *testing.T, w *matrix) func() {
		w.link.stall()
		return func() {
			w.felt(t, w.link.flow() > 0, "nothing was held")
			must(t, w.agent.WaitConnected(t.Context()))
		}
	}},
	{name: "server's answers lost", lasts: 3 * time.Second, strike: func(t *testing.T, w *matrix) func() {
		w.link.lose()
		return func() {
			w.felt(t, w.link.keep() > 0, "the server answered nothing")
			must(t, w.agent.WaitConnected(t.Context()))
		}
	}},
	{name: "targets' answers lost", lasts: 3 * time.Second, strike: func(t *testing.T, w *matrix) func() {
		each(w.targets, (*gate).lose)
		return func() {
			var lost int64
			each(w.targets, func(g *gate) { lost += g.keep() })
			w.felt(t, lost > 0, "the targets answered nothing")
		}
	}},
	{name: "targets stalled past the lease", lasts: pastLease, strike: func(t *testing.T, w *matrix) func() {
		each(w.targets, (*gate).stall)
		return func() {
			var held int64
			each(w.targets, func(g *gate) { held += g.flow() })
			w.felt(t, held > 0, "nothing was held")
		}
	}},
}

var hosts = []fault{
	// The first: a journal writes into the pages that ended runs have freed, and after
	// those of the faults below it could have room enough to feel no full disk.
	{name: "disk full under the journal", lasts: pastLease, left: noDisk, strike: func(t *testing.T, w *matrix) func() {
		return w.fill(t, w.journal, func() int { return said(w.agent.Process, "no space left") })
	}},
	{name: "database locked", mute: true, lasts: pastLease, strike: lockDatabase},
	{name: "disk full under the vault", mute: true, lasts: pastLease, left: noDisk, strike: func(t *testing.T, w *matrix) func() {
		shrinkWAL(t, w.Database())
		return w.fill(t, w.vault, func() int { return w.serverSaid("the disk is full") })
	}},
	{name: "agent's clock an hour behind", lasts: 5 * time.Second, strike: func(t *testing.T, w *matrix) func() { return w.jump(t, w.agent.Fault, "-1h") }},
	{name: "server's clock an hour behind", mute: true, lasts: 5 * time.Second, strike: func(t *testing.T, w *matrix) func() { return w.jump(t, w.ServerFault(), "-1h") }},
	{name: "server's clock an hour ahead", mute: true, lasts: 5 * time.Second, strike: func(t *testing.T, w *matrix) func() { return w.jump(t, w.ServerFault(), "1h") }},
	{name: "agent's clock an hour ahead", lasts: 5 * time.Second, strike: func(t *testing.T, w *matrix) func() {
		mend := w.jump(t, w.agent.Fault, "1h")
		return func() {
			mend()
			w.resetClock(t)
		}
	}},
}

func allFaults() []fault { return slices.Concat(kills, absences, links, hosts) }

func each(gates []*gate, do func(*gate)) {
	for _, g := range gates {
		do(g)
	}
}

func (w *matrix) serverBack(t *testing.T) {
	t.Helper()
	must(t, w.StartServer(t.Context()))
	must(t, w.agent.WaitConnected(t.Context()))
	must(t, w.second.WaitConnected(t.Context()))
}

// killPlugins kills an agent's plugins by SIGKILL.
func killPlugins(t *testing.T, agent int) (killed int) {
	t.Helper()
	pids := children(t, agent)
	for _, pid := range pids {
		p, err := os.FindProcess(pid)
		if err == nil {
			err = p.Kill()
		}
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
	}
	return len(pids)
}

// children are the processes that a process has started: an agent starts its plugins,
// and nothing else.
func children(t *testing.T, parent int) (pids []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Fatalf("the processes of this machine cannot be listed: %v", err)
	}
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state parent …
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if fields[0] != "Z" && fields[1] == strconv.Itoa(parent) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			must(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

// lockDatabase holds the server's database as another program could.
func lockDatabase(t *testing.T, w *matrix) (heal func()) {
	pool, err := sql.Open("sqlite", "file:"+w.Database()+"?_pragma=busy_timeout(10000)")
	must(t, err)
	pool.SetMaxOpenConns(1)
	_, err = pool.Exec("BEGIN EXCLUSIVE")
	must(t, err)
	before := w.serverSaid("locked by another process")
	return func() {
		w.felt(t, w.serverSaid("locked by another process") > before, "the server's log does not tell of the lock")
		_, err = pool.Exec("ROLLBACK")
		must(t, errors.Join(err, pool.Close()))
	}
}

// shrinkWAL has the database write its log from its beginning, in a file that has to
// grow for it: else a full disk would not be felt at once.
func shrinkWAL(t *testing.T, database string) {
	t.Helper()
	pool, err := sql.Open("sqlite", "file:"+database+"?_pragma=busy_timeout(10000)")
	must(t, err)
	_, err = pool.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	must(t, errors.Join(err, pool.Close()))
}

// jump sets a program's clock off, and right again.
func (w *matrix) jump(t *testing.T, fault, by string) (heal func()) {
	t.Helper()
	file := filepath.Join(fault, "clock")
	must(t, os.WriteFile(file, []byte(by), 0o600))
	return func() {
		must(t, os.Remove(file))
		err := os.Remove(file + ".hit")
		w.felt(t, err == nil, "the program did not look at the clock that was off")
	}
}

// resetClock is what a person does to an agent whose clock was ahead: it believes no
// clock that goes back. For two minutes it takes no command then, so the next rotation is
// the other agent's.
func (w *matrix) resetClock(t *testing.T) {
	t.Helper()
	w.agent.Stop()
	cmd := exec.CommandContext(t.Context(), filepath.Join(w.Bin, "rotunda-agent"), "reset-clock", "--config", filepath.Join(w.agent.Dir, "agent.toml"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("reset-clock: %v: %s", err, out)
	}
	w.felt(t, bytes.Contains(out, []byte("the journal had seen")), "the agent did not work by the clock that was ahead")
	must(t, w.agent.Start(t.Context()))
	w.next = w.second
}

// disk is a small file system of its own, which can be full.
type disk struct{ dir string }

// newDisk mounts one over a folder that it makes; nil where this machine cannot.
func newDisk(t *testing.T, dir string) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Log("no small disks: mounting needs root")
		return nil
	}
	image := filepath.Join(filepath.Dir(dir), filepath.Base(dir)+".disk")
	must(t, os.MkdirAll(dir, 0o711))
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 160<<20))
	for _, argv := range [][]string{
		{"mkfs.ext4", "-q", "-m", "0", image},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Logf("no small disks: %s: %v: %s", strings.Join(argv, " "), err, out)
			must(t, os.Remove(image))
			return nil
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", dir, err, out)
		}
	})
	must(t, os.Chmod(dir, 0o711))
	return &disk{dir}
}

func noDisk(w *matrix) string {
	if w.vault == nil || w.journal == nil {
		return "this machine mounts no small disks (root is needed)"
	}
	return ""
}

// fill leaves not a byte. Healing frees it; meanwhile somebody told of it once more.
func (w *matrix) fill(t *testing.T, d *disk, told func() int) (heal func()) {
	t.Helper()
	before := told()
	name := filepath.Join(d.dir, "filler")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, err)
	// Most of it is taken without being written, since runs go on meanwhile.
	var free syscall.Statfs_t
	must(t, syscall.Statfs(d.dir, &free))
	if most := int64(free.Bavail)*int64(free.Bsize) - 2<<20; most > 0 {
		if out, err := exec.Command("fallocate", "--length", strconv.FormatInt(most, 10), name).CombinedOutput(); err != nil {
			t.Logf("the disk is filled slowly: %v: %s", err, out)
		}
	}
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else {
			must(t, err)
		}
	}
	must(t, f.Close())
	return func() {
		w.felt(t, told() > before, "nobody told that the disk is full")
		must(t, os.Remove(name))
	}
}

// said counts the lines of a program's log that hold these words.
func said(p *installation.Process, words string) (n int) {
	for _, line := range p.Log() {
		if strings.Contains(line, words) {
			n++
		}
	}
	return n
}

func (w *matrix) serverSaid(words string) int { return said(w.Server, words) }
