package proof

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

var logRows = []manipulation{
	{
		row: 35, what: "statement of a removed member", run: statementOfRemoved,
		events: []string{"record.refused signer_unknown"},
	},
	{
		row: 36, what: "removal hidden from those who saw it", run: removalHidden,
		events: []string{"log_rollback log_rollback"},
	},
	{
		row: 37, what: "removal hidden, a command names it; a change left out", run: changeWithheld,
		events: []string{"command.refused log_gap", "log.refused log_gap"},
	},
	{
		row: 38, what: "removed administrator signs another change of the same epoch", run: logForked,
		events: []string{"command.refused log_fork", "log.refused log_fork"},
	},
	{
		row: 39, what: "log frozen past its time", run: logFrozen,
		events: []string{"command.refused log_stale", "log.refused log_stale"},
	},
	{
		row: 40, what: "change signed by an operator", run: changeByOperator,
		events: []string{"append.refused log_signer", "log.refused log_signer"},
	},
	{
		row: 41, what: "member of one folder floors or grants on another", run: changeOfAnotherFolder,
		events: []string{"append.refused log_signer", "log.refused log_signer"},
	},
	{
		row: 42, what: "removed operator signs a later valid_until", run: changeByRemoved,
		events: []string{"append.refused log_signer", "log.refused log_signer", "command.refused log_stale"},
	},
	{
		row: 43, what: "device's seal key replaced in the key table", run: keysReplaced,
		events: []string{"client.refused recipient_unverified", "command.refused recipient_unverified"},
	},
	{
		row: 44, what: "server appends its own agent under a live enrolment; a removed or demoted administrator's token", run: enrolmentForged,
		events: []string{"append.refused log_signer", "log.refused log_signer"},
	},
	{
		row: 45, what: "token holder shown another organisation's log, or an older one", run: anotherLogShown,
		untold: "who holds a token belongs to nobody yet who could be told",
	},
	{
		row: 46, what: "second use of a token", run: tokenUsedTwice,
		events: []string{"enrol.refused enrol_used"},
	},
	{
		row: 47, what: "enrolment through another authority", run: enrolmentInTheMiddle,
		untold: "who holds a token belongs to nobody yet who could be told",
	},
	{
		row: 65, what: "rights that nobody may give himself", run: rightsTaken,
		events: []string{"append.refused log_signer", "log.refused log_signer"},
	},
}

// ---- what a log may not become ----

// unlawful asserts that a change is refused for that reason by whoever is offered it:
// by the honest vault, and by an agent and the command line to whom a hostile one
// serves it.
func (w *hostileWorld) unlawful(t *testing.T, reason trust.Reason, change func(l *trust.Log) []byte) {
	t.Helper()
	ada, gw1 := w.ada(t), stolen(t, w.agent).Entry
	w.answers(t, gw1)
	l := ada.append(t) // an honest change, which the agent has not seen yet
	signed := change(l)
	since := w.now(t)

	err := ada.write(t, appends(signed))
	if got, _ := enrol.ErrorReason(err); got != string(reason) {
		t.Errorf("the honest vault: %q, want %s: %v", got, reason, err)
	}
	w.told(t, since, "append.refused", reason)

	w.serves(t, l, signed, func() {
		w.untouched(t, func() {
			w.askAt(t, l, gw1)
			w.logged(t, since, w.agent, `"msg":"log refused"`, `"reason":"`+string(reason)+`"`)
			w.logged(t, since, w.agent, `"msg":"command refused"`, `"reason":"`+string(reason)+`"`)
		})
		w.fails(t, reason, "log", "verify")
	})
	w.toldBy(t, since, "log.refused", reason, w.agent.Name)
	w.toldBy(t, since, "log.refused", reason, "Ada / laptop")
	w.answers(t, gw1)
}

// serves has the server serve a change behind the head of the log while f runs. It
// does not read it back itself.
func (w *hostileWorld) serves(t *testing.T, l *trust.Log, signed []byte, f func()) {
	t.Helper()
	w.sql(t, "INSERT INTO log_change (org, epoch, digest, signed, received) VALUES (1, ?, ?, ?, ?)", l.Next(), digestOf(t, l, signed), signed, time.Now().UnixMilli())
	restore := func() {
		w.honestly(func() { w.sql(t, "DELETE FROM log_change WHERE org = 1 AND epoch = ?", l.Next()) })
	}
	defer restore()
	f()
}

