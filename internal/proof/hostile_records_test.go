package proof

import (
	"testing"

	"github.com/rotunda-pam/rotunda/internal/trust"
)

var recordRows = []manipulation{
	{row: 1, what: "data and wrapped key of two accounts swapped", run: row1},
	{row: 2, what: "data, key, statement and results of two accounts swapped", notYet: "in work"},
	{row: 3, what: "data alone swapped", run: row3},
	{row: 4, what: "a record served as another: wrapped anew, moved, or under a member's own statement", notYet: "in work"},
	{row: 5, what: "sealed folder keys swapped, or one of the server's own", notYet: "in work"},
	{row: 6, what: "a folder whose key the server made", notYet: "in work"},
	{row: 8, what: "the resource's former statement, to an agent that saw the newer", notYet: "in work"},
	{row: 9, what: "the resource's former statement, to a new agent after a floor", notYet: "in work"},
	{row: 10, what: "the resource's former statement, to a new agent under a command", notYet: "in work"},
	{row: 11, what: "a secrets-manager client edits a resource's host, and an account's secret", notYet: "in work"},
	{row: 12, what: "the statement deleted", notYet: "in work"},
	{row: 13, what: "a statement signed by a reader", notYet: "in work"},
	{row: 14, what: "the account's link points to another resource", notYet: "in work"},
	{row: 15, what: "the target has another TLS key, or SSH host key", notYet: "in work"},
	{row: 29, what: "a mandate fired again within its interval", notYet: "in work"},
	{row: 30, what: "a mandate fired again after a restart of the agent", notYet: "in work"},
	{row: 31, what: "the former statement, whose mandate was enabled, after the schedule was switched off", notYet: "in work"},
	{row: 32, what: "run due for an account with another's statement", notYet: "in work"},
	{row: 33, what: "run due to an agent of another pool that has the folder", notYet: "in work"},
	{row: 34, what: "a mandate past its time", notYet: "in work"},
	{row: 48, what: "an older candidate of the same account staged again", notYet: "in work"},
	{row: 49, what: "another account's candidate staged", notYet: "in work"},
	{row: 52, what: "a staged value marked as current before it was verified", notYet: "in work"},
	{row: 55, what: "a forged or replayed result \"committed\"", notYet: "in work"},
	{row: 56, what: "a secrets-manager client finalizes, rolls back or updates an account in the middle of a run", notYet: "in work"},
	{row: 57, what: "a plugin binary replaced on the agent's disk", notYet: "in work"},
	{row: 61, what: "database, logs and traffic searched for every secret of the run", notYet: "in work"},
	{row: 62, what: "one-time-token binding answered with the server's own owner key", notYet: "in work"},
	{row: 63, what: "a member names another folder's account as his resource's administrator", notYet: "in work"},
	{row: 64, what: "a member makes an account of his own on a resource where he may not operate", notYet: "in work"},
	{row: 66, what: "old data attested by a stolen agent or a device without rights; the newest result with older data", notYet: "in work"},
	{row: 67, what: "a candidate staged by a stolen agent without command or mandate", notYet: "in work"},
	{row: 68, what: "a forged reply to probe or test", notYet: "in work"},
}

// swap exchanges columns of two records' rows.
func (w *hostileWorld) swap(t *testing.T, table string, a, b trust.Ref, columns ...string) {
	t.Helper()
	for _, c := range columns {
		var x, y []byte
		w.read(t, "SELECT "+c+" FROM "+table+" WHERE org = 1 AND record_uid = ?", []any{a.Record.Bytes()}, &x)
		w.read(t, "SELECT "+c+" FROM "+table+" WHERE org = 1 AND record_uid = ?", []any{b.Record.Bytes()}, &y)
		w.sql(t, "UPDATE "+table+" SET "+c+" = ? WHERE org = 1 AND record_uid = ?", y, a.Record.Bytes())
		w.sql(t, "UPDATE "+table+" SET "+c+" = ? WHERE org = 1 AND record_uid = ?", x, b.Record.Bytes())
	}
}

// pair makes two accounts that work, and puts them back at the row's end.
func (w *hostileWorld) pair(t *testing.T) (title string, a, b trust.Ref) {
	t.Helper()
	title = w.account(t)
	other := w.account(t)
	w.works(t, title)
	w.works(t, other)
	a, b = w.ref(t, title), w.ref(t, other)
	w.keepRecord(t, a)
	w.keepRecord(t, b)
	return title, a, b
}

func row1(t *testing.T, w *hostileWorld) {
	title, a, b := w.pair(t)
	w.refused(t, title, trust.RecordSwapped, func() { w.swap(t, "record", a, b, "data", "record_key") })
}

func row3(t *testing.T, w *hostileWorld) {
	title, a, b := w.pair(t)
	w.refused(t, title, trust.RecordCorrupt, func() { w.swap(t, "record", a, b, "data") })
}
