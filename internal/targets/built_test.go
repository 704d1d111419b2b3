package targets

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"
)

// small is a server of no dependencies, built in a cache of this test's own.
func small(t *testing.T) recipe {
	t.Helper()
	cache, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Skipf("left out: %v", err)
	}
	t.Setenv("GOCACHE", strings.TrimSpace(string(cache)))
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir()) // where other systems have both
	// The go command leaves a process behind that counts its uses, in a folder that the test
	// removes.
	config, err := os.UserConfigDir()
	mode := filepath.Join(config, "go", "telemetry", "mode")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(mode), 0o700)
	}
	if err == nil {
		err = os.WriteFile(mode, []byte("off"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return recipe{name: "test2json", pkg: "cmd/test2json", from: fstest.MapFS{
		"recipes/test2json.mod": {Data: []byte("module built\n\ngo 1.26\n")}, "recipes/test2json.sum": {},
	}}
}

func TestBuiltOnce(t *testing.T) {
	r := small(t)
	program, err := r.program()
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Dir(filepath.Dir(program))
	// What a killed build left, a build of other parts that nobody used for long, and one
	// that somebody did.
	for name, age := range map[string]time.Duration{"half-123": 0, "test2json-old": 2 * unused, "test2json-other": 0, "another-old": 2 * unused} {
		dir := filepath.Join(kept, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, time.Now(), time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	var builds atomic.Int32
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if err := r.build(t.Context(), func(string) { builds.Add(1) }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("built %d times, want once", n)
	}
	if out, err := exec.Command(program, "-h").CombinedOutput(); !strings.Contains(string(out), "test2json") {
		t.Errorf("what was built does not run: %v: %s", err, out)
	}
	for name, want := range map[string]bool{"half-123": false, "test2json-old": false, "test2json-other": true, "another-old": true} {
		if exists(filepath.Join(kept, name)) != want {
			t.Errorf("%s is there: %v, want %v", name, !want, want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(kept, "half-*")); len(left) > 0 {
		t.Errorf("the build left %v", left)
	}
}

// A server of other parts is another one, and one that cannot be built leaves nothing.
func TestBuildFails(t *testing.T) {
	r := small(t)
	before, err := r.program()
	if err != nil {
		t.Fatal(err)
	}
	r.pkg = "example.invalid/none"
	program, err := r.program()
	if err != nil || program == before {
		t.Fatalf("%s, %v: the same as of other parts", program, err)
	}
	if err := r.build(t.Context(), func(string) {}); err == nil || exists(program) {
		t.Errorf("built what its go.sum does not name: %v", err)
	}
	left, err := os.ReadDir(filepath.Dir(filepath.Dir(program)))
	if err != nil || len(left) != 1 { // the lock
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestSecondTierIsAskedFor(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir()) // which has no server
	t.Setenv("HOME", t.TempDir())
	for _, c := range []struct {
		server Server
		all    string
		run    bool
	}{
		{FerretDB, "", false},
		{FerretDB, "cached", false},
		{FerretDB, "1", true},
		{Redis, "", true},
		{Redis, "cached", true},
	} {
		t.Setenv(TestAll, c.all)
		if err := wanted(c.server); (err == nil) != c.run {
			t.Errorf("%s with %s=%q: %v", c.server, TestAll, c.all, err)
		}
	}
}
