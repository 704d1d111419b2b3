package router

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	agentend "github.com/rotunda-pam/rotunda/agent/channel"
	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
)

func TestIdleHeartbeatsWriteNothing(t *testing.T) {
	n := start(t)
	r := n.welcomed(n.enrol())
	until(t, "its coming is stored", func() bool { return len(n.events(audit.AgentConnected)) == 1 })
	before := n.store.Stats().Commits
	for i := range uint64(100) {
		r.heartbeat(i, 0)
		if f := r.receive(); f.GetHeartbeatAck().GetN() != i {
			t.Fatalf("got %v", f)
		}
	}
	if wrote := n.store.Stats().Commits - before; wrote != 0 {
		t.Errorf("%d commits for a hundred idle heartbeats", wrote)
	}
}

// The scheduler is told who came, once that is stored: it looks there.
func TestComingIsTold(t *testing.T) {
	n := start(t)
	here := n.bus.Subscribe(bus.Here)
	defer here.Close()
	a := n.enrol()
	n.welcomed(a)
	select {
	case payload := <-here.C():
		for org, agent := range bus.Arrivals(payload) {
			if org != 1 || agent != a.id {
				t.Errorf("told of agent %x of organisation %d", agent, org)
			}
		}
		if len(payload) != 24 {
			t.Errorf("a payload of %d bytes for one agent", len(payload))
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nobody is told that an agent came")
	}
	if p, ok := n.presence(a); !ok || p.Connected != 1 {
		t.Error("told before it was stored")
	}
}

// An agent goes on by what was acknowledged, so that must be in the store.
func TestAHeartbeatWithLeasesIsAcknowledgedOnceItIsStored(t *testing.T) {
	n := start(t)
	a := n.enrol()
	r := n.welcomed(a)
	n.connected(a)
	for i := range uint64(3) {
		sent := time.Now().UnixMilli()
		r.heartbeat(i, 2)
		f := r.receive()
		if f.GetHeartbeatAck().GetN() != i {
			t.Fatalf("got %v", f)
		}
		if p, _ := n.presence(a); p.Seen < sent {
			t.Errorf("heartbeat %d: seen is %d ms before it was sent", i, sent-p.Seen)
		}
	}
}

func TestHeartbeatsOfManyShareATransaction(t *testing.T) {
	n := start(t)
	var all []*raw
	for range 20 {
		all = append(all, n.welcomed(n.enrol()))
	}
	until(t, "all have come", func() bool { return len(n.events(audit.AgentConnected)) == len(all) })
	before, began := n.router.Load().Stats().Flushes, time.Now()
	for round := range uint64(3) {
		for _, r := range all {
			r.heartbeat(round, 1)
		}
		for _, r := range all {
			if f := r.receive(); f.GetHeartbeatAck().GetN() != round {
				t.Fatalf("got %v", f)
			}
		}
	}
	flushes := n.router.Load().Stats().Flushes - before
	if most := uint64(time.Since(began)/flushEvery) + 2; flushes > most {
		t.Errorf("%d transactions for 60 heartbeats in %s, at most %d", flushes, time.Since(began), most)
	}
}

func TestTheAgentKnowsHowLongItsLeasesLast(t *testing.T) {
	n := start(t)
	a := n.enrol()
	c, stop := n.run(n.config(a))
	until(t, "it is welcome", func() bool { return c.Status().Authenticated })
	if !c.LastAcked().IsZero() {
		t.Errorf("before any lease: acknowledged at %s", c.LastAcked())
	}
	before := time.Now()
	c.SetLeases(1)
	until(t, "a heartbeat is acknowledged", func() bool { return !c.LastAcked().IsZero() })
	first := c.LastAcked()
	if first.Before(before) || time.Since(c.LastAcked()) > soon {
		t.Errorf("acknowledged at %s, asked at %s", first, before)
	}
	until(t, "the next one is, too", func() bool { return c.LastAcked().After(first) })
	stop()
	if since := time.Since(c.LastAcked()); since > soon {
		t.Errorf("after the end: %s", since)
	}
}

func TestASilentAgentWithLeasesIsDead(t *testing.T) {
	n := start(t, func(_ *Config, r *Router) {
		if r != nil {
			r.patience.lease = 300 * time.Millisecond
		}
	})
	a, idle := n.enrol(), n.enrol()
	r, stays := n.welcomed(a), n.welcomed(idle)
	r.heartbeat(1, 1)
	until(t, "it is given up", func() bool {
		e := n.events(audit.AgentDisconnected)
		return len(e) == 1 && e[0].Reason == "dead" && bytes.Equal(e[0].Actor, a.id[:])
	})
	if p, _ := n.presence(a); p.Connected != 0 {
		t.Error("it counts as present")
	}
	stays.heartbeat(1, 0)
	if f := stays.receive(); f.GetHeartbeatAck() == nil {
		t.Errorf("the idle one got %v", f)
	}
}

// An agent that takes nothing is cut; nothing of it piles up, and the others
// notice nothing.
func TestASlowAgentIsCut(t *testing.T) {
	n := start(t, func(_ *Config, r *Router) {
		if r != nil {
			r.patience.write = 300 * time.Millisecond
		}
	})
	slow, quick := n.enrol(), n.enrol()
	n.welcomed(slow) // and never reads again
	fine := n.welcomed(quick)
	var payload bytes.Buffer
	for payload.Len() < 1<<20 {
		id := seal.NewID()
		_, err := protodelim.MarshalTo(&payload, &channelv1.ToAgent{Frame: &channelv1.ToAgent_RunDue{RunDue: &channelv1.RunDue{
			RunId: id[:], Action: strings.Repeat("x", 1000),
		}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 16 { // more than the kernel's buffers take
		n.bus.Publish(bus.Agent(1, slow.id), payload.Bytes())
	}
	fine.heartbeat(1, 0)
	if f := fine.receive(); f.GetHeartbeatAck() == nil {
		t.Errorf("the quick one got %v", f)
	}
	until(t, "the slow one is cut", func() bool {
		e := n.events(audit.AgentDisconnected)
		return len(e) == 1 && e[0].Reason == "slow" && bytes.Equal(e[0].Actor, slow.id[:])
	})
	if s := n.router.Load().Stats(); s.Slow != 1 || s.Connected != 1 {
		t.Errorf("stats %+v", s)
	}
}

// What an agent had, or was told of, is looked at as soon as it is gone or drains; not what
// only it can do, nor what it gave back to be tried again later, and not after a restart of the server, from which agents come back.
func TestTheRunsOfAnAgentThatLeaves(t *testing.T) {
	for _, c := range []struct {
		what      string
		leave     func(n *node, r *raw)
		connected int64
		moves     bool
	}{
		{"gone", func(_ *node, r *raw) { r.conn.Close() }, 0, true},
		{"drains", func(_ *node, r *raw) {
			r.send(&channelv1.ToRouter{Frame: &channelv1.ToRouter_Heartbeat{Heartbeat: &channelv1.Heartbeat{N: 1, Draining: true}}})
		}, 2, true},
		{"the server restarts", func(n *node, _ *raw) { n.stop() }, 0, false},
	} {
		n := start(t)
		a, other := n.enrol(), n.enrol()
		r := n.welcomed(a)
		n.connected(a)
		later := time.Now().Add(time.Hour).UnixMilli()
		run := func(of enrolled, cause, state string, attempt int64) seal.ID {
			id := seal.NewID()
			n.write(func(q *db.Queries) error {
				ctx := context.Background()
				return errors.Join(
					q.AddRun(ctx, db.AddRunParams{Org: 1, RunID: id[:], AccountUid: id[:], FolderUid: id[:], PoolID: id[:], AgentID: of.id[:], Action: "rotate", Cause: cause, NextAttempt: later}),
					q.MoveRun(ctx, db.MoveRunParams{State: state, AgentID: of.id[:], Attempt: attempt, NextAttempt: later, Org: 1, RunID: id[:]}))
			})
			return id
		}
		told := func(of enrolled, cause string) seal.ID { return run(of, cause, "queued", 0) }
		had := func(cause, state string) seal.ID {
			id := run(a, cause, state, 1)
			n.write(func(q *db.Queries) error {
				return q.PutLease(context.Background(), db.PutLeaseParams{Org: 1, AccountUid: id[:], RunID: id[:], Epoch: 1, AgentID: a.id[:]})
			})
			return id
		}
		gaveBack := func(state string) seal.ID {
			id := had("schedule", state)
			n.write(func(q *db.Queries) error {
				return q.ReturnLease(context.Background(), db.ReturnLeaseParams{Org: 1, AccountUid: id[:], Epoch: 1})
			})
			return id
		}
		moves := []seal.ID{told(a, "schedule"), had("schedule", "leased"), had("person", "staged"), had("recover", "committed")}
		stays := []seal.ID{told(a, "person"), had("person", "leased"), told(other, "schedule"), gaveBack("queued"), gaveBack("staged"), gaveBack("committed")}
		work := n.bus.Subscribe(bus.Work)
		c.leave(n, r)
		until(t, c.what+": it is noticed", func() bool { p, _ := n.presence(a); return p.Connected == c.connected })
		if c.moves {
			select {
			case <-work.C():
			case <-time.After(soon):
				t.Errorf("%s: the scheduler is not woken", c.what)
			}
		}
		work.Close()
		due := func(id seal.ID) bool {
			var row db.Run
			n.read(func(q *db.Queries) (err error) {
				row, err = q.RunByID(context.Background(), db.RunByIDParams{Org: 1, RunID: id[:]})
				return err
			})
			return row.NextAttempt != later
		}
		for i, id := range moves {
			if due(id) != c.moves {
				t.Errorf("%s: run %d is looked at: %v", c.what, i, !c.moves)
			}
		}
		for i, id := range stays {
			if due(id) {
				t.Errorf("%s: run %d, which is nobody else's or rests, is looked at", c.what, i)
			}
		}
	}
}

// The agent's end tells that it drains at once, and again on each channel.
func TestAnAgentThatDrainsSaysSo(t *testing.T) {
	n := start(t)
	a := n.enrol()
	c, _ := n.run(n.config(a))
	n.connected(a)
	c.Drain()
	drains := func() bool { p, _ := n.presence(a); return p.Connected == 2 }
	until(t, "it drains", drains)
	n.stop()
	n.open()
	until(t, "it drains on its next channel", drains)
}

func TestWhoSendsNonsenseIsCut(t *testing.T) {
	n := start(t)
	for _, c := range []struct {
		what string
		send func(r *raw)
	}{
		{"no protobuf", func(r *raw) { r.sock.Write([]byte{0xff, 0xff}, soon) }}, //nolint:errcheck // the end may come first
		{"too large", func(r *raw) { oversize(r) }},                              // beyond the bound of a frame
		{"a flood", func(r *raw) {
			for i := range uint64(2 * maxFrames) {
				message, _ := proto.Marshal(&channelv1.ToRouter{Frame: &channelv1.ToRouter_Progress{Progress: &channelv1.Progress{Phase: "applied"}}})
				if i%500 == 0 {
					message, _ = proto.Marshal(&channelv1.ToRouter{})
				}
				if r.sock.Write(message, soon) != nil {
					return
				}
			}
		}},
	} {
		before := len(n.events(audit.AgentDisconnected))
		r := n.welcomed(n.enrol())
		c.send(r)
		r.ended()
		until(t, c.what+" is told", func() bool { return len(n.events(audit.AgentDisconnected)) == before+1 })
		e := n.events(audit.AgentDisconnected)[before]
		if e.Reason != "malformed" {
			t.Errorf("%s: reason %q", c.what, e.Reason)
		}
	}
}

// oversize sends a frame above the bound, which socket.Conn itself would not:
// masked with zeros, its length in eight bytes (RFC 6455, 5.2).
func oversize(r *raw) {
	r.t.Helper()
	frame := binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, socket.MaxMessage+1)
	frame = append(frame, make([]byte, 4+socket.MaxMessage+1)...)
	r.conn.Write(frame) //nolint:errcheck // the end may come first
}

func TestAFreshTermAfterARestart(t *testing.T) {
	n := start(t)
	agent := seal.NewID()
	lease := func(account byte, live int64, taken int64) {
		n.write(func(q *db.Queries) error {
			err := q.PutLease(context.Background(), db.PutLeaseParams{
				Org: 1, AccountUid: []byte{account}, RunID: []byte{account}, Epoch: 3, AgentID: agent[:], Taken: taken,
			})
			if err == nil && live == 0 {
				err = q.ReturnLease(context.Background(), db.ReturnLeaseParams{Org: 1, AccountUid: []byte{account}, Epoch: 3})
			}
			return err
		})
	}
	old := time.Now().Add(-time.Hour).UnixMilli()
	lease(1, 1, old)
	lease(2, 0, old)
	n.write(func(q *db.Queries) error {
		return q.AgentHere(context.Background(), db.AgentHereParams{Org: 1, AgentID: agent[:], Seen: old, Node: "one"})
	})
	n.stop()
	before := time.Now().UnixMilli()
	n.open()
	for account, fresh := range map[byte]bool{1: true, 2: false} {
		var l db.Lease
		n.read(func(q *db.Queries) (err error) {
			l, err = q.LeaseOf(context.Background(), db.LeaseOfParams{Org: 1, AccountUid: []byte{account}})
			return err
		})
		if (l.Taken >= before) != fresh || l.Epoch != 3 {
			t.Errorf("lease of account %d: %+v", account, l)
		}
	}
	if p, _ := n.presence(enrolled{id: agent}); p.Connected != 0 {
		t.Error("an agent of the time before counts as connected")
	}
}

func TestARestartAsksTheAgentsBack(t *testing.T) {
	n := start(t)
	a := n.enrol()
	idle := n.welcomed(n.enrol())
	var busy []*raw
	for range 3 {
		r := n.welcomed(n.enrol())
		r.heartbeat(1, 1)
		for r.receive().GetHeartbeatAck() == nil {
		}
		busy = append(busy, r)
	}
	c, _ := n.run(n.config(a))
	until(t, "it is welcome", func() bool { return c.Status().Authenticated })
	n.stop()
	if f := idle.ended(); f.GetRestarting().GetComeBackAfterMs() == 0 {
		t.Errorf("idle: %v", f)
	}
	for _, r := range busy {
		if ms := r.ended().GetRestarting().GetComeBackAfterMs(); ms == 0 || ms > 2000 {
			t.Errorf("at work: asked back in %d ms, the lease lasts 8 s", ms)
		}
	}
	if p, _ := n.presence(a); p.Connected != 0 {
		t.Error("present, though the node has stopped")
	}
	if e := n.events(audit.AgentDisconnected); len(e) != 0 {
		t.Errorf("%d events for one restart", len(e))
	}
	until(t, "it knows", func() bool { return !c.Status().Authenticated })
	r := n.open()
	until(t, "it is back", func() bool { return r.Stats().Authenticated > 0 && c.Status().Authenticated })
	if s := r.Stats(); s.Authenticated != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestShutdownWaitsForNobody(t *testing.T) {
	n := start(t)
	r := n.router.Load()
	n.dial().receive() // never answers the challenge
	n.welcomed(n.enrol())
	began := time.Now()
	n.stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	if s := r.Stats(); s.Connected != 0 {
		t.Errorf("stats %+v", s)
	}
	conn, err := tls.Dial("tcp", n.server.Listener.Addr().String(), n.tls())
	if err != nil {
		t.Fatal(err)
	}
	var status *socket.StatusError
	if _, err := socket.Dial(t.Context(), conn, n.server.Listener.Addr().String(), socket.Path); !errors.As(err, &status) || status.Code != http.StatusServiceUnavailable {
		t.Errorf("after the end: %v", err)
	}
}

// What the agent's end says when there is no channel.
func TestTheAgentsEndSaysWhy(t *testing.T) {
	n := start(t)
	a := n.enrol()
	other := start(t) // its certificate is another authority's
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	web := plain(t)
	_, port, _ := net.SplitHostPort(n.server.Listener.Addr().String())
	for _, c := range []struct {
		what   string
		change func(*agentend.Config)
		reason string
		says   string
	}{
		{"another authority", func(cfg *agentend.Config) { cfg.TLS = other.tls(); cfg.TLS.RootCAs = nil }, "ca_mismatch", "pinned at enrolment"},
		{"another host", func(cfg *agentend.Config) { cfg.Server = "localhost:" + port }, "wrong_host", `not for "localhost"`},
		{"nobody there", func(cfg *agentend.Config) { cfg.Server = nobody.Addr().String() }, "unreachable", nobody.Addr().String()},
		{"no TLS there", func(cfg *agentend.Config) { cfg.Server = web }, "tls", "does not speak TLS"},
		{"a clock far ahead", func(cfg *agentend.Config) {
			cfg.TLS.Time = func() time.Time { return time.Now().AddDate(100, 0, 0) }
		}, "certificate_time", "set the clock"},
		{"not enrolled here", func(cfg *agentend.Config) { cfg.Agent = seal.NewID() }, socket.AgentUnknown, "enrol it anew"},
		{"another key", func(cfg *agentend.Config) { b := n.enrol(); cfg.Sign = n.config(b).Sign }, socket.SignatureBad, "rotunda.test"},
		{"a proxy that is none", func(cfg *agentend.Config) { cfg.Proxy = proxyTo(web) }, "proxy", "gives no way"},
	} {
		cfg := n.config(a)
		c.change(&cfg)
		ch, stop := n.run(cfg)
		until(t, c.what+" is noticed", func() bool { return ch.Status().LastError != nil })
		s := ch.Status()
		if s.Reason != c.reason || !strings.Contains(s.LastError.Error(), c.says) || s.Authenticated || s.Retry.IsZero() {
			t.Errorf("%s: status %+v", c.what, s)
		}
		stop()
	}
}

func TestThroughAProxy(t *testing.T) {
	n := start(t)
	a := n.enrol()
	proxy, asked := tunnel(t)
	cfg := n.config(a)
	cfg.Proxy = proxyTo("user:word@" + proxy)
	c, _ := n.run(cfg)
	until(t, "it is welcome", func() bool { return c.Status().Authenticated })
	req := next(t, "the proxy is asked", asked)
	if req.Host != n.server.Listener.Addr().String() || req.Header.Get("Proxy-Authorization") != "Basic dXNlcjp3b3Jk" {
		t.Errorf("asked %s with %v", req.Host, req.Header)
	}
}

func TestClockSkewIsSeen(t *testing.T) {
	n := start(t)
	n.offset.Store(int64(10 * time.Minute))
	c, _ := n.run(n.config(n.enrol()))
	until(t, "it is welcome", func() bool { return c.Status().Authenticated })
	if skew := c.Status().Skew; (skew - 10*time.Minute).Abs() > 5*time.Second {
		t.Errorf("skew %s", skew)
	}
}

// Test 60 of the hostile operator: whatever the router sends as a challenge, the
// agent signs nothing without prefix, organisation and host.
func TestAChallengeIsNoSigningOracle(t *testing.T) {
	n := start(t)
	a := n.enrol()
	for _, challenge := range [][]byte{nil, []byte(strings.Repeat("a secrets-manager request ", 10)), make([]byte, 31), make([]byte, 33), make([]byte, 32)} {
		evil := hostile(t, challenge)
		signed := make(chan []byte, 4)
		cfg := n.config(a)
		cfg.Server, cfg.TLS = evil.addr, evil.tls
		cfg.Sign = func(input []byte) ([]byte, error) {
			signed <- slices.Clone(input)
			return seal.SignP256(a.key, input)
		}
		c, stop := n.run(cfg)
		if len(challenge) == 32 {
			input := next(t, "a signature", signed)
			if !bytes.HasPrefix(input, append([]byte("rotunda/v1/channel\x00"), orgID[:]...)) {
				t.Errorf("signed %q", input)
			}
		} else {
			until(t, "it gives up", func() bool { return c.Status().Reason == socket.Malformed })
			if len(signed) != 0 {
				t.Errorf("signed for a challenge of %d bytes", len(challenge))
			}
		}
		stop()
	}
}
