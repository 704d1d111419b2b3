package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/cmd/internal/bench/floor"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// installed is a whole installation: server, agent with its plugins, and a person's
// client, as they are shipped.
type installed struct {
	rotunda  *installation.Installation
	agent    *installation.Agent
	client   *client.Client
	accounts map[string][]client.Ref // by the work's name
}

// up starts it. Close it also where this fails.
func (p *installed) up(ctx context.Context, o options, home string) (err error) {
	if p.rotunda, err = installation.Start(ctx, installation.Options{Bin: o.bin, Dir: home}); err != nil {
		return err
	}
	if p.agent, err = p.rotunda.AddAgent(ctx, "gw1", installation.Pool); err != nil {
		return err
	}
	if err := p.rotunda.AddFolder(ctx); err != nil {
		return err
	}
	return p.open(ctx)
}

// add makes a work's resource and accounts.
func (p *installed) add(ctx context.Context, w work, t floor.Target, accounts int) error {
	if err := addTo(ctx, p.rotunda, w.name, t); err != nil {
		return err
	}
	if err := p.client.Sync(ctx); err != nil {
		return err
	}
	folder, err := p.client.FindFolder(ctx, installation.Folder)
	if err != nil {
		return err
	}
	resource, err := p.client.FindRecord(ctx, w.name, client.TypeDatabase, client.TypeMachine)
	if err != nil {
		return err
	}
	list, err := t.Accounts(ctx, accounts)
	if err != nil {
		return err
	}
	for _, a := range list {
		ref, err := p.client.AddAccount(ctx, client.AccountSpec{
			Folder: folder.UID, Title: a.Name, Resource: resource.Ref, Login: a.Name, VerifyMode: w.verify, Secret: a.Secret,
		})
		if err != nil {
			return err
		}
		p.accounts[w.name] = append(p.accounts[w.name], ref)
	}
	// The first of everything is not measured: the plugin's start, and what the agent's
	// journal remembers of an account from then on.
	if _, err := p.run(ctx, w, t, slices.Max(w.inFlight), accounts); err != nil {
		return fmt.Errorf("first runs: %w", err)
	}
	return nil
}

func (p *installed) close() {
	if p.client != nil {
		p.client.Close()
	}
	if p.rotunda != nil {
		p.rotunda.Close()
	}
}

// open makes this process one more client on the person's device.
func (p *installed) open(ctx context.Context) error {
	profile, err := client.OpenProfile(filepath.Join(p.rotunda.Dir, "home"), "")
	if err != nil {
		return err
	}
	p.client, err = client.Open(ctx, profile, client.Options{Passphrase: func(context.Context) (sdk.Secret, error) {
		b, err := os.ReadFile(filepath.Join(p.rotunda.Dir, "passphrase"))
		return sdk.NewSecret([]byte(strings.TrimSuffix(string(b), "\n"))), err
	}})
	return err
}

// run rotates accounts, at most inFlight at once: that number is the resource's own,
// signed by its owner. The runs are queued while the agent stands still, so that from
// then on nothing but server, agent, plugin and target works.
func (p *installed) run(ctx context.Context, w work, t floor.Target, inFlight, runs int) (s sample, err error) {
	if _, err := p.rotunda.CLI(ctx, nil, "resource", "edit", w.name, "--concurrency", strconv.Itoa(inFlight), "--yes"); err != nil {
		return s, err
	}
	if err := p.client.Sync(ctx); err != nil {
		return s, err
	}
	// The first run finds out about the new number.
	if first, err := p.client.Rotate(ctx, p.accounts[w.name][:1], client.RunOptions{}); err != nil {
		return s, err
	} else if first[0].Err != nil {
		return s, first[0].Err
	}
	if err := p.agent.Pause(); err != nil {
		return s, err
	}
	started, err := p.client.Rotate(ctx, p.accounts[w.name][:runs], client.RunOptions{NoWait: true})
	if err != nil {
		return s, errors.Join(err, p.agent.Resume())
	}
	ids := map[seal.ID]bool{}
	for _, o := range started {
		if o.Err != nil {
			return s, errors.Join(o.Err, p.agent.Resume())
		}
		ids[o.RunID] = true
	}
	before, err := p.read(ctx, t)
	if err != nil {
		return s, errors.Join(err, p.agent.Resume())
	}
	if err := p.agent.Resume(); err != nil {
		return s, err
	}
	if before.counters, err = p.agent.Metrics(ctx); err != nil {
		return s, err
	}
	done, err := p.wait(ctx, ids)
	if err != nil {
		return s, err
	}
	after, err := p.read(ctx, t)
	if err != nil {
		return s, err
	}
	if after.counters, err = p.agent.Metrics(ctx); err != nil {
		return s, err
	}
	s = before.until(after, len(done))
	s.times(done)
	return s, nil
}

