// Package cmdtree runs the command trees of all programs alike.
package cmdtree

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rotunda-pam/rotunda/internal/exitcode"
)

// Execute runs a command tree. An error from before the command itself began is one of
// the command line: [exitcode.Usage].
func Execute(ctx context.Context, root *cobra.Command) error {
	began := false
	mark(root, &began)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return FlagError(err) })
	err := root.ExecuteContext(ctx)
	if err != nil && !began {
		return exitcode.With(exitcode.Usage, err)
	}
	return err
}

func mark(cmd *cobra.Command, began *bool) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*began = true
			return run(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		mark(sub, began)
	}
}

// FlagError says in plain words what is wrong with a flag: what the language's own
// readers say is for programmers.
func FlagError(err error) error {
	bad, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	f := bad.GetFlag()
	return fmt.Errorf("--%s %q: %s", f.Name, bad.GetValue(), wanted(f.Value, bad.Unwrap()))
}

// wanted is what a flag takes.
func wanted(v pflag.Value, cause error) string {
	switch v.Type() {
	case "bool":
		return "it is true or false, or stands alone"
	case "duration":
		return "it is a span such as 90s, 15m or 36h"
	case "int", "int64":
		return "it is a whole number"
	case "uint16":
		return "it is a number from 0 to 65535"
	case "uint32":
		return "it is a number from 0 to 4294967295"
	case "stringSlice":
		return "it is a list with commas, without quotation marks"
	}
	return cause.Error()
}
