package proof

import (
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Rows in which the server asks for runs that nobody allowed.

// mandated makes an account with a schedule, and shows that the server may ask for a
// run of it.
func (w *hostileWorld) mandated(t *testing.T) (title string, r trust.Ref) {
	t.Helper()
	title = w.account(t)
	r = w.ref(t, title)
	w.cli(t, "rotation", "set", title, "--every", "1d")
	since := w.now(t)
	w.honestly(func() { w.logged(t, since, w.agent, `"msg":"run ended"`, w.due(t, r).String(), `"credential":"done"`) })
	w.opensTarget(t, title)
	w.keepRecord(t, r)
	return title, r
}

// tooOften asserts that the agent refuses a further run for its commit of before.
func (w *hostileWorld) tooOften(t *testing.T, r trust.Ref) {
	t.Helper()
	since := w.now(t)
	w.dueRefused(t, r, "run.refused", trust.TooOften)
	if line := w.logged(t, since, w.agent, `"reason":"too_often"`, `"error"`); !strings.Contains(line, "was changed within") {
		t.Errorf("refused for another cause: %s", line)
	}
}

func firedAgain(t *testing.T, w *hostileWorld) {
	title, r := w.mandated(t)
	w.tooOften(t, r)
	w.hideResults(t, r) // what remains is the agent's journal
	w.tooOften(t, r)
	w.opensTarget(t, title)
}

func firedAgainAfterRestart(t *testing.T, w *hostileWorld) {
	title, r := w.mandated(t)
	w.hideResults(t, r)
	w.agent.Kill()
	if err := w.agent.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.tooOften(t, r)
	w.opensTarget(t, title)
}

func mandateOfAnother(t *testing.T, w *hostileWorld) {
	_, allowed := w.mandated(t)
	title := w.account(t)
	r := w.ref(t, title)
	w.keepRecord(t, r)
	w.dueRefused(t, r, "run.refused", trust.MandateOff)
	w.sql(t, `UPDATE statement SET (blob, digest) = (SELECT s.blob, s.digest FROM statement s JOIN record o ON o.org = s.org AND o.record_uid = s.record_uid
		AND o.statement_seq = s.seq WHERE o.org = 1 AND o.record_uid = ?) WHERE org = 1 AND record_uid = ?`, allowed.Record.Bytes(), r.Record.Bytes())
	w.dueRefused(t, r, "record.refused", trust.RecordSwapped)
}

func dueToAnotherPool(t *testing.T, w *hostileWorld) {
	title, r := w.mandated(t)
	pool := w.name("pool")
	a := w.another(t, pool)
	w.cli(t, "folder", "grant", installation.Folder, pool, "read")
	defer w.cli(t, "folder", "grant", installation.Folder, pool, "none")
	id := w.entry(t, trustv1.EntryKind_ENTRY_KIND_POOL, pool).ID
	db := w.ref(t, "db")
	restore := w.keepRecord(t, db)
	defer restore()
	w.sql(t, "UPDATE record SET pool_id = ? WHERE org = 1 AND record_uid = ?", id.Bytes(), db.Record.Bytes()) // by which the honest vault goes
	since := w.now(t, a)
	w.untouched(t, func() {
		w.logged(t, since, a, `"msg":"run ended"`, w.dueTo(t, r, id).String(), `"reason":"wrong_pool"`, `"credential"`)
	})
	w.toldBy(t, since, "run.refused", trust.WrongPool, a.Name)
	w.opensTarget(t, title)
}

func mandatePastItsTime(t *testing.T, w *hostileWorld) {
	title, r := w.mandated(t)
	w.cli(t, "rotation", "set", title, "--every", "1d", "--mandate-for", "1s")
	until := time.UnixMilli(w.loot(t, r).statement.GetAccount().Mandate.ValidUntil)
	time.Sleep(time.Until(until) + time.Millisecond) // it is time that must pass
	w.dueRefused(t, r, "run.refused", trust.MandateExpired)
	w.opensTarget(t, title)
}
