package proof

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// hostileWorld is an installation in the hands of a hostile operator: one server, one
// agent ("gw1" in pool dc1), one PostgreSQL as the resource "db" behind a gate that
// sees whatever reaches it. The rows share it; each makes accounts of its own.
type hostileWorld struct {
	*world
	pg    *targets.PG
	gate  *gate   // in front of the resource "db"
	gates []*gate // of every target
	file  *sql.DB
	made  int
	people
	second *installation.Agent // newcomer's

	claims bool              // the row claims that no target is touched, perhaps with exceptions
	looks  int               // at that
	struck map[*gate]traffic // what had reached the targets when the operator did something; nil: all that he did was looked after
}

func newHostileWorld(t *testing.T) *hostileWorld {
	w := &hostileWorld{world: start(t, installation.Options{Bin: bin(t, "fault"), Tap: true, Listen: true}), pg: targets.Postgres(t), made: 1} // gw1 is there
	w.gate = w.newGate(t)
	if err := w.AddPostgres(t.Context(), "db", w.behind(w.gate)); err != nil {
		t.Fatal(err)
	}
	w.openDatabase(t)
	return w
}

// newGate stands in front of the PostgreSQL.
func (w *hostileWorld) newGate(t *testing.T) *gate {
	t.Helper()
	g := newGate(t, w.pg.Address)
	w.gates = append(w.gates, g)
	return g
}

// openDatabase lets the operator write into the database while the server runs.
func (w *hostileWorld) openDatabase(t *testing.T) {
	t.Helper()
	var err error
	if w.file, err = sql.Open("sqlite", "file:"+w.Database()+"?_pragma=busy_timeout(10000)&_txlock=immediate"); err != nil {
		t.Fatal(err)
	}
	w.file.SetMaxOpenConns(1)
	t.Cleanup(func() { w.file.Close() })
}

// behind is the PostgreSQL as it is reached through a gate.
func (w *hostileWorld) behind(g *gate) *targets.PG {
	pg := *w.pg
	pg.Port, pg.Address = g.port(), g.l.Addr().String()
	return &pg
}

// ---- accounts ----

// name is one that no other row uses.
func (w *hostileWorld) name(prefix string) string {
	w.made++
	return fmt.Sprintf("%s%d", prefix, w.made)
}

// account makes a role with a secret of its own on the shared resource, and its
// account in the shared folder; both have the name that it returns.
func (w *hostileWorld) account(t *testing.T) string {
	t.Helper()
	return w.accountOn(t, "db")
}

// accountOn is account on another resource.
func (w *hostileWorld) accountOn(t *testing.T, resource string) string {
	t.Helper()
	title := w.name("a")
	if _, err := w.AddRole(t.Context(), w.pg, resource, title, title); err != nil {
		t.Fatal(err)
	}
	return title
}

// resource makes a resource of the row's own behind a gate of its own, with an
// administrator's account (NAME-admin), in the shared folder.
func (w *hostileWorld) resource(t *testing.T) (title string, g *gate) {
	t.Helper()
	title, g = w.name("r"), w.newGate(t)
	if err := w.AddPostgres(t.Context(), title, w.behind(g)); err != nil {
		t.Fatal(err)
	}
	return title, g
}

// ref is where a record is, as the command line tells it.
func (w *hostileWorld) ref(t *testing.T, title string) trust.Ref {
	t.Helper()
	var r struct {
		UID    string `json:"uid"`
		Folder string `json:"folder_uid"`
	}
	if err := w.JSON(t.Context(), &r, nil, "record", "get", title); err != nil {
		t.Fatal(err)
	}
	record, err := seal.ParseID(r.UID)
	if err != nil {
		t.Fatal(err)
	}
	folder, err := seal.ParseID(r.Folder)
	if err != nil {
		t.Fatal(err)
	}
	return trust.Ref{Folder: folder, Record: record}
}

// cli runs the command line, which must succeed.
func (w *hostileWorld) cli(t *testing.T, args ...string) {
	t.Helper()
	if _, err := w.CLI(context.WithoutCancel(t.Context()), nil, append(args, "--yes")...); err != nil {
		t.Fatal(err)
	}
}

// fails runs the command line, which must fail with that reason.
func (w *hostileWorld) fails(t *testing.T, reason trust.Reason, args ...string) {
	t.Helper()
	out, err := w.CLI(t.Context(), nil, append(args, "--yes", "--json")...)
	if got := reasonOf(err); got != string(reason) {
		t.Errorf("rotunda %s: reason %q, want %q: %v: %s", strings.Join(args, " "), got, reason, err, out)
	}
}

