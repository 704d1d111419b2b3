package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/agent/channel"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// crowdConfig is what the process of the idle agents is told.
type crowdConfig struct {
	Server    string
	CAPin     seal.Digest
	OrgID     seal.Digest
	Agents    []crowdAgent
	PerSecond int // that begin
}

type crowdAgent struct {
	ID  seal.ID
	Key []byte // device key; of this measurement alone
}

// crowd counts who is welcomed since the last mark.
type crowd struct {
	mu    sync.Mutex
	round int
	in    []int       // by agent: the last round in which it was welcomed
	times []time.Time // of this round, in their order
	all   chan struct{}
}

func (c *crowd) mark() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.round++
	c.times, c.all = nil, make(chan struct{})
}

func (c *crowd) welcomed(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in[i] == c.round {
		return
	}
	c.in[i] = c.round
	c.times = append(c.times, time.Now())
	if len(c.times) == len(c.in) {
		close(c.all)
	}
}

// welcomes are the moments of a round, Unix milliseconds, in their order.
type welcomes []int64

func (c *crowd) wait() welcomes {
	c.mu.Lock()
	all := c.all
	c.mu.Unlock()
	<-all
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(welcomes, len(c.times))
	for i, t := range c.times {
		out[i] = t.UnixMilli()
	}
	slices.Sort(out)
	return out
}

// playCrowd runs the idle agents: the agent's own channel client, with its own times,
// for each. It knows the words mark, and wait: until all were welcomed since.
func playCrowd(in *bufio.Reader, out *json.Encoder) error {
	var cfg crowdConfig
	if err := config(in, &cfg); err != nil {
		return err
	}
	tlsConfig, err := enrol.TLSConfig(cfg.Server, cfg.CAPin)
	if err != nil {
		return err
	}
	c := &crowd{in: make([]int, len(cfg.Agents))}
	c.mark()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	quiet := slog.New(slog.DiscardHandler)
	channels := make([]*channel.Channel, len(cfg.Agents))
	for i, a := range cfg.Agents {
		key, err := seal.ParseDeviceKey(a.Key)
		if err != nil {
			return err
		}
		from := source(i)
		channels[i], err = channel.New(channel.Config{
			Server: cfg.Server, TLS: tlsConfig, OrgID: cfg.OrgID, Agent: a.ID,
			Dial:    from.DialContext,
			Sign:    func(input []byte) ([]byte, error) { return seal.SignP256(key, input) },
			Version: "simulated", OS: runtime.GOOS, Arch: runtime.GOARCH,
			Deliver: func(_ context.Context, frames []*trustv1.CommandFrame) []error {
				answers := make([]error, len(frames))
				for n := range answers {
					answers[n] = channel.Refusal("simulated")
				}
				return answers
			},
			RunDue: func(context.Context, *channelv1.RunDue) {},
			// Each connection begins with the log's head.
			LogHead: func(context.Context, uint64, []byte) { c.welcomed(i) },
			Log:     quiet,
		})
		if err != nil {
			return err
		}
	}
	running.Go(func() {
		pace := time.NewTicker(time.Second / time.Duration(max(1, cfg.PerSecond)))
		defer pace.Stop()
		for _, ch := range channels {
			select {
			case <-pace.C:
			case <-ctx.Done():
				return
			}
			running.Go(func() { _ = ch.Run(ctx) }) // it ends with ctx
		}
	})
	for {
		asked, err := word(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch asked {
		case "mark":
			c.mark()
			err = out.Encode(true)
		case "wait":
			err = out.Encode(c.wait())
		}
		if err != nil {
			return err
		}
	}
}
