package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/exitcode"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

func TestExitCodesAreDistinct(t *testing.T) {
	codes, names := map[exit]bool{}, map[string]bool{}
	for _, row := range exitcode.Table() {
		if codes[row.Code] || names[row.Name] || row.Meaning == "" {
			t.Errorf("%+v", row)
		}
		codes[row.Code], names[row.Name] = true, true
	}
}

// TestClassify: every class of the library has its exit code; wrapping changes nothing.
func TestClassify(t *testing.T) {
	for _, row := range []struct {
		err    error
		exit   exit
		reason string
	}{
		{&client.Error{Class: client.Invalid, Reason: "invalid"}, exitUsage, "invalid"},
		{&client.Error{Class: client.Locked, Reason: "locked"}, exitLocked, "locked"},
		{&client.Error{Class: client.Denied, Reason: "not_allowed"}, exitDenied, "not_allowed"},
		{&client.Error{Class: client.Refused, Reason: "log_fork"}, exitDenied, "log_fork"},
		{&client.Error{Class: client.NotFound, Reason: "not_found"}, exitNotFound, "not_found"},
		{&client.Error{Class: client.Conflict, Reason: "run_outstanding"}, exitConflict, "run_outstanding"},
		{&client.Error{Class: client.Unreachable}, exitUnreachable, "unreachable"},
		{&client.Error{Class: client.Failed, Reason: "test"}, exitFailed, "test"},
		{&client.Error{Class: client.Unknown, Reason: "no_answer"}, exitPending, "no_answer"},
		{&client.Error{Class: client.Internal, Reason: "disk"}, exitInternal, "disk"},
		{usagef("wrong"), exitUsage, "usage"},
		{failf(exitFindings, "findings", "two"), exitFindings, "findings"},
		{context.DeadlineExceeded, exitUnreachable, "deadline"},
		{errors.New("anything else"), exitInternal, "internal"},
	} {
		for _, err := range []error{row.err, fmt.Errorf("outer: %w", row.err), errors.Join(nil, row.err)} {
			if f := classify(err); f.exit != row.exit || f.reason != row.reason || f.Error() == "" {
				t.Errorf("%v: exit %d, reason %q, text %q", err, f.exit, f.reason, f)
			}
		}
	}
}

func TestOutcomeExit(t *testing.T) {
	unreachable := &client.Error{Class: client.Unreachable, Reason: "no_agent"}
	denied := &client.Error{Class: client.Denied, Reason: "not_allowed"}
	for _, row := range []struct {
		outcomes []client.Outcome
		want     exit
	}{
		{[]client.Outcome{{State: client.Done}, {State: client.DoneBlind}}, exitOK},
		{[]client.Outcome{{State: client.Done}, {State: client.DonePartly}}, exitPartly},
		{[]client.Outcome{{State: client.StillOpen}, {State: client.DonePartly}}, exitPending},
		{[]client.Outcome{{State: client.OutcomeLost}}, exitPending},
		{[]client.Outcome{{State: client.NotDone, Action: "script", Scripts: trustv1.Outcome_OUTCOME_FAILED}}, exitPartly},
		{[]client.Outcome{{State: client.NotDone, Action: "script"}}, exitFailed},
		{[]client.Outcome{{State: client.NotStarted, Err: unreachable}, {State: client.StillOpen}}, exitUnreachable},
		{[]client.Outcome{{State: client.NotDone}, {State: client.NotStarted, Err: unreachable}}, exitFailed},
		{[]client.Outcome{{State: client.NotDone}, {State: client.NotStarted, Err: denied}}, exitDenied},
	} {
		p, stdout, _ := fakeProcess(t)
		f := (&cli{p: p}).follow(nil)
		err := f.end(row.outcomes, false)
		got := exitOK
		if err != nil {
			got = classify(err).exit
		}
		if got != row.want {
			t.Errorf("%v: exit %d, want %d", row.outcomes, got, row.want)
		}
		if stdout.Len() == 0 {
			t.Errorf("%v: nothing was printed", row.outcomes)
		}
	}
}

