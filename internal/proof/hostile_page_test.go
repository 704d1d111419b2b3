package proof

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/trust"
)

// The table that people read and the table that runs are one: every row, with its
// test or the reason why it has none.
func TestHostileOperatorsPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[int][]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| (.*) \| (.*) \| (.*) \|$`).FindAllStringSubmatch(string(page), -1) {
		var row int
		if _, err := fmt.Sscan(m[1], &row); err != nil || shown[row] != nil {
			t.Errorf("row %s of the page is there twice, or no number: %v", m[1], err)
		}
		shown[row] = m[2:]
	}
	table := slices.Concat(recordRows, channelRows, logRows, laterRows)
	if len(table) != len(shown) {
		t.Errorf("the page shows %d rows, the test has %d", len(shown), len(table))
	}
	for _, m := range table {
		cells := shown[m.row]
		if cells == nil {
			t.Errorf("row %d, %s: is not on the page", m.row, m.what)
			continue
		}
		want := fmt.Sprintf("`TestHostileOperator/%02d`", m.row)
		if m.run == nil {
			want = "not built: " + m.notYet
		}
		if got := cells[2]; got != want {
			t.Errorf("row %d, %s: the page says %q, want %q", m.row, m.what, got, want)
		}
		if m.run == nil {
			continue // its codes come with it
		}
		// An event's name may stand among the reasons: it is one of them, or explained.
		for _, code := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
			if trust.Reason(code[1]).Meaning() == "" {
				t.Errorf("row %d: %s is no reason code", m.row, code[1])
			}
		}
		if strings.TrimSpace(cells[0]) == "" {
			t.Errorf("row %d: the page does not say what is tried", m.row)
		}
	}
}
