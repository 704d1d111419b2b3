package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

var start = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// take takes one command.
func take(j *journal.Journal, c journal.Command) (bool, error) {
	taken, err := j.TakeCommands([]journal.Command{c})
	return err == nil && taken[0], err
}

// book is a journal that can be closed and opened again.
type book struct {
	*journal.Journal
	t    testing.TB
	path string
}

func newBook(t testing.TB) *book {
	t.Helper()
	b := &book{t: t, path: filepath.Join(t.TempDir(), "journal.db")}
	j, rebuilt, err := journal.Open(b.path, true, start)
	if err != nil || rebuilt {
		t.Fatalf("a first journal: rebuilt %v, %v", rebuilt, err)
	}
	b.Journal = j
	t.Cleanup(func() { b.Close() })
	return b
}

// again closes the journal and opens it as an agent does that was restarted.
func (b *book) again() {
	b.t.Helper()
	must(b.t, b.Close())
	j, rebuilt, err := journal.Open(b.path, false, start)
	if err != nil || rebuilt {
		b.t.Fatalf("open again: rebuilt %v, %v", rebuilt, err)
	}
	b.Journal = j
}

func ref() trust.Ref { return trust.Ref{Folder: seal.NewID(), Record: seal.NewID()} }

func digest(s string) seal.Digest { return seal.Hash([]byte(s)) }

// Everything that the agent must not forget is there after a restart, as it was.
func TestWhatIsWrittenStays(t *testing.T) {
	b := newBook(t)
	account, resource := ref(), ref()
	run := journal.Run{ID: seal.NewID(), Folder: account.Folder, Account: account.Record, Command: seal.NewID(), Started: start}
	command := journal.Command{ID: run.Command, Signed: []byte("signed"), Taken: start, RunID: run.ID}
	statement := trust.StatementSeen{Seq: 3, Digest: digest("statement"), Signed: []byte("bytes")}
	value := trust.ValueSeen{Seq: 7, Digest: digest("value"), Former: digest("former"), Set: 6}
	must(t, b.AppendLog(0, []byte("zero"), []byte("one")))
	must(t, b.AppendLog(2, []byte("two")))
	must(t, b.RememberStatement(account, statement))
	taken, err := take(b.Journal, command)
	if err != nil || !taken {
		t.Fatalf("taken %v, %v", taken, err)
	}
	must(t, b.BeginRun(run, true))
	must(t, b.NoteStaged(account, start.Add(time.Second)))
	must(t, b.KeepHostKey(resource, digest("host key")))
	look := func() map[string]any {
		t.Helper()
		var log []string
		must(t, b.Log(func(s []byte) error { log = append(log, string(s)); return nil }))
		out := map[string]any{"log": log}
		for name, get := range map[string]func() (any, error){
			"log from 1":   func() (any, error) { return b.LogFrom(1, 1) },
			"statement":    func() (any, error) { return b.Statement(account) },
			"value":        func() (any, error) { return b.Value(account) },
			"known":        func() (any, error) { return b.CommandKnown(command.ID) },
			"open":         func() (any, error) { return b.OpenCommands() },
			"runs":         func() (any, error) { return b.OpenRuns() },
			"activity":     func() (any, error) { return b.Activity(account) },
			"host key":     func() (any, error) { return b.HostKey(resource) },
			"greatest":     func() (any, error) { at, err := b.GreatestTime(); return at.UTC(), err },
			"replay floor": func() (any, error) { return b.ReplayFloor() },
			"settled":      func() (any, error) { return b.Settled(account, value.Digest) },
		} {
			v, err := get()
			must(t, err)
			out[name] = v
		}
		return out
	}
	before := look()
	for name, want := range map[string]any{
		"log":          []string{"zero", "one", "two"},
		"log from 1":   [][]byte{[]byte("one")},
		"statement":    statement,
		"known":        true,
		"open":         []journal.Command{command},
		"runs":         []journal.Run{run},
		"activity":     trust.Activity{Starts: []time.Time{start}, Staged: []time.Time{start.Add(time.Second)}, Greatest: start},
		"host key":     digest("host key"),
		"greatest":     start,
		"replay floor": time.Time{},
		"settled":      false,
	} {
		if !reflect.DeepEqual(before[name], want) {
			t.Errorf("%s: %+v, want %+v", name, before[name], want)
		}
	}
	b.again()
	if after := look(); !reflect.DeepEqual(after, before) {
		t.Errorf("after a restart:\n%+v\nwant\n%+v", after, before)
	}

	// The run ends: it and its command are open no more, and the value is known.
	must(t, b.EndRun(run.ID, command.ID, start.Add(2*time.Second), &journal.Settled{Account: account, Digest: value.Digest, Value: &value}))
	b.again()
	after := look()
	if after["value"] != value || after["settled"] != true || after["known"] != true {
		t.Errorf("after the run's end: %+v", after)
	}
	if n, _ := after["open"].([]journal.Command); len(n) != 0 {
		t.Errorf("open commands: %+v", n)
	}
	if n, _ := after["runs"].([]journal.Run); len(n) != 0 {
		t.Errorf("open runs: %+v", n)
	}
	if a, _ := after["activity"].(trust.Activity); len(a.Committed) != 1 {
		t.Errorf("activity: %+v", a)
	}
}

