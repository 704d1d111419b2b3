package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/agent"
	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/agent/policy"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/exitcode"
	"github.com/rotunda-pam/rotunda/internal/fault"
	"github.com/rotunda-pam/rotunda/internal/lean"
	"github.com/rotunda-pam/rotunda/internal/version"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

func command() *cobra.Command {
	var path string
	root := &cobra.Command{
		Use:   "rotunda-agent",
		Short: "the on-prem agent: dials out, checks signed commands, rotates credentials",
		Long: `The agent needs no inbound port. It is enrolled once with a token from
"rotunda agent token", and then runs as a service.

Settings come from a file (--config, TOML) and default to a system service's.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&path, "config", "", "settings file; default "+defaultConfig+" if it is there")
	settings := func() (*Settings, error) {
		s, err := loadSettings(path)
		return s, exitcode.With(exitcode.Usage, err)
	}
	root.AddCommand(enrolCommand(settings), runCommand(settings), statusCommand(settings), doctorCommand(settings), pluginCommand(settings), resetClockCommand(settings), &cobra.Command{
		Use: "version", Short: "print the version", Args: cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), version.Version) },
	})
	return root
}

func enrolCommand(settings func() (*Settings, error)) *cobra.Command {
	var tokenFile string
	c := &cobra.Command{
		Use:   "enrol --token-file FILE",
		Short: "make this host an agent of an organisation",
		Long: `Reads a token (from a file, or - for standard input; never from the command
line, where every user of this host could see it), verifies the organisation's
log against it, makes this agent's keys, and writes them to the key file.`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&tokenFile, "token-file", "", "file that holds the token, - for standard input")
	_ = c.MarkFlagRequired("token-file")
	c.RunE = func(c *cobra.Command, _ []string) error {
		s, err := settings()
		if err != nil {
			return err
		}
		if _, err := os.Stat(s.KeyFile); err == nil {
			return exitcode.With(exitcode.Conflict, fmt.Errorf("%s is there already: this host is enrolled. To enrol it anew, remove the old agent (rotunda agent remove) and the folder %s", s.KeyFile, s.DataDir))
		}
		if _, err := os.Stat(s.journal()); err == nil {
			return exitcode.With(exitcode.Conflict, fmt.Errorf("%s is of an agent that this host was before: remove the folder %s first", s.journal(), s.DataDir))
		}
		text, err := readSmall(tokenFile, c.InOrStdin())
		if err != nil {
			return exitcode.With(fileExit(err), fmt.Errorf("token: %w", err))
		}
		secret := sdk.NewSecret(text)
		clear(text)
		defer secret.Wipe()
		token, err := enrol.ParseToken(secret)
		if err != nil {
			return exitcode.With(exitcode.Usage, fmt.Errorf("%w; copy it again from where it was made, or make a new one: rotunda agent token", err))
		}
		passphrase, err := s.passphrase()
		if err != nil {
			return err
		}
		defer clear(passphrase)
		saved := false
		id, err := enrol.Join(c.Context(), enrol.JoinOptions{
			Token: token, Want: trustv1.EntryKind_ENTRY_KIND_AGENT, Version: version.Version, Now: fault.Now,
			Save: func(id *enrol.Identity) error {
				saved = true
				return agent.SaveIdentity(s.KeyFile, id, passphrase)
			},
		})
		switch {
		case err != nil && saved && enrol.AnswerLost(err):
			return exitcode.With(exitcode.Pending, fmt.Errorf("%w; whether the token is used up is not known: start the agent; if the server does not know it, remove %s and use the token again", err, s.KeyFile))
		case err != nil && saved:
			return errors.Join(err, os.Remove(s.KeyFile)) // the keys are nobody's
		case err != nil:
			return err
		}
		if err := firstJournal(s, id); err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "enrolled as agent %q (%s)\norganisation %s\nCompare the organisation's fingerprint with \"rotunda org show\", then start the agent: rotunda-agent run\n", id.Name, id.Entry, id.OrgID.Fingerprint())
		return nil
	}
	return c
}

// firstJournal begins the journal with the log that was verified while enrolling.
func firstJournal(s *Settings, id *enrol.Identity) error {
	j, _, err := journal.Open(s.journal(), true, fault.Now())
	if err != nil {
		return err
	}
	return errors.Join(j.AppendLog(0, id.Changes...), j.Close())
}

func runCommand(settings func() (*Settings, error)) *cobra.Command {
	return &cobra.Command{
		Use: "run", Short: "run the agent until it is told to stop", Args: cobra.NoArgs,
		Long: `Runs until SIGINT or SIGTERM, then drains: what is under way may finish
within the time of "grace"; what does not is finished by the next start, or by another
agent of the pool.`,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := settings()
			if err != nil {
				return err
			}
			id, err := agent.LoadIdentity(s.KeyFile, s.passphrase)
			if err != nil {
				return keysExit(err)
			}
			local, err := policy.Load(s.PolicyFile)
			if err != nil {
				return exitcode.With(exitcode.Usage, err)
			}
			users, err := s.pluginUsers()
			if err != nil {
				return err
			}
			log := s.logger(c.ErrOrStderr())
			a, err := agent.New(agent.Config{
				DataDir: s.DataDir, PluginDir: s.PluginDir, Policy: local, Identity: id,
				Runs: s.Runs, Processes: s.Processes, PluginUsers: users, Log: log,
			})
			if err != nil {
				return err
			}
			if s.Health != "" {
				stop, err := serveHealth(s.Health, a, log)
				if err != nil {
					return err
				}
				defer stop()
			}
			log.Info("agent started", "name", id.Name, "id", id.Entry, "server", id.Server, "version", version.Version)
			var running sync.WaitGroup
			defer running.Wait()
			staying, stop := context.WithCancel(c.Context())
			defer stop()
			running.Go(func() { lean.Stay(staying) })
			return a.Run(c.Context(), s.grace())
		},
	}
}

