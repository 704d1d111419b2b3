package main

import (
	"strings"
	"testing"
)

// TestPinsAreShown: nobody is asked to compare keys that he does not see, whatever becomes
// of standard output.
func TestPinsAreShown(t *testing.T) {
	v := probeView{Agent: "gw1", Address: "db:5432", TLSKeys: []string{"the-key"}, SSHKeys: []sshKey{{"ssh-ed25519", "SHA256:the-host-key"}}}
	for name, row := range map[string]struct {
		json, yes, onTerminal bool
		stdout, beside        bool // the keys are there
	}{
		"on a terminal":                {onTerminal: true, stdout: true},
		"into a file":                  {stdout: true, beside: true},
		"as JSON":                      {json: true, onTerminal: true, beside: true},
		"as JSON, into a file":         {json: true, beside: true},
		"as JSON, answered before":     {json: true, yes: true},
		"into a file, answered before": {yes: true, stdout: true},
	} {
		p, stdout, stderr := fakeProcess(t)
		p.stdinTerminal, p.stdoutTerminal, p.stdin = true, row.onTerminal, strings.NewReader("y\n")
		if err := (&cli{p: p, json: row.json, yes: row.yes}).confirmPins(v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		before, _, asked := strings.Cut(stderr.String(), "pin them? [y/N] ")
		for where, text := range map[string]string{"standard output": stdout.String(), "beside the question": before} {
			want := map[string]bool{"standard output": row.stdout, "beside the question": row.beside}[where]
			if strings.Contains(text, "the-key") != want || strings.Contains(text, "SHA256:the-host-key") != want {
				t.Errorf("%s: %s: %q", name, where, text)
			}
		}
		if asked == row.yes {
			t.Errorf("%s: asked: %t", name, asked)
		}
	}
}

// TestQuestionsSayWhatTheyAreAbout: --json and --quiet leave out what goes on, not what
// somebody is about to say yes to.
func TestQuestionsSayWhatTheyAreAbout(t *testing.T) {
	for _, row := range []struct{ json, quiet, yes, nobody, said bool }{
		{said: true},
		{json: true, said: true},
		{quiet: true, said: true},
		{json: true, yes: true},
		{quiet: true, nobody: true},
		{json: true, nobody: true}, // there, an error is the only line
	} {
		p, _, stderr := fakeProcess(t)
		p.stdinTerminal = !row.nobody
		(&cli{p: p, json: row.json, quiet: row.quiet, yes: row.yes}).about("these: %s", "app\x1b")
		if said := stderr.String() == "these: app\uFFFD\n"; said != row.said {
			t.Errorf("%+v: %q", row, stderr)
		}
	}
}
