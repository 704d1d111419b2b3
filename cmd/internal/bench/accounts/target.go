package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// target keeps accounts and their passwords, by digest, and costs next to nothing:
// "LOGIN name secret" and "SET name secret", in hex, each answered by "OK" or "NO".
type target struct {
	listener net.Listener
	wait     atomic.Int64 // before each answer; below zero: there is none
	work     sync.WaitGroup

	mu     sync.Mutex
	known  map[string][sha256.Size]byte
	open   map[net.Conn]struct{}
	closed bool
}

const (
	admin       = "admin"
	adminSecret = "the benchmark's administrator"
)

func newTarget() (*target, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &target{listener: l, known: map[string][sha256.Size]byte{}, open: map[net.Conn]struct{}{}}
	t.known[hex.EncodeToString([]byte(admin))] = sha256.Sum256([]byte(hex.EncodeToString([]byte(adminSecret))))
	t.work.Go(t.accept)
	return t, nil
}

func (t *target) port() int { return t.listener.Addr().(*net.TCPAddr).Port }

func (t *target) accept() {
	for {
		c, err := t.listener.Accept()
		if err != nil {
			return
		}
		t.mu.Lock()
		if t.closed {
			t.mu.Unlock()
			c.Close()
			return
		}
		t.open[c] = struct{}{}
		t.work.Go(func() { t.serve(c) })
		t.mu.Unlock()
	}
}

func (t *target) serve(c net.Conn) {
	defer func() {
		c.Close()
		t.mu.Lock()
		delete(t.open, c)
		t.mu.Unlock()
	}()
	in := bufio.NewReader(c)
	admin := false
	for {
		text, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch wait := time.Duration(t.wait.Load()); {
		case wait < 0:
			continue
		case wait > 0:
			time.Sleep(wait) // it is what this target does
		}
		answer := t.answer(strings.Fields(text), &admin)
		if _, err := c.Write([]byte(answer + "\n")); err != nil {
			return
		}
	}
}

func (t *target) answer(words []string, isAdmin *bool) string {
	if len(words) != 3 {
		return "NO"
	}
	given := sha256.Sum256([]byte(words[2]))
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case words[0] == "SET" && *isAdmin:
		t.known[words[1]] = given
		return "OK"
	case words[0] == "LOGIN" && t.known[words[1]] == given:
		*isAdmin = words[1] == hex.EncodeToString([]byte(admin))
		return "OK"
	}
	return "NO"
}

func (t *target) close() {
	t.mu.Lock()
	t.closed = true
	for c := range t.open {
		c.Close()
	}
	t.mu.Unlock()
	t.listener.Close()
	t.work.Wait()
}

// floor changes n passwords on the targets' own line, as many at once as the agent
// would, and says when each was proven, counted from the beginning of all.
func floor(ctx context.Context, targets []*target, n int) ([]time.Duration, error) {
	const atOnce = 64
	var next atomic.Int64
	took := make([]time.Duration, n)
	errs := make([]error, atOnce)
	began := time.Now()
	var all sync.WaitGroup
	for w := range atOnce {
		all.Go(func() {
			at := targets[w%len(targets)].listener.Addr().String()
			warm, err := dialLine(ctx, at)
			if err != nil {
				errs[w] = err
				return
			}
			defer warm.Close()
			if errs[w] = warm.ask("LOGIN", admin, sdk.NewSecret([]byte(adminSecret))); errs[w] != nil {
				return
			}
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if errs[w] = changeOne(ctx, warm, at, fmt.Sprintf("floor-%d", i)); errs[w] != nil {
					return
				}
				took[i] = time.Since(began)
			}
		})
	}
	all.Wait()
	return took, errors.Join(append(errs, ctx.Err())...)
}

func changeOne(ctx context.Context, warm *line, at, name string) error {
	secret := sdk.NewSecret([]byte(rand.Text()))
	if err := warm.ask("SET", name, secret); err != nil {
		return err
	}
	fresh, err := dialLine(ctx, at)
	if err != nil {
		return err
	}
	defer fresh.Close()
	return fresh.ask("LOGIN", name, secret)
}

type line struct {
	net.Conn
	in *bufio.Reader
}

func dialLine(ctx context.Context, at string) (*line, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	return &line{c, bufio.NewReader(c)}, nil
}

func (l *line) ask(verb, name string, secret sdk.Secret) error {
	b := secret.Expose()
	defer clear(b)
	if _, err := fmt.Fprintf(l, "%s %s %s\n", verb, hex.EncodeToString([]byte(name)), hex.EncodeToString(b)); err != nil {
		return err
	}
	answer, err := l.in.ReadString('\n')
	if err == nil && answer != "OK\n" {
		err = fmt.Errorf("the target answers %.20q to %s", answer, verb)
	}
	return err
}
