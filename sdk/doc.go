// Package sdk is what the author of a Rotunda plugin imports, and all of it.
//
// A plugin is one program that teaches the agent one kind of target. It runs in a
// process of its own, started by the agent for one resource, shut in: no network
// but the [Dialer] that it is handed, no environment, no secrets but those of the
// job in hand. Its main function is one call of [Serve]:
//
//	func main() {
//		sdk.Serve(sdk.Plugin{
//			Manifest: sdk.Manifest{Name: "rest", Version: "1.0.0", Kinds: []sdk.Kind{sdk.Password}},
//			Rotator:  plugin{},
//		})
//	}
//
// # What a rotation asks of a plugin
//
//	prepare -> stage -> apply -> verify -> commit -> dependents -> drain -> retire -> scripts
//	 agent     agent    Apply    Verify    agent     agent         agent    Retire    agent
//
// The agent makes the candidate secret and has it stored durably before the plugin
// hears of it. After a crash the agent asks Verify which secret opens the target and
// calls Apply again with the same candidate. So two things matter more than all else:
//
//   - Not knowing is an answer. The zero values [Unknown] and [Undecided] overwrite
//     nothing and lose nothing; a wrong [Unchanged] or [Rejected] loses a credential.
//   - Every verb can be repeated, because it will be.
//
// Sentences with "must" on the interfaces are each proven by the test of the
// conformance kit (package conformance) that is named in brackets.
//
// docs/plugins/write.md writes a plugin from nothing.
//
// # Secrets
//
// A [Secret] is not printed by any formatter, logger or encoder. Call Expose only
// where a driver takes the value, and never put it into an argument vector, an
// environment, an error or a command line.
//
// # Growth
//
// In version 1 structs may gain fields, interfaces never change: a new verb is a new
// interface. A plugin that was built against an older SDK keeps working.
package sdk