// Memory only grows: what is older, or said twice, changes nothing.
func TestMemoryOnlyGrows(t *testing.T) {
	b := newBook(t)
	account, id := ref(), seal.NewID()

	must(t, b.RememberStatement(account, trust.StatementSeen{Seq: 5, Digest: digest("five")}))
	for _, s := range []trust.StatementSeen{{Seq: 4, Digest: digest("four")}, {Seq: 5, Digest: digest("another five")}} {
		must(t, b.RememberStatement(account, s))
	}
	if s, err := b.Statement(account); err != nil || s.Seq != 5 || s.Digest != digest("five") {
		t.Errorf("statement: %+v, %v", s, err)
	}
	must(t, b.RememberValue(account, trust.ValueSeen{Seq: 5, Digest: digest("five")}))
	must(t, b.RememberValue(account, trust.ValueSeen{Seq: 5, Digest: digest("another five")}))
	must(t, b.RememberValue(account, trust.ValueSeen{Seq: 1, Digest: digest("one")}))
	if v, err := b.Value(account); err != nil || v.Seq != 5 || v.Digest != digest("five") {
		t.Errorf("value: %+v, %v", v, err)
	}
	// One account's namesake in another folder is another account.
	if s, err := b.Statement(trust.Ref{Folder: seal.NewID(), Record: account.Record}); err != nil || s.Seq != 0 {
		t.Errorf("a namesake's statement: %+v, %v", s, err)
	}

	for i, want := range []bool{true, false, false} {
		taken, err := take(b.Journal, journal.Command{ID: id, Signed: fmt.Appendf(nil, "delivery %d", i), Taken: start.Add(time.Duration(i) * time.Hour)})
		if err != nil || taken != want {
			t.Errorf("delivery %d: taken %v, %v", i, taken, err)
		}
	}
	if c, known, err := b.Command(id); err != nil || !known || string(c.Signed) != "delivery 0" {
		t.Errorf("the command: %+v, %v, %v", c, known, err)
	}
	if at, err := b.GreatestTime(); err != nil || !at.Equal(start) {
		t.Errorf("a repeated delivery moved the greatest time: %v, %v", at, err)
	}
	// The clock was set back: the greatest time stays.
	_, err := take(b.Journal, journal.Command{ID: seal.NewID(), Taken: start.Add(time.Minute)})
	must(t, err)
	_, err = take(b.Journal, journal.Command{ID: seal.NewID(), Taken: start.Add(-24 * time.Hour)})
	must(t, err)
	if at, err := b.GreatestTime(); err != nil || !at.Equal(start.Add(time.Minute)) {
		t.Errorf("the greatest time: %v, %v", at, err)
	}

	run := journal.Run{ID: seal.NewID(), Folder: account.Folder, Account: account.Record, Started: start}
	must(t, b.BeginRun(run, true))
	run.Started = start.Add(time.Minute)
	must(t, b.BeginRun(run, false)) // resumed
	if a, err := b.Activity(account); err != nil || len(a.Starts) != 1 {
		t.Errorf("a run that is resumed counts as a start: %+v, %v", a, err)
	}
	other := ref()
	if err := b.BeginRun(journal.Run{ID: run.ID, Folder: other.Folder, Account: other.Record, Started: start}, true); err == nil {
		t.Error("one run's id is taken for another account")
	}
	settled := &journal.Settled{Account: account, Digest: digest("candidate")}
	for range 2 {
		must(t, b.EndRun(run.ID, seal.ID{}, start, settled))
	}
	if is, err := b.Settled(account, digest("candidate")); err != nil || !is {
		t.Errorf("settled: %v, %v", is, err)
	}
	must(t, b.SettleCommand(seal.NewID(), start)) // one that nobody took

	resource := ref()
	must(t, b.KeepHostKey(resource, digest("first")))
	must(t, b.KeepHostKey(resource, digest("second")))
	if d, err := b.HostKey(resource); err != nil || d != digest("first") {
		t.Errorf("the first host key: %v, %v", d, err)
	}
	if d, err := b.HostKey(ref()); err != nil || d != (seal.Digest{}) {
		t.Errorf("no host key: %v, %v", d, err)
	}
}

