package pluginhost

import (
	"errors"

	"github.com/rotunda-pam/rotunda/sdk"
)

// Reason is a stable code of what went wrong between agent and plugin.
type Reason string

// The reasons.
const (
	PluginUnknown  Reason = "plugin_unknown"  // no such plugin, or its hash is in no list, or the file does not have it
	PluginStart    Reason = "plugin_start"    // the process could not be started
	PluginProtocol Reason = "plugin_protocol" // no or another protocol, malformed or oversized messages
	PluginManifest Reason = "plugin_manifest" // it is not what it says it is
	PluginCrashed  Reason = "plugin_crashed"  // the process ended while it was needed
	PluginDeaf     Reason = "plugin_deaf"     // it did not answer 2 s after the deadline, and was killed
	PluginBusy     Reason = "plugin_busy"     // the context ended while waiting for a process or a turn
	PluginDeadline Reason = "plugin_deadline" // the context ended during the call
	SessionClosed  Reason = "session_closed"  // its connections were cut before the call
	HostClosed     Reason = "host_closed"     // the host is shutting down
	BadRequest     Reason = "bad_request"     // the caller's own request cannot be sent
)

// Error is a failure between agent and plugin. What a plugin itself reports is an
// *sdk.Error, possibly inside one of these.
type Error struct {
	Reason Reason
	Plugin string
	// NotSent says that the call never reached the plugin, so nothing can have changed.
	NotSent bool
	Err     error // scrubbed of the job's secrets
}

func (e *Error) Error() string {
	s := "plugin " + e.Plugin + ": " + string(e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// ReasonOf is the stable code of any error of this package: the plugin's own if it
// gave one, else the host's; empty for other errors.
func ReasonOf(err error) string {
	if e := (*sdk.Error)(nil); errors.As(err, &e) {
		return e.Reason
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return string(e.Reason)
	}
	return ""
}

// NotSent tells whether err proves that nothing reached the target.
func NotSent(err error) bool {
	if e := (*sdk.Error)(nil); errors.As(err, &e) {
		return e.NotSent
	}
	e := (*Error)(nil)
	return errors.As(err, &e) && e.NotSent
}
