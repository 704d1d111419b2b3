package main

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk"
)

// Wherever the line is cut, before or after a write, nobody has more than either what was or
// what shall be; what is said is true; and the next try mends it.
func guestCut(t *testing.T, g *guests) {
	const name = "half"
	const lastWrites = 8 // what comes before looks, and changes nothing
	dn, former, next := g.dn(name), "Former-1-"+rand.Text(), "Next-1-"+rand.Text()
	whole := &scissors{}
	g.dialer = whole
	defer func() { g.dialer = new(net.Dialer) }()
	for _, c := range []struct {
		what    string
		before  func()
		removes bool
	}{
		{"made", func() { g.mustDeprovision(t, name, changed) }, false},
		{"made again", func() { g.mustProvision(t, asked(name, former, "readers", ""), changed) }, false},
		{"removed", func() { g.mustProvision(t, asked(name, former, "readers", ""), changed) }, true},
	} {
		act := func() (sdk.ApplyResponse, error) {
			if c.removes {
				return provisioner{}.Deprovision(t.Context(), g.asAdmin(g.unit), sdk.Account{Name: name})
			}
			return provisioner{}.Provision(t.Context(), g.asAdmin(g.unit), asked(name, next, "exec", "2091-03-04T05:06:07Z"))
		}
		half := 0 // times that the account was left disabled, in part
		c.before()
		whole.set(0, false)
		if got, err := act(); err != nil || got != changed {
			t.Fatalf("%s: %+v, %v", c.what, got, err)
		}
		writes := whole.count()
		for cut := writes - lastWrites; cut <= writes; cut++ {
			for _, arrives := range []bool{false, true} {
				whole.set(0, false)
				c.before()
				was, err := g.Has(t.Context(), dn)
				if err != nil {
					t.Fatal(err)
				}
				changedAt, _ := g.Get(t.Context(), dn, "uSNChanged")
				whole.set(cut, arrives)
				got, err := act()
				whole.set(0, false)
				is, errHas := g.Has(t.Context(), dn)
				if errHas != nil {
					t.Fatal(errHas)
				}
				var groups []string
				var now, control string
				if is {
					groups = in(t, g.ADServer, dn)
					now, _ = g.Get(t.Context(), dn, "uSNChanged")
					control, _ = g.Get(t.Context(), dn, "userAccountControl")
				}
				e := (*sdk.Error)(nil)
				touched := was != is || now != changedAt
				if touched && (got.Outcome == sdk.Unchanged || errors.As(err, &e) && e.NotSent) {
					t.Errorf("%s, cut at write %d (arrives: %v): something was changed, and it is %+v, %v", c.what, cut, arrives, got, err)
				}
				if err == nil && got.Outcome != sdk.Changed {
					t.Errorf("%s, cut at write %d (arrives: %v): %+v without an error", c.what, cut, arrives, got)
				}
				if is && control == disabled {
					half++
				}
				if is && control != disabled {
					if ok, err := g.Accepts(t.Context(), dn, password(next).Secret); err != nil || ok && !slices.Equal(groups, []string{g.exec}) {
						t.Errorf("%s, cut at write %d (arrives: %v): let in with the new secret, in %q, %v", c.what, cut, arrives, groups, err)
					}
					if ok, err := g.Accepts(t.Context(), dn, password(former).Secret); err != nil || ok && !slices.Equal(groups, []string{g.readers}) {
						t.Errorf("%s, cut at write %d (arrives: %v): let in with the former secret, in %q, %v", c.what, cut, arrives, groups, err)
					}
				}
				if got, err := act(); err != nil || got != changed {
					t.Fatalf("%s, cut at write %d (arrives: %v), then again: %+v, %v", c.what, cut, arrives, got, err)
				}
				if c.removes {
					g.mustBeThere(t, dn, false)
					continue
				}
				g.mustAccept(t, dn, next, true)
				if groups := in(t, g.ADServer, dn); !slices.Equal(groups, []string{g.exec}) {
					t.Errorf("%s, cut at write %d (arrives: %v), then again: in %q", c.what, cut, arrives, groups)
				}
			}
		}
		if half == 0 {
			t.Errorf("%s: no cut left anything in part", c.what)
		}
		t.Logf("%s: cut at each of the last %d of %d writes, which left the account disabled %d times", c.what, lastWrites+1, writes, half)
	}
	g.mustDeprovision(t, name, changed)
}

// scissors is a dialer whose line is cut once, in place of a write or after it has arrived.
type scissors struct {
	mu      sync.Mutex
	at      int // counted from 1; 0: it is not cut
	arrives bool
	writes  int
}

func (s *scissors) set(at int, arrives bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.arrives, s.writes = at, arrives, 0
}

func (s *scissors) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

func (s *scissors) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	return &cutLine{Conn: c, s: s}, err
}

// cutLine loses what is answered to the write after which it is cut.
type cutLine struct {
	net.Conn
	s *scissors

	mu   sync.Mutex
	lost bool
}

var errCut = errors.New("the line is cut")

func (c *cutLine) Write(b []byte) (int, error) {
	c.s.mu.Lock()
	c.s.writes++
	cut, arrives := c.s.writes == c.s.at, c.s.arrives
	c.s.mu.Unlock()
	if cut && !arrives {
		_ = c.Close()
		return 0, errCut
	}
	if cut {
		c.mu.Lock()
		c.lost = true
		c.mu.Unlock()
	}
	return c.Conn.Write(b)
}

// Read waits for the answer, so that what was sent was done, and then gives none.
func (c *cutLine) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost {
		_ = c.Close()
		return 0, errCut
	}
	return n, err
}
