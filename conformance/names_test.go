package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
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

// The manual lists every test, in the kit's order.
func TestNamesInTheManual(t *testing.T) {
	text, err := os.ReadFile("../docs/plugins.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z][A-Za-z]+)` \\| ").FindAllSubmatch(text, -1) {
		if slices.ContainsFunc(new(kit).tests(), func(one test) bool { return one.name == string(m[1]) }) {
			listed = append(listed, string(m[1]))
		}
	}
	var names []string
	for _, one := range new(kit).tests() {
		names = append(names, one.name)
	}
	if !slices.Equal(listed, names) {
		t.Errorf("docs/plugins.md lists %v\nthe kit has %v", listed, names)
	}
}
