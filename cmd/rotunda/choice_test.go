package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/audit"
)

// TestClosedSets: a value that a flag does not know is a usage error that lists those
// that it knows, and each of those is taken.
func TestClosedSets(t *testing.T) {
	for _, row := range []struct {
		command, flag string
		of            []string
	}{
		{"record list", "state", recordStates},
		{"rotation list", "state", rotationStates},
		{"rotate --match x", "rotation-state", rotationStates},
		{"verify --match x", "rotation-state", rotationStates},
		{"rotation set app --manual", "missed", missedTimes},
		{"resource add db1", "type", resourceKinds},
		{"resource add db1", "tls", tlsModes},
		{"record add app", "kind", secretKinds},
		{"record add app", "verify-mode", verifyModes},
		{"record edit app", "verify-mode", verifyModes},
		{"plugin approve f", "os", systems},
		{"plugin approve f", "arch", processors},
	} {
		for _, value := range append([]string{"bogus"}, row.of...) {
			p, _, stderr := fakeProcess(t)
			p.args = append(strings.Fields(row.command), "--"+row.flag, value)
			code := run(p)
			refused := strings.Contains(stderr.String(), "--"+row.flag+" \"")
			if want := value == "bogus"; refused != want || want && code != exitUsage {
				t.Errorf("%v: exit %d, %s", p.args, code, stderr)
			}
			for _, known := range row.of {
				if refused && !strings.Contains(stderr.String(), known) {
					t.Errorf("%v does not tell of %s: %s", p.args, known, stderr)
				}
			}
		}
		p, stdout, _ := fakeProcess(t)
		p.args = append(append([]string{cobra.ShellCompNoDescRequestCmd}, strings.Fields(row.command)...), "--"+row.flag, "")
		if run(p); !strings.HasPrefix(stdout.String(), strings.Join(row.of, "\n")+"\n:4\n") {
			t.Errorf("completion of %s --%s: %q", row.command, row.flag, stdout)
		}
	}
}

func TestEventGroupsAreTheCatalogues(t *testing.T) {
	if want := audit.Groups(); !slices.Equal(eventGroups, want) {
		t.Errorf("eventGroups is not %q", want)
	}
}

// TestShippedAreWhatIsBuilt: the names that nobody else's plugin has are those that the
// build gives the agent.
func TestShippedAreWhatIsBuilt(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nPLUGINS := " + strings.Join(shipped, " ") + "\n"; !strings.Contains(string(b), want) {
		t.Errorf("the Makefile has no line %q", want)
	}
}

// TestFlagErrorsInPlainWords: what the language's own readers say is for programmers.
func TestFlagErrorsInPlainWords(t *testing.T) {
	for line, want := range map[string]string{
		"record list --limit x":           "it is a whole number",
		"events --after x":                "it is a whole number",
		"resource add x --port 70000":     "it is a number from 0 to 65535",
		"resource add x --concurrency -1": "it is a number from 0 to 4294967295",
		"unlock --for soon":               "it is a span such as",
		"record list --all=maybe":         "it is true or false",
		"record list --type \"x":          "it is a list with commas",
	} {
		p, _, stderr := fakeProcess(t)
		p.args = strings.Fields(line)
		if code := run(p); code != exitUsage || !strings.Contains(stderr.String(), want) || strings.Contains(stderr.String(), "strconv") {
			t.Errorf("%s: exit %d, %s", line, code, stderr)
		}
	}
}
