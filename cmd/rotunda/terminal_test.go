package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/client"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// evil is what a title, a login or a note of somebody else's may hold: it sets a
// terminal's title, clears a line in either form of the sequence, and forges a line.
const evil = "\x1b]0;owned\a\u009b2K\u202Ename\nforged: line"

// raw says whether a terminal would act on text, or another line was forged.
func raw(text string) bool {
	return strings.ContainsAny(text, "\x1b\a\u009b\u202E\x7f\r") || strings.Contains(text, "\nforged")
}

// TestTextIsPrintable: what others named and what targets and servers say reaches no
// terminal raw, and forges no line, also where the text goes through a pipe first.
func TestTextIsPrintable(t *testing.T) {
	for name, show := range map[string]func(c *cli, out io.Writer){
		"a run": func(c *cli, out io.Writer) {
			showRun(out, c.viewRun(client.Run{State: "failed", AgentName: evil, Class: evil, Reason: evil, Action: evil}, evil))
		},
		"a result": func(_ *cli, out io.Writer) {
			showRun(out, runView{Results: []resultView{{Phase: evil, By: evil, Class: evil, Reason: evil, Detail: evil, Refused: evil}}})
		},
		"a record": func(_ *cli, out io.Writer) {
			showRecord(out, recordView{Title: evil, Login: evil, Notes: evil, Folder: evil, State: evil, Reason: evil})
		},
		"outcomes": func(_ *cli, out io.Writer) {
			showOutcomes(out, []outcomeView{{Title: evil, State: evil, Detail: evil, Reason: evil}})
		},
		"a table": func(_ *cli, out io.Writer) { table(out, []string{"title"}, [][]string{{evil}}) },
		"a probe": func(_ *cli, out io.Writer) {
			showProbe(out, probeView{Agent: evil, Subject: evil, Detail: evil, SSHKeys: []sshKey{{Type: evil}}})
		},
		"a re-key": func(_ *cli, out io.Writer) {
			showRekey(out, rekeyView{Folder: evil, Error: evil, Left: []leftView{{Title: evil, Reason: evil}}})
		},
		"shut out": func(c *cli, out io.Writer) {
			c.showShutOut(out, evil, &shutOutView{Known: []string{evil}, Apps: []string{evil}, Agents: []behindView{{Pool: evil, Name: evil}}, NotRotated: []exposedView{{Title: evil}}, Done: evil})
		},
		"a removal": func(c *cli, out io.Writer) {
			c.showPlan(out, &client.Removal{Name: evil, Folders: []client.RemovalFolder{{Name: evil}}})
		},
		"a note":       func(c *cli, _ io.Writer) { c.note("%s", evil) },
		"a warning":    func(c *cli, _ io.Writer) { c.warn("%s", evil) },
		"a notice":     func(c *cli, _ io.Writer) { c.notice(client.Notice{Text: evil, Code: evil}) },
		"what is done": func(c *cli, _ io.Writer) { _ = c.done(evil) },
		"a question":   func(c *cli, _ io.Writer) { _, _ = c.ask(evil) },
		"a prompt":     func(c *cli, _ io.Writer) { _, _ = c.promptSecret(evil) },
		"an error": func(c *cli, _ io.Writer) {
			report(c.p.stderr, &client.Error{Class: client.Conflict, Reason: evil, Hint: evil, Err: errors.New(evil)}, false)
		},
		"what uses a record": func(c *cli, _ io.Writer) {
			report(c.p.stderr, inUse(&client.Record{Title: evil}, []client.Use{{Title: evil, As: "via"}}), false)
		},
	} {
		p, stdout, stderr := fakeProcess(t)
		p.stdinTerminal = true
		show(&cli{p: p}, stdout)
		text := stdout.String() + stderr.String()
		if raw(text) || !strings.Contains(text, "]0;owned") || name == "what uses a record" && strings.Contains(text, "\nhint: forged") {
			t.Errorf("%s: %q", name, text)
		}
	}
}

