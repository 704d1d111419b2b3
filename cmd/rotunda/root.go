package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"charm.land/fang/v2"
	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/internal/terminal"
)

// cli is one run of the program: its surroundings and the flags that every
// command has.
type cli struct {
	p *process

	profile        string
	json           bool
	quiet          bool
	yes            bool
	passphraseFile string
	timeout        time.Duration

	// stopped is closed by the signal that ends the program; nil: none does.
	stopped <-chan struct{}

	// stderr: the library tells notices and progress from goroutines of its own.
	mu sync.Mutex
}

// run runs the program and gives its exit code.
func run(p *process) exit {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	c := &cli{p: p, stopped: ctx.Done()}
	root := c.tree()
	root.SetArgs(p.args)
	root.SetIn(p.stdin)
	styled := p.stdout
	if p.stdoutTerminal {
		p.stdout = terminal.NewWriter(p.stdout)
	}
	if p.stderrTerminal {
		p.stderr = terminal.NewWriter(p.stderr)
	}
	out := &output{w: p.stdout}
	p.stdout = out
	root.SetOut(p.stdout)
	if c.styled(root) { // help alone goes there, which is this program's own text
		root.SetOut(styled)
	}
	root.SetErr(p.stderr)

	signals := make(chan os.Signal, 1)
	stop := p.notify(signals)
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-signals:
			// A second signal has its default effect: a person can always leave.
			stop()
			cancel(errInterrupted)
		case <-done:
		}
	}()
	err := c.execute(ctx, root)
	close(done)
	<-watched
	stop()

	if err == nil && out.err != nil {
		err = outputLost(out.err) // of what is not printed by emit: help texts
	}
	if err == nil {
		return exitOK
	}
	if errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), errInterrupted) {
		err = errInterrupted
	}
	return report(p.stderr, err, c.json || wantsJSON(p.args))
}

var errInterrupted = failf(exitInterrupted, "interrupted", "interrupted").
	withHint("a run that was started goes on: `rotunda run list --unfinished` shows it")

// interrupted reports whether it was the signal that ended this.
func interrupted(err error) bool {
	return errors.Is(err, errInterrupted) || errors.Is(err, context.Canceled)
}

// execute runs the tree. Help for a person at a terminal is styled by fang, which
// asks the terminal for its colours: nothing else goes through it.
func (c *cli) execute(ctx context.Context, root *cobra.Command) error {
	if !c.styled(root) {
		root.SilenceUsage, root.SilenceErrors = true, true
		return root.ExecuteContext(ctx)
	}
	return fang.Execute(ctx, root,
		fang.WithoutManpage(), fang.WithoutVersion(), fang.WithoutCompletions(),
		fang.WithErrorHandler(func(io.Writer, fang.Styles, error) {}))
}

// narrowest is the least width of a terminal that styled help fits in.
const narrowest = 40

func (c *cli) colourful() bool {
	return c.p.stdoutTerminal && c.p.getenv("NO_COLOR") == "" && c.p.getenv("TERM") != "dumb" && c.p.width() >= narrowest
}

// styled says whether the command line asks for help that is styled.
func (c *cli) styled(root *cobra.Command) bool { return c.colourful() && wantsHelp(root, c.p.args) }

// wantsHelp reports whether the command line ends in a help text.
func wantsHelp(root *cobra.Command, args []string) bool {
	for _, a := range args {
		switch a {
		case "--":
			return false
		case "-h", "--help", "help":
			return true
		}
	}
	cmd, rest, err := root.Find(args)
	return err == nil && len(rest) == 0 && cmd.HasSubCommands()
}

// wantsJSON looks for --json where the flags could not be read to their end.
func wantsJSON(args []string) bool {
	for _, a := range args {
		switch a {
		case "--":
			return false
		case "--json", "--json=true":
			return true
		}
	}
	return false
}

// tree is the whole command tree.
func (c *cli) tree() *cobra.Command {
	root := c.group("rotunda", "keep, rotate and use privileged credentials",
		`Rotunda rotates privileged credentials inside networks that accept no inbound
traffic, for people who must not trust the service in the middle.

Records are named by title, by folder/title, or by uid. A name that fits
several is an error that lists them. Results go to standard output, everything
else to standard error; with --json a result is one line of JSON, and so is an
error. Exit codes are stable: see docs/cli.md.`)
	root.AddGroup(
		&cobra.Group{ID: "start", Title: "Start and sign in"},
		&cobra.Group{ID: "directory", Title: "People, machines, folders"},
		&cobra.Group{ID: "vault", Title: "Records"},
		&cobra.Group{ID: "rotate", Title: "Rotation"},
		&cobra.Group{ID: "watch", Title: "Look and check"},
	)
	in := func(group string, list ...*cobra.Command) {
		for _, cmd := range list {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	in("start", c.orgCmd(), c.joinCmd(), c.unlockCmd(), c.lockCmd())
	in("directory", c.memberCmd(), c.deviceCmd(), c.agentCmd(), c.appCmd(), c.folderCmd())
	in("vault", c.recordCmd(), c.resourceCmd())
	in("rotate", c.rotationCmd(), c.rotateCmd(), c.verifyCmd(), c.runCmd(), c.scriptCmd(), c.pluginCmd())
	in("watch", c.logCmd(), c.eventsCmd(), c.doctorCmd())
	root.AddCommand(c.versionCmd(), c.completionCmd(), c.docsCmd())

	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Use: "help [command]", Short: "help about a command", Hidden: true, RunE: func(_ *cobra.Command, args []string) error {
		target, rest, err := root.Find(args)
		if err != nil || len(rest) > 0 {
			return usagef("no command %q", strings.Join(args, " "))
		}
		return target.Help()
	}})
	root.SetFlagErrorFunc(flagError)

	f := root.PersistentFlags()
	f.StringVar(&c.profile, "profile", "", "profile to use (default \"default\"; environment ROTUNDA_PROFILE)")
	f.BoolVar(&c.json, "json", false, "print the result as JSON")
	f.BoolVarP(&c.quiet, "quiet", "q", false, "no progress on standard error")
	f.BoolVarP(&c.yes, "yes", "y", false, "answer yes to questions")
	f.StringVar(&c.passphraseFile, "passphrase-file", "", "file with the passphrase of this device (environment ROTUNDA_PASSPHRASE_FILE)")
	f.DurationVar(&c.timeout, "timeout", 0, "give up after this long (0: no limit but each call's own)")
	c.completeTree(root)
	return root
}

