package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

func (c *cli) pluginCmd() *cobra.Command {
	cmd := c.group("plugin", "plugin files that agents may start", `Agents start the plugins that were built with them, and files whose hash the
organisation's log approves. Nothing else.`)
	cmd.AddCommand(c.pluginNewCmd(), c.pluginTestCmd(), c.pluginKeygenCmd(), c.pluginSignCmd(), c.pluginListCmd(), c.pluginVerifyCmd(), c.pluginApproveCmd(), c.pluginWithdrawCmd())
	return cmd
}

// shipped are the plugins that come with agents, which install none of another publisher
// under their names.
var shipped = []string{"ad", "aws", "kubernetes", "ldap", "lua", "mongodb", "mysql", "postgres", "redis", "ssh"}

// pluginView is a plugin file.
type pluginView struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	Platform string `json:"platform,omitempty"`
	SHA256   string `json:"sha256"`
	Source   string `json:"source"` // log, built-in
}

func viewPlugin(p client.Plugin) pluginView {
	return pluginView{p.Name, p.Version, p.OS + "/" + p.Arch, p.SHA256.String(), "log"}
}

func (c *cli) pluginListCmd() *cobra.Command {
	var pg page
	var agent string
	cmd := c.leaf("list", "list approved plugin files, or what an agent has", func(ctx context.Context, _ []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			all, err := c.plugins(ctx, cl, agent)
			if err != nil {
				return err
			}
			shown, next, err := cut(&pg, all)
			if err != nil {
				return err
			}
			return list(c, &pg, "plugins", shown, next, []string{"name", "version", "platform", "source", "sha256"}, func(p pluginView) []string {
				return []string{p.Name, p.Version, p.Platform, p.Source, p.SHA256}
			})
		})
	})
	cmd.Flags().StringVar(&agent, "agent", "", "ask this agent what it can start")
	pg.flags(cmd)
	return cmd
}

func (c *cli) plugins(ctx context.Context, cl *client.Client, agent string) ([]pluginView, error) {
	var all []pluginView
	if agent == "" {
		approved, err := cl.Plugins(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range approved {
			all = append(all, viewPlugin(p))
		}
		return all, nil
	}
	id, err := c.agentOption(ctx, cl, agent)
	if err != nil {
		return nil, err
	}
	info, err := cl.Info(ctx, id, client.RunOptions{})
	if err != nil {
		return nil, err
	}
	for _, p := range info.Plugins {
		sum, _ := seal.DigestFrom(p.Sha256)
		all = append(all, pluginView{p.Name, p.Version, info.OS + "/" + info.Arch, sum.String(), p.Source})
	}
	return all, nil
}

// hashFile gives a file's SHA-256.
func (c *cli) hashFile(name string) (seal.Digest, error) {
	f, err := os.Open(c.p.path(name))
	if err != nil {
		return seal.Digest{}, failf(exitNotFound, "file_missing", "cannot read %s: %w", name, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return seal.Digest{}, usagef("%s is no file: name the plugin's program", name)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return seal.Digest{}, fmt.Errorf("read %s: %w", name, err)
	}
	return seal.DigestFrom(h.Sum(nil))
}

func (c *cli) pluginVerifyCmd() *cobra.Command {
	cmd := c.leaf("verify FILE", "tell whether the log approves a plugin file", func(ctx context.Context, args []string) error {
		sum, err := c.hashFile(args[0])
		if err != nil {
			return err
		}
		return c.with(ctx, func(cl *client.Client) error {
			approved, err := cl.Plugins(ctx)
			if err != nil {
				return err
			}
			for _, p := range approved {
				if p.SHA256 == sum {
					v := viewPlugin(p)
					return c.emit(v, func(w io.Writer) {
						pairs(w, "approved", "yes", "name", v.Name, "version", v.Version, "platform", v.Platform, "sha256", v.SHA256)
					})
				}
			}
			return failf(exitDenied, "plugin_unknown", "%s is not approved by the log: %s", args[0], sum).
				withHint("a plugin that came with an agent needs no approval: `rotunda plugin list --agent AGENT` lists what that agent starts, with the hashes\n`rotunda plugin approve %s --name NAME --version VERSION` lets agents start it", args[0])
		})
	})
	return help(cmd, `Compares the file's hash with those that the log approves. Exit code 4 says that it is
none of them. The plugins that come with an agent are built into it by their hashes and
need no approval: "rotunda plugin list --agent AGENT" lists both kinds.`, `rotunda plugin verify ./rotunda-plugin-acme`)
}

func (c *cli) pluginApproveCmd() *cobra.Command {
	var p client.Plugin
	cmd := c.leaf("approve FILE", "let agents start a plugin file, by its hash", func(ctx context.Context, args []string) error {
		if p.Name == "" || p.Version == "" {
			return usagef("plugin approve wants --name and --version")
		}
		if !pluginNameRE.MatchString(p.Name) {
			return usagef("--name %q cannot be a plugin's name: it begins with a letter and has a-z, 0-9, - and _, 63 at most", p.Name)
		}
		file, err := c.releaseFile(args[0])
		if err != nil {
			return err
		}
		p.SHA256 = file.SHA256
		return c.with(ctx, func(cl *client.Client) error {
			v := viewPlugin(p)
			question := fmt.Sprintf("let every agent start %s %s for %s, sha256 %s, with the secrets of its jobs", v.Name, v.Version, v.Platform, v.SHA256)
			if err := c.confirm(question); err != nil {
				return err
			}
			if err := cl.ApprovePlugin(ctx, p); err != nil {
				return err
			}
			return c.emit(v, func(w io.Writer) {
				pairs(w, "approved", v.Name+" "+v.Version, "sha256", v.SHA256)
				c.note("install it on each agent's host (rotunda-agent plugin install), or copy it into plugin_dir as %s@%s", v.Name, v.SHA256)
			})
		})
	})
	f := cmd.Flags()
	f.StringVar(&p.Name, "name", "", "name that resources choose it by")
	f.StringVar(&p.Version, "version", "", "its version")
	choiceVar(cmd, &p.OS, "os", "linux", systems, "operating system that it is built for: linux, darwin or windows")
	choiceVar(cmd, &p.Arch, "arch", "amd64", processors, "processor that it is built for: amd64 or arm64")
	return help(cmd, "", `rotunda plugin approve ./rotunda-plugin-acme --name acme --version 1.2.0`)
}

func (c *cli) pluginWithdrawCmd() *cobra.Command {
	return c.leaf("withdraw SHA256", "end the approval of a plugin file", func(ctx context.Context, args []string) error {
		sum, err := seal.ParseDigest(args[0])
		if err != nil {
			return usagef("%q is no sha256: %w", args[0], err)
		}
		return c.with(ctx, func(cl *client.Client) error {
			if err := c.confirm("end the approval of " + sum.String()); err != nil {
				return err
			}
			if err := cl.DropPlugin(ctx, sum); err != nil {
				return err
			}
			return c.done("withdrawn")
		})
	})
}
