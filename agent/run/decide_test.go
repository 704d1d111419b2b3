package run

import (
	"testing"

	"github.com/rotunda-pam/rotunda/sdk"
)

func TestDecide(t *testing.T) {
	const notAsked = sdk.Verdict(99)
	for _, c := range []struct {
		name      string
		drives    who
		candidate sdk.Verdict
		refused   bool
		current   sdk.Verdict
		want      action
	}{
		{"accepted commits, whoever drives", byAdmin, sdk.Accepted, false, notAsked, actCommit},
		{"accepted commits without trying the current secret", bySelf, sdk.Accepted, false, notAsked, actCommit},
		{"accepted commits even after a refusal", byAdmin, sdk.Accepted, true, notAsked, actCommit},
		{"rejected is applied again by an administrator", byAdmin, sdk.Rejected, false, notAsked, actAgain},
		{"rejected and refused is abandoned", byAdmin, sdk.Rejected, true, notAsked, actAbandon},
		{"undecided keeps both", byAdmin, sdk.Undecided, false, notAsked, actLater},
		{"undecided keeps both even after a refusal", byAdmin, sdk.Undecided, true, notAsked, actLater},
		{"itself: undecided asks no further", bySelf, sdk.Undecided, false, notAsked, actLater},
		{"itself: current works, so apply again", bySelf, sdk.Rejected, false, sdk.Accepted, actAgain},
		{"itself: current works and the target refused", bySelf, sdk.Rejected, true, sdk.Accepted, actAbandon},
		{"itself: neither works", bySelf, sdk.Rejected, false, sdk.Rejected, actStop},
		{"itself: neither works, refused", bySelf, sdk.Rejected, true, sdk.Rejected, actStop},
		{"itself: current undecided", bySelf, sdk.Rejected, false, sdk.Undecided, actLater},
		{"a verdict of a later version overwrites nothing", byAdmin, sdk.Verdict(7), false, notAsked, actLater},
	} {
		asked := 0
		got := decide(c.drives, c.candidate, c.refused, func() sdk.Verdict {
			asked++
			if c.current == notAsked {
				t.Errorf("%s: the current secret was tried", c.name)
			}
			return c.current
		})
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if asked > 1 {
			t.Errorf("%s: the current secret was tried %d times", c.name, asked)
		}
	}
}
