package pluginhost

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rotunda-pam/rotunda/sdk"
)

// What a hostile plugin tries beyond looking around (TestJail): each try is made with its
// guard, and without it, where it succeeds: else the guard would prove nothing.
func TestHostilePlugin(t *testing.T) {
	noFilter := func(j *jail) { j.iso.Filter = false }
	noBounds := func(j *jail) { j.iso.Bounds = false }
	noFolder := func(j *jail) { j.iso.Folder = false }
	noNetwork := func(j *jail) { j.flags &^= unix.CLONE_NEWNET; j.iso.Landlock = 0; j.iso.Filter = false }
	both := func(all ...func(*jail)) func(*jail) {
		return func(j *jail) {
			for _, one := range all {
				one(j)
			}
		}
	}
	nobody, err := net.Listen("tcp", "127.0.0.1:0") // where no job leads
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nobody.Close() }()
	for _, row := range []struct {
		try, probe string
		also       func(*jail) // takes away another guard, which would stop it first
		stopped    string      // with the guard
		guard      func(*jail) // takes it away
		succeeds   string
		needs      string // the part of the isolation that stops it
	}{
		{"start a process", "processes 1", nil, "EPERM", noFilter, "ok", "Alone"},
		{"fill the process table", "processes 100", noFilter, "EAGAIN", both(noFilter, noBounds), "ok", "Bounds"},
		{"fill memory", "grow 300", nil, "ENOMEM", noBounds, "ok", "Bounds"},
		{"fill memory that is shared", "shared 300", nil, "EPERM", noFilter, "ok", "Filter"},
		{"fill memory as a stack", "stack 300", nil, "EPERM", noFilter, "ok", "Filter"},
		{"fill memory with tables of addresses", "reserve 9000", nil, "ENOMEM", noBounds, "ok", "Bounds"},
		{"fill the kernel's memory with semaphores", "semaphores", nil, "EPERM", noFilter, "ok", "Filter"},
		{"fill the kernel's memory with what sockets hold", "sockets 300", nil, "EPERM", noFilter, "ok", "Filter"},
		{"take what the machine has of asynchronous files", "aio", nil, "EPERM", noFilter, "ok", "Filter"},
		{"fill memory as a file", "memfd 16", nil, "EPERM", noFilter, "ok", "Filter"},
		{"fill the disk", "fill 24", nil, "ENOSPC", noFolder, "ok", "Folder"},
		{"fill the disk with one file", "file 40", noFolder, "EFBIG", both(noFolder, noBounds), "ok", "Bounds"},
		{"take every descriptor", "descriptors-to 2000", nil, "EMFILE", noBounds, "ok", "Bounds"},
		{"leave by a socket without a network", "socket 40", nil, "EAFNOSUPPORT", noFilter, "ok", "Filter"}, // AF_VSOCK
		{"leave by TCP Fast Open", "fastopen " + nobody.Addr().String(), nil, "ENETUNREACH", noNetwork, "ok", "Network"},
		{"leave by connecting", "connect tcp " + nobody.Addr().String(), nil, "ENETUNREACH|EACCES", noNetwork, "ok", "Network"},
	} {
		t.Run(row.try, func(t *testing.T) {
			f, srv := newFixture(t, hostileBounds), newServer(t)
			if !f.has(row.needs) {
				t.Skipf("this system cannot stop it, and doctor says so: %s", f.Isolation().Note)
			}
			if row.also != nil {
				row.also(f.jail)
			}
			probe := probes(t, f, srv)
			if got := probe(row.probe); !regexp.MustCompile("^(" + row.stopped + ")$").MatchString(got) {
				t.Errorf("with the guard: %s, want %s", got, row.stopped)
			}
			if _, err := apply(t.Context(), f.open(t.Context(), srv.job("probe")), "app", "next"); err != nil {
				t.Errorf("afterwards the plugin, or the agent, is of no more use: %v", err)
			}
			bare := newFixture(t, hostileBounds)
			row.guard(bare.jail)
			bare.mu.Lock()
			bare.cfg.bounds.memory = 1 << 30 // whoever watches it (TestMemoryIsWatched) is another guard
			bare.mu.Unlock()
			if got := probes(t, bare, newServer(t))(row.probe); got != row.succeeds {
				if row.probe == "socket 40" {
					t.Skipf("not proven: this kernel has no AF_VSOCK: %s", got)
				}
				t.Errorf("without the guard: %s, want %s: the guard is not what stops it", got, row.succeeds)
			}
		})
	}
}

// A plugin's first thread has no more stack than it may, from its start on: each has that
// bound from the agent. That it has none else cannot be shown beside, since the tests' own
// process has it, too.
func TestStackIsBounded(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	if !f.has("Bounds") {
		t.Skipf("this system bounds nothing, and doctor says so: %s", f.Isolation().Note)
	}
	for n := range 10 {
		job := srv.job(fmt.Sprint("stack", n)) // a process of its own
		_, err := apply(t.Context(), f.open(t.Context(), job), "probe raise-stack", "secret")
		if e := (*sdk.Error)(nil); !errors.As(err, &e) || e.Reason != "probe" || e.Err.Error() != "EPERM" {
			t.Fatalf("process %d raises the bound of its stack: %v", n, err)
		}
	}
}

// hostileBounds are near, so that the machine does not suffer when a guard is away.
func hostileBounds(c *Config) {
	c.bounds = defaultBounds()
	c.bounds.memory, c.bounds.processes = 256<<20, 80
}

// has reports a part of the isolation, by its name.
func (f *fixture) has(what string) bool {
	i := f.Isolation()
	return map[string]bool{"Alone": i.Alone, "Filter": i.Filter, "Bounds": i.Bounds && i.User, "Folder": i.Folder, "Network": i.Network}[what]
}

