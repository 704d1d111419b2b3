package socket

// Path is where the server opens agents' channels.
const Path = "/api/rotunda/v1/agent/channel"

// Reason codes of a Refused frame: why the router opens no channel, or ends one
// for good.
const (
	Malformed    = "malformed"     // the answer to the challenge was none
	AgentUnknown = "agent_unknown" // no such agent on this server: enrol it
	WrongOrg     = "wrong_org"     // the agent belongs to another organisation of this server
	Revoked      = "revoked"       // the agent was removed from the log
	SignatureBad = "signature_bad" // another key, another host name, or TLS that ends in between
	Busy         = "busy"          // the server holds as many channels as it may: come back later
	Replaced     = "replaced"      // the same agent opened a newer channel
)