// wait waits until the runs have ended, all of them well.
func (p *installed) wait(ctx context.Context, ids map[seal.ID]bool) ([]client.Run, error) {
	for {
		open, err := p.ended(ctx, ids)
		if err != nil || len(open) == len(ids) {
			return open, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d runs have ended: %w", len(open), len(ids), context.Cause(ctx))
		case <-time.After(500 * time.Millisecond): // seldom: it costs the server
		}
	}
}

// ended lists those of the runs that have ended.
func (p *installed) ended(ctx context.Context, ids map[seal.ID]bool) (done []client.Run, err error) {
	if h, err := p.agent.Metrics(ctx); err != nil || h["rotunda_agent_active_runs"] > 0 {
		return nil, err // asking the agent costs less than the list
	}
	for token := ""; ; {
		list, next, err := p.client.Runs(ctx, client.RunFilter{Limit: 1000, Token: token})
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			if !ids[r.ID] || r.Finished.IsZero() {
				continue
			}
			if r.State != "finished" || r.Credential != trustv1.Outcome_OUTCOME_DONE {
				return nil, fmt.Errorf("run %s ended as %s: %s %s: see the agent's log", r.ID, r.State, r.Class, r.Reason)
			}
			done = append(done, r)
		}
		if next == "" || len(done) == len(ids) {
			return done, nil
		}
		token = next
	}
}

// reading is what the programs have counted so far.
type reading struct {
	health   installation.ServerHealth
	counters map[string]float64
	written  [2]float64 // bytes that server and agent gave to the disk
	cpu      map[string]time.Duration
}

func (p *installed) read(ctx context.Context, t floor.Target) (r reading, err error) {
	if r.health, err = p.rotunda.Health(ctx); err != nil {
		return r, err
	}
	r.written = [2]float64{floor.Written(p.rotunda.Server.Pid()), floor.Written(p.agent.Pid())}
	r.cpu = floor.CPU(map[string]int{"target": t.Pid(), "agent": p.agent.Pid(), "server": p.rotunda.Server.Pid()})
	return r, nil
}

const stepSum = `rotunda_agent_step_seconds_sum{step="`

// until is what one of n runs took between two readings.
func (r reading) until(after reading, n int) sample {
	s := sample{
		cpu: floor.PerRun(r.cpu, after.cpu, n), steps: map[string]time.Duration{},
		commits: float64(after.health.Commits-r.health.Commits) / float64(n),
		writes:  float64(after.health.Writes-r.health.Writes) / float64(n),
	}
	counted := func(name string) float64 { return (after.counters[name] - r.counters[name]) / float64(n) }
	s.journal = counted("rotunda_agent_journal_commits_total")
	s.requests = counted("rotunda_agent_vault_requests_total")
	for i := range s.written {
		s.written[i] = (after.written[i] - r.written[i]) / float64(n)
	}
	for name, sum := range after.counters {
		if step, ok := strings.CutPrefix(name, stepSum); ok {
			step = strings.TrimSuffix(step, `"}`)
			s.steps[step] = time.Duration((sum - r.counters[name]) / float64(n) * float64(time.Second))
		}
	}
	return s
}

// times are those of the server: from the lease to the report. The throughput is
// counted while as many as may be are under way, from the first end to the last lease;
// of so few runs that none ends meanwhile, from the first lease to the last end.
func (s *sample) times(runs []client.Run) {
	by := func(f func(client.Run) time.Time) []time.Time {
		var all []time.Time
		for _, r := range runs {
			all = append(all, f(r))
		}
		slices.SortFunc(all, time.Time.Compare)
		return all
	}
	leased := by(func(r client.Run) time.Time { return r.Started })
	ended := by(func(r client.Run) time.Time { return r.Finished })
	for _, r := range runs {
		s.took = append(s.took, r.Finished.Sub(r.Started))
	}
	slices.Sort(s.took)
	from, to, n := ended[0], leased[len(leased)-1], 0
	for _, t := range ended[1:] {
		if !t.After(to) {
			n++
		}
	}
	if n < 2 {
		from, to, n = leased[0], ended[len(ended)-1], len(runs)
	}
	s.perSecond = float64(n) / to.Sub(from).Seconds()
}