// A clock that was ahead and is right again.
func TestResetClock(t *testing.T) {
	for _, row := range []struct {
		name  string
		given func(b *book)
		reset bool
	}{
		{"nothing was seen", func(*book) {}, false},
		{"nothing later than now", func(b *book) { take(b.Journal, journal.Command{ID: seal.NewID(), Taken: start}) }, false},
		{"a command was taken", func(b *book) { take(b.Journal, journal.Command{ID: seal.NewID(), Taken: start.AddDate(1, 0, 0)}) }, true},
		{"the journal was begun anew", func(b *book) {
			must(b.t, b.Close())
			must(b.t, os.Remove(b.path))
			var err error
			b.Journal, _, err = journal.Open(b.path, false, start.AddDate(1, 0, 0))
			must(b.t, err)
		}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := newBook(t)
			row.given(b)
			wasFloor, err := b.ReplayFloor()
			must(t, err)
			wasGreatest, err := b.GreatestTime()
			must(t, err)
			wantFloor, wantGreatest := wasFloor, wasGreatest
			if row.reset {
				wantFloor, wantGreatest = start.Add(2*time.Minute), start
			}
			if _, _, reset, err := b.ResetClock(start); err != nil || reset != row.reset {
				t.Errorf("reset %t, %v", reset, err)
			}
			b.again()
			if floor, err := b.ReplayFloor(); err != nil || !floor.Equal(wantFloor) {
				t.Errorf("the floor is %v, %v, want %v", floor, err, wantFloor)
			}
			if greatest, err := b.GreatestTime(); err != nil || !greatest.Equal(wantGreatest) {
				t.Errorf("the greatest time is %v, %v, want %v", greatest, err, wantGreatest)
			}
		})
	}
}

