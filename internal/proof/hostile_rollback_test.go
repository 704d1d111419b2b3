package proof

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Rows in which the server serves what was right once.

// newcomer is a second agent of the pool for the time of a row, which remembers
// nothing of records that the row made.
func (w *hostileWorld) newcomer(t *testing.T) *installation.Agent {
	t.Helper()
	if w.second == nil {
		a, err := w.AddAgent(t.Context(), "gw2", installation.Pool)
		if err != nil {
			t.Fatal(err)
		}
		w.second = a
	} else if err := w.second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.second.Stop()
		id := stolen(t, w.second).Entry
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			var connected int
			w.read(t, "SELECT connected FROM agent_seen WHERE org = 1 AND agent_id = ?", []any{id.Bytes()}, &connected)
			if connected == 0 {
				return
			}
			if time.Now().After(end) {
				t.Fatal("the server shows gw2 as connected, which was stopped")
			}
		}
	})
	return w.second
}

// newcomerWorks is its honest case, on another record.
func (w *hostileWorld) newcomerWorks(t *testing.T, a *installation.Agent) {
	t.Helper()
	w.looked(t)
	title := w.account(t)
	if o, err := w.Rotate(t.Context(), title, "--agent", a.Name); err != nil {
		t.Fatalf("the honest case: rotate %s by %s: %v: %+v: %s", title, a.Name, err, o, a.Tail())
	}
	w.opensTarget(t, title)
}

// statementSeq is the number of a record's statement that the server serves.
func (w *hostileWorld) statementSeq(t *testing.T, r trust.Ref) (seq uint64) {
	t.Helper()
	w.read(t, "SELECT statement_seq FROM record WHERE org = 1 AND record_uid = ?", []any{r.Record.Bytes()}, &seq)
	return seq
}

// serveSeq has the server serve an earlier statement of a record, which it kept.
func (w *hostileWorld) serveSeq(t *testing.T, r trust.Ref, seq uint64) {
	t.Helper()
	w.sql(t, `UPDATE record SET statement_seq = (SELECT seq FROM statement WHERE org = 1 AND record_uid = record.record_uid AND seq = ?)
		WHERE org = 1 AND record_uid = ?`, seq, r.Record.Bytes())
}

// renameHost signs the resource's next statement, by which it is reached under another
// name, without the floor by which honest clients withdraw the former one: as if the
// log's change were held back.
func (w *hostileWorld) renameHost(t *testing.T, resource trust.Ref) {
	t.Helper()
	r := w.loot(t, resource)
	s := proto.CloneOf(r.statement)
	s.Seq++
	s.GetResource().Host = "localhost"
	w.serveStatement(t, resource, r.key, s.Seq, w.sign(t, w.ada(t).stolen(), r.key, s))
}

func formerStatement(t *testing.T, w *hostileWorld) {
	resource, g := w.resource(t)
	title := w.accountOn(t, resource)
	w.works(t, title)
	r := w.ref(t, resource)
	restore := w.keepRecord(t, r)
	former := w.statementSeq(t, r)
	w.honestly(func() { w.renameHost(t, r) })
	before := g.traffic()
	w.works(t, title) // the agent, and the command line, have seen the newer one
	if g.traffic() == before {
		t.Error("the newer statement leads elsewhere")
	}
	w.refusedBy(t, w.agent, g, title, trust.StatementRollback, func() { w.serveSeq(t, r, former) })
	w.refusedByClient(t, w.ref(t, title), trust.StatementRollback, g)
	w.honestly(func() { w.serveSeq(t, r, former+1) })
	w.works(t, title)
	restore()
}

func formerStatementBelowFloor(t *testing.T, w *hostileWorld) {
	resource, g := w.resource(t)
	title := w.accountOn(t, resource)
	w.works(t, title)
	r := w.ref(t, resource)
	w.keepRecord(t, r)
	former := w.statementSeq(t, r)
	w.cli(t, "resource", "edit", resource, "--host", "localhost")
	if floor := w.log(t).Floor(r); floor != former+1 {
		t.Fatalf("the floor is %d, the former statement %d", floor, former)
	}
	gw2 := w.newcomer(t)
	w.newcomerWorks(t, gw2)
	w.refusedBy(t, gw2, g, title, trust.StatementRollback, func() { w.serveSeq(t, r, former) })
	w.honestly(func() { w.serveSeq(t, r, former+1) })
	w.works(t, title)
}

func formerStatementUnderCommand(t *testing.T, w *hostileWorld) {
	resource, g := w.resource(t)
	title := w.accountOn(t, resource)
	w.works(t, title)
	r := w.ref(t, resource)
	w.keepRecord(t, r)
	former := w.statementSeq(t, r)
	w.honestly(func() { w.renameHost(t, r) })
	gw2 := w.newcomer(t)
	w.newcomerWorks(t, gw2)
	w.refusedBy(t, gw2, g, title, trust.PinMismatch, func() { w.serveSeq(t, r, former) })
	w.honestly(func() { w.serveSeq(t, r, former+1) })
	w.works(t, title)
}

