package main

import (
	"context"
	"io"
	"runtime"

	"github.com/rotunda-pam/rotunda/internal/version"
	"github.com/spf13/cobra"
)

func (c *cli) versionCmd() *cobra.Command {
	return c.leaf("version", "show this program's version", func(context.Context, []string) error {
		v := struct {
			Version string `json:"version"`
			Go      string `json:"go"`
			OS      string `json:"os"`
			Arch    string `json:"arch"`
		}{version.Version, runtime.Version(), c.p.goos, c.p.goarch}
		return c.emit(v, func(w io.Writer) {
			pairs(w, "rotunda", v.Version, "go", v.Go, "platform", v.OS+"/"+v.Arch)
		})
	})
}

func (c *cli) completionCmd() *cobra.Command {
	cmd := c.leaf("completion SHELL", "print a completion script for bash, zsh, fish or powershell", nil)
	cmd.ValidArgs = completedShells
	cmd.ValidArgsFunction = nil
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		root := cmd.Root()
		switch args[0] {
		case "bash":
			return root.GenBashCompletionV2(c.p.stdout, true)
		case "zsh":
			return root.GenZshCompletion(c.p.stdout)
		case "fish":
			return root.GenFishCompletion(c.p.stdout, true)
		case "powershell":
			return root.GenPowerShellCompletionWithDesc(c.p.stdout)
		}
		return usagef("no completion for %q", args[0]).withHint("bash, zsh, fish and powershell are known")
	}
	return help(cmd, "", `rotunda completion bash > /etc/bash_completion.d/rotunda
rotunda completion zsh > "${fpath[1]}/_rotunda"
rotunda completion fish > ~/.config/fish/completions/rotunda.fish`)
}
