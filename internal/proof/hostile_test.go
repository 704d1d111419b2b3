package proof

import (
	"fmt"
	"slices"
	"testing"
)

// manipulation is one row of the hostile operator's table in docs/threat-model.md:
// something that whoever owns the server, or has stolen a key, may try.
type manipulation struct {
	row  int
	what string
	// run shows the honest case first, then the manipulation, and asserts the reason
	// code where it is refused, the event, and what the target saw.
	run func(t *testing.T, w *hostileWorld)
	// notYet says why a row is not built; run is nil then.
	notYet string
}

// Everybody who must not be trusted is given what he could have, and does his worst.
func TestHostileOperator(t *testing.T) {
	table := slices.Concat(recordRows, channelRows, logRows, laterRows)
	slices.SortFunc(table, func(a, b manipulation) int { return a.row - b.row })
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
			m.run(t, w)
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

// Rows whose parts are not there yet.
var laterRows = []manipulation{
	{row: 7, what: "former folder key served after re-keying", run: formerFolderKey},
	{row: 50, what: "staged update deleted after apply", run: stagedDeleted},
	{row: 51, what: "commit acknowledged, row not changed", run: commitForgotten},
	{row: 53, what: "lease given to two agents at once, candidate hidden from the second", run: leaseGivenTwice},
	{row: 54, what: "whole database restored to yesterday", run: restoredToYesterday},
	{row: 58, what: "script file replaced by another approved script", notYet: "there are no scripts yet"},
	{row: 59, what: "router in the middle of a session", notYet: "there are no sessions yet"},
}
