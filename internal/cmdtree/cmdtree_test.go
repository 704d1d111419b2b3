package cmdtree_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/internal/cmdtree"
	"github.com/rotunda-pam/rotunda/internal/exitcode"
)

// What is no command, and arguments that a command does not take: the error says which
// there are, in every program alike.
func TestWhatIsWanted(t *testing.T) {
	for _, row := range []struct {
		args []string
		says string // empty: it is no error
	}{
		{[]string{"take", "a"}, ""},
		{[]string{"take"}, "program take wants FILE, not 0 arguments: `program take --help` explains it"},
		{[]string{"take", "a", "b"}, "program take wants FILE, not 2 arguments: `program take --help` explains it"},
		{[]string{"things", "list", "all"}, "program things list wants no arguments, not 1 argument: `program things list --help` explains it"},
		{[]string{"things"}, ""},
		{[]string{"things", "remove"}, "program things has no command \"remove\": `program things --help` lists them"},
		{[]string{"things", "remove", "--n", "1"}, "program things has no command \"remove\": `program things --help` lists them"},
		{[]string{"things", "--n", "1"}, "unknown flag: --n"},
		{[]string{"completion", "cmd"}, "program completion has no command \"cmd\": `program completion --help` lists them"},
		{[]string{"help"}, ""},
		{[]string{"help", "things", "list"}, ""},
		{[]string{"help", "remove"}, "program has no command \"remove\": `program --help` lists them"},
		{[]string{"help", "things", "remove"}, "program things has no command \"remove\": `program things --help` lists them"},
	} {
		root := &cobra.Command{Use: "program", SilenceErrors: true, SilenceUsage: true}
		things := &cobra.Command{Use: "things"}
		nothing := func(*cobra.Command, []string) error { return nil }
		things.AddCommand(&cobra.Command{Use: "list", Args: cobra.NoArgs, RunE: nothing})
		root.AddCommand(things, &cobra.Command{Use: "take FILE --key KEY", Args: cobra.ExactArgs(1), RunE: nothing})
		root.SetOut(io.Discard)
		root.SetArgs(row.args)
		err := cmdtree.Execute(context.Background(), root)
		switch {
		case row.says == "" && err != nil:
			t.Errorf("%v: %v", row.args, err)
		case row.says != "" && (err == nil || err.Error() != row.says || exitcode.Of(err, exitcode.Internal) != exitcode.Usage):
			t.Errorf("%v: %v (%d), want a usage error: %s", row.args, err, exitcode.Of(err, exitcode.Internal), row.says)
		}
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
		err := cmdtree.Execute(context.Background(), root)
		if got := exitcode.Of(err, exitcode.Internal); got != row.want {
			t.Errorf("%v: %d, want %d (%v)", row.args, got, row.want, err)
		}
	}
}