// What is said of a run that did not end as asked says no more than is so: above all nothing
// of a secret where none was at stake.
func TestOutcomeTexts(t *testing.T) {
	const none, done, failed = trustv1.Outcome_OUTCOME_NONE, trustv1.Outcome_OUTCOME_DONE, trustv1.Outcome_OUTCOME_FAILED
	account := &client.Record{Ref: client.Ref{Folder: seal.NewID(), Record: seal.NewID()}, Title: "ann"}
	for _, row := range []struct {
		outcome client.Outcome
		want    string
	}{
		{client.Outcome{Action: "script", State: client.NotDone, Credential: none, Scripts: failed, Class: "conflict"}, "the scripts of ann failed: conflict"},
		{client.Outcome{Action: "script", State: client.NotDone, Credential: failed, Class: "refused"}, "the scripts of ann were not run: refused"},
		{client.Outcome{Action: "script", State: client.StillOpen}, "the scripts of ann have not ended yet"},
		{client.Outcome{Action: "rotate", State: client.DonePartly, Credential: done, Dependents: done, Scripts: failed}, "ann: the secret is changed, but its scripts failed"},
		{client.Outcome{Action: "rotate", State: client.DonePartly, Credential: done, Dependents: none, Scripts: failed}, "ann: the secret is changed, but its scripts failed"},
		{client.Outcome{Action: "rotate", State: client.DonePartly, Credential: done, Dependents: failed, Scripts: failed}, "ann: the secret is changed, but what depends on it is not"},
		{client.Outcome{Action: "rotate", State: client.NotDone, Credential: failed, Class: "auth"}, "ann: not changed, the former secret is in use: auth"},
		{client.Outcome{Action: "rotate", State: client.StillOpen}, "ann: not decided yet, both secrets are kept"},
		{client.Outcome{Action: "verify", State: client.NotDone}, "ann: the target does not take the secret"},
	} {
		p, _, _ := fakeProcess(t)
		f := (&cli{p: p}).follow([]*client.Record{account})
		row.outcome.Account = account.Ref
		if err := f.end([]client.Outcome{row.outcome}, false); err == nil || err.Error() != row.want {
			t.Errorf("%+v: %v, want %q", row.outcome, err, row.want)
		}
		err := f.end([]client.Outcome{row.outcome, {State: client.Done}}, false)
		if want := "1 of 2 accounts are not done; " + row.want; err == nil || err.Error() != want {
			t.Errorf("%+v: %v, want %q", row.outcome, err, want)
		}
	}
}

// A text of more lines, such as a script's log, keeps them, and none can pass for another
// field.
func TestDetailsKeepTheirLines(t *testing.T) {
	const said = "restart-unit: done\r\nfirst\n\nrun: none\n"
	var out strings.Builder
	showOutcomes(&out, []outcomeView{{Account: "a", Detail: said, RunID: "r"}})
	if got, want := out.String(), "account:  a\ndetail:   restart-unit: done\n          first\n          run: none\nrun:      r\n"; got != want {
		t.Errorf("outcome:\n%s\nwant\n%s", got, want)
	}
	out.Reset()
	showRun(&out, runView{Results: []resultView{{Detail: said}}})
	if got, want := out.String(), "  detail:  restart-unit: done\n           first\n           run: none\n"; !strings.HasSuffix(got, want) {
		t.Errorf("run:\n%s\nwant\n%s", got, want)
	}
}

// TestNoWaitIsDone: a run that was started as asked is no failure, one that could not be is.
func TestNoWaitIsDone(t *testing.T) {
	p, _, _ := fakeProcess(t)
	f := (&cli{p: p}).follow(nil)
	if err := f.end([]client.Outcome{{State: client.StillOpen}}, true); err != nil {
		t.Error(err)
	}
	lost := &client.Error{Class: client.Unknown, Reason: "no_answer"}
	if err := f.end([]client.Outcome{{State: client.StillOpen, Err: lost}}, true); err == nil || classify(err).exit != exitPending {
		t.Errorf("%v", err)
	}
}

