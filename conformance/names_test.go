package conformance

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/conformance/obligation"
)

// The SDK names the test that proves a sentence: each is there.
func TestNamesInTheSDK(t *testing.T) {
	var names []string
	for _, one := range new(kit).tests() {
		names = append(names, one.name)
	}
	files, err := filepath.Glob("../sdk/*.go")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`//[^\n]*\(([A-Z][a-z]+[A-Za-z]+)\)`).FindAllSubmatch(text, -1) {
			named++
			if !slices.Contains(names, string(m[1])) {
				t.Errorf("%s names the test %s, and the kit has none", f, m[1])
			}
		}
	}
	if named < 8 {
		t.Errorf("only %d names were found in the SDK", named)
	}
}

// What the tests ask stands in the manual, word for word and in the kit's order.
func TestObligations(t *testing.T) {
	text, err := os.ReadFile("../docs/plugins/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows strings.Builder
	var names, listed []string
	for _, o := range obligation.All {
		fmt.Fprintf(&rows, "| `%s` | %s |\n", o.Test, o.Asks)
		listed = append(listed, o.Test)
	}
	for _, one := range new(kit).tests() {
		names = append(names, one.name)
	}
	if !slices.Equal(listed, names) {
		t.Errorf("obligations of %v\nthe kit has %v", listed, names)
	}
	if !bytes.Contains(text, []byte("\n|---|---|\n"+rows.String()+"\n")) {
		t.Errorf("docs/plugins/reference.md does not have this table:\n%s", &rows)
	}
}