func resetClockCommand(settings func() (*Settings, error)) *cobra.Command {
	return &cobra.Command{
		Use: "reset-clock", Short: "go on after this host's clock was ahead and was set right", Args: cobra.NoArgs,
		Long: `An agent believes no clock that goes back (clock_back): who can set it back could
have old commands count again. Where it was ahead for a while and is right now, stop
the agent, see that the clock is right, and run this: the journal forgets that time,
and commands issued until two minutes from now are refused (replay_floor).`,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := settings()
			if err != nil {
				return err
			}
			if _, err := os.Stat(s.journal()); err != nil {
				return exitcode.With(fileExit(err), fmt.Errorf("no agent's journal: %w", err))
			}
			j, _, err := journal.Open(s.journal(), false, fault.Now())
			if err != nil {
				return err
			}
			now := fault.Now()
			seen, floor, reset, err := j.ResetClock(now)
			if err := errors.Join(err, j.Close()); err != nil {
				return err
			}
			if !reset {
				fmt.Fprintf(c.OutOrStdout(), "nothing to do: it is %s, and the journal has seen nothing later\n", stamp(now))
				return nil
			}
			fmt.Fprintf(c.OutOrStdout(), "the journal had seen %s; it goes on from now, %s\ncommands issued until %s are refused (replay_floor): start the agent, and send them again later\n", stamp(seen), stamp(now), stamp(floor))
			return nil
		},
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func serveHealth(address string, a *agent.Agent, log *slog.Logger) (stop func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		err = fmt.Errorf("health endpoint: %w: choose another address in the settings (health)", err)
		if !errors.Is(err, syscall.EADDRINUSE) {
			err = exitcode.With(exitcode.Usage, err)
		}
		return nil, err
	}
	srv := &http.Server{Handler: a.Handler(), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 8 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("health endpoint", "error", err)
		}
	}()
	return func() { _ = srv.Close(); <-done }, nil
}

func statusCommand(settings func() (*Settings, error)) *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{
		Use: "status", Short: "ask the running agent how it fares (JSON)", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := settings()
			if err != nil {
				return err
			}
			if s.Health == "" {
				return exitcode.With(exitcode.Usage, errors.New("the settings give no health endpoint (health = \"127.0.0.1:9641\")"))
			}
			h, err := askUntilWell(c.Context(), s.Health, wait)
			if err != nil {
				return err
			}
			out, err := json.MarshalIndent(h, "", "  ")
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), string(out))
			if !h.OK {
				return exitcode.With(exitcode.Findings, errors.New("the agent is not well: see reason and lastError above"))
			}
			return nil
		},
	}
	c.Flags().DurationVar(&wait, "wait", 0, "ask again until it is well, for at most this long")
	return c
}

// askUntilWell asks the health endpoint again until it says that the agent is well
// or the time is over: an HTTP endpoint gives no signal.
func askUntilWell(ctx context.Context, address string, wait time.Duration) (h *agent.Health, err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		h, err = askHealth(address)
		if err == nil && h.OK {
			return h, nil
		}
		select {
		case <-ctx.Done():
			return h, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func askHealth(address string) (*agent.Health, error) {
	client := &http.Client{Timeout: 5 * time.Second}
	r, err := client.Get("http://" + address + "/healthz")
	if err != nil {
		return nil, exitcode.With(exitcode.Unreachable, fmt.Errorf("the agent does not answer on %s: is it running? %w", address, err))
	}
	defer r.Body.Close()
	h := new(agent.Health)
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(h); err != nil {
		return nil, exitcode.With(exitcode.Unreachable, fmt.Errorf("%s is not an agent's health endpoint: %w", address, err))
	}
	return h, nil
}

// fileExit is how the program ends where a file that was named cannot be read.
func fileExit(err error) exitcode.Code {
	if errors.Is(err, fs.ErrNotExist) {
		return exitcode.NotFound
	}
	return exitcode.Usage
}

// keysExit says how the program ends where the key file opens nothing: what is not said
// by the error itself is for its owner to mend.
func keysExit(err error) error {
	if exitOf(err) == exitcode.Internal {
		return exitcode.With(exitcode.Usage, err)
	}
	return err
}

// readSmall reads a file of one short secret; - is standard input.
func readSmall(path string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if path != "-" {
		f, err := os.Open(filepath.Clean(path))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, 64<<10))
	if err != nil {
		return nil, err
	}
	return bytes.TrimSpace(data), nil
}
