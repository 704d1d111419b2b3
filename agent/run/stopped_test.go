package run

import (
	"reflect"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// What stops a script is told once, with its file and its run; a script's own word never is.
func TestStoppedScriptsAreTold(t *testing.T) {
	w := newWorld(t, false)
	h := &hosted{use: &trustv1.ScriptUse{Sha256: []byte{0xab}}, account: w.account, run: seal.NewID()}
	stopped := w.engine.stops(h)
	for _, reason := range []string{"", "script.error", "script.error", "my.own.word", "unreachable", "dial.refused"} {
		stopped(reason)
	}
	if len(w.told) != 2 || w.told[0].Reason != "script.error" || w.told[1].Reason != "dial.refused" {
		t.Fatalf("told: %+v", w.told)
	}
	if e := w.told[1]; e.Name != "script.stopped" || !reflect.DeepEqual(e.Record, wireRef(w.account)) || seal.ID(e.RunID) != h.run || e.Fields["sha256"] != "ab" {
		t.Errorf("%+v", e)
	}
}
