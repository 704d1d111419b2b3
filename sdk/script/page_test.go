package script

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The manual's page has every key, type, need and module, in their order, and no other; and
// what it shows is a manifest.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/scripts/manifest.md")
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string][][]string{} // the first column, by section
	section, modules := "", []string(nil)
	words := regexp.MustCompile("`([a-z0-9_]+)`")
	row := regexp.MustCompile("^\\| `([a-z_]+)` \\|")
	for line := range strings.Lines(string(page)) {
		name, isHeading := strings.CutPrefix(strings.TrimSpace(line), "## ")
		found := row.FindStringSubmatch(line)
		switch {
		case isHeading:
			section = name
		case strings.HasPrefix(line, "|---"):
			tables[section] = append(tables[section], nil)
		case found != nil:
			n := len(tables[section]) - 1
			tables[section][n] = append(tables[section][n], found[1])
		case section == "Modules":
			for _, m := range words.FindAllStringSubmatch(line, -1) {
				modules = append(modules, m[1])
			}
		}
	}
	for section, want := range map[string][][]string{
		"At the top": {topKeys}, "Needs": {needs}, "Parameters": {parameterKeys, names(Types)}, "Records": {recordKeys}, "Rotator": {rotatorKeys},
	} {
		if got := tables[section]; !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("under %q the page has\n%q\nand there are\n%q", section, got, want)
		}
	}
	if !slices.Equal(modules, Modules) {
		t.Errorf("the page's modules are\n%q\nand there are\n%q", modules, Modules)
	}
	_, code, _ := strings.Cut(string(page), "```lua\n")
	code, _, _ = strings.Cut(code, "```")
	if m, err := Parse([]byte(code)); err != nil || len(m.Parameters) != 2 || len(m.Records) != 1 {
		t.Errorf("what the page shows: %v", err)
	}
}
