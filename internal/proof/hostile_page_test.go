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
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| (.*) \| (.*) \| (.*) \| (.*) \| (.*) \|$`).FindAllStringSubmatch(string(page), -1) {
		var row int
		if _, err := fmt.Sscan(m[1], &row); err != nil || shown[row] != nil {
			t.Errorf("row %s of the page is there twice, or no number: %v", m[1], err)
		}
		shown[row] = m[2:]
	}
	table := operatorsTable()
	if len(table) != len(shown) {
		t.Errorf("the page shows %d rows, the test has %d", len(shown), len(table))
	}
	rows, notBuilt := 0, 0
	for _, m := range table {
		if m.run == nil {
			notBuilt++
		} else {
			rows++
		}
		cells := shown[m.row]
		if cells == nil {
			t.Errorf("row %d, %s: is not on the page", m.row, m.what)
			continue
		}
		want := fmt.Sprintf("`TestHostileOperator/%02d`", m.row)
		if m.run == nil {
			want = "not built: " + m.notYet
		}
		if got := cells[4]; got != want {
			t.Errorf("row %d, %s: the page says %q, want %q", m.row, m.what, got, want)
		}
		if m.run == nil {
			continue // its codes come with it
		}
		if events := m.tells(t); cells[2] != events {
			t.Errorf("row %d, %s: the page has the events %q, the test asserts %q", m.row, m.what, cells[2], events)
		}
		if target := m.target(); cells[3] != target {
			t.Errorf("row %d, %s: the page says of the target %q, the test %q", m.row, m.what, cells[3], target)
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
	last := fmt.Sprintf("\nhostile operator: %d rows held, 0 broken, %d not built yet\n", rows, notBuilt)
	if !strings.Contains(read(t, "../../README.md"), last) {
		t.Errorf("README.md does not show %q", last)
	}
}

// tells is the page's cell of a row's events.
func (m manipulation) tells(t *testing.T) string {
	t.Helper()
	if (len(m.events) == 0) == (m.untold == "") {
		t.Errorf("row %d: say which events there are, or why there are none", m.row)
	}
	if len(m.events) == 0 {
		return "none: " + m.untold
	}
	var names []string
	for _, e := range m.events {
		name, reason, _ := strings.Cut(e, " ")
		if reason != "" && reason != "abandoned" && trust.Reason(reason).Meaning() == "" {
			t.Errorf("row %d: the event %s has a reason that is no code", m.row, e)
		}
		if name = "`" + name + "`"; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