func digestOf(t *testing.T, l *trust.Log, signed []byte) []byte {
	t.Helper()
	var envelope trustv1.Signed
	if err := proto.Unmarshal(signed, &envelope); err != nil {
		t.Fatal(err)
	}
	return seal.MessageDigest(seal.KindLog, l.Org(), envelope.Body).Bytes()
}

// backTo makes the server show a log that ends with an earlier change; those behind
// it are gone. It is put right at the row's end.
func (w *hostileWorld) backTo(t *testing.T, l *trust.Log, epoch uint64) (restore func()) {
	t.Helper()
	changes := w.keep(t, "log_change", "org = 1 AND epoch > ?", epoch)
	org := w.keep(t, "org", "id = 1")
	digest, _ := l.DigestAt(epoch)
	w.sql(t, "DELETE FROM log_change WHERE org = 1 AND epoch > ?", epoch)
	w.sql(t, "UPDATE org SET epoch = ?, head = ? WHERE id = 1", epoch, digest.Bytes())
	return func() {
		changes()
		org()
	}
}

func changeByOperator(t *testing.T, w *hostileWorld) {
	member, bob := w.member(t, trust.Read|trust.Edit|trust.Operate)
	defer w.remove(t, member)
	w.unlawful(t, trust.LogSigner, func(l *trust.Log) []byte {
		return bob.sign(t, l, trust.PutOp(&trustv1.Entry{EntryId: seal.NewID().Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_MEMBER, Name: "Eve", V: trust.Version}))
	})
}

func changeOfAnotherFolder(t *testing.T, w *hostileWorld) {
	member, bob := w.member(t, trust.Read|trust.Edit|trust.Operate|trust.Share)
	defer w.remove(t, member)
	g, key := seal.NewID(), seal.NewKey() // of Ada's
	w.ada(t).append(t, trust.NewFolderOps(w.log(t).Org(), g, w.owner(t), key)...)

	// In his own folder both are his to do.
	own := trust.Ref{Folder: w.folder(t), Record: seal.NewID()}
	bob.append(t, trust.FloorOp(own, 1))
	for what, op := range map[string]*trustv1.Op{
		"floor": trust.FloorOp(trust.Ref{Folder: g, Record: seal.NewID()}, 1000),
		"grant": trust.GrantOp(g, member, trust.Read),
	} {
		t.Run(what, func(t *testing.T) {
			w.unlawful(t, trust.LogSigner, func(l *trust.Log) []byte { return bob.sign(t, l, op) })
		})
	}
}

// owner is Ada herself, whose device the laptop is.
func (w *hostileWorld) owner(t *testing.T) seal.ID {
	t.Helper()
	e, _ := w.log(t).Entry(w.ada(t).id)
	return e.Owner
}

func changeByRemoved(t *testing.T, w *hostileWorld) {
	member, bob := w.member(t, trust.Read|trust.Edit|trust.Operate)
	w.remove(t, member)
	w.unlawful(t, trust.LogSigner, func(l *trust.Log) []byte {
		c := l.NewChange(bob.id, time.Now())
		c.ValidUntil += (24 * time.Hour).Milliseconds()
		return signedBy(t, l, c, bob.keys.Sign)
	})
	// Nor does it keep the log alive.
	l := w.ada(t).append(t)
	later := l.NewChange(bob.id, time.Now())
	later.ValidUntil += (24 * time.Hour).Milliseconds()
	w.serves(t, l, signedBy(t, l, later, bob.keys.Sign), func() {
		right := w.clock(t, w.agent, time.Until(l.ValidUntil())+time.Hour)
		since := w.now(t)
		w.untouched(t, func() {
			w.askAt(t, l, stolen(t, w.agent).Entry)
			w.logged(t, since, w.agent, `"msg":"log refused"`, `"reason":"log_signer"`)
		})
		right()
	})
	w.goesStale(t, w.log(t))
}