func formerMandate(t *testing.T, w *hostileWorld) {
	title := w.account(t)
	r := w.ref(t, title)
	w.cli(t, "rotation", "set", title, "--every", "1d")
	since := w.now(t)
	w.honestly(func() { w.logged(t, since, w.agent, `"msg":"run ended"`, w.due(t, r).String(), `"credential":"done"`) })
	w.opensTarget(t, title)
	allowed := w.statementSeq(t, r)
	w.cli(t, "rotation", "set", title, "--manual")
	w.keepRecord(t, r)

	// refusedAlone has one agent of the pool be there, asked for the run, and refuse.
	refusedAlone := func(a *installation.Agent, event string, reason trust.Reason) {
		t.Helper()
		since := w.now(t, a)
		w.untouched(t, func() {
			w.logged(t, since, a, `"msg":"run ended"`, `"run":"`+w.due(t, r).String(), `"reason":"`+string(reason)+`"`, `"credential"`)
		})
		w.toldBy(t, since, event, reason, a.Name)
	}
	// The agent that remembers has seen the newer statement, honestly served.
	refusedAlone(w.agent, "run.refused", trust.MandateOff)
	w.serveSeq(t, r, allowed)
	refusedAlone(w.agent, "record.refused", trust.StatementRollback)
	w.refusedByClient(t, r, trust.StatementRollback)

	// Another that remembers nothing is shown the former one alone: the log's floor is all
	// that it can go by.
	w.agent.Stop()
	gw2 := w.newcomer(t)
	w.newcomerWorks(t, gw2)
	refusedAlone(gw2, "record.refused", trust.StatementRollback)
	if err := w.agent.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.untouched(t, func() { w.fails(t, trust.StatementRollback, "record", "get", path(r), "--reveal", "--field", "secret") })
	w.honestly(func() { w.serveSeq(t, r, allowed+1) })
	w.opensTargetOf(t, path(r), title)
}

// outsider is an agent of another pool whose keys are stolen.
func (w *hostileWorld) outsider(t *testing.T) (pool seal.ID, th thief) {
	t.Helper()
	keys, err := enrol.MakeKeys(trustv1.EntryKind_ENTRY_KIND_AGENT)
	if err != nil {
		t.Fatal(err)
	}
	public, err := keys.Public()
	if err != nil {
		t.Fatal(err)
	}
	pool = seal.NewID()
	id := seal.NewID()
	ada := w.ada(t)
	signed := ada.sign(t, w.log(t),
		trust.PutOp(&trustv1.Entry{EntryId: pool.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_POOL, Name: w.name("pool"), V: trust.Version}),
		trust.GrantOp(w.folder(t), pool, trust.Read),
		trust.PutOp(&trustv1.Entry{
			EntryId: id.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_AGENT, Name: w.name("outsider"), OwnerId: pool.Bytes(), V: trust.Version,
			SignPub: keys.SignPub(), KeysDigest: seal.Hash(public).Bytes(),
		}))
	err = ada.write(t, appends(signed), &clientv1.WriteOp{Op: &clientv1.WriteOp_PutKeys{PutKeys: &clientv1.PutKeys{EntryId: id.Bytes(), Keys: public}}})
	if err != nil {
		t.Fatal(err)
	}
	return pool, thief{id, keys}
}

// hideResults has the server serve no result of an account but those that come after.
func (w *hostileWorld) hideResults(t *testing.T, r trust.Ref) {
	t.Helper()
	w.sql(t, "UPDATE result SET subject_uid = ? WHERE org = 1 AND subject_uid = ?", seal.NewID().Bytes(), r.Record.Bytes())
	// Those of former values are served by their digests, too, which the history names.
	if _, err := w.file.Exec("UPDATE record_history SET result = x'' WHERE org = 1 AND record_uid = ?", r.Record.Bytes()); err != nil {
		t.Fatal(err)
	}
}

