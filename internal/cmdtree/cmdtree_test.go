package cmdtree_test

import (
	"context"
	"errors"
	"testing"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/internal/cmdtree"
	"github.com/rotunda-pam/rotunda/internal/exitcode"
)

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
		err := cmdtree.Execute(context.Background(), root)
		if got := exitcode.Of(err, exitcode.Internal); got != row.want {
			t.Errorf("%v: %d, want %d (%v)", row.args, got, row.want, err)
		}
	}
}