// reasonOf is the reason in the command line's JSON error; "" where it has none.
func reasonOf(err error) string {
	var failed *installation.CLIError
	if !errors.As(err, &failed) {
		return ""
	}
	for _, line := range strings.Split(failed.Stderr, "\n") {
		var said struct {
			Error struct{ Reason string }
		}
		if json.Unmarshal([]byte(line), &said) == nil && said.Error.Reason != "" {
			return said.Error.Reason
		}
	}
	return ""
}

// works is the honest case: the account is rotated by command, and its secret opens
// the target.
func (w *hostileWorld) works(t *testing.T, title string) {
	t.Helper()
	w.looked(t)
	if o, err := w.Rotate(t.Context(), title, "--agent", w.agent.Name); err != nil {
		t.Fatalf("the honest case: rotate %s: %v: %+v: %s", title, err, o, w.agent.Tail())
	}
	w.opensTarget(t, title)
}

// opensTarget asserts that the secret in the vault opens the account's target.
func (w *hostileWorld) opensTarget(t *testing.T, title string) {
	t.Helper()
	w.opensTargetOf(t, title, title)
}

// opensTargetOf is opensTarget of a record named otherwise than by its role's name.
func (w *hostileWorld) opensTargetOf(t *testing.T, record, title string) {
	t.Helper()
	secret, err := w.Secret(t.Context(), record)
	if err != nil {
		t.Fatal(err)
	}
	switch ok, err := w.pg.Accepts(t.Context(), title, secret); {
	case err != nil:
		t.Fatal(err)
	case !ok:
		t.Errorf("LOST: the vault's secret of %s does not open its target", title)
	}
}

// ---- the operator's hands ----

// sql writes into the server's database. A statement that changes nothing is a
// mistake in the row.
func (w *hostileWorld) sql(t *testing.T, query string, args ...any) {
	t.Helper()
	w.strikes()
	r, err := w.file.ExecContext(context.WithoutCancel(t.Context()), query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%s: %d rows, %v", query, n, err)
	}
}