func formerValue(t *testing.T, w *hostileWorld) {
	title := w.account(t)
	w.works(t, title)
	w.works(t, title)
	r := w.ref(t, title)
	gw2 := w.newcomer(t)
	pool, outsider := w.outsider(t)
	defer w.remove(t, pool)
	member, reader := w.member(t, trust.Read)
	defer w.remove(t, member)
	var former []byte
	w.read(t, "SELECT data FROM record_history WHERE org = 1 AND record_uid = ? ORDER BY n DESC", []any{r.Record.Bytes()}, &former)
	digest := seal.Hash(former)
	serveFormer := func() {
		w.sql(t, "UPDATE record SET data = ?, data_digest = ? WHERE org = 1 AND record_uid = ?", former, digest.Bytes(), r.Record.Bytes())
	}
	attested := func(by thief, phase trustv1.Phase) func() {
		return func() {
			serveFormer()
			w.hideResults(t, r)
			signed, d := w.result(t, by, &trustv1.Result{Phase: phase, Account: r.Proto(), RunId: seal.NewID().Bytes(), ValueSeq: 99, DataDigest: digest.Bytes()})
			w.serveResult(t, r, signed, d, true)
		}
	}
	for _, row := range []struct {
		name  string
		worst func()
		heals bool // else the database, which was lied into, takes nothing back
	}{
		{"committed by an agent of another pool", attested(outsider, trustv1.Phase_PHASE_COMMITTED), false},
		{"edited by a device without edit", attested(reader.stolen(), trustv1.Phase_PHASE_EDITED), false},
		{"newest result with older data", serveFormer, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			restore := w.keepRecord(t, r)
			w.refusedBy(t, gw2, w.gate, title, trust.ValueUnattested, row.worst)
			restore()
			restore = w.keepRecord(t, r)
			shown := func() {
				row.worst()
				if state, reason := w.state(t, r); state != "rolled_back" || reason != string(trust.ValueRollback) {
					t.Errorf("the client shows the value as %s, %s", state, reason)
				}
			}
			if !row.heals {
				w.refused(t, title, trust.ValueRollback, shown)
				restore()
				return
			}
			since := w.now(t)
			_, line := w.midway(t, w.agent, title, "before-lease", shown)
			ended(t, line, "done", "healed")
			w.reached(t, w.gate)
			w.toldBy(t, since, "record.refused", trust.ValueRollback, w.agent.Name)
			w.opensTarget(t, title)
		})
	}
	w.works(t, title)
	t.Run("signed on with the resource withheld", func(t *testing.T) { w.signedOn(t, pool, outsider) })
}

// signedOn has an administrator do what signs for values anew, while the server hides the
// resource by whose pool it is known whether an agent's word counts.
func (w *hostileWorld) signedOn(t *testing.T, pool seal.ID, outsider thief) {
	title, folder := w.name("a"), w.name("folder")
	w.cli(t, "folder", "add", folder)
	w.cli(t, "folder", "grant", folder, installation.Pool, "read")
	secret := sdk.NewSecret([]byte("first secret of " + title))
	if err := w.pg.CreateRole(t.Context(), title, secret, ""); err != nil {
		t.Fatal(err)
	}
	_, err := w.CLI(t.Context(), secret.Expose(), "record", "add", title, "--folder", folder, "--resource", "db", "--login", title, "--password-stdin")
	if err != nil {
		t.Fatal(err)
	}
	w.works(t, title)
	r, db := w.ref(t, title), w.ref(t, "db")
	w.ada(t).append(t, trust.GrantOp(r.Folder, pool, trust.Read))
	var former []byte
	w.read(t, "SELECT data FROM record_history WHERE org = 1 AND record_uid = ? ORDER BY n DESC", []any{r.Record.Bytes()}, &former)
	digest := seal.Hash(former)
	w.sql(t, "UPDATE record SET data = ?, data_digest = ? WHERE org = 1 AND record_uid = ?", former, digest.Bytes(), r.Record.Bytes())
	w.hideResults(t, r)
	signed, d := w.result(t, outsider, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_COMMITTED, Account: r.Proto(), RunId: seal.NewID().Bytes(), ValueSeq: 99, DataDigest: digest.Bytes(),
	})
	w.serveResult(t, r, signed, d, true)
	shown := w.keep(t, "record", "org = 1 AND record_uid = ?", db.Record.Bytes())
	w.sql(t, "DELETE FROM record WHERE org = 1 AND record_uid = ?", db.Record.Bytes())

	w.untouched(t, func() {
		if state, reason := w.state(t, r); state != "unattested" || reason != "pool_unknown" {
			t.Errorf("with the resource withheld, the value is %s, %s", state, reason)
		}
		w.fails(t, "pool_unknown", "record", "edit", path(r), "--title", title+" anew")
		w.fails(t, "pool_unknown", "folder", "rekey", r.Folder.String())
	})
	var attested []byte
	w.read(t, "SELECT attestation FROM record WHERE org = 1 AND record_uid = ?", []any{r.Record.Bytes()}, &attested)
	if seal.Digest(attested) != d {
		t.Error("somebody has signed for the value of an agent of another pool")
	}
	shown()
	if state, reason := w.state(t, r); state == "in_use" {
		t.Errorf("with the resource shown again, the value is %s, %s", state, reason)
	}
	w.cli(t, "record", "remove", path(r))
}

// state is what the command line shows of a record.
func (w *hostileWorld) state(t *testing.T, r trust.Ref) (state, reason string) {
	t.Helper()
	shown, err := w.Record(t.Context(), path(r))
	if err != nil {
		t.Fatal(err)
	}
	return shown.State, shown.Reason
}

// runEnds waits until the server has written a run's end, and gives its reason.
func (w *hostileWorld) runEnds(t *testing.T, run seal.ID) (state, reason string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		var finished int64
		w.read(t, "SELECT finished, state, reason FROM run WHERE org = 1 AND run_id = ?", []any{run.Bytes()}, &finished, &state, &reason)
		if finished != 0 {
			return state, reason
		}
		if time.Now().After(end) {
			t.Fatalf("run %s has not ended: %s, %s: %s", run, state, reason, w.agent.Tail())
		}
	}
}
