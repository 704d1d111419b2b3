// Package cmdtree runs the command trees of all programs alike.
package cmdtree

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rotunda-pam/rotunda/internal/exitcode"
)

// Execute runs a command tree. An error from before the command itself began is one of
// the command line: [exitcode.Usage].
func Execute(ctx context.Context, root *cobra.Command) error {
	began := false
	root.InitDefaultCompletionCmd()
	root.SetHelpCommand(helpCommand(root))
	mark(root, &began)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if words := cmd.Flags().Args(); cmd.HasSubCommands() && len(words) > 0 {
			return unknown(cmd, words[0]) // the flag is of a command that there is not
		}
		return FlagError(err)
	})
	err := root.ExecuteContext(ctx)
	if err != nil && !began {
		return exitcode.With(exitcode.Usage, err)
	}
	return err
}

func mark(cmd *cobra.Command, began *bool) {
	if cmd.HasParent() && cmd.HasSubCommands() && !cmd.Runnable() {
		group(cmd)
	} else if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*began = true
			return run(cmd, args)
		}
	}
	if fits := cmd.Args; fits != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if fits(cmd, args) != nil {
				return wants(cmd, len(args))
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		mark(sub, began)
	}
}

// group has a command that only holds others refuse a word that it does not know: the
// library prints help for it and calls that a success. Of the root's own it refuses them.
func group(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return unknown(cmd, args[0])
	}
}

func unknown(cmd *cobra.Command, word string) error {
	return fmt.Errorf("%s has no command %q: `%[1]s --help` lists them", cmd.CommandPath(), word)
}

// wants says which arguments a command takes: they are named in its use, before its flags.
func wants(cmd *cobra.Command, n int) error {
	words := strings.Fields(cmd.Use)[1:]
	if i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "-") }); i >= 0 {
		words = words[:i]
	}
	what, s := strings.Join(words, " "), "s"
	if what == "" {
		what = "no arguments"
	}
	if n == 1 {
		s = ""
	}
	return fmt.Errorf("%s wants %s, not %d argument%s: `%[1]s --help` explains it", cmd.CommandPath(), what, n, s)
}

// helpCommand is the library's, which calls help about a command that there is not a success.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [command]", Short: "Help about any command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			switch {
			case err != nil:
				return unknown(root, args[0])
			case len(rest) > 0:
				return unknown(cmd, rest[0])
			}
			cmd.InitDefaultHelpFlag() // else only commands that are run have it
			return cmd.Help()
		},
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
