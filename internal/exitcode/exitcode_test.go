package exitcode_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/spf13/cobra"

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

func TestWhatNeverBeganIsUsage(t *testing.T) {
	for _, row := range []struct {
		args []string
		want exitcode.Code
	}{
		{[]string{"do", "--n", "1"}, exitcode.Internal},
		{[]string{"do"}, exitcode.Usage},
		{[]string{"do", "--n", "x"}, exitcode.Usage},
		{[]string{"do", "--n", "1", "more"}, exitcode.Usage},
		{[]string{"do", "--m"}, exitcode.Usage},
		{[]string{"undo"}, exitcode.Usage},
		{nil, exitcode.OK},
	} {
		root := &cobra.Command{Use: "program", SilenceErrors: true, SilenceUsage: true}
		do := &cobra.Command{Use: "do", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return errors.New("failed") }}
		do.Flags().Int("n", 0, "a number")
		if err := do.MarkFlagRequired("n"); err != nil {
			t.Fatal(err)
		}
		root.AddCommand(do)
		root.SetArgs(row.args)
		if row.args == nil {
			root.SetArgs([]string{})
		}
		err := exitcode.Execute(context.Background(), root)
		if got := exitcode.Of(err, exitcode.Internal); got != row.want {
			t.Errorf("%v: %d, want %d (%v)", row.args, got, row.want, err)
		}
	}
}
