package pluginv1

// What both sides must agree on besides the messages.
const (
	// Protocol is the version of this package. The agent offers those that it knows,
	// the plugin picks the highest that both have.
	Protocol = 1

	// Cookie tells a plugin that an agent started it; it is no secret.
	CookieKey   = "ROTUNDA_PLUGIN"
	CookieValue = "e1cdd3f5-rotunda-plugin"

	// EnvDeath names the descriptor of the death pipe: the plugin ends at its end of file,
	// which comes when the agent closes it or dies. Windows has none: a job object there.
	EnvDeath = "ROTUNDA_DEATH_FD"

	MaxMessage = 1 << 20
	MaxReason  = 64
	MaxSteps   = 64       // of one dependent
	MaxStep    = 64 << 10 // bytes of a step's data
	MaxTitle   = 256      // bytes of a step's id, or of its title
	MaxLogLine = 32 << 10
	MaxItems   = 1000 // of one List
	MaxID      = 256  // bytes of a credential's id
	MaxScript  = 256 << 10
	MaxOutput  = 8 << 10 // bytes of what a Run says for people

	// Of one Discover: accounts, and bytes of all that is said of them.
	MaxFound      = 2000
	MaxFoundBytes = 128 << 10

	// Keys of a log line, which is hclog's JSON with two of our own: the job that it
	// belongs to, and a progress step in place of a message.
	LogLevel    = "@level"
	LogMessage  = "@message"
	LogTime     = "@timestamp"
	LogJob      = "@job"
	LogProgress = "@progress"

	// Capabilities of a manifest. One more in each Describe is random, in both
	// directions, so that nobody comes to rely on a closed list: it begins with Grease.
	CapRotator    = "rotator"
	CapRetire     = "retire"
	CapReadback   = "readback"
	CapMint       = "mint"
	CapDependents = "dependents"
	CapProvision  = "provision"
	CapAfter      = "after"
	CapGenerator  = "generator"
	CapDiscoverer = "discoverer"
	Grease        = "grease."
)