// A plugin that computes without end is ended, and the log says why; one that is at work
// for a while is not.
func TestProcessorTime(t *testing.T) {
	srv := newServer(t)
	near := func(burst time.Duration) func(*Config) {
		return func(c *Config) {
			c.bounds = defaultBounds()
			c.bounds.burst, c.bounds.share = burst, 0.1
		}
	}
	f := newFixture(t, near(500*time.Millisecond))
	probe := probes(t, f, srv)
	f.mu.Lock()
	p := f.procs[processKey{guest(), "probe"}]
	f.mu.Unlock()
	if got := probe("burn"); got != "burning" {
		t.Fatal(got)
	}
	select {
	case <-p.gone:
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on for ever")
	}
	f.logs.has(t, errProcessor.Error())
	s, err := f.Open(t.Context(), guest(), srv.job("probe"))
	if err != nil {
		t.Fatalf("the resource cannot be reached any more: %v", err)
	}
	s.Close()

	var a allowance
	b := bounds{burst: time.Minute, share: 1.5}
	now := time.Now()
	for _, row := range []struct {
		after, used time.Duration
		over        bool
	}{
		{0, 0, false},
		{time.Second, 50 * time.Second, false},                // at once
		{time.Minute, 50*time.Second + 90*time.Second, false}, // and what the share gives
		{time.Minute, 50*time.Second + 101*time.Second, true},
	} {
		if got := a.exceeded(row.used, now.Add(row.after), b); got != row.over {
			t.Errorf("%v after %v: %v", row.used, row.after, got)
		}
	}
	idle := allowance{}
	idle.exceeded(0, now, b)
	idle.exceeded(time.Second, now.Add(time.Hour), b)
	if !idle.exceeded(62*time.Second, now.Add(time.Hour), b) {
		t.Error("what was not used is saved up")
	}
}

// Memory that no limit counts any more, since it is not writable, is seen all the same: who
// has too much of it is ended, and the log says why.
func TestMemoryIsWatched(t *testing.T) {
	srv := newServer(t)
	for _, row := range []struct {
		memory uint64
		ended  bool
	}{{128 << 20, true}, {1 << 30, false}} {
		f := newFixture(t, func(c *Config) {
			c.bounds = defaultBounds()
			c.bounds.memory = row.memory
		})
		s := f.open(t.Context(), srv.job("probe"))
		f.mu.Lock()
		p := f.procs[processKey{guest(), "probe"}]
		f.mu.Unlock()
		took := make(chan string, 1)
		go func() {
			_, err := apply(t.Context(), s, "probe sealed 256", "secret")
			if e := (*sdk.Error)(nil); errors.As(err, &e) && e.Reason == "probe" {
				err = e.Err
			}
			took <- fmt.Sprint(err) // also where it was ended before it could answer
		}()
		if !row.ended {
			if got := <-took; got != "ok" || f.jail.taken(p.child) < 256<<20 {
				t.Errorf("of %d bytes: %s, and %d are seen", row.memory, got, f.jail.taken(p.child))
			}
			continue
		}
		select {
		case <-p.gone:
		case <-time.After(30 * time.Second):
			t.Fatal("it goes on for ever")
		}
		<-took // before it was ended, or by its end
		f.logs.has(t, errMemory.Error())
	}
}

// What ends a plugin is in the agent's log: here that it was refused memory, and what it
// wanted to dial.
func TestEndsAreReported(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	s := f.open(t.Context(), srv.job("r"))
	if _, err := apply(t.Context(), s, "dial 192.0.2.1:22", "secret"); ReasonOf(err) == "dialled" {
		t.Fatal("it dialled what its job does not have")
	}
	f.logs.has(t, "plugin asked for an address that its job does not have")
	f.logs.has(t, "192.0.2.1:22")
	_, err := apply(t.Context(), s, "crash", "secret")
	if e := (*Error)(nil); !errors.As(err, &e) || e.Reason != PluginCrashed {
		t.Errorf("%v", err)
	}
	f.logs.has(t, "exit status 3")
}

// A kernel or a container that lacks something is named, with what to do.
func TestWhatIsMissingIsSaid(t *testing.T) {
	whole := Isolation{User: true, Network: true, Processes: true, NoPrivileges: true, Landlock: 8, Sockets: true, Filter: true, Alone: true, Bounds: true, Folder: true}
	for says, edit := range map[string]func(*Isolation){
		"":                    func(*Isolation) {},
		"no Landlock":         func(i *Isolation) { i.Landlock, i.Sockets, i.Folder = 0, false, false },
		"D-Bus":               func(i *Isolation) { i.Sockets = false },
		"filter system calls": func(i *Isolation) { i.Filter, i.Alone = false, false },
		"prlimit":             func(i *Isolation) { i.Bounds = false },
		"on disk":             func(i *Isolation) { i.Folder = false },
		"can fill the disk":   func(i *Isolation) { i.User, i.Alone, i.Folder = false, false, false },
		"or systemd-resolved": func(i *Isolation) { i.User, i.Alone, i.Folder, i.Sockets = false, false, false, false },
		"without a bound":     func(i *Isolation) { i.Network, i.Processes, i.Bounds = false, false, false },
	} {
		j := &jail{iso: whole}
		edit(&j.iso)
		j.lacks(errors.New("this kernel is too old"))
		if !strings.Contains(j.iso.Note, says) || (says == "") != (j.iso.Note == "") {
			t.Errorf("%q: %q", says, j.iso.Note)
		}
	}
}
