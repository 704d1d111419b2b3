package run

import "github.com/rotunda-pam/rotunda/sdk"

// action is what follows from a probe of an outstanding candidate.
type action string

const (
	actCommit  action = "commit"
	actAgain   action = "apply again" // the same candidate, never another
	actAbandon action = "abandon"
	actLater   action = "keep both, later again"
	actStop    action = "stop, keep both, alert"
)

// who drives a change: an administrator of the resource, or the account itself.
type who string

const (
	byAdmin who = "administrator"
	bySelf  who = "itself"
	anyone  who = "any"
)

// notAsked stands where the current secret need not be tried: every login that
// fails costs some of the account's lockout budget.
const notAsked sdk.Verdict = 255

// recovery is the table of what to do with a candidate that may or may not have
// reached the target. The first row that fits decides. An account that cannot log
// in has no verdict and is not in the table: verify applies it again and commits
// on a clear "changed".
var recovery = []struct {
	drives             who
	candidate, current sdk.Verdict
	then               action
}{
	{anyone, sdk.Accepted, notAsked, actCommit},
	{byAdmin, sdk.Rejected, notAsked, actAgain},
	{byAdmin, sdk.Undecided, notAsked, actLater},
	{bySelf, sdk.Undecided, notAsked, actLater},
	{bySelf, sdk.Rejected, sdk.Accepted, actAgain},
	{bySelf, sdk.Rejected, sdk.Rejected, actStop},
	{bySelf, sdk.Rejected, sdk.Undecided, actLater},
}

// decide consults the table; it asks for the current secret's verdict only when
// a row needs it. refused says that the target answered this very candidate with
// a proven "unchanged": then applying it again is useless, and since the probe
// proved it rejected, it is abandoned.
func decide(drives who, candidate sdk.Verdict, refused bool, current func() sdk.Verdict) action {
	asked := notAsked
	for _, r := range recovery {
		if (r.drives != anyone && r.drives != drives) || r.candidate != candidate {
			continue
		}
		if r.current != notAsked {
			if asked == notAsked {
				asked = current()
			}
			if r.current != asked {
				continue
			}
		}
		if r.then == actAgain && refused {
			return actAbandon
		}
		return r.then
	}
	return actLater // a verdict that this agent does not know overwrites nothing
}