// goesStale asserts that the agent does nothing once a log's time is over.
func (w *hostileWorld) goesStale(t *testing.T, l *trust.Log) {
	t.Helper()
	title, gw1 := w.account(t), stolen(t, w.agent).Entry
	w.works(t, title)
	right := w.clock(t, w.agent, time.Until(l.ValidUntil())+time.Hour)
	w.spurnedLate(t, gw1, trust.LogStale, w.ada(t).seal(t, w.log(t), w.rotation(t, gw1, title)))
	right()
	w.works(t, title)
}

func rightsTaken(t *testing.T, w *hostileWorld) {
	member, bob := w.member(t, trust.Read|trust.Share)
	defer w.remove(t, member)
	more, _ := w.member(t, trust.Read|trust.Edit|trust.Operate)
	defer w.remove(t, more)
	f, fresh := w.folder(t), seal.NewID()
	pool := w.entry(t, trustv1.EntryKind_ENTRY_KIND_POOL, installation.Pool).ID
	recovery, _ := w.log(t).Recovery()
	name := w.name("ci")
	w.cli(t, "app", "add", name)
	app := w.entry(t, trustv1.EntryKind_ENTRY_KIND_APP, name).ID
	keys, err := enrol.MakeKeys(trustv1.EntryKind_ENTRY_KIND_DEVICE)
	if err != nil {
		t.Fatal(err)
	}
	over := func(id seal.ID, kind trustv1.EntryKind) *trustv1.Op {
		e := &trustv1.Entry{EntryId: id.Bytes(), Kind: kind, Name: "mine", V: trust.Version, KeysDigest: seal.Hash(id.Bytes()).Bytes()}
		if kind == trustv1.EntryKind_ENTRY_KIND_DEVICE {
			e.OwnerId, e.SignPub, e.Roles, e.NotAfter = member.Bytes(), keys.SignPub(), uint32(trust.AllRoles), time.Now().Add(time.Hour).UnixMilli()
		}
		return trust.PutOp(e)
	}
	// What he may give he can.
	bob.append(t, trust.GrantOp(f, member, trust.Read|trust.Share))
	for _, row := range []struct {
		what string
		ops  []*trustv1.Op
	}{
		{"approve scripts in a folder of his own", []*trustv1.Op{trust.GrantOp(fresh, member, trust.Read|trust.ApproveScript)}},
		{"a role on zero", []*trustv1.Op{trust.GrantOp(seal.ID{}, member, trust.Read)}},
		{"let a pool read", []*trustv1.Op{trust.GrantOp(f, pool, trust.Read)}},
		{"take roles from somebody who has more", []*trustv1.Op{trust.GrantOp(f, more, trust.Read)}},
		{"give an application its first folder", []*trustv1.Op{trust.GrantOp(f, app, trust.Read)}},
		{"give an application a folder of his own", append(trust.NewFolderOps(w.log(t).Org(), fresh, member, seal.NewKey()), trust.GrantOp(fresh, app, trust.Read))},
		{"put over another's device", []*trustv1.Op{over(w.ada(t).id, trustv1.EntryKind_ENTRY_KIND_DEVICE)}},
		{"put over recovery", []*trustv1.Op{over(recovery.ID, trustv1.EntryKind_ENTRY_KIND_RECOVERY)}},
	} {
		t.Run(row.what, func(t *testing.T) {
			w.unlawful(t, trust.LogSigner, func(l *trust.Log) []byte { return bob.sign(t, l, row.ops...) })
		})
	}
	t.Run("put over recovery by an administrator", func(t *testing.T) {
		w.unlawful(t, trust.LogSigner, func(l *trust.Log) []byte {
			return w.ada(t).sign(t, l, over(recovery.ID, trustv1.EntryKind_ENTRY_KIND_RECOVERY))
		})
	})
}

// ---- what is hidden ----

