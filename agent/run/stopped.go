package run

import (
	"fmt"
	"slices"
	"sync"

	"github.com/rotunda-pam/rotunda/agent/local"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// stopping are the reasons of a script that was ended by force, failed by a fault of its own,
// or asked for what it may not have. A target's refusal is none of them.
var stopping = []string{
	string(pluginhost.PluginCrashed), string(pluginhost.PluginDeadline), string(pluginhost.PluginDeaf), string(pluginhost.PluginProtocol),
	"script.error", "dial.refused", "http.redirect", local.Policy, local.Manifest, string(trust.Malformed),
}

// stops is what tells of a script by an event: of each reason once, whatever the script says of
// it itself. Nothing of its own words is told: they may have a secret in them.
func (e *Engine) stops(h *hosted) func(reason string) {
	var mu sync.Mutex
	var told []string
	record := h.account
	if record.IsZero() {
		record = h.by.Ref
	}
	return func(reason string) {
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(stopping, reason) || slices.Contains(told, reason) {
			return
		}
		told = append(told, reason)
		event := ksm.Refusal{
			Name: "script.stopped", Reason: reason, Record: wireRef(record), Time: e.Now().UnixMilli(),
			Fields: map[string]string{"sha256": fmt.Sprintf("%x", h.use.Sha256)},
		}
		if !h.run.IsZero() {
			event.RunID = h.run.Bytes()
		}
		e.Tell(event)
	}
}