// group is a command that only holds others. It refuses a word that it does
// not know instead of printing help for it.
func (c *cli) group(use, short, long string) *cobra.Command {
	return &cobra.Command{
		Use:                        use,
		Short:                      short,
		Long:                       long,
		DisableFlagsInUseLine:      true,
		SuggestionsMinimumDistance: 2,
		Args:                       cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
}

func unknownCommand(in *cobra.Command, word string) error {
	if there, on := elsewhere(in, word); there != "" {
		return usagef("%s has no command %q: it is %s, on the %s's host", in.CommandPath(), word, there, on).
			withHint("`%s --help` explains it", there)
	}
	err := usagef("%s has no command %q", in.CommandPath(), word)
	if near := in.SuggestionsFor(word); len(near) > 0 {
		return err.withHint("did you mean `%s %s`?", in.CommandPath(), near[0])
	}
	return err.withHint("`%s --help` lists the commands", in.CommandPath())
}

// elsewhere names the command of another program that somebody looks for in this one.
func elsewhere(in *cobra.Command, word string) (there, on string) {
	_, below, _ := strings.Cut(in.CommandPath(), " ")
	switch strings.TrimSpace(below + " " + word) {
	case "backup", "restore", "restored", "serve", "setup-code", "machine-key":
		return "rotunda-server " + word, "server"
	case "enrol", "reset-clock":
		return "rotunda-agent " + word, "agent"
	case "plugin install", "plugin upgrade", "plugin rollback":
		return "rotunda-agent plugin " + word, "agent"
	}
	return "", ""
}

// leaf is a command that does something. use names the arguments in capitals;
// their number is checked against it: "NAME" is one, "[NAME]" at most one,
// "NAME..." at least one.
func (c *cli) leaf(use, short string, do func(ctx context.Context, args []string) error) *cobra.Command {
	least, most := 0, 0
	words := strings.Fields(use)[1:]
	for _, w := range words {
		optional, many := strings.HasPrefix(w, "["), strings.Contains(w, "...")
		if !optional {
			least++
		}
		most++
		if many {
			most = 1 << 20
		}
	}
	return &cobra.Command{
		Use:               use,
		Short:             short,
		ValidArgsFunction: cobra.NoFileCompletions,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) >= least && len(args) <= most {
				for i, a := range args {
					if strings.TrimSpace(a) == "" {
						return usagef("%s: %s is empty", cmd.CommandPath(), strings.Trim(words[min(i, len(words)-1)], "[]."))
					}
				}
				return nil
			}
			want := strings.Join(words, " ")
			if want == "" {
				want = "no arguments"
			}
			return usagef("%s wants %s, not %d argument%s", cmd.CommandPath(), want, len(args), plural(len(args))).
				withHint("`%s --help` explains it", cmd.CommandPath())
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if c.timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, c.timeout)
				defer cancel()
			}
			return do(ctx, args)
		},
	}
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// help gives a command its long text and examples.
func help(cmd *cobra.Command, long, example string) *cobra.Command {
	cmd.Long = long
	if example != "" {
		cmd.Example = "  " + strings.ReplaceAll(example, "\n", "\n  ")
	}
	return cmd
}

// inputTime reads a moment or a span from now: "2026-12-31", RFC 3339, "90d", "36h".
func (c *cli) inputTime(s string) (time.Time, error) {
	if d, err := inputSpan(s); err == nil {
		return c.p.now().Add(d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("%q is no time: write 2026-12-31, 2026-12-31T15:04, RFC 3339, or a span such as 90d or 36h", s)
}

// inputSpan reads a duration that may be given in days.
func inputSpan(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(days, "%d", &n); err != nil || fmt.Sprint(n) != days || n < 0 || n > 36500 {
			return 0, usagef("%q is no number of days", s)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, usagef("%q is no span: write 90d, 36h, 15m", s)
	}
	return d, nil
}