func statementOfRemoved(t *testing.T, w *hostileWorld) {
	name := w.name("bob")
	token := filepath.Join(w.Dir, name+".token")
	w.cli(t, "member", "add", name, "--out", token, "--no-wait")
	bob := w.elsewhere(t, name)
	if _, err := bob.CLI(t.Context(), nil, "join", token, "--unlock-for", "12h"); err != nil {
		t.Fatal(err)
	}
	w.cli(t, "folder", "grant", installation.Folder, name, "read,edit,operate")
	title := w.name("a")
	if _, err := bob.AddRole(t.Context(), w.pg, "db", title, title); err != nil {
		t.Fatal(err)
	}
	w.works(t, title)
	ref := w.ref(t, title)
	var seq int64
	w.read(t, "SELECT statement_seq FROM record WHERE org = 1 AND record_uid = ?", []any{ref.Record.Bytes()}, &seq)

	w.removeAfterLook(t, name) // Ada signs the account anew
	w.works(t, title)
	restore := w.keepRecord(t, ref)
	worst := func() {
		w.sql(t, "DELETE FROM statement WHERE org = 1 AND record_uid = ? AND seq > ?", ref.Record.Bytes(), seq)
		w.sql(t, "UPDATE record SET statement_seq = ? WHERE org = 1 AND record_uid = ?", seq, ref.Record.Bytes())
	}
	w.refused(t, title, trust.SignerUnknown, worst)
	if r, err := w.Record(t.Context(), title); err != nil || r.Reason != string(trust.SignerUnknown) {
		t.Errorf("the command line shows the record as %+v, %v", r, err)
	}
	w.untouched(t, func() { w.fails(t, trust.SignerUnknown, "rotate", title) })
	restore()
	w.works(t, title)
}

// removeAfterLook removes a person as automation does: it names each changed statement.
func (w *hostileWorld) removeAfterLook(t *testing.T, name string) {
	t.Helper()
	var plan struct {
		Statements []struct{ Digest string }
	}
	if err := w.JSON(t.Context(), &plan, nil, "member", "remove", name, "--plan"); err != nil || len(plan.Statements) == 0 {
		t.Fatalf("the plan lists %d statements, %v", len(plan.Statements), err)
	}
	args := []string{"member", "remove", name, "--no-rekey", "--no-rotate"}
	for _, s := range plan.Statements {
		args = append(args, "--sign", s.Digest)
	}
	w.cli(t, args...)
}