func TestPages(t *testing.T) {
	all := []int{0, 1, 2, 3, 4, 5, 6}
	seq := func(yield func(int, error) bool) {
		for _, n := range all {
			if !yield(n, nil) {
				return
			}
		}
	}
	even := func(n int) bool { return n%2 == 0 }
	for _, row := range []struct {
		page page
		cut  string
		take string // of the even ones
	}{
		{page{limit: 3}, "[0 1 2] 3", "[0 2 4] 3"},
		{page{limit: 3, token: "3"}, "[3 4 5] 6", "[6] "},
		{page{limit: 3, token: "6"}, "[6] ", "[] "},
		{page{limit: 7}, "[0 1 2 3 4 5 6] ", "[0 2 4 6] "},
		{page{limit: 4}, "[0 1 2 3] 4", "[0 2 4 6] "},
		{page{limit: 1, all: true}, "[0 1 2 3 4 5 6] ", "[0 2 4 6] "},
		{page{limit: 3, token: "99"}, "[] ", "[] "},
	} {
		shown, next, err := cut(&row.page, all)
		if got := fmt.Sprint(shown, " ", next); err != nil || got != row.cut {
			t.Errorf("cut %+v: %q, %v", row.page, got, err)
		}
		shown, next, err = take(&row.page, seq, even)
		if got := fmt.Sprint(shown, " ", next); err != nil || got != row.take {
			t.Errorf("take %+v: %q, %v", row.page, got, err)
		}
	}
	for _, token := range []string{"0", "-1", "next", "1x"} {
		if _, _, err := cut(&page{limit: 3, token: token}, all); err == nil {
			t.Errorf("page %q is taken", token)
		}
	}
	broken := errors.New("broken")
	if _, _, err := take(&page{limit: 9}, func(yield func(int, error) bool) { yield(0, broken) }, nil); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

func TestSpans(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"90d": 90 * 24 * time.Hour, "0d": 0, "36h": 36 * time.Hour, "1h30m": 90 * time.Minute,
	} {
		if got, err := inputSpan(in); err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "d", "1.5d", "-1d", "9", "99999999d", "1d2h", " 1d"} {
		if got, err := inputSpan(in); err == nil {
			t.Errorf("%q is %v", in, got)
		}
	}
}

