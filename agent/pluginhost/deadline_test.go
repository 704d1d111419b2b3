package pluginhost

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

func TestCrash(t *testing.T) {
	for _, how := range []string{"crash", "panic"} {
		t.Run(how, func(t *testing.T) {
			f, srv := newFixture(t, nil), newServer(t)
			ctx := t.Context()
			s, other := f.open(ctx, srv.job("r1")), f.open(ctx, srv.job("r2"))
			r, err := apply(ctx, s, how, "crash-s3cret")
			if r.Outcome != sdk.Unknown || ReasonOf(err) != string(PluginCrashed) || NotSent(err) {
				t.Errorf("%+v, %v", r, err)
			}
			if _, err := apply(ctx, s, "app", "x"); ReasonOf(err) != string(PluginCrashed) || !NotSent(err) {
				t.Errorf("the same session again: %v", err)
			}
			if _, err := apply(ctx, other, "app", "xyz"); err != nil {
				t.Errorf("another resource: %v", err)
			}
			s.Close()
			again := f.open(ctx, srv.job("r1"))
			if r, err := apply(ctx, again, "app", "after"); err != nil || r.Outcome != sdk.Changed {
				t.Errorf("after the restart: %+v, %v", r, err)
			}
			if how == "panic" {
				f.logs.has(t, "panic:")
			}
			if strings.Contains(f.logs.String(), "crash-s3cret") {
				t.Errorf("secret in the log:\n%s", f.logs)
			}
		})
	}
}

// A plugin that keeps crashing is started again more and more slowly.
func TestBackOff(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	var crashed time.Time
	for n := range 4 {
		s := f.open(t.Context(), srv.job("r"))
		if least := backoffMin << n / 2; n > 0 && time.Since(crashed) < least {
			t.Errorf("start %d after %v, want at least %v", n, time.Since(crashed), least)
		}
		crashed = time.Now()
		_, _ = apply(t.Context(), s, "crash", "secret")
		s.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := f.Open(ctx, guest(), srv.job("r")); ReasonOf(err) != string(PluginBusy) || !NotSent(err) {
		t.Errorf("a start that must wait longer than its context: %v", err)
	}
	if _, err := f.Open(t.Context(), guest(), srv.job("another")); err != nil {
		t.Errorf("another resource: %v", err)
	}
}

// Runs that share a session of a target which never answers all end by its deadline, and
// by the same reason: none was kept waiting by another.
func TestDeadlineOfASharedOpen(t *testing.T) {
	f, srv, silent := newFixture(t, nil), newServer(t), newServer(t)
	silent.mu.Lock() // it accepts, and that is all
	defer silent.mu.Unlock()
	f.open(t.Context(), srv.job("r")).Close() // the process runs: the deadline is the call's alone
	const runs = 4
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	ends := make(chan error, runs)
	for range runs {
		go func() {
			j := silent.job("r")
			_, err := f.Open(ctx, guest(), j)
			ends <- err
		}()
	}
	for range runs {
		// The plugin's clock may ring before ours.
		if err := <-ends; ReasonOf(err) != string(PluginDeadline) && ReasonOf(err) != deadline {
			t.Errorf("%v (%s)", err, ReasonOf(err))
		}
	}
}

func TestDeadline(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	// A machine that is busy may be late; what is not ended by us goes on for ever.
	const deadline, slack = time.Second, 10 * time.Second
	for _, c := range []struct {
		account string
		reason  string
		notSent bool
		atMost  time.Duration
	}{
		{"wait", "gave.up", true, deadline + slack},
		{"read", string(PluginDeadline), false, deadline + slack},
		{"hang", string(PluginDeaf), false, deadline + deafFor + slack},
	} {
		t.Run(c.account, func(t *testing.T) {
			s, other := f.open(t.Context(), srv.job("r")), f.open(t.Context(), srv.job("other"))
			start := time.Now() // before the deadline is counted from: what is descheduled here only adds
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			stop, spared := make(chan struct{}), make(chan error, 1)
			go func() { // the other plugin works all the while
				for {
					select {
					case <-stop:
						spared <- nil
						return
					default:
					}
					if _, err := apply(t.Context(), other, "app", "abcd"); err != nil {
						spared <- err
						return
					}
				}
			}()
			r, err := apply(ctx, s, c.account, "s3cret")
			took := time.Since(start)
			if r.Outcome != sdk.Unknown || ReasonOf(err) != c.reason || NotSent(err) != c.notSent {
				t.Errorf("%+v, %v (%s, not sent %v)", r, err, ReasonOf(err), NotSent(err))
			}
			// A plugin that looks at its own clock may give up a moment before ours ends, and
			// has then lost nothing.
			own := c.account == "wait"
			if !own && (took < deadline || !errors.Is(err, context.DeadlineExceeded)) || took < deadline/2 || took > c.atMost {
				t.Errorf("took %v: %v", took, err)
			}
			close(stop)
			if err := <-spared; err != nil {
				t.Errorf("the other resource: %v", err)
			}
			if _, err := apply(t.Context(), s, "app", "x"); !own && err == nil || err != nil && !NotSent(err) {
				t.Errorf("the session after its deadline: %v", err)
			}
			s.Close()
			again := f.open(t.Context(), srv.job("r"))
			defer again.Close()
			if _, err := apply(t.Context(), again, "app", "wxyz"); err != nil {
				t.Errorf("a new session: %v", err)
			}
		})
	}
	t.Run("answer after all", func(t *testing.T) {
		s := f.open(t.Context(), srv.job("late"))
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		if r, err := apply(ctx, s, "late", "s3cret"); err != nil || r.Outcome != sdk.Changed {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("deaf verify", func(t *testing.T) {
		f.open(t.Context(), srv.job("v")).Close()                      // its process runs: the deadline is the call's alone
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // it has to get there
		defer cancel()
		v, err := f.Verify(ctx, guest(), VerifyJob{Target: srv.target("v"), Account: sdk.Account{Name: "stop"}})
		if v.Verdict != sdk.Undecided || ReasonOf(err) != string(PluginDeaf) {
			t.Errorf("%+v, %v", v, err)
		}
	})
	t.Run("cancelled before", func(t *testing.T) {
		s := f.open(t.Context(), srv.job("r"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := apply(ctx, s, "app", "never"); !errors.Is(err, context.Canceled) || !NotSent(err) {
			t.Errorf("%v", err)
		}
	})
}
