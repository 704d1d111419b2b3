package pluginhost

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

func withSpare(t *testing.T, edit func(*Config)) *fixture {
	return newFixture(t, func(c *Config) {
		c.Spare = scripts()
		if edit != nil {
			edit(c)
		}
	}, "scripts")
}

// ready is the spare, once it can be taken.
func (f *fixture) ready() *process {
	f.t.Helper()
	f.ExpectScript()
	f.mu.Lock()
	p := f.spare
	var started chan struct{}
	if p != nil {
		started = p.started
	}
	f.mu.Unlock()
	if p == nil {
		f.t.Fatal("there is no spare process")
	}
	<-started
	if p.err != nil {
		f.t.Fatal(p.err)
	}
	return p
}

func (f *fixture) process(p Plugin, key string) *process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.procs[processKey{p, key}]
}

// The spare becomes a script's process, and another is started; a place it takes only then.
func TestSpareIsTaken(t *testing.T) {
	f, srv := withSpare(t, func(c *Config) { c.Processes = 1 }), newServer(t)
	one, other := script("after one"), script("after other")
	first := f.ready()
	f.ExpectScript() // there is one
	if f.ready() != first || len(f.pids()) != 0 || len(f.Running()) != 0 || f.free != 1 {
		t.Errorf("the spare counts: %v, %d places free", f.Running(), f.free)
	}
	if a, err := f.run(t.Context(), one, srv.job("r"), "tell"); err != nil || !strings.HasPrefix(a.Output, "one 1 ") {
		t.Fatalf("%+v, %v", a, err)
	}
	if f.process(one, "r") != first {
		t.Error("the script has a process of its own")
	}
	f.logs.has(t, "script=one resource=r") // what it logs is the script's from now on
	second := f.ready()
	if second == first {
		t.Fatal("the spare is still the one that was taken")
	}
	if n := f.Running(); n[scripts()] != 1 {
		t.Errorf("processes: %v", n)
	}
	// The one place is made free for the next, which takes the next spare: no process is told
	// a second script.
	if a, err := f.run(t.Context(), other, srv.job("r"), "tell"); err != nil || !strings.HasPrefix(a.Output, "other 1 ") {
		t.Fatalf("%+v, %v", a, err)
	}
	if f.process(other, "r") != second || f.process(one, "r") != nil {
		t.Error("it is not the second spare, or the first script's process is there still")
	}
	// A script's process that crashes leaves it alone, and so does what is no script.
	third := f.ready()
	second.child.kill()
	<-second.gone
	f.mu.Lock()
	key := processKey{other, "r"}
	if f.failures[key].n != 1 {
		t.Errorf("its crash is not counted: %+v", f.failures[key])
	}
	f.failures[key] = failure{1, time.Now().Add(time.Second)} // its own pause may be over by now
	f.mu.Unlock()
	if a, err := f.run(t.Context(), other, srv.job("r"), "tell"); err != nil || !strings.HasPrefix(a.Output, "other 1 ") {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err := f.Describe(t.Context(), guest()); err != nil {
		t.Error(err)
	}
	if f.ready() != third {
		t.Error("it was taken for a script that crashed, or for a plugin that is no script")
	}
}

// A spare is started when a script is, if there was none.
func TestSpareAfterAScript(t *testing.T) {
	f, srv := withSpare(t, nil), newServer(t)
	f.mu.Lock()
	none := f.spare == nil
	f.mu.Unlock()
	if !none {
		t.Error("a spare before there is a script")
	}
	if _, err := f.run(t.Context(), script("after one"), srv.job("r"), ""); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	p := f.spare
	f.mu.Unlock()
	if p == nil {
		t.Fatal("no spare after a script")
	}
}

// A spare that ends by itself is not missed until a script is started or expected, and then
// not at once.
func TestSpareThatDied(t *testing.T) {
	f, srv := withSpare(t, nil), newServer(t)
	for n := 1; n <= 2; n++ {
		p := f.ready()
		p.child.kill()
		<-p.gone
		f.mu.Lock()
		failed := f.spareFailed
		if f.spare != nil || failed.n != n || time.Until(failed.until) > backoffMin<<n {
			t.Errorf("after %d ends: %v, %+v", n, f.spare, failed)
		}
		f.spareFailed.until = time.Now().Add(time.Hour)
		f.mu.Unlock()
		f.ExpectScript()
		f.mu.Lock()
		if f.spare != nil {
			t.Error("another is started before its time")
		}
		f.spareFailed.until = time.Now()
		f.mu.Unlock()
	}
	f.logs.has(t, "spare plugin process ended")
	f.ready()
	if _, err := f.run(t.Context(), script("after one"), srv.job("r"), ""); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.spareFailed.n != 0 {
		t.Errorf("one was of use, and the ends before it still count: %+v", f.spareFailed)
	}
}

// A script that crashed lately waits for its start, and takes no spare from others.
func TestSpareIsNotForCrashes(t *testing.T) {
	f, srv := withSpare(t, nil), newServer(t)
	p := f.ready()
	one := script("after one")
	f.mu.Lock()
	f.failures[processKey{one, "r"}] = failure{1, time.Now().Add(time.Second)}
	f.mu.Unlock()
	if _, err := f.run(t.Context(), one, srv.job("r"), ""); err != nil {
		t.Fatal(err)
	}
	if f.process(one, "r") == p {
		t.Error("it took the spare")
	}
}

func TestSpareEnds(t *testing.T) {
	t.Run("idle", func(t *testing.T) {
		f := withSpare(t, func(c *Config) { c.Idle = 500 * time.Millisecond })
		p := f.ready()
		select {
		case <-p.gone:
		case <-time.After(20 * time.Second):
			t.Fatal("it goes on idling")
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.spare != nil || f.spareFailed.n != 0 {
			t.Errorf("%v, %+v", f.spare, f.spareFailed)
		}
	})
	t.Run("withdrawn", func(t *testing.T) {
		var withdrawn atomic.Bool
		f := withSpare(t, func(c *Config) {
			c.Catalogue = &Catalogue{dir: c.Catalogue.dir, logged: func(Plugin) bool { return !withdrawn.Load() }}
		})
		p := f.ready()
		withdrawn.Store(true)
		select {
		case <-p.gone:
		case <-time.After(20 * time.Second):
			t.Fatal("it goes on idling")
		}
	})
	t.Run("the host closes", func(t *testing.T) {
		for _, started := range []bool{true, false} {
			f := withSpare(t, nil)
			p := f.ready
			if !started {
				p = func() *process {
					f.ExpectScript()
					f.mu.Lock()
					defer f.mu.Unlock()
					return f.spare
				}
			}
			spare := p()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := f.Close(ctx); err != nil {
				t.Fatal(err)
			}
			select {
			case <-spare.gone:
			default:
				t.Errorf("started %t: it outlives the host", started)
			}
			if strings.Contains(f.logs.String(), "spare plugin process ended") {
				t.Errorf("started %t: its end is told as a crash", started)
			}
			f.ExpectScript()
			if f.spare != nil {
				t.Error("the host that is closed starts another")
			}
		}
	})
}

// Many scripts at once, each on its own: no process has two.
func TestSparesUnderLoad(t *testing.T) {
	f, srv := withSpare(t, nil), newServer(t)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			f.ExpectScript()
			name := fmt.Sprint("s", i)
			a, err := f.run(t.Context(), script("after "+name), srv.job("r"), "tell")
			if err != nil || a.Outcome != sdk.Changed || !strings.HasPrefix(a.Output, name+" 1 ") {
				t.Errorf("%s: %+v, %v", name, a, err)
			}
		})
	}
	wg.Wait()
	if n := f.Running(); n[scripts()] != 12 {
		t.Errorf("processes: %v", n)
	}
}

// BenchmarkScript is what it takes until a script has run, with a spare and without.
func BenchmarkScript(b *testing.B) {
	for _, spare := range []bool{true, false} {
		b.Run(fmt.Sprintf("spare=%t", spare), func(b *testing.B) {
			f := newFixture(b, func(c *Config) {
				if spare {
					c.Spare = scripts()
				}
			}, "scripts")
			j := Job{Target: Target{Key: "r"}}
			n := 0
			for b.Loop() {
				b.StopTimer()
				if spare {
					f.ready()
				}
				b.StartTimer()
				n++
				if _, err := f.run(context.Background(), script(fmt.Sprint("after s", n)), j, ""); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
