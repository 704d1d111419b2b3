package client

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Whatever reason an agent or a plugin of this repository gives, a person is told
// what to do about it.
func TestEveryReasonHasAHint(t *testing.T) {
	codes := regexp.MustCompile(`Reason: +"([a-z_.]+)"|sdk\.Class\w+, "([a-z_.]+)"|Class\w+, "([a-z_.]+)"\)|return "(dial\.[a-z]+)"|Reason = "([a-z_.]+)"|^\tPlugin\w+ +Reason = "([a-z_]+)"`)
	fine := map[string]bool{"abandoned": true, "nothing_outstanding": true} // an end that was asked for
	found := 0
	for _, dir := range []string{"agent", "agent/jump", "agent/run", "agent/pluginhost", "sdk", "proto/rotunda/plugin/v1", "plugins/*"} {
		files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, no files", dir, err)
		}
		for _, f := range files {
			if strings.Contains(f, "plugins/fault/") || // which makes them up
				strings.HasSuffix(f, "_test.go") || strings.HasSuffix(f, ".pb.go") {
				continue
			}
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range codes.FindAllStringSubmatch(string(text), -1) {
				code := strings.Join(m[1:], "")
				found++
				if Hint(code) == "" && !fine[code] {
					t.Errorf("%s: reason %s has no hint", f, code)
				}
			}
		}
	}
	list, err := os.ReadFile("../agent/run/reasons.go")
	if err != nil {
		t.Fatal(err)
	}
	_, told, _ := strings.Cut(string(list), "strings.Fields(`")
	told, _, _ = strings.Cut(told, "`")
	for _, code := range strings.Fields(told) {
		found++
		if Hint(code) == "" && !fine[code] {
			t.Errorf("reason %s of a script has no hint", code)
		}
	}
	if found < 300 {
		t.Errorf("only %d reasons were found: the test reads the wrong files", found)
	}
	for code, hint := range hints {
		if hint == "" || strings.Contains(hint, "\n") {
			t.Errorf("%s: %q is no hint of one line", code, hint)
		}
	}
}
