package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
)

// The test binary is also the other process: ROTUNDA_STORE_TEST says what it
// does to the database of which file.
func TestMain(m *testing.M) {
	path := os.Getenv("ROTUNDA_STORE_PATH")
	switch os.Getenv("ROTUNDA_STORE_TEST") {
	case "":
		os.Exit(m.Run())
	case "lock":
		lockForever(path)
	case "write":
		writeForever(path)
	}
}

func child(t *testing.T, what, path string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "ROTUNDA_STORE_TEST="+what, "ROTUNDA_STORE_PATH="+path)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // its end tells the child to end
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close() })
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(stdout)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func lockForever(path string) {
	s, err := store.Open(context.Background(), path)
	must(err)
	must(s.Write(context.Background(), func(*db.Queries) error {
		fmt.Println("locked")
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}))
	must(s.Close())
}

func TestLockedByAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rotunda.db")
	s, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cmd, out := child(t, "lock", path)
	if !out.Scan() {
		t.Fatal("the other process did not take the lock")
	}
	err = s.Write(t.Context(), func(q *db.Queries) error { return nil })
	if !errors.Is(err, store.ErrLocked) {
		t.Errorf("got %v", err)
	}
	if err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("the error does not say who and what to do: %v", err)
	}
	if err := s.Read(t.Context(), func(*db.Queries) error { return nil }); err != nil {
		t.Errorf("reading is possible meanwhile: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := s.Write(t.Context(), func(q *db.Queries) error { return nil }); err != nil {
		t.Errorf("after the other process has gone: %v", err)
	}
}

// writeForever writes rows from eight goroutines and prints the number of each
// once the store has acknowledged it.
func writeForever(path string) {
	s, err := store.Open(context.Background(), path)
	must(err)
	var print sync.Mutex
	for w := range 8 {
		go func() {
			for n := w; ; n += 8 {
				must(s.Write(context.Background(), func(q *db.Queries) error {
					return q.CreateOrg(context.Background(), db.CreateOrgParams{OrgID: []byte(strconv.Itoa(n)), Created: 1})
				}))
				print.Lock()
				fmt.Println(n)
				print.Unlock()
			}
		}()
	}
	io.Copy(io.Discard, os.Stdin)
}

func TestKilledWhileWriting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rotunda.db")
	var acknowledged []string
	for round := range 3 {
		if round > 0 {
			path = filepath.Join(t.TempDir(), "rotunda.db")
			acknowledged = nil
		}
		cmd, out := child(t, "write", path)
		for len(acknowledged) < 50*(round+1) && out.Scan() {
			acknowledged = append(acknowledged, out.Text())
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for out.Scan() { // what it had printed before
			acknowledged = append(acknowledged, out.Text())
		}
		cmd.Wait()

		s, err := store.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		lost := 0
		err = s.Read(t.Context(), func(q *db.Queries) error {
			for _, n := range acknowledged {
				if _, err := q.OrgByID(t.Context(), []byte(n)); err != nil {
					lost++
				}
			}
			return nil
		})
		if err != nil || lost > 0 || len(acknowledged) < 50*(round+1) {
			t.Errorf("round %d: err %v, %d of %d acknowledged rows lost", round, err, lost, len(acknowledged))
		}
		s.Close()
	}
}

func TestFileModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such modes")
	}
	dir := filepath.Join(t.TempDir(), "data")
	s, err := store.Open(t.Context(), filepath.Join(dir, "rotunda.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, want := range map[string]os.FileMode{"": 0o700, "rotunda.db": 0o600, "rotunda.db-wal": 0o600, "rotunda.db-shm": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if got := info.Mode().Perm(); got != want {
			t.Errorf("%q: mode %o, want %o", name, got, want)
		}
	}
}

func TestNotADatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rotunda.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), path)
	if !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("got %v, %v", s, err)
	}
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c#d%20.db") // must not be read as a URL
	for range 2 {
		s, err := store.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func BenchmarkWrite(b *testing.B) {
	s, err := store.Open(b.Context(), filepath.Join(b.TempDir(), "rotunda.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.SetParallelism(16)
	start := time.Now()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			err := s.Write(b.Context(), func(q *db.Queries) error {
				_, err := q.SetHead(b.Context(), db.SetHeadParams{ID: 1, Epoch: 1})
				return err
			})
			if err != nil {
				b.Error(err)
			}
		}
	})
	stats := s.Stats()
	b.ReportMetric(float64(stats.Writes)/float64(stats.Commits), "writes/commit")
	b.ReportMetric(float64(stats.Writes)/time.Since(start).Seconds(), "writes/s")
}