func removalHidden(t *testing.T, w *hostileWorld) {
	gw1 := stolen(t, w.agent).Entry
	member, _ := w.member(t, trust.Read)
	l := w.ada(t).append(t, trust.RemoveOp(member))
	w.answers(t, gw1) // the agent and the command line have seen it
	w.cli(t, "log", "verify")
	head := l.Head()
	back := func() bool {
		var epoch int64
		var digest []byte
		w.read(t, "SELECT epoch, head FROM org WHERE id = 1", nil, &epoch, &digest)
		return uint64(epoch) == head.Epoch && string(digest) == string(head.Digest[:])
	}
	restart := func() {
		w.Server.Stop()
		w.backTo(t, l, head.Epoch-1)
		if back() {
			t.Fatal("nothing was hidden")
		}
		if err := w.StartServer(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	since := w.now(t)
	w.agent.Stop()
	w.untouched(t, func() {
		restart()
		if err := w.agent.Launch(); err != nil {
			t.Fatal(err)
		}
		w.logged(t, since, w.agent, `"msg":"log refused"`, `"reason":"log_rollback"`)
		for end := time.Now().Add(patience); !back(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the agent did not send the removal back: %s", w.agent.Tail())
			}
		}
	})
	w.toldBy(t, since, "log_rollback", trust.LogRollback, w.agent.Name)

	since = w.now(t)
	w.untouched(t, func() {
		restart()
		w.cli(t, "log", "verify")
		if !back() {
			t.Error("the command line did not send the removal back")
		}
	})
	w.toldBy(t, since, "log_rollback", trust.LogRollback, "Ada / laptop")
	w.connected(t, w.agent)
	w.answers(t, gw1)
}

func changeWithheld(t *testing.T, w *hostileWorld) {
	title, gw1 := w.account(t), stolen(t, w.agent).Entry
	w.works(t, title)
	member, _ := w.member(t, trust.Read)
	w.answers(t, gw1)

	// The command names the removal, the server does not show it.
	l := w.ada(t).append(t, trust.RemoveOp(member))
	frame := w.ada(t).seal(t, l, w.rotation(t, gw1, title))
	restore := w.backTo(t, l, l.Head().Epoch-1)
	since := w.now(t)
	w.untouched(t, func() {
		w.slip(t, gw1, frame)
		w.askAt(t, l, gw1)
		w.logged(t, since, w.agent, `"msg":"command refused"`, `"reason":"log_gap"`)
		restore()
	})
	if e := w.told(t, since, "command.refused", trust.LogGap); e.Fields["command"] != seal.ID(frame.Id).String() {
		t.Errorf("the event names command %s", e.Fields["command"])
	}

	// The server leaves one of two changes out.
	w.answers(t, gw1)
	w.ada(t).append(t)
	l = w.ada(t).append(t)
	restore = w.keep(t, "log_change", "org = 1 AND epoch = ?", l.Head().Epoch-1)
	w.sql(t, "DELETE FROM log_change WHERE org = 1 AND epoch = ?", l.Head().Epoch-1)
	since = w.now(t)
	w.untouched(t, func() {
		w.askAt(t, l, gw1)
		w.logged(t, since, w.agent, `"msg":"log refused"`, `"reason":"log_gap"`)
		restore()
	})
	w.toldBy(t, since, "log.refused", trust.LogGap, w.agent.Name)
	w.answers(t, gw1)
	w.works(t, title)
}

func logForked(t *testing.T, w *hostileWorld) {
	deceived := w.another(t, installation.Pool)
	title, gw1, gw := w.account(t), stolen(t, w.agent).Entry, stolen(t, deceived).Entry
	w.works(t, title)
	member, eve := w.member(t, trust.AllRoles)
	w.answers(t, gw)
	w.answers(t, gw1)
	deceived.Stop()

	before := w.ada(t).append(t)
	truth := w.ada(t).append(t, trust.RemoveOp(member))
	w.answers(t, gw1)
	lie := before.Clone()
	other := eve.sign(t, before, trust.PutOp(&trustv1.Entry{EntryId: seal.NewID().Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_POOL, Name: "hers", V: trust.Version}))
	if _, err := lie.Append(other, time.Now()); err != nil {
		t.Fatal(err)
	}

	// One agent is shown hers.
	restore := w.backTo(t, truth, before.Head().Epoch)
	w.serves(t, before, other, func() {
		if err := deceived.Launch(); err != nil {
			t.Fatal(err)
		}
		w.knows(t, deceived, lie.Head().Epoch)
	})
	restore()

	// Whoever saw the true one stops at the first message that comes from the others.
	w.spurned(t, w.agent, gw1, trust.LogFork, w.ada(t).seal(t, lie, w.rotation(t, gw1, title)))
	err := w.ada(t).write(t, appends(other))
	if got, _ := enrol.ErrorReason(err); got != string(trust.LogFork) && got != "out_of_sync" {
		t.Errorf("the honest vault: %q: %v", got, err)
	}

	// The deceived one stops at the first that comes from these, and at the true change.
	w.connected(t, deceived)
	since := w.now(t, deceived)
	w.untouched(t, func() {
		w.slip(t, gw, w.ada(t).seal(t, w.log(t), w.rotation(t, gw, title)))
		w.ask(t, gw)
		w.logged(t, since, deceived, `"msg":"command refused"`, `"reason":"log_fork"`)
	})
	w.toldBy(t, since, "command.refused", trust.LogFork, deceived.Name)
	since = w.now(t, deceived)
	w.untouched(t, func() {
		w.ada(t).append(t)
		w.ask(t, gw)
		w.logged(t, since, deceived, `"msg":"log refused"`, `"reason":"log_fork"`)
	})
	w.toldBy(t, since, "log.refused", trust.LogFork, deceived.Name)
	w.rotated(t, w.agent, title)
}

// knows waits until an agent's log has a change.
func (w *hostileWorld) knows(t *testing.T, a *installation.Agent, epoch uint64) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		var health struct{ LogEpoch uint64 }
		_, body, _ := a.Health(t.Context())
		if json.Unmarshal(body, &health) == nil && health.LogEpoch == epoch {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("agent %s has no change %d: %s: %s", a.Name, epoch, body, a.Tail())
		}
	}
}

