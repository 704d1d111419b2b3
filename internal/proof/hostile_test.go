package proof

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/trust"
)

// manipulation is one row of the hostile operator's table in docs/threat-model.md:
// something that whoever owns the server, or has stolen a key, may try.
type manipulation struct {
	row  int
	what string
	// run shows the honest case first, then the manipulation, and asserts what happens: the
	// reason code where it is refused, the events, and what the target saw.
	run func(t *testing.T, w *hostileWorld)
	// events are those that it must bring about, each with its reason behind a space, as
	// people read them; untold says why there are none.
	events []string
	untold string
	// reaches says what rightly reaches the target meanwhile; empty: nothing does. What begins
	// with "untouched" tells of exceptions to that. The row asserts it of all that is done.
	reaches string
	apart   bool // in a world of its own
	// notYet says why a row is not built; run is nil then.
	notYet string
}

const untouched = "untouched"

func (m manipulation) target() string { return orElse(m.reaches, untouched) }

func operatorsTable() []manipulation {
	table := slices.Concat(recordRows, channelRows, logRows, laterRows)
	slices.SortFunc(table, func(a, b manipulation) int { return a.row - b.row })
	return table
}

// Everybody who must not be trusted is given what he could have, and does his worst.
func TestHostileOperator(t *testing.T) {
	beside(t)
	table := operatorsTable()
	for i, m := range table {
		if m.row != i+1 {
			t.Fatalf("row %d of the table is missing or there twice", i+1)
		}
	}
	w := newHostileWorld(t)
	held, broken, notBuilt, notRun := 0, 0, 0, 0
	for _, m := range table {
		if m.run == nil {
			notBuilt++
			t.Logf("row %d, %s: not built yet: %s", m.row, m.what, m.notYet)
			continue
		}
		ran := false // t.Run is true of what was filtered out, and of what was skipped
		passed := t.Run(fmt.Sprintf("%02d %s", m.row, m.what), func(t *testing.T) {
			defer func() { ran = !t.Skipped() }()
			w := w
			if m.apart {
				w = newHostileWorld(t)
			}
			w.suffers(t, m)
		})
		switch {
		case !passed:
			broken++
		case ran:
			held++
		default:
			notRun++
		}
	}
	line := fmt.Sprintf("hostile operator: %d rows held, %d broken, %d not built yet", held, broken, notBuilt)
	if notRun > 0 {
		line += fmt.Sprintf(", %d not run", notRun)
	}
	report(t, "%s%s", line, leftOut(w.lacks))
}

// suffers runs a row, and holds it to what the table says of it.
func (w *hostileWorld) suffers(t *testing.T, m manipulation) {
	t.Helper()
	since := w.now(t)
	w.claims, w.looks, w.struck = strings.HasPrefix(m.target(), untouched), 0, nil
	m.run(t, w)
	w.looked(t)
	for _, e := range m.events {
		name, reason, _ := strings.Cut(e, " ")
		w.told(t, since, name, trust.Reason(reason))
	}
	if w.claims && w.looks == 0 {
		t.Error("the row does not look whether the target was touched, and the table says that it was not")
	}
}

// Rows whose parts are not there yet.
var laterRows = []manipulation{
	{
		row: 7, what: "former folder key served after re-keying", run: formerFolderKey,
		events: []string{"record.refused folder_key_swapped", "client.refused folder_key_swapped"},
	},
	{
		row: 50, what: "staged update deleted after apply", run: stagedDeleted,
		events: []string{"candidate_lost_by_vault candidate_lost_by_vault"}, reaches: "the change goes on",
	},
	{
		row: 51, what: "commit acknowledged, row not changed", run: commitForgotten,
		events: []string{"record.refused value_rollback"}, reaches: "the next change goes on",
	},
	{
		row: 53, what: "lease given to two agents at once, candidate hidden from the second", run: leaseGivenTwice,
		events: []string{"value_fork value_fork"}, reaches: "both agents' changes",
	},
	{
		row: 54, what: "whole database restored to yesterday", run: restoredToYesterday,
		events: []string{"log_rollback log_rollback", "statement.restated", "server.recovered"}, apart: true,
		reaches: "each lost secret is tried by a login; nothing is changed",
	},
	{
		row: 58, what: "script file replaced by another approved script", run: scriptReplaced,
		events: []string{"record.refused script_changed"},
	},
	{row: 59, what: "router in the middle of a session", notYet: "there are no sessions yet"},
}
