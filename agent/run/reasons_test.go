package run

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// A script's reason that is none of Rotunda's own is told to the record's readers alone.
func TestReasonsOfScripts(t *testing.T) {
	const own = "dlo" // the current secret, backwards
	rotator := func(w *world) {
		u := w.script("rotator", script.Rotator, "[rotator]", `kinds = ["password"]`)
		w.useOnResource(func(r *trustv1.Resource) { r.Plugin, r.Rotator = trust.PluginLua, u })
	}
	dependent := func(w *world) {
		u := w.script("dependent", script.Dependents)
		w.use(func(a *trustv1.Account) {
			a.Dependents = []*trustv1.Dependent{{Resource: w.other(nil).Proto(), Plugin: trust.PluginLua, Script: u}}
		})
	}
	refuses := func(reason string) func(w *world) {
		return func(w *world) {
			w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: reason}, nil
			}
		}
	}
	for name, c := range map[string]struct {
		script func(w *world)
		says   func(w *world)
		told   string
	}{
		"the change is refused":         {rotator, refuses(own), ScriptRefused},
		"in words of Rotunda's own":     {rotator, refuses("policy.charset"), "policy.charset"},
		"in a word of the checks":       {rotator, refuses("target_identity"), "target_identity"},
		"in a database's code":          {rotator, refuses("sql.28p01"), ScriptRefused},
		"by a plugin that is no script": {func(*world) {}, refuses("a.plugins.own"), "a.plugins.own"},
		"the administrator's login":     {rotator, func(w *world) { w.target.openErr = &sdk.Error{Class: sdk.ClassAuth, Reason: own} }, ScriptRefused},
		"the account's login": {rotator, func(w *world) {
			w.target.verify = func(int, string) (sdk.VerifyResponse, error) { return sdk.VerifyResponse{Reason: own}, nil }
		}, ScriptRefused},
		"it fails, and says so itself": {rotator, func(w *world) {
			w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
				return sdk.VerifyResponse{}, &sdk.Error{Class: sdk.ClassAuth, Reason: own}
			}
		}, ScriptRefused},
		"a dependent's plan": {dependent, func(w *world) {
			w.target.plan = func(pluginhost.Job) ([]sdk.Step, error) { return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: own} }
		}, ScriptRefused},
		"a dependent's step": {dependent, func(w *world) {
			w.target.step = func(string) (sdk.StepResponse, error) {
				return sdk.StepResponse{Outcome: sdk.Unchanged, Reason: own}, nil
			}
		}, "dependents.failed"},
		"a dependent's step that is not done": {dependent, func(w *world) {
			w.target.step = func(string) (sdk.StepResponse, error) {
				return sdk.StepResponse{}, &sdk.Error{Class: sdk.ClassAuth, Reason: own}
			}
		}, "dependents.pending"},
	} {
		w := newWorld(t, false)
		c.script(w)
		c.says(w)
		out, err := w.run(seal.NewID())
		result, text := w.detail()
		if err != nil || out.Reason != c.told || result.Reason != c.told {
			t.Errorf("%s: %s, %s, %v; want %s", name, out.Reason, result.Reason, err, c.told)
		}
		if hides := c.told == ScriptRefused || strings.HasPrefix(c.told, "dependents."); hides && !strings.Contains(text, own) && !strings.Contains(text, "sql.28p01") {
			t.Errorf("%s: the record's readers are not told either: %s", name, text)
		}
		for _, signed := range w.row().Recent {
			if r, err := trust.OpenResult(w.log, signed); err != nil || r.Reason == own {
				t.Errorf("%s: a result says %q, %v", name, r.Reason, err)
			}
		}
		for _, f := range append(w.told, w.vault.last.Refusals...) {
			if f.Reason == own {
				t.Errorf("%s: an event says it", name)
			}
		}
	}
}

func TestReasonsInReplies(t *testing.T) {
	var own *sdk.Error
	err := withoutOwnWords(&sdk.Error{Class: sdk.ClassAuth, Reason: "dlo"})
	if _, reason := Classify(err); reason != ScriptRefused || !errors.As(err, &own) || own.Class != sdk.ClassAuth || !strings.Contains(err.Error(), "dlo") {
		t.Errorf("a script's own word: %v", err)
	}
	if _, reason := Classify(withoutOwnWords(&sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused"})); reason != "admin.refused" {
		t.Errorf("one of Rotunda's own: %s", reason)
	}
	if _, reason := Classify(withoutOwnWords(errors.New("x"))); reason != "internal" {
		t.Errorf("an error without a class: %s", reason)
	}
}

// Whatever the agent itself gives as a reason is told, also of a run that uses a script.
func TestReasonsOfTheAgent(t *testing.T) {
	codes := regexp.MustCompile(`Reason: +"([a-z_.]+)"|sdk\.Class\w+, "([a-z_.]+)"|return "(dial\.[a-z]+)"|Reason = "([a-z_.]+)"|comeAgain\("([a-z_.]+)"|\t\w+ +Reason = "([a-z_]+)"`)
	found := 0
	for _, dir := range []string{".", "../pluginhost", "../jump", ".."} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, no files", dir, err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range codes.FindAllStringSubmatch(string(text), -1) {
				found++
				if code := strings.Join(m[1:], ""); !isPlain(code) {
					t.Errorf("%s: reason %s is none that may be told", f, code)
				}
			}
		}
	}
	if found < 60 {
		t.Errorf("only %d reasons were found: the test reads the wrong files", found)
	}
	for _, code := range []string{
		"bad_secret", "locked", "expired", "disabled", "no_login", "throttled", "unreachable", "deadline", "target_identity",
		"admin.refused", "account.missing", "policy.refused", "policy.charset", "dial.timeout", "script.error",
	} {
		if !isPlain(code) {
			t.Errorf("%s is none that may be told", code)
		}
	}
	for _, code := range []string{"dlo", "sql.28p01", "policy.hunter2", "dial.hunter2"} {
		if isPlain(code) {
			t.Errorf("%s may be told", code)
		}
	}
}