// TestInterrupt: a signal ends the command with its own code at once, also when JSON is
// asked for and what is read goes on blocking; the terminal is put back as it was.
func TestInterrupt(t *testing.T) {
	for _, args := range [][]string{
		{"org", "init", "--server", "localhost:1", "--name", "Ada", "--kit", "kit"},
		{"join"},
		{"join", "-"},
	} {
		p, _, stderr := fakeProcess(t, append(args, "--json")...)
		p.stdinTerminal = true
		notified := make(chan chan<- os.Signal, 1)
		p.notify = func(c chan<- os.Signal) func() { notified <- c; return func() {} }
		blocked, end := io.Pipe()
		t.Cleanup(func() { end.Close() })
		p.stdin = readerFunc(func(b []byte) (int, error) {
			(<-notified) <- os.Interrupt
			return blocked.Read(b)
		})
		hidden := 0
		p.hideInput = func() (func(), error) { hidden++; return func() { hidden-- }, nil }
		if code := run(p); code != exitInterrupted || !strings.Contains(stderr.String(), `"exit":130`) {
			t.Errorf("%v: exit %d: %s", args, code, stderr)
		}
		if hidden != 0 {
			t.Errorf("%v: the echo is off", args)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestInterruptedOutcomes: a signal while runs are followed has the code of a signal,
// says so once, and what is known of the runs is printed.
func TestInterruptedOutcomes(t *testing.T) {
	id := seal.NewID()
	stopped := client.Outcome{RunID: id, State: client.OutcomeLost, Err: &client.Error{Class: client.Unknown, Reason: "no_result_yet", Op: "rotate app", Err: errInterrupted}}
	before := client.Outcome{State: client.NotStarted, Err: &client.Error{Class: client.Unreachable, Reason: "canceled", Err: context.Canceled}}
	for _, row := range []struct {
		outcomes   []client.Outcome
		text, hint string
	}{
		{[]client.Outcome{stopped}, "interrupted", "rotunda run watch " + id.String()},
		{[]client.Outcome{before}, "interrupted", "rotunda run list --unfinished"},
		{[]client.Outcome{{State: client.Done}, stopped, {State: client.NotDone}, before}, "interrupted: 2 of 4 accounts", "rotunda run list --unfinished"},
	} {
		p, stdout, stderr := fakeProcess(t)
		code := report(stderr, (&cli{p: p}).follow(nil).end(row.outcomes, false), false)
		if code != exitInterrupted || strings.Count(stderr.String(), "interrupted") != 2 || strings.Contains(stderr.String(), "no_result_yet") ||
			!strings.Contains(stderr.String(), row.text) || !strings.Contains(stderr.String(), row.hint) {
			t.Errorf("exit %d: %s", code, stderr)
		}
		if stdout.Len() == 0 {
			t.Error("nothing was printed")
		}
	}
}

// TestDeclined: who answers no, or nothing, sent no signal.
func TestDeclined(t *testing.T) {
	for in, reason := range map[string]string{"n\n": "not_confirmed", "\n": "not_confirmed", "no": "not_confirmed", "": "not_entered"} {
		p, _, _ := fakeProcess(t)
		p.stdinTerminal, p.stdin = true, strings.NewReader(in)
		if f := classify((&cli{p: p}).confirm("do it")); f.exit != exitDeclined || f.reason != reason {
			t.Errorf("%q: exit %d, %q", in, f.exit, f.reason)
		}
	}
	for _, in := range []string{"y\n", "Yes\r\n", "y"} {
		p, _, _ := fakeProcess(t)
		p.stdinTerminal, p.stdin = true, strings.NewReader(in)
		if err := (&cli{p: p}).confirm("do it"); err != nil {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// TestOutputLost: no command is done whose result could not be written.
func TestOutputLost(t *testing.T) {
	for _, line := range []string{
		"version", "version --json", "docs", "--help", "record --help", "help record", "record",
		"completion bash", "completion zsh", "completion fish", "completion powershell",
		"rotation preview --every 1d", "rotation preview --every 1d --json",
	} {
		p, _, stderr := fakeProcess(t)
		p.args, p.stdout = strings.Fields(line), fullDisk{}
		if code := run(p); code != exitInternal || !strings.Contains(stderr.String(), "no space left on device") {
			t.Errorf("%s: exit %d: %s", line, code, stderr)
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// TestSecretLost: where the only copy of a secret could not be written, the error says
// what was made and the command that ends it.
func TestSecretLost(t *testing.T) {
	secret := sdk.NewSecret([]byte("only copy"))
	for name, row := range map[string]struct {
		print func(*cli) error
		hint  string
	}{
		"a configuration": {func(c *cli) error { return c.appSecretOut("config", secret, nil, []string{"terraform", "ci"}) }, "`rotunda app remove terraform --client ci`"},
		"a token": {func(c *cli) error {
			return c.handOut(t.Context(), nil, tokenFlags{noWait: true}, nil, client.NewToken{Text: secret}, "gw1", "rotunda agent remove")
		}, "`rotunda agent remove gw1`"},
	} {
		for _, asJSON := range []bool{false, true} {
			p, _, _ := fakeProcess(t)
			p.stdout = fullDisk{}
			f := classify(row.print(&cli{p: p, json: asJSON}))
			if f.exit != exitInternal || f.reason != "output_lost" || !errors.Is(f, syscall.ENOSPC) || !strings.Contains(f.Error(), "was made") || !strings.Contains(f.hint, row.hint) {
				t.Errorf("%s, json %t: exit %d, %s (%s): %s", name, asJSON, f.exit, f, f.reason, f.hint)
			}
		}
	}
}

// TestKitOut: the paper form of an organisation's kit goes to standard output alone, and
// only where it was to be printed.
func TestKitOut(t *testing.T) {
	const paper = "01 AHHX 6KBV"
	for name, row := range map[string]struct {
		json, full bool
		reason     string
		printed    bool
	}{
		"all well":        {printed: true},
		"all well, JSON":  {json: true},
		"no output":       {full: true, reason: "output_lost"},
		"no output, JSON": {json: true, full: true, reason: "output_lost"},
	} {
		p, stdout, stderr := fakeProcess(t)
		if row.full {
			p.stdout = fullDisk{}
		}
		err := (&cli{p: p, json: row.json}).kitOut(orgView{Kit: "kit.age"}, sdk.NewSecret([]byte(paper)))
		reason := ""
		if err != nil {
			f := classify(err)
			reason = f.reason
			if strings.Contains(f.Error()+f.hint, paper) {
				t.Errorf("%s: %s: %s", name, f, f.hint)
			}
		}
		if reason != row.reason || strings.Contains(stdout.String(), paper) != row.printed || strings.Contains(stderr.String(), paper) {
			t.Errorf("%s: %q, %v; printed: %q, %q", name, reason, err, stdout, stderr)
		}
	}
}
