package sdk

// Serve is the whole main function of a plugin. It returns when the agent ends the
// process, and panics when manifest and interfaces disagree.
func Serve(p ...Plugin) { panic("unbuilt") }