// TestOutputOnTerminal: whatever a command writes, a terminal does not act on it, and a
// pipe gets every byte.
func TestOutputOnTerminal(t *testing.T) {
	for _, onTerminal := range []bool{true, false} {
		p, stdout, stderr := fakeProcess(t, "version")
		p.stdoutTerminal, p.stderrTerminal, p.width = onTerminal, onTerminal, func() int { return 80 }
		if code := run(p); code != exitOK {
			t.Fatal(code)
		}
		stdout.Reset()
		for out, to := range map[*bytes.Buffer]io.Writer{stdout: p.stdout, stderr: p.stderr} {
			fmt.Fprint(to, evil)
			if got := out.String(); raw(strings.ReplaceAll(got, "\nforged", "")) == onTerminal || !onTerminal && got != evil {
				t.Errorf("terminal %t: %q", onTerminal, got)
			}
		}
	}
}

// TestValues: one value goes into a pipe byte by byte; a terminal shows what it would act
// on as JSON writes it, and a warning says so.
func TestValues(t *testing.T) {
	for _, row := range []struct {
		value, shown string
		warned       bool
	}{
		{"plain Zoë", "plain Zoë\n", false},
		{"-----BEGIN\nkey\n-----END", "-----BEGIN\nkey\n-----END\n", false},
		{"pass\x1b[2K\u009bword\r", "pass\\u001b[2K\\u009bword\\r\n", true},
	} {
		for _, onTerminal := range []bool{true, false} {
			p, stdout, stderr := fakeProcess(t)
			p.stdoutTerminal = onTerminal
			if err := (&cli{p: p}).showValue([]byte(row.value)); err != nil {
				t.Fatal(err)
			}
			want := row.value
			if onTerminal {
				want = row.shown
			}
			warned := strings.Contains(stderr.String(), "warning: it holds control characters")
			if stdout.String() != want || warned != (row.warned && onTerminal) {
				t.Errorf("terminal %t: %q, want %q; warned: %q", onTerminal, stdout, want, stderr)
			}
		}
	}
	// A field that needs no --reveal is somebody else's text, too.
	p, stdout, _ := fakeProcess(t)
	p.stdoutTerminal = true
	r := &client.Record{Statement: &trustv1.Statement{Subject: &trustv1.Statement_Account{Account: &trustv1.Account{Login: evil}}}}
	if err := (&cli{p: p}).showField(r, "login"); err != nil || strings.ContainsAny(stdout.String(), "\x1b\a\u009b\u202E") {
		t.Errorf("%v, %q", err, stdout)
	}
}

// TestSecretsInText: a secret among other lines is one line, from which it can be told.
func TestSecretsInText(t *testing.T) {
	p, stdout, stderr := fakeProcess(t)
	c := &cli{p: p}
	v := recordView{Secret: "one\ntwo\x1b[2K", Candidate: &candidateView{Secret: "plain"}}
	c.warnEscaped(v.Secret, v.Candidate.secret())
	showRecord(stdout, v)
	if !strings.Contains(stdout.String(), `one\ntwo\u001b[2K`) || raw(stdout.String()) || !strings.Contains(stderr.String(), "control characters") {
		t.Errorf("%q, %q", stdout, stderr)
	}
	stderr.Reset()
	c.warnEscaped("plain", "pässword\\n")
	if stderr.Len() > 0 {
		t.Errorf("%q", stderr)
	}
}

// TestMeter: on a terminal progress is one line that is written anew.
func TestMeter(t *testing.T) {
	for onTerminal, want := range map[bool]string{true: "\rimported 7\rimported 8\n", false: "imported 7\n"} {
		p, _, stderr := fakeProcess(t, "version")
		p.stderrTerminal = onTerminal
		run(p)
		now := time.Unix(0, 0)
		p.now = func() time.Time { return now }
		m := (&cli{p: p}).meter("imported")
		now = now.Add(time.Second)
		m.at(7)
		m.at(8)
		m.end()
		if stderr.String() != want {
			t.Errorf("terminal %t: %q, want %q", onTerminal, stderr, want)
		}
	}
}
