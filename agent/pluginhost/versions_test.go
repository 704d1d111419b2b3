package pluginhost

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/installed"
	"github.com/rotunda-pam/rotunda/internal/release"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

// second adds another version of the guest: the same program, and a byte more.
func (f *fixture) second() Plugin {
	f.t.Helper()
	b, err := os.ReadFile(filepath.Join(built.dir, "guest"))
	if err != nil {
		f.t.Fatal(err)
	}
	b = append(bytes.Clone(b), 0)
	p := Plugin{Name: "guest", SHA256: sha256.Sum256(b)}
	if err := os.WriteFile(filepath.Join(f.plugins, p.String()), b, 0o644); err != nil {
		f.t.Fatal(err)
	}
	f.cfg.Catalogue.builtin[p] = true
	return p
}

// A run that is under way ends with the version that it began with; the other begins on
// the same resource when that one has nothing to do there any more, and not before.
func TestOneVersionOnAResource(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	next := f.second()
	old := f.open(t.Context(), srv.job("r"))
	type opened struct {
		s   *Session
		err error
	}
	done := make(chan opened, 1)
	go func() {
		s, err := f.Open(t.Context(), next, srv.job("r"))
		done <- opened{s, err}
	}()
	// It waits: its wish is noted, and it has no process.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		leaving := f.procs[processKey{guest(), "r"}].leaving
		f.mu.Unlock()
		if leaving {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nobody waits for the old version")
		}
	}
	if _, err := apply(t.Context(), old, "app", "next"); err != nil {
		t.Errorf("the run that was under way: %v", err)
	}
	if v, err := f.Verify(t.Context(), guest(), VerifyJob{Target: srv.target("r"), Credential: password("next")}); err != nil {
		t.Errorf("its login: %+v, %v", v, err)
	}
	select {
	case o := <-done:
		t.Fatalf("the new version began while the old one was at work (%v)", o.err)
	default:
	}
	if n := f.Running(); n[guest()] != 1 || n[next] != 0 {
		t.Errorf("processes: %v", n)
	}
	old.Close()
	o := <-done
	if o.err != nil {
		t.Fatal(o.err)
	}
	defer o.s.Close()
	if _, err := apply(t.Context(), o.s, "app", "another"); err != nil {
		t.Error(err)
	}
	if n := f.Running(); n[guest()] != 0 || n[next] != 1 {
		t.Errorf("processes: %v", n)
	}
	// Whoever cannot wait so long has sent nothing.
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.Open(short, guest(), srv.job("r")); ReasonOf(err) != string(PluginBusy) || !NotSent(err) {
		t.Errorf("while the other is at work: %v", err)
	}
}

// A version that was withdrawn ends as soon as nobody uses it, long before its time.
func TestWithdrawnVersionEnds(t *testing.T) {
	var approved atomic.Bool
	approved.Store(true)
	f := newFixture(t, func(c *Config) {
		c.Catalogue = &Catalogue{dir: c.Catalogue.dir, logged: func(Plugin) bool { return approved.Load() }}
	})
	s := f.open(t.Context(), newServer(t).job("r"))
	f.mu.Lock()
	p := f.procs[processKey{guest(), "r"}]
	f.mu.Unlock()
	approved.Store(false)
	if _, err := apply(t.Context(), s, "app", "next"); err != nil {
		t.Errorf("the run that was under way: %v", err)
	}
	s.Close()
	select {
	case <-p.gone:
	case <-time.After(10 * time.Second):
		t.Error("it goes on idling")
	}
}

// Of the versions that may start, the one that is installed as in use does; what the log
// does not approve starts in no case.
func TestVersionInUse(t *testing.T) {
	dir := t.TempDir()
	var all []Plugin
	for i, text := range []string{"one", "two", "three"} {
		p := Plugin{Name: "acme", SHA256: sha256.Sum256([]byte(text))}
		path := filepath.Join(dir, p.String())
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1000*i), 0) // the last is the youngest
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	one, two, three := all[0], all[1], all[2]
	index := func(p Plugin, left ...Plugin) string {
		versions := []installed.Version{{Version: "1", SHA256: seal.Digest(p.SHA256)}}
		for i, l := range left {
			versions = append(versions, installed.Version{Version: fmt.Sprint(i + 2), SHA256: seal.Digest(l.SHA256), Left: true})
		}
		b, err := json.Marshal(map[string]any{"acme": map[string]any{"publisher": release.Publisher{2}, "current": "1", "versions": versions}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, row := range map[string]struct {
		index    string
		approved []Plugin
		want     Plugin
	}{
		"nothing is installed: the youngest":             {"", all, three},
		"the one in use":                                 {index(two), all, two},
		"the one in use is not approved yet":             {index(three), []Plugin{one, two}, two},
		"nor is it, and the youngest was gone back from": {index(three, two), []Plugin{one, two}, one},
		"and that alone is approved":                     {index(three, two), []Plugin{two}, Plugin{}},
		"none is approved":                               {index(one), nil, Plugin{}},
		"what is in use cannot be read: no other either": {"{", all, Plugin{}},
	} {
		path := filepath.Join(dir, installed.Index)
		_ = os.Remove(path)
		if row.index != "" {
			if err := os.WriteFile(path, []byte(row.index), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		c, err := NewCatalogue(dir, nil, func(p Plugin) bool {
			for _, a := range row.approved {
				if a == p {
					return true
				}
			}
			return false
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Find("acme")
		if got != row.want || (err == nil) != (row.want != Plugin{}) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		list := c.List()
		if row.index != "{" && len(list) != len(row.approved) {
			t.Errorf("%s: %d may run, want %d", name, len(list), len(row.approved))
		}
		if err == nil && list[0] != got {
			t.Errorf("%s: preferred is %v", name, list[0])
		}
		if files, err := c.Look(); err != nil || len(files) != 3 {
			t.Errorf("%s: doctor sees %d files, %v", name, len(files), err)
		}
	}
}
