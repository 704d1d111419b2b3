package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk"
)

// product is a whole installation, as it is shipped, and the crowd of its agents.
type product struct {
	o    options
	say  func(string, ...any)
	home string

	rotunda  *installation.Installation
	client   *client.Client
	agent    *installation.Agent // a whole one
	agentID  seal.ID
	enrolled enrolled

	crowdConfig crowdConfig
	crowd       *child
}

const agentName = "gw1"

// enrolled tells how long it took to become many.
type enrolled struct {
	Crowd time.Duration `json:"crowd_ns"` // all simulated agents
	One   time.Duration `json:"one_ns"`   // a further one, whole: token, enrolment, start, shown as connected
}

// up starts server, agents and client. Close it also where this fails.
func (p *product) up(ctx context.Context) (err error) {
	bin, err := filepath.Abs(p.o.bin)
	if err != nil {
		return err
	}
	if p.home, err = os.MkdirTemp("", "rotunda-bench-"); err != nil {
		return err
	}
	if p.rotunda, err = installation.Start(ctx, installation.Options{Bin: bin, Dir: p.home}); err != nil {
		return err
	}
	if err := p.open(ctx); err != nil {
		return err
	}
	p.say("enrolling %d agents", p.o.agents)
	began := time.Now()
	if p.crowdConfig, err = enrolCrowd(ctx, p.client, p.o.agents); err != nil {
		return err
	}
	p.enrolled.Crowd = time.Since(began)
	began = time.Now()
	if p.agent, err = p.rotunda.AddAgent(ctx, agentName, installation.Pool); err != nil {
		return err
	}
	p.enrolled.One = time.Since(began)
	// An agent does for people what they may do in a folder that its pool reads.
	if err := errors.Join(p.rotunda.AddFolder(ctx), p.client.Sync(ctx)); err != nil {
		return err
	}
	found, err := p.client.Find(ctx, agentName, client.KindAgent)
	if err != nil {
		return err
	}
	p.agentID, err = seal.IDFrom(found.EntryId)
	return err
}

// open makes this process one more client on the person's device.
func (p *product) open(ctx context.Context) error {
	profile, err := client.OpenProfile(filepath.Join(p.rotunda.Dir, "home"), "")
	if err != nil {
		return err
	}
	p.client, err = client.Open(ctx, profile, client.Options{Passphrase: func(context.Context) (sdk.Secret, error) {
		return sdk.NewSecret([]byte(installation.Passphrase)), nil
	}})
	return err
}

func (p *product) close() error {
	var err error
	if p.crowd != nil {
		err = p.crowd.close()
	}
	if p.client != nil {
		p.client.Close()
	}
	if p.rotunda != nil {
		p.rotunda.Close()
	}
	if p.home != "" {
		err = errors.Join(err, os.RemoveAll(p.home))
	}
	return err
}

// secondBeat is when every idle agent has sent at least its second heartbeat.
const secondBeat = 31 * time.Second

