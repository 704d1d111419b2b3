package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/terminal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

const (
	// completionTime bounds how long the shell waits for names.
	completionTime = 2 * time.Second
	// completionMost bounds how many names it is given.
	completionMost = 500
)

// lister gives the names that an argument may have.
type lister func(context.Context, *client.Client) ([]string, error)

// argumentNames are by the words of usage lines: what a word stands for.
var argumentNames = map[string]lister{
	"RECORD":   recordNames(),
	"RESOURCE": recordNames(resourceTypes[:]...),
	"SCRIPT":   recordNames(client.TypeScript),
	"FOLDER":   folderNames,
	"MEMBER":   entryNames(client.KindMember),
	"DEVICE":   entryNames(client.KindDevice, client.KindEnrolment),
	"AGENT":    entryNames(client.KindAgent, client.KindEnrolment, client.KindPool),
	"APP":      entryNames(client.KindApp),
	"TO":       entryNames(client.KindMember, client.KindPool, client.KindApp),
	"RUN":      runNames,
	"SHA256":   pluginHashes,
}

// flagNames are by the names of flags.
var flagNames = map[string]lister{
	"folder":      folderNames,
	"resource":    recordNames(resourceTypes[:]...),
	"via":         recordNames(resourceTypes[:]...),
	"account":     recordNames(client.TypeAccount),
	"admin":       recordNames(client.TypeAccount),
	"pair":        recordNames(client.TypeAccount),
	"pool":        entryNames(client.KindPool),
	"agent":       entryNames(client.KindAgent),
	"member":      entryNames(client.KindMember),
	"candidate":   runNames,
	"plugin":      pluginNames,
	"rotator":     recordNames(client.TypeScript),
	"script":      recordNames(client.TypeScript),
	"drop-script": recordNames(client.TypeScript),
}

// accountsOnly are the commands whose RECORD is an account.
var accountsOnly = []string{"rotate", "verify", "run", "rotation", "adopt"}

// completeTree tells the shell what every argument and flag of a command tree may be.
func (c *cli) completeTree(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		c.completeTree(sub)
	}
	words := strings.Fields(cmd.Use)[1:]
	if cmd.Runnable() && len(words) > 0 && cmd.ValidArgs == nil {
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			return c.completeArgument(cmd, words, args, typed)
		}
	}
	complete := func(f *pflag.Flag) {
		if _, known := cmd.GetFlagCompletionFunc(f.Name); known || isFile(f) {
			return // a flag without a completion takes files
		}
		list := flagNames[f.Name]
		err := cmd.RegisterFlagCompletionFunc(f.Name, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return c.names(cmd.Context(), list), cobra.ShellCompDirectiveNoFileComp
		})
		if err != nil {
			panic(err)
		}
	}
	cmd.Flags().VisitAll(complete)
	cmd.PersistentFlags().VisitAll(complete)
}

// isFile reports whether a flag takes a file's name.
func isFile(f *pflag.Flag) bool {
	kind, _ := pflag.UnquoteUsage(f)
	return kind == "FILE" || f.Name == "out" || strings.HasSuffix(f.Name, "-file")
}

