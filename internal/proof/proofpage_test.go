package proof

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/agent/run"
)

// docs/proof.md names every fault that the matrix strikes, and no other, with the number
// of its cells; and what README and page show as the last line is their sum.
func TestProofPage(t *testing.T) {
	page := read(t, "../../docs/proof.md")
	told := map[string]int{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \| [^|]+ \| (\d+) \|$`).FindAllStringSubmatch(page, -1) {
		told[row[1]], _ = strconv.Atoi(row[2])
	}
	for _, f := range allFaults() {
		cells := cellsOf(f)
		if told[f.name] != cells {
			t.Errorf("%s: %d cells, and the page tells of %d", f.name, cells, told[f.name])
		}
		delete(told, f.name)
	}
	for name := range told {
		t.Errorf("the page tells of %q, which nobody strikes", name)
	}
	last := fmt.Sprintf("fault matrix: %d cells, 0 lost, 0 stuck\n", cellsOf(allFaults()...))
	for name, text := range map[string]string{"proof.md": page, "README.md": read(t, "../../README.md")} {
		if !strings.Contains(text, last) {
			t.Errorf("%s does not show %q", name, last)
		}
	}
	if len(run.FaultPoints()) != 24 || !strings.Contains(page, "all twelve") {
		t.Error("the page tells of twelve steps")
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	return string(b)
}