// idle measures what the server's process holds for an agent that only stands there. It
// was started anew: what enrolling took is not counted, and the log is read before.
func (p *product) idle(ctx context.Context, r *report) error {
	p.rotunda.Server.Stop()
	if err := p.rotunda.StartServer(ctx); err != nil {
		return err
	}
	if err := p.agent.WaitConnected(ctx); err != nil {
		return err
	}
	before, heapBefore, err := p.memory(ctx)
	if err != nil {
		return err
	}
	p.say("%d agents connect", p.o.agents)
	if p.crowd, err = start("crowd", p.crowdConfig); err != nil {
		return err
	}
	if _, err := p.welcomed(ctx); err != nil {
		return err
	}
	if p.o.beats {
		p.say("all are there; waiting for their second heartbeat")
		select {
		case <-time.After(secondBeat): // a time is what is waited for
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	after, heapAfter, err := p.memory(ctx)
	if err != nil {
		return err
	}
	n := int64(p.o.agents)
	r.Idle = idle{
		Before: before, After: after, Each: (after.Resident - before.Resident) / n,
		EachProportional: (after.Proportional - before.Proportional) / n, EachHeap: (heapAfter - heapBefore) / n,
	}
	p.say("%s kB for each", kb(r.Idle.Each))
	if r.RealAgent, err = memoryOf(p.agent.Pid()); err != nil {
		return err
	}
	return nil
}

// memory is that of the server's process, and what of it are live objects and stacks.
func (p *product) memory(ctx context.Context) (m memory, heap int64, err error) {
	h, err := p.rotunda.Health(ctx)
	if err != nil {
		return m, 0, err
	}
	m, err = memoryOf(p.rotunda.Server.Pid())
	return m, h.Heap, err
}

// welcomed waits until the whole crowd was welcomed since the last mark.
func (p *product) welcomed(ctx context.Context) (w welcomes, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 4*time.Minute, errors.New("four minutes were not enough"))
	defer cancel()
	if err := p.crowd.ask(ctx, "wait", &w); err != nil {
		return nil, err
	}
	return w, nil
}

// restart ends the server, by SIGKILL or in peace, starts it again, and waits until all
// agents are back by themselves.
func (p *product) restart(ctx context.Context, r *report, how string) error {
	p.say("the server is %s and started again", how)
	var marked bool
	if err := p.crowd.ask(ctx, "mark", &marked); err != nil {
		return err
	}
	began := time.Now()
	if how == "killed" {
		p.rotunda.Server.Kill()
	} else {
		p.rotunda.Server.Stop()
	}
	if err := p.rotunda.StartServer(ctx); err != nil {
		return err
	}
	serving := time.Now()
	asking, stop := context.WithCancel(ctx)
	defer stop()
	var health, cli spread
	var probes sync.WaitGroup
	probes.Go(func() {
		health = answers(asking, 100*time.Millisecond, func(ctx context.Context) error {
			_, err := p.rotunda.Health(ctx)
			return err
		})
	})
	probes.Go(func() {
		cli = answers(asking, 500*time.Millisecond, func(ctx context.Context) error {
			_, err := p.rotunda.CLI(ctx, nil, "folder", "list")
			return err
		})
	})
	w, err := p.welcomed(ctx)
	stop()
	probes.Wait()
	if err != nil {
		return err
	}
	h, err := p.rotunda.Health(ctx)
	if err != nil {
		return err
	}
	if err := p.agent.WaitConnected(ctx); err != nil {
		return err
	}
	m, err := memoryOf(p.rotunda.Server.Pid())
	if err != nil {
		return err
	}
	since := func(i int, t time.Time) float64 { return max(0, float64(w[i]-t.UnixMilli())/1000) }
	last := len(w) - 1
	p.say("all are back after %.1f s", since(last, began))
	r.Returns = append(r.Returns, returns{
		How: how, Down: serving.Sub(began).Seconds(), All: since(last, began), Serving: since(last, serving), Half: since(last/2, began),
		Busiest: busiest(w), Peak: m.Peak, Commits: h.Commits,
		HealthMS: health, CLIMS: cli,
	})
	return nil
}

// answers asks again and again until ctx ends, and tells how long each answer took, one
// that is still under way then included.
func answers(ctx context.Context, pause time.Duration, ask func(context.Context) error) spread {
	var took []time.Duration
	failed := 0
	for ctx.Err() == nil {
		began := time.Now()
		if ask(ctx) != nil && ctx.Err() == nil {
			failed++
		}
		took = append(took, time.Since(began))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return spread{len(took), failed, ms(quantile(took, 0.5)), ms(quantile(took, 1))}
}

// busiest is how many came within one second at most.
func busiest(w welcomes) int {
	most, from := 0, 0
	for to := range w {
		for w[to]-w[from] >= 1000 {
			from++
		}
		most = max(most, to-from+1)
	}
	return most
}

// leave ends the crowd and measures what the server keeps.
func (p *product) leave(ctx context.Context, r *report) error {
	p.say("the agents leave")
	err := p.crowd.close()
	p.crowd = nil
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		h, err := p.rotunda.Health(ctx)
		if err != nil {
			return err
		}
		if h.Agents <= 1 {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond): // an HTTP endpoint gives no signal
		case <-ctx.Done():
			return fmt.Errorf("the server still counts %d agents", h.Agents)
		}
	}
	r.Left, r.LeftHeap, err = p.memory(ctx)
	return err
}
