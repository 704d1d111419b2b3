package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/cmdtree"
)

// The closed sets of values that flags take: anything else is a usage error, and the
// shell completes them.
var (
	recordStates = stateWords(client.InUse, client.Unconfirmed, client.Unattested, client.Unsigned,
		client.EditedOutside, client.NotLinked, client.RolledBack, client.Kept, client.Broken)
	refusedStates   = stateWords(client.Unsigned, client.EditedOutside, client.RolledBack, client.Broken) // in which --field prints no secret
	rotationStates  = []string{"scheduled", "paused", "running", "retrying", "alert", "done"}
	missedTimes     = []string{"skip", "once"}
	resourceKinds   = []string{"machine", "database", "directory"}
	tlsModes        = []string{"off", "system", "pin"}
	secretKinds     = []string{"password", "ssh_key", "api_key", "token"}
	verifyModes     = []string{"login", "readback"}
	roleWords       = []string{"read", "edit", "operate", "share", "approve_script", "admin", "all", "none"}
	knownTypes      = []string{client.TypeAccount, client.TypeMachine, client.TypeDatabase, client.TypeDirectory, client.TypeLogin, client.TypeScript}
	recordFields    = []string{"secret", "login", "url", "notes", "public_key", "key_id"}
	eventGroups     = []string{"agent.", "app.", "append.", "candidate.", "candidate_lost_by_vault", "channel.", "client.", "command.", "device.", "enrol.", "enrolment.", "file.", "folder.", "grant.", "lease.", "log.", "log_rollback", "member.", "org.", "plugin.", "policy.", "pool.", "record.", "record_edited", "recovery.", "result.", "root.", "run.", "schedule.", "script.", "server.", "session.", "statement.", "target.", "value_fork"}
	systems         = []string{"linux", "darwin", "windows"}
	processors      = []string{"amd64", "arm64"}
	completedShells = []string{"bash", "zsh", "fish", "powershell"}
)

// stateWords are states as a shell writes them, without spaces.
func stateWords(states ...client.ValueState) []string {
	var out []string
	for _, s := range states {
		out = append(out, stateWord(string(s)))
	}
	return out
}

func stateWord(s string) string { return strings.ReplaceAll(s, " ", "_") }

// choice is a flag whose values are a closed set.
type choice struct {
	to    *string
	usual string
	of    []string
}

func (v choice) String() string {
	if v.to == nil {
		return ""
	}
	return *v.to
}

func (v choice) Type() string { return "string" }

func (v choice) Set(s string) error {
	unset := s == "" && v.usual == ""
	if !unset && !slices.Contains(v.of, stateWord(s)) {
		return errors.New("it is " + orList(v.of))
	}
	*v.to = stateWord(s)
	return nil
}

// choiceVar is a flag that takes one of a closed set.
func choiceVar(cmd *cobra.Command, to *string, name, usual string, of []string, usage string) {
	*to = usual
	cmd.Flags().Var(choice{to, usual, of}, name, usage)
	completes(cmd, name, of)
}

// completes has the shell complete a flag's values.
func completes(cmd *cobra.Command, name string, of []string) {
	err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(of, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag is not there, or has its completion: a mistake in this program
	}
}

// orList is "a, b or c".
func orList(of []string) string {
	if len(of) == 1 {
		return of[0]
	}
	return strings.Join(of[:len(of)-1], ", ") + " or " + of[len(of)-1]
}

// flagError says in plain words what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	if words := cmd.Flags().Args(); cmd.HasSubCommands() && len(words) > 0 {
		return unknownCommand(cmd, words[0]) // the flag is of a command that there is not
	}
	return usagef("%w", cmdtree.FlagError(err)).withHint("`%s --help` lists the flags", cmd.CommandPath())
}
