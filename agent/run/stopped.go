package run

import (
	"fmt"
	"slices"
	"sync"

	"github.com/rotunda-pam/rotunda/agent/local"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

// stopping are the reasons of a script that was ended by force, failed by a fault of its own,
// or asked for what it may not have, in the order in which they are told.
var stopping = []string{
	string(pluginhost.PluginStart), string(pluginhost.PluginCrashed), string(pluginhost.PluginDeadline), string(pluginhost.PluginDeaf),
	string(pluginhost.PluginProtocol), scriptError, "dial.refused", local.Policy, local.Manifest,
}

// scriptError is a fault of a script's own: one that Lua found.
const scriptError = "script.error"

// stopped is what a script has come to in a run: what its calls ended with, and what it asked
// the agent for in vain, whatever it says of that itself.
type stopped struct {
	mu      sync.Mutex
	reasons []string
}

// failed notes how a call of the script ended; h may be nil, where no script was called.
func (h *hosted) failed(err error) {
	if h != nil && err != nil {
		h.came(pluginhost.ReasonOf(err))
	}
}

func (h *hosted) came(reason string) {
	h.stopped.mu.Lock()
	defer h.stopped.mu.Unlock()
	if slices.Contains(stopping, reason) && !slices.Contains(h.stopped.reasons, reason) {
		h.stopped.reasons = append(h.stopped.reasons, reason)
	}
}

// tellStopped tells it, of each reason once, when the run has ended and not before: a script
// that chose the time, or the order, would say something by it. run may be zero.
func (e *Engine) tellStopped(h *hosted, run seal.ID) {
	h.stopped.mu.Lock()
	defer h.stopped.mu.Unlock()
	record := h.account
	if record.IsZero() {
		record = h.by.Ref
	}
	for _, reason := range stopping {
		if !slices.Contains(h.stopped.reasons, reason) {
			continue
		}
		event := ksm.Refusal{
			Name: "script.stopped", Reason: reason, Record: wireRef(record), Time: e.Now().UnixMilli(),
			Fields: map[string]string{"sha256": fmt.Sprintf("%x", h.use.Sha256)},
		}
		if !run.IsZero() {
			event.RunID = run.Bytes()
		}
		e.Tell(event)
	}
	h.stopped.reasons = nil
}
