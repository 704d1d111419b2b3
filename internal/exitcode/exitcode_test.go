package exitcode_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/exitcode"
)

func TestTheNearestToTheCauseDecides(t *testing.T) {
	cause := errors.New("cause")
	for _, row := range []struct {
		err  error
		want exitcode.Code
	}{
		{nil, exitcode.OK},
		{cause, exitcode.Internal},
		{exitcode.With(exitcode.Locked, nil), exitcode.OK},
		{exitcode.With(exitcode.Locked, cause), exitcode.Locked},
		{exitcode.With(exitcode.Usage, fmt.Errorf("outer: %w", exitcode.With(exitcode.Locked, cause))), exitcode.Locked},
		{errors.Join(exitcode.With(exitcode.Locked, cause), cause), exitcode.Locked},
	} {
		if got := exitcode.Of(row.err, exitcode.Internal); got != row.want {
			t.Errorf("%v: %d, want %d", row.err, got, row.want)
		}
	}
	if err := exitcode.With(exitcode.Locked, cause); !errors.Is(err, cause) || err.Error() != "cause" {
		t.Errorf("%v", err)
	}
}