// read reads one row of the server's database.
func (w *hostileWorld) read(t *testing.T, query string, args []any, into ...any) {
	t.Helper()
	if err := w.file.QueryRowContext(context.WithoutCancel(t.Context()), query, args...).Scan(into...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// keep remembers rows of a table; what it returns puts them back in place of those
// that fit the condition then. It is done at the row's end in any case.
func (w *hostileWorld) keep(t *testing.T, table, where string, args ...any) (restore func()) {
	t.Helper()
	copied := w.name("kept_")
	do := func(queries ...string) {
		t.Helper()
		tx, err := w.file.Begin()
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback() //nolint:errcheck // after a commit, which is meant
		for _, q := range queries {
			if _, err := tx.Exec(q, args[:strings.Count(q, "?")]...); err != nil {
				t.Fatalf("%s: %v", q, err)
			}
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	// On the one connection that there is, and gone with it.
	do("CREATE TEMP TABLE " + copied + " AS SELECT * FROM main." + table + " WHERE " + where)
	done := false
	restore = func() {
		t.Helper()
		if !done {
			done = true
			do("DELETE FROM main."+table+" WHERE "+where, "INSERT OR REPLACE INTO main."+table+" SELECT * FROM "+copied, "DROP TABLE "+copied)
		}
	}
	t.Cleanup(restore)
	return restore
}

// keepRecord is keep for all rows about a record.
func (w *hostileWorld) keepRecord(t *testing.T, r trust.Ref) (restore func()) {
	t.Helper()
	var all []func()
	for _, table := range []string{"record", "statement", "staged"} {
		all = append(all, w.keep(t, table, "org = 1 AND record_uid = ?", r.Record.Bytes()))
	}
	all = append(all, w.keep(t, "result", "org = 1 AND subject_uid = ?", r.Record.Bytes()))
	return func() {
		for _, f := range all {
			f()
		}
	}
}

// due makes the server say "run due" for an account, to an agent of its resource's
// pool: a run that no schedule made.
func (w *hostileWorld) due(t *testing.T, account trust.Ref) (run seal.ID) {
	t.Helper()
	var pool []byte
	w.read(t, "SELECT res.pool_id FROM record a JOIN record res ON res.org = a.org AND res.record_uid = a.resource_uid WHERE a.org = 1 AND a.record_uid = ?",
		[]any{account.Record.Bytes()}, &pool)
	return w.dueTo(t, account, seal.ID(pool))
}

// dueTo is due to an agent of another pool.
func (w *hostileWorld) dueTo(t *testing.T, account trust.Ref, pool seal.ID) (run seal.ID) {
	t.Helper()
	run = seal.NewID()
	now := time.Now().UnixMilli()
	w.sql(t, `INSERT INTO run SELECT org, ?, record_uid, folder_uid, resource_uid, resource_folder, ?, x'',
		'rotate', 'schedule', 'queued', '', 0, x'', 0, 0, 0, '', '', ?, 0, 0, ?, 0 FROM record WHERE org = 1 AND record_uid = ?`,
		run.Bytes(), pool.Bytes(), now, now, account.Record.Bytes())
	return run
}

// dueRefused has the server say "run due", and asserts that the agent refuses with
// that reason: in its log, in an event, and without a byte to the target.
func (w *hostileWorld) dueRefused(t *testing.T, account trust.Ref, event string, reason trust.Reason) {
	t.Helper()
	since := w.now(t)
	w.untouched(t, func() {
		run := w.due(t, account)
		line := w.logged(t, since, w.agent, `"msg":"run ended"`, `"run":"`+run.String(), `"credential"`)
		if !strings.Contains(line, `"reason":"`+string(reason)+`"`) {
			t.Errorf("the agent ended the run otherwise than by %s: %s: %s", reason, line, w.agent.Tail())
		}
	})
	w.toldBy(t, since, event, reason, w.agent.Name)
}

// connected waits until the server shows an agent as connected.
func (w *hostileWorld) connected(t *testing.T, a *installation.Agent) {
	t.Helper()
	if err := a.WaitSeen(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// another starts a further agent, without any memory, for the time of the row.
func (w *hostileWorld) another(t *testing.T, pool string) *installation.Agent {
	t.Helper()
	a, err := w.AddAgent(t.Context(), w.name("gw"), pool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Stop()
		if _, err := w.CLI(context.WithoutCancel(t.Context()), nil, "agent", "remove", a.Name, "--yes", "--no-rekey", "--no-rotate"); err != nil {
			t.Errorf("remove agent %s: %v", a.Name, err)
		}
	})
	return a
}

// ---- what must not be reached ----

// strikes is called before the operator does something. Before the next honest case, and
// the row's end, somebody has to look whether it reached a target.
func (w *hostileWorld) strikes() {
	if w.struck != nil {
		return
	}
	w.struck = map[*gate]traffic{}
	for _, g := range w.gates {
		w.struck[g] = g.traffic()
	}
}

// honestly does what an honest server would have, by the operator's hands.
func (w *hostileWorld) honestly(f func()) {
	struck := w.struck
	f()
	w.struck = struck
}

// untouched asserts that nothing reaches these targets, or else the shared one, while f
// runs, nor has since the operator began what it follows.
func (w *hostileWorld) untouched(t *testing.T, f func(), targets ...*gate) {
	t.Helper()
	if len(targets) == 0 {
		targets = []*gate{w.gate}
	}
	w.strikes() // or he did before
	struck := w.struck
	f()
	w.looks++
	for _, g := range targets {
		before := struck[g] // nothing, of one that is newer
		if after := g.traffic(); after != before {
			t.Errorf("the target saw something: %s", after.since(before))
		}
	}
	w.struck = nil
}

// reached is untouched's other side: what the operator did rightly has something reach the
// target, and the table says so.
func (w *hostileWorld) reached(t *testing.T, targets ...*gate) {
	t.Helper()
	for _, g := range targets {
		if w.struck == nil || g.traffic() == w.struck[g] {
			t.Error("nothing has reached the target, and the table says that something does")
		}
	}
	w.struck = nil
}

// looked fails the test where the operator did something, and nobody has looked whether
// it reached a target.
func (w *hostileWorld) looked(t *testing.T) {
	t.Helper()
	if w.claims && w.struck != nil {
		t.Error("nobody looks whether the target is touched by what the operator did before this, and the table says that it is not")
	}
	w.struck = nil
}

// ---- what must be seen ----

// moment is what there was before something happened.
type moment struct {
	event int64
	logs  map[*installation.Process]int
}

// now marks the moment: what is asserted with it is newer.
func (w *hostileWorld) now(t *testing.T, more ...*installation.Agent) moment {
	t.Helper()
	m := moment{logs: map[*installation.Process]int{}}
	w.read(t, "SELECT coalesce(max(seq), 0) FROM event WHERE org = 1", nil, &m.event)
	for _, a := range append(more, w.agent) {
		m.logs[a.Process] = a.Mark()
	}
	return m
}

// event is one of the command line's.
type event struct {
	Seq    int64
	Name   string
	Actor  string
	Record string
	RunID  string `json:"run_id"`
	Reason string
	Fields map[string]string
}

// patience bounds what is waited for; on an idle machine all of it comes at once.
const patience = 20 * time.Second

// told asserts that an event of that name and reason came after the moment, by
// the command line.
func (w *hostileWorld) told(t *testing.T, since moment, name string, reason trust.Reason) event {
	t.Helper()
	return w.toldBy(t, since, name, reason, "")
}

// toldBy is told of an event that somebody brought about; "" is anybody.
func (w *hostileWorld) toldBy(t *testing.T, since moment, name string, reason trust.Reason, actor string) event {
	t.Helper()
	var list struct{ Events []event }
	p := pauses{}
	for end := time.Now().Add(patience); ; p.sleep() {
		if err := w.JSON(t.Context(), &list, nil, "events", "--after", fmt.Sprint(since.event), "--limit", "1000"); err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Events {
			if e.Name == name && e.Reason == string(reason) && (actor == "" || e.Actor == actor) {
				return e
			}
		}
		if time.Now().After(end) {
			t.Fatalf("no event %s with reason %s by %q; there are %+v", name, reason, actor, list.Events)
		}
	}
}

// logged asserts that an agent logs a line with all of the words after the moment.
func (w *hostileWorld) logged(t *testing.T, since moment, a *installation.Agent, words ...string) string {
	t.Helper()
	return w.loggedWithin(t, patience, since, a, words...)
}

// loggedWithin is logged of what takes longer.
func (w *hostileWorld) loggedWithin(t *testing.T, patience time.Duration, since moment, a *installation.Agent, words ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	line, err := a.WaitLog(ctx, since.logs[a.Process], words...)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// hold arms a fault point of an agent. caught waits until the agent is stopped
// there, release lets it go on.
func (w *hostileWorld) hold(t *testing.T, a *installation.Agent, point string) (caught, release func()) {
	t.Helper()
	armed := filepath.Join(a.Fault, point)
	hit := armed + ".hit"
	if err := os.WriteFile(armed, []byte("block"), 0o600); err != nil {
		t.Fatal(err)
	}
	release = func() { os.Remove(armed); os.Remove(hit) }
	t.Cleanup(release)
	return func() {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			if _, err := os.Stat(hit); err == nil {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("agent %s did not come to %s: %s", a.Name, point, a.Tail())
			}
		}
	}, release
}

// midway starts a rotation by command, holds the agent at a fault point of it while
// worst is done, and returns when the agent has done with the run: its id, and the
// agent's line about its end. What a client would refuse itself is done to the agent
// alone by this.
func (w *hostileWorld) midway(t *testing.T, a *installation.Agent, title, point string, worst func()) (run, line string) {
	t.Helper()
	since := w.now(t, a)
	caught, release := w.hold(t, a, point)
	o, err := w.Rotate(t.Context(), title, "--no-wait", "--agent", a.Name)
	if err != nil {
		t.Fatalf("rotate %s: %v: %+v", title, err, o)
	}
	caught()
	worst()
	release()
	return o.RunID, w.logged(t, since, a, `"msg":"run ended"`, `"run":"`+o.RunID+`"`, `"credential"`)
}

// refused starts a rotation by command, does the worst while the agent holds the
// command and has no records yet (they come with the lease), and asserts that the agent refuses with
// that reason: in its log, in an event, and without a byte to the target.
func (w *hostileWorld) refused(t *testing.T, title string, reason trust.Reason, worst func()) {
	t.Helper()
	w.refusedBy(t, w.agent, w.gate, title, reason, worst)
}

// refusedBy is refused by another agent, on another target.
func (w *hostileWorld) refusedBy(t *testing.T, a *installation.Agent, g *gate, title string, reason trust.Reason, worst func()) {
	t.Helper()
	since := w.now(t, a)
	var line string
	w.untouched(t, func() { _, line = w.midway(t, a, title, "before-lease", worst) }, g)
	if !strings.Contains(line, `"reason":"`+string(reason)+`"`) {
		t.Errorf("the agent ended the run otherwise than by %s: %s: %s", reason, line, a.Tail())
		return
	}
	w.toldBy(t, since, "record.refused", reason, a.Name)
}

// ---- the log, and stolen keys ----

// log is the organisation's log as the server has it, verified.
func (w *hostileWorld) log(t *testing.T) *trust.Log {
	t.Helper()
	return w.logOf(t, 1)
}

// logOf is log of an organisation by its number.
func (w *hostileWorld) logOf(t *testing.T, number int64) *trust.Log {
	t.Helper()
	var org []byte
	w.read(t, "SELECT org_id FROM org WHERE id = ?", []any{number}, &org)
	l := trust.NewLog(seal.Digest(org))
	for _, signed := range w.changes(t, number) {
		if _, err := l.Append(signed, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// entry finds a live entry of the log by its name.
func (w *hostileWorld) entry(t *testing.T, kind trustv1.EntryKind, name string) trust.Entry {
	t.Helper()
	list := w.log(t).Entries(kind)
	i := slices.IndexFunc(list, func(e trust.Entry) bool { return e.Name == name })
	if i < 0 {
		t.Fatalf("the log holds no %s %q", kind, name)
	}
	return list[i]
}

// port is the gate's.
func (g *gate) port() int { return g.l.Addr().(*net.TCPAddr).Port }