func (c *cli) completeArgument(cmd *cobra.Command, words, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	last := words[len(words)-1]
	if len(args) >= len(words) && !strings.Contains(last, "...") {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	word := strings.Trim(words[min(len(args), len(words)-1)], "[].")
	switch word {
	case "FILE", "TOKENFILE":
		return nil, cobra.ShellCompDirectiveDefault
	case "KIND":
		return scriptKinds(), cobra.ShellCompDirectiveNoFileComp
	case "ROLES":
		done, _ := cutLast(typed)
		var out []string
		for _, r := range roleWords {
			out = append(out, done+r)
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
	list := argumentNames[word]
	if word == "RECORD" && (slices.Contains(accountsOnly, cmd.Name()) || slices.Contains(accountsOnly, cmd.Parent().Name())) {
		list = recordNames(client.TypeAccount)
	}
	names := c.names(cmd.Context(), list)
	return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(args, n) }), cobra.ShellCompDirectiveNoFileComp
}

// cutLast splits a list with commas before its last part.
func cutLast(s string) (done, last string) {
	n := strings.LastIndexByte(s, ',') + 1
	return s[:n], s[n:]
}

// names asks the server, if this device's store is open. It asks nobody, does none of
// a client's chores, and is silent where it fails: somebody is in the middle of a line.
func (c *cli) names(ctx context.Context, list lister) []string {
	if list == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	p, err := c.openProfile()
	if err != nil {
		return nil
	}
	info, err := p.Info()
	if err != nil || !info.Exists || !info.Unlocked {
		return nil
	}
	cl, err := client.Open(ctx, p, client.Options{
		Passphrase: func(context.Context) (sdk.Secret, error) { return sdk.Secret{}, errNobodyAsked },
		Now:        c.p.now, OnlyLook: true,
	})
	if err != nil {
		return nil
	}
	defer cl.Close()
	names, err := list(ctx, cl)
	if err != nil {
		return nil
	}
	for i, n := range names {
		name, about, has := strings.Cut(n, "\t")
		if names[i] = terminal.Line(name); has {
			names[i] = cobra.CompletionWithDesc(names[i], terminal.Line(about))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var errNobodyAsked = errors.New("nobody is asked while a line is completed")

// recordNames are the titles of records of these types (none: all), with the folder
// where a title is borne by several.
func recordNames(types ...string) lister {
	return func(ctx context.Context, cl *client.Client) ([]string, error) {
		folders, err := cl.Folders(ctx)
		if err != nil {
			return nil, err
		}
		in := map[seal.ID]string{}
		for _, f := range folders {
			in[f.UID] = f.Name
		}
		bearers := map[string][]string{}
		n := 0
		for r, err := range cl.Records(ctx, seal.ID{}, types...) {
			if err != nil {
				return nil, err
			}
			if n++; n > completionMost {
				break
			}
			bearers[r.Title] = append(bearers[r.Title], in[r.Ref.Folder]+"/"+r.Title)
		}
		var names []string
		for title, long := range bearers {
			if len(long) == 1 {
				long = []string{title}
			}
			names = append(names, long...)
		}
		return names, nil
	}
}

func folderNames(ctx context.Context, cl *client.Client) ([]string, error) {
	folders, err := cl.Folders(ctx)
	var names []string
	for _, f := range folders {
		names = append(names, f.Name)
	}
	return names, err
}

// entryNames are the names of the log's entries of these kinds.
func entryNames(kinds ...trustv1.EntryKind) lister {
	return func(ctx context.Context, cl *client.Client) ([]string, error) { return cl.Names(ctx, kinds...) }
}

// runNames are the newest runs, with what each was.
func runNames(ctx context.Context, cl *client.Client) ([]string, error) {
	runs, _, err := cl.Runs(ctx, client.RunFilter{Limit: 20})
	var names []string
	for _, r := range runs {
		names = append(names, cobra.CompletionWithDesc(r.ID.String(), fmt.Sprintf("%s, %s", r.Action, r.State)))
	}
	return names, err
}

func pluginHashes(ctx context.Context, cl *client.Client) ([]string, error) {
	plugins, err := cl.Plugins(ctx)
	var names []string
	for _, p := range plugins {
		names = append(names, cobra.CompletionWithDesc(p.SHA256.String(), p.Name+" "+p.Version))
	}
	return names, err
}

// pluginNames are the plugins that come with agents, and those that the log approves.
func pluginNames(ctx context.Context, cl *client.Client) ([]string, error) {
	plugins, err := cl.Plugins(ctx)
	names := []string{"ad", "aws", "ldap", "mongodb", "mysql", "postgres", "redis", "ssh"}
	for _, p := range plugins {
		names = append(names, p.Name)
	}
	return names, err
}