// However often an account is rotated and however many commands come, the journal stays
// small; what could still be replayed is kept.
func TestGrowthIsBounded(t *testing.T) {
	b := newBook(t)
	account := ref()
	for i := range 100 {
		at := start.Add(time.Duration(i) * time.Minute)
		run := journal.Run{ID: seal.NewID(), Folder: account.Folder, Account: account.Record, Started: at}
		must(t, b.BeginRun(run, true))
		must(t, b.NoteStaged(account, at))
		d := digest(fmt.Sprint(i))
		must(t, b.EndRun(run.ID, seal.ID{}, at, &journal.Settled{Account: account, Digest: d, Value: &trust.ValueSeen{Seq: uint64(i + 1), Digest: d}}))
	}
	a, err := b.Activity(account)
	if err != nil || len(a.Starts) > 16 || len(a.Staged) > 16 || len(a.Committed) > 16 || !a.Starts[len(a.Starts)-1].Equal(start.Add(99*time.Minute)) {
		t.Errorf("activity: %d starts, %d staged, %d committed, %v", len(a.Starts), len(a.Staged), len(a.Committed), err)
	}
	for i, want := range map[int]bool{99: true, 90: true, 0: false} {
		if is, err := b.Settled(account, digest(fmt.Sprint(i))); err != nil || is != want {
			t.Errorf("candidate %d settled: %v, %v", i, is, err)
		}
	}

	// Commands, by when they were taken and settled, as of now.
	now := start.Add(48 * time.Hour)
	for name, c := range map[string]struct {
		taken, settled time.Duration // ago; 0: not settled
		many           int
		stays          bool
	}{
		"settled long ago":                {3 * time.Hour, 2*time.Hour + time.Minute, 300, false},
		"settled within two hours":        {3 * time.Hour, 2*time.Hour - time.Minute, 5, true},
		"not settled":                     {23 * time.Hour, 0, 5, true},
		"not settled, of the day before":  {24*time.Hour + time.Minute, 0, 300, false},
		"settled just now, taken long so": {30 * time.Hour, time.Minute, 5, false},
	} {
		ids := make([]seal.ID, c.many)
		var all sync.WaitGroup
		for i := range ids {
			ids[i] = seal.NewID()
			all.Go(func() {
				_, err := take(b.Journal, journal.Command{ID: ids[i], Signed: make([]byte, 400), Taken: now.Add(-c.taken)})
				if c.settled > 0 {
					err = errors.Join(err, b.SettleCommand(ids[i], now.Add(-c.settled)))
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		must(t, b.Forget(now))
		for _, id := range ids {
			if known, err := b.CommandKnown(id); err != nil || known != c.stays {
				t.Errorf("%s: known %v, %v", name, known, err)
				break
			}
		}
	}
	info, err := os.Stat(b.path)
	if err != nil || info.Size() > 2<<20 {
		t.Errorf("the file: %v, %v", info, err)
	}
}

// A run goes on for as long as its target or the vault is away: by the body of its command,
// which is kept until it has ended. Other commands about it are forgotten as any.
func TestBodyIsKeptUntilItsRunHasEnded(t *testing.T) {
	b, account, run := newBook(t), ref(), seal.NewID()
	first := journal.Command{ID: seal.NewID(), Signed: []byte("first"), Taken: start, RunID: run}
	other := journal.Command{ID: seal.NewID(), Signed: []byte("other"), Taken: start, RunID: run}
	late := journal.Command{ID: seal.NewID(), Signed: []byte("late"), Taken: start, RunID: seal.NewID()} // not begun
	for _, c := range []journal.Command{first, other, late} {
		_, err := take(b.Journal, c)
		must(t, err)
	}
	must(t, b.BeginRun(journal.Run{ID: run, Folder: account.Folder, Account: account.Record, Command: first.ID, Started: start}, false))

	now := start.AddDate(0, 0, 30)
	must(t, b.Forget(now))
	b.again()
	if open, err := b.OpenCommands(); err != nil || !reflect.DeepEqual(open, []journal.Command{first}) {
		t.Errorf("a month later: %+v, %v", open, err)
	}
	must(t, b.EndRun(run, first.ID, now, nil))
	must(t, b.Forget(now))
	if known, err := b.CommandKnown(first.ID); err != nil || known {
		t.Errorf("the run has ended: known %v, %v", known, err)
	}
}

// Many write at once, and each one's word is on the disk when the call returns.
func TestManyWriteAtOnce(t *testing.T) {
	b := newBook(t)
	var all sync.WaitGroup
	ids := make([]seal.ID, 200)
	for i := range ids {
		ids[i] = seal.NewID()
		all.Go(func() {
			if taken, err := take(b.Journal, journal.Command{ID: ids[i], Taken: start}); err != nil || !taken {
				t.Errorf("taken %v, %v", taken, err)
			}
		})
	}
	all.Wait()
	if commits, writes := b.Stats(); writes != int64(len(ids)) || commits >= writes {
		t.Errorf("%d changes in %d writes: nothing was shared", writes, commits)
	}
	b.again()
	if open, err := b.OpenCommands(); err != nil || len(open) != len(ids) {
		t.Errorf("%d commands, %v", len(open), err)
	}
}

// A journal that was lost may have known commands that are still valid: they are refused.
func TestLostJournals(t *testing.T) {
	good := newBook(t)
	for range 40 {
		_, err := take(good.Journal, journal.Command{ID: seal.NewID(), Signed: make([]byte, 500), Taken: start})
		must(t, err)
		must(t, good.RememberStatement(ref(), trust.StatementSeen{Seq: 1, Digest: digest("s"), Signed: make([]byte, 500)}))
	}
	must(t, good.Close())
	whole, err := os.ReadFile(good.path)
	must(t, err)
	cases := map[string][]byte{
		"empty":     {},
		"one byte":  {1},
		"text":      []byte(strings.Repeat("no journal ", 10_000)),
		"all zeros": make([]byte, len(whole)),
	}
	const page = 4096
	for _, n := range []int{page, 2 * page, 3 * page, 4 * page, 5*page + 17, len(whole) / 2} {
		cases[fmt.Sprintf("cut at %d", n)] = whole[:n]
	}
	for off := 2 * page; off < len(whole); off += page {
		torn := bytes.Clone(whole)
		copy(torn[off:off+page], bytes.Repeat([]byte{0xff}, page))
		cases[fmt.Sprintf("page %d overwritten", off/page)] = torn
	}
	lost := 0
	for name, text := range cases {
		path := filepath.Join(t.TempDir(), "journal.db")
		must(t, os.WriteFile(path, text, 0o600))
		j, rebuilt, err := journal.Open(path, false, start)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		floor, err := j.ReplayFloor()
		must(t, err)
		open, err := j.OpenCommands()
		must(t, err)
		if rebuilt {
			lost++
			if !floor.Equal(start.Add(2 * time.Minute)) {
				t.Errorf("%s: the replay floor is %v", name, floor)
			}
			if aside, _ := filepath.Glob(path + ".damaged-*"); len(aside) != 1 && len(text) > 0 {
				t.Errorf("%s: the file was not kept aside: %v", name, aside)
			}
		} else if len(open) != 40 {
			t.Errorf("%s: %d of 40 commands, and nobody is told", name, len(open)) // a page that was not in use
		}
		if _, err := take(j, journal.Command{ID: seal.NewID(), Taken: start}); err != nil {
			t.Errorf("%s: the new one does not write: %v", name, err)
		}
		must(t, j.Close())
	}
	if lost < 10 {
		t.Errorf("only %d of %d files were found damaged", lost, len(cases))
	}

	path := filepath.Join(t.TempDir(), "missing", "journal.db")
	j, rebuilt, err := journal.Open(path, false, start)
	must(t, err)
	defer j.Close()
	if floor, _ := j.ReplayFloor(); !rebuilt || !floor.Equal(start.Add(2*time.Minute)) {
		t.Errorf("missing: rebuilt %v, floor %v", rebuilt, floor)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// A value that is no JSON is damage too: nobody could ever use that entry.
func TestTornEntry(t *testing.T) {
	b := newBook(t)
	_, err := take(b.Journal, journal.Command{ID: seal.NewID(), Signed: []byte("signed"), Taken: start})
	must(t, err)
	must(t, b.Close())
	text, err := os.ReadFile(b.path)
	must(t, err)
	torn := bytes.ReplaceAll(text, []byte(`{"id":`), []byte(`{"id";`))
	if bytes.Equal(torn, text) {
		t.Fatal("the entry was not found")
	}
	must(t, os.WriteFile(b.path, torn, 0o600))
	j, rebuilt, err := journal.Open(b.path, false, start)
	must(t, err)
	defer j.Close()
	if !rebuilt {
		t.Error("the journal is believed")
	}
}

// What is not damage is told, and changes nothing.
func TestJournalsThatDoNotOpen(t *testing.T) {
	b := newBook(t)
	if _, _, err := journal.Open(b.path, false, start); err == nil || !strings.Contains(err.Error(), "another agent has it open; stop that one first") {
		t.Errorf("open twice: %v", err)
	}
	dir := t.TempDir()
	if _, _, err := journal.Open(dir, false, start); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder: %v", err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the folder is gone: %v", err)
	}
}
