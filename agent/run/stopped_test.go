package run

import (
	"errors"
	"reflect"
	"testing"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// What stops a script is told at the run's end, once and in one order, with its file and its
// run; a script's own word never is.
func TestStoppedScriptsAreTold(t *testing.T) {
	w := newWorld(t, false)
	h := &hosted{use: &trustv1.ScriptUse{Sha256: []byte{0xab}}, account: w.account}
	(*hosted)(nil).failed(errors.New("no script was called"))
	h.came("dial.refused")
	for _, err := range []error{
		nil, errors.New("plain"), &sdk.Error{Reason: "my.own.word"}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "unreachable"},
		&sdk.Error{Reason: "script.error"}, &sdk.Error{Reason: "script.error"}, &pluginhost.Error{Reason: pluginhost.PluginCrashed},
	} {
		h.failed(err)
	}
	if len(w.told) > 0 {
		t.Errorf("told before the end: %+v", w.told)
	}
	run := seal.NewID()
	w.engine.tellStopped(h, run)
	w.engine.tellStopped(h, run)
	var reasons []string
	for _, e := range w.told {
		reasons = append(reasons, e.Reason)
		if e.Name != "script.stopped" || !reflect.DeepEqual(e.Record, wireRef(w.account)) || seal.ID(e.RunID) != run || e.Fields["sha256"] != "ab" {
			t.Errorf("%+v", e)
		}
	}
	if want := []string{"plugin_crashed", "script.error", "dial.refused"}; !reflect.DeepEqual(reasons, want) {
		t.Errorf("told %v, want %v", reasons, want)
	}
}
