package run

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk"
)

// What a script puts away is there for it in this place alone, in no file in clear, and
// bounded.
func TestScriptState(t *testing.T) {
	w := newWorld(t, false)
	here, script := w.account, w.ref()
	at := scriptState{w.engine, here, script, here}
	get := func(s scriptState, name string) string {
		t.Helper()
		v, isSecret, known, err := s.Get(name)
		must(t, err)
		if !known {
			return "nothing"
		}
		return strconv.FormatBool(isSecret) + " " + string(v)
	}
	if got := get(at, "n"); got != "nothing" {
		t.Errorf("at first there is %q", got)
	}
	must(t, at.Set("n", []byte("clear-text-of-state"), false))
	must(t, at.Set("token", []byte("secret-of-state"), true))
	if n, token := get(at, "n"), get(at, "token"); n != "false clear-text-of-state" || token != "true secret-of-state" {
		t.Errorf("it has %q and %q", n, token)
	}
	for what, other := range map[string]scriptState{"another account's": {w.engine, here, script, w.admin}, "another place's": {w.engine, w.res, script, here}, "another script's": {w.engine, here, w.ref(), here}} {
		if got := get(other, "token"); got != "nothing" {
			t.Errorf("%s has %q", what, got)
		}
	}
	file, err := os.ReadFile(w.journal)
	must(t, err)
	if bytes.Contains(file, []byte("-of-state")) {
		t.Error("the journal has it in clear")
	}

	// One that somebody moved to another place is none, and can be begun anew.
	box, err := w.engine.Journal.ScriptState(here, script, here)
	must(t, err)
	other := scriptState{w.engine, here, w.ref(), here}
	var e *sdk.Error
	for _, to := range []scriptState{{w.engine, here, script, w.admin}, other} {
		must(t, w.engine.Journal.PutScriptState(to.by, to.script, to.account, box))
		if _, _, _, err := to.Get("token"); !errors.As(err, &e) || e.Reason != "state.broken" {
			t.Errorf("a moved one: %v", err)
		}
	}
	must(t, other.Set("n", []byte("anew"), false))
	if got := get(other, "n"); got != "false anew" || get(other, "token") != "nothing" {
		t.Errorf("begun anew it has %q and %q", got, get(other, "token"))
	}

	for _, too := range []func() error{
		func() error { return at.Set("big", []byte(strings.Repeat("x", maxStateBytes)), false) },
		func() (err error) {
			for n := range maxStateNames {
				err = errors.Join(err, at.Set("n"+strconv.Itoa(n), []byte{}, false))
			}
			return err
		},
	} {
		if err := too(); !errors.As(err, &e) || e.Reason != "state.full" {
			t.Errorf("too much: %v", err)
		}
	}
	if got := get(at, "token"); got != "true secret-of-state" {
		t.Errorf("after what was too much it has %q", got)
	}

	must(t, other.Set("n", nil, false))
	if box, err := w.engine.Journal.ScriptState(other.by, other.script, other.account); err != nil || box != nil {
		t.Errorf("when all is forgotten the journal has %d bytes, %v", len(box), err)
	}
}
