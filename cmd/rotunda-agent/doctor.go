package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/agent"
	"github.com/rotunda-pam/rotunda/agent/installed"
	"github.com/rotunda-pam/rotunda/agent/local"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/agent/policy"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/exitcode"
	"github.com/rotunda-pam/rotunda/internal/fault"
	"github.com/rotunda-pam/rotunda/internal/version"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

func doctorCommand(settings func() (*Settings, error)) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "look for what would keep this agent from working", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := settings()
			if err != nil {
				return err
			}
			return doctor(c.Context(), s, c.OutOrStdout())
		},
	}
}

// doctor looks at everything that can be looked at without disturbing a running
// agent, and says what to do about each finding.
func doctor(ctx context.Context, s *Settings, w io.Writer) error {
	bad := 0
	line := func(name string, err error, good string) {
		if err != nil {
			bad++
			fmt.Fprintf(w, "bad   %-10s %v\n", name, err)
			return
		}
		fmt.Fprintf(w, "good  %-10s %s\n", name, good)
	}
	id, err := agent.LoadIdentity(s.KeyFile, s.passphrase)
	line("keys", err, s.KeyFile)
	note, err := localPolicy(s)
	line("policy", err, note)
	programs(s, line)
	plugins(s, line)
	note, err = isolation(ctx, s)
	line("isolation", err, note)
	if id != nil {
		there, err := reach(ctx, id)
		line("server", err, id.Server)
		if err == nil {
			line("clock", compareClocks(there, fault.Now()), "differs from the server's by less than two minutes")
		}
	}
	if bad > 0 {
		return exitcode.With(exitcode.Findings, fmt.Errorf("there is something to do: %d bad", bad))
	}
	return nil
}

// localPolicy says which policy is in force.
func localPolicy(s *Settings) (string, error) {
	if _, err := policy.Load(s.PolicyFile); err != nil {
		return "", err
	}
	if _, err := os.Stat(s.PolicyFile); errors.Is(err, fs.ErrNotExist) {
		return "no file " + s.PolicyFile + ": every action, every address but the clouds' metadata services", nil
	}
	return s.PolicyFile, nil
}

// programs looks at those that the policy lets scripts run.
func programs(s *Settings, line func(name string, err error, good string)) {
	p, err := policy.Load(s.PolicyFile)
	if err != nil {
		return // said of the policy
	}
	for _, path := range p.Programs() {
		line("program", local.CheckProgram(path), path)
	}
}

// plugins looks at every file of the plugin folder. Whether the log approves one is
// the organisation's business, not this host's.
func plugins(s *Settings, line func(name string, err error, good string)) {
	catalogue, err := pluginhost.NewCatalogue(s.PluginDir, agent.Builtins(), nil)
	if err != nil {
		line("plugins", err, "")
		return
	}
	files, err := catalogue.Look()
	if err != nil {
		line("plugins", fmt.Errorf("%w: set plugin_dir to the folder of plugin binaries", err), "")
		return
	}
	known, err := installed.Read(s.PluginDir)
	if err != nil {
		line("plugins", err, "")
	}
	missing := known.Missing(s.PluginDir)
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		for _, v := range missing[name] {
			do := "`rotunda-agent plugin rollback` cannot go back to it: put it back, or take the version out of " + installed.Index
			if v.Version == known[name].Current {
				do = "it is the version in use: put it back, `rotunda-agent plugin upgrade` with its manifest does, or go back to another (rollback)"
			}
			line("plugins", fmt.Errorf("%s of %s %s is missing: %s", filepath.Join(s.PluginDir, installed.FileName(name, v.SHA256)), name, v.Version, do), "")
		}
	}
	if len(files) == 0 {
		line("plugins", fmt.Errorf("%s is empty: copy the build's bin/plugins into it", s.PluginDir), "")
	}
	for _, f := range files {
		switch {
		case f.Err != nil:
			line("plugins", fmt.Errorf("%s: %w: agents start no such file; its name must be NAME@SHA256, the hash its own", filepath.Join(s.PluginDir, f.Name), f.Err), "")
		case f.BuiltIn:
			line("plugins", nil, f.Plugin.Name+", built with this agent")
		default:
			line("plugins", nil, f.Plugin.Name+", not built with this agent: starts if the log approves it (rotunda plugin verify)")
		}
	}
}

// isolation says how plugins would be shut in here: a plugin host is made in a
// folder of its own, and starts none.
func isolation(ctx context.Context, s *Settings) (string, error) {
	dir, err := os.MkdirTemp("", "rotunda-doctor-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	catalogue, err := pluginhost.NewCatalogue(s.PluginDir, nil, nil)
	if err != nil {
		return "", err
	}
	h, err := pluginhost.New(pluginhost.Config{Dir: dir, Catalogue: catalogue})
	if err != nil {
		return "", err
	}
	defer h.Close(ctx)
	if note := h.Isolation().Note; note != "" {
		return "", errors.New(note)
	}
	if err := h.CheckUser(); err != nil {
		return "", err
	}
	return "plugins have " + h.Isolation().String(), nil
}

// reach asks the server for anything at all; the answer tells its time.
func reach(ctx context.Context, id *agent.Identity) (date string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	conn, err := enrol.Dial(id.Server, id.CAPin, version.Version)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	answer, err := conn.Challenge(ctx, connect.NewRequest(&clientv1.ChallengeRequest{}))
	if err != nil {
		if hint := hintOf(err); hint != "" {
			err = fmt.Errorf("%w: %s", err, hint)
		}
		return "", err
	}
	return answer.Header().Get("Date"), nil
}

// maxSkew is the difference of clocks above which signed messages are refused.
const maxSkew = 2 * time.Minute

func compareClocks(date string, here time.Time) error {
	there, err := http.ParseTime(date)
	if err != nil {
		return errors.New("the server tells no time: is something in between that takes it out?")
	}
	if skew := there.Sub(here); skew.Abs() >= maxSkew {
		return fmt.Errorf("the server's clock differs from this host's by %s: signed messages are refused; set the clocks by NTP", skew.Round(time.Second))
	}
	return nil
}