func logFrozen(t *testing.T, w *hostileWorld) {
	l := w.log(t)
	w.goesStale(t, l)

	// The command line, whose renewal the server will not take.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "clock"), []byte((time.Until(l.ValidUntil()) + time.Hour).String()), 0o600); err != nil {
		t.Fatal(err)
	}
	since := w.now(t)
	w.Env = []string{"ROTUNDA_FAULT_DIR=" + dir}
	w.untouched(t, func() { w.fails(t, trust.LogStale, "record", "list") })
	w.Env = nil
	w.toldBy(t, since, "log.refused", trust.LogStale, "Ada / laptop")
	w.cli(t, "record", "list")

	// An honest server takes it, and the log lives again.
	if err := os.WriteFile(filepath.Join(dir, "clock"), []byte("-4800h"), 0o600); err != nil {
		t.Fatal(err)
	}
	sleeper := w.found(t, "Rip", "ROTUNDA_FAULT_DIR="+dir)
	sleeper.Env = nil
	var number int64
	w.read(t, "SELECT max(id) FROM org", nil, &number)
	if until := w.logOf(t, number).ValidUntil(); time.Until(until) > 0 {
		t.Fatalf("the sleeper's log is good until %s", until)
	}
	if _, err := sleeper.CLI(t.Context(), nil, "record", "list"); err != nil {
		t.Errorf("an administrator comes back after 200 days: %v", err)
	}
	if until := w.logOf(t, number).ValidUntil(); time.Until(until) < 24*time.Hour {
		t.Errorf("the sleeper's log is good until %s", until)
	}
}

// ---- keys ----

func keysReplaced(t *testing.T, w *hostileWorld) {
	folder := w.folder(t)
	sealed := func(d *device) (n int) {
		w.read(t, "SELECT count(*) FROM folder_key WHERE org = 1 AND folder_uid = ? AND recipient_id = ?", []any{folder.Bytes(), d.id.Bytes()}, &n)
		return n
	}
	grant := func(member seal.ID) {
		w.cli(t, "folder", "grant", installation.Folder, member.String(), "read")
	}
	honest, carol := w.member(t, 0)
	defer w.remove(t, honest)
	if grant(honest); sealed(carol) != 1 {
		t.Fatal("the honest case: the folder's key was not sealed to a new reader")
	}

	eve, err := enrol.MakeKeys(trustv1.EntryKind_ENTRY_KIND_DEVICE)
	if err != nil {
		t.Fatal(err)
	}
	public, err := eve.Public()
	if err != nil {
		t.Fatal(err)
	}
	replace := func(id seal.ID) (restore func()) {
		restore = w.keep(t, "entry_keys", "org = 1 AND entry_id = ?", id.Bytes())
		w.sql(t, "UPDATE entry_keys SET keys = ? WHERE org = 1 AND entry_id = ?", public, id.Bytes())
		return restore
	}

	// A device's: the command line seals it no folder key.
	member, bob := w.member(t, 0)
	defer w.remove(t, member)
	restore := replace(bob.id)
	since := w.now(t)
	w.untouched(t, func() {
		if grant(member); sealed(bob) != 0 {
			t.Error("the folder's key was sealed to keys of the server's")
		}
	})
	w.toldBy(t, since, "client.refused", trust.RecipientUnverified, "Ada / laptop")
	restore()
	if w.cli(t, "folder", "list"); sealed(bob) != 1 {
		t.Error("the folder's key was not sealed when the keys were right again")
	}

	// An agent's: the command line seals it no command.
	title, gw1 := w.account(t), stolen(t, w.agent).Entry
	w.works(t, title)
	restore = replace(gw1)
	since = w.now(t)
	w.untouched(t, func() { w.fails(t, trust.RecipientUnverified, "rotate", title) })
	w.toldBy(t, since, "client.refused", trust.RecipientUnverified, "Ada / laptop")
	restore()

	// A device's: the agent seals it no reply.
	w.answers(t, gw1)
	restore = replace(w.ada(t).id)
	w.untouched(t, func() { w.answers(t, gw1) }) // it remembers the true ones,
	w.agent.Stop()
	since = w.now(t)
	w.untouched(t, func() {
		if err := w.agent.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.ask(t, gw1) // and now has to ask
		w.logged(t, since, w.agent, `"a reply could not be sent"`, `"reason":"recipient_unverified"`)
	})
	w.toldBy(t, since, "command.refused", trust.RecipientUnverified, w.agent.Name)
	restore()
	w.answers(t, gw1)
	w.works(t, title)
}
