package router

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"sync/atomic"
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
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

func TestAnAgentComesAndGoes(t *testing.T) {
	n := start(t)
	a := n.enrol()
	heads := make(chan uint64, 4)
	cfg := n.config(a)
	cfg.LogHead = func(_ context.Context, epoch uint64, _ []byte) { heads <- epoch }
	c, stop := n.run(cfg)
	n.connected(a)
	if epoch := next(t, "the log's head", heads); epoch != 7 {
		t.Errorf("head %d", epoch)
	}
	p, _ := n.presence(a)
	if p.Node != "one" || p.Version != "1.2.3" || p.Os != "linux" || p.Arch != "amd64" || time.Since(time.UnixMilli(p.Seen)) > soon {
		t.Errorf("presence %+v", p)
	}
	until(t, "the status says so", func() bool { return c.Status().Authenticated })
	if s := c.Status(); !s.Connected || s.LastError != nil || s.Skew.Abs() > 2*time.Second {
		t.Errorf("status %+v", s)
	}
	stop()
	until(t, "the agent is gone", func() bool { p, _ := n.presence(a); return p.Connected == 0 })
	events := n.events("agent.")
	if len(events) != 2 || events[0].Name != audit.AgentConnected || events[1].Name != audit.AgentDisconnected || events[1].Reason != "closed" {
		t.Errorf("events %+v", events)
	}
}

func TestCommandsArriveInOrderAndAreAcknowledged(t *testing.T) {
	n := start(t)
	a := n.enrol()
	waiting := n.command(a) // before the agent is there
	got := make(chan seal.ID, 100)
	cfg := n.config(a)
	cfg.Deliver = each(func(f *trustv1.CommandFrame) error {
		if string(f.GetSealed()) != "sealed to the agent" {
			t.Errorf("sealed %q", f.GetSealed())
		}
		got <- seal.ID(f.GetId())
		return nil
	})
	n.run(cfg)
	want := []seal.ID{waiting}
	for range 3 * window {
		want = append(want, n.command(a))
	}
	for i, id := range want {
		if arrived := next(t, "a command", got); arrived != id {
			t.Fatalf("command %d: got %s, want %s", i, arrived, id)
		}
	}
	last := want[len(want)-1]
	until(t, "the last is acknowledged", func() bool { return n.stored(last).Acked == 1 })
	for _, id := range want {
		if c := n.stored(id); c.Acked != 1 || c.Refused != "" {
			t.Errorf("command %s: %+v", id, c)
		}
	}
	until(t, "all are counted", func() bool {
		s := n.router.Load().Stats()
		return s.Delivered == uint64(len(want)) && s.Acked == uint64(len(want))
	})
}

func TestAnotherAgentsCommandsStayAway(t *testing.T) {
	n := start(t)
	a, b := n.enrol(), n.enrol()
	got := make(chan seal.ID, 10)
	cfg := n.config(a)
	cfg.Deliver = each(func(f *trustv1.CommandFrame) error { got <- seal.ID(f.GetId()); return nil })
	n.run(cfg)
	n.connected(a)
	theirs := n.command(b)
	mine := n.command(a)
	if id := next(t, "my command", got); id != mine {
		t.Errorf("got %s", id)
	}
	// An acknowledgement of another's command does nothing: the next one of its own,
	// stored after it, counts.
	stranger := n.enrol()
	r := n.welcomed(stranger)
	own := n.command(stranger)
	r.ack(theirs, "expired")
	r.ack(own, "")
	until(t, "the stranger's own is acknowledged", func() bool { return n.stored(own).Acked == 1 })
	if c := n.stored(theirs); c.Acked != 0 {
		t.Error("another agent acknowledged it")
	}
}

func TestARefusedCommandIsToldAndItsRunEnds(t *testing.T) {
	type refusal struct {
		agent, command seal.ID
		reason         string
	}
	refusals := make(chan refusal, 4)
	n := start(t, func(cfg *Config, _ *Router) {
		cfg.Refused = func(_ context.Context, q *db.Queries, org int64, agent, command seal.ID, reason string) error {
			q.AfterCommit(func() { refusals <- refusal{agent, command, reason} })
			return nil
		}
	})
	a := n.enrol()
	cfg := n.config(a)
	cfg.Deliver = each(func(_ *trustv1.CommandFrame) error {
		return errors.Join(errors.New("looked at it"), agentend.Refusal("signature_bad"))
	})
	n.run(cfg)
	id := n.command(a)
	if r := next(t, "the refusal", refusals); r != (refusal{a.id, id, "signature_bad"}) {
		t.Errorf("refusal %+v", r)
	}
	if c := n.stored(id); c.Acked != 1 || c.Refused != "signature_bad" {
		t.Errorf("stored %+v", c)
	}
	e := n.events("command.refused")
	if len(e) != 1 || e[0].Reason != "signature_bad" || !bytes.Equal(e[0].Actor, a.id[:]) || !bytes.Equal(e[0].RunID, n.stored(id).RunID) {
		t.Errorf("events %+v", e)
	}
}

func TestReplayedMeansTaken(t *testing.T) {
	n := start(t, func(cfg *Config, _ *Router) {
		cfg.Refused = func(context.Context, *db.Queries, int64, seal.ID, seal.ID, string) error {
			t.Error("a run was ended")
			return nil
		}
	})
	a := n.enrol()
	r := n.welcomed(a)
	id := n.command(a)
	for r.receive().GetDeliver() == nil {
	}
	r.ack(id, "replayed")
	until(t, "it is acknowledged", func() bool { return n.stored(id).Acked == 1 })
	if c := n.stored(id); c.Refused != "" {
		t.Errorf("refused %q", c.Refused)
	}
	if e := n.events("command.refused"); len(e) != 1 || e[0].Reason != "replayed" {
		t.Errorf("events %+v", e)
	}
}

func TestWhatWasNotAcknowledgedComesAgain(t *testing.T) {
	n := start(t)
	a := n.enrol()
	id, second := n.command(a), n.command(a)
	for range 2 {
		r := n.welcomed(a)
		for _, want := range []seal.ID{id, second} {
			if d := r.receive().GetDeliver(); !bytes.Equal(d.GetCommand().GetId(), want[:]) {
				t.Fatalf("delivered %v", d)
			}
		}
		r.sock.Abort() // the acknowledgement is lost
	}
	r := n.welcomed(a)
	r.receive()
	r.ack(id, "")
	until(t, "it is acknowledged", func() bool { return n.stored(id).Acked == 1 })
	r.sock.Abort()
	if d := n.welcomed(a).receive().GetDeliver(); !bytes.Equal(d.GetCommand().GetId(), second[:]) {
		t.Errorf("after one acknowledgement: %v", d)
	}
}

func TestNoMoreThanAWindowIsUnderWay(t *testing.T) {
	n := start(t)
	a := n.enrol()
	r := n.welcomed(a)
	var ids []seal.ID
	for range 2 * window {
		ids = append(ids, n.command(a))
	}
	for range window {
		if r.receive().GetDeliver() == nil {
			t.Fatal("no command")
		}
	}
	r.heartbeat(1, 0)
	if f := r.receive(); f.GetHeartbeatAck() == nil {
		t.Fatalf("beyond the window: %v", f)
	}
	r.ack(ids[0], "")
	if d := r.receive().GetDeliver(); !bytes.Equal(d.GetCommand().GetId(), ids[window][:]) {
		t.Errorf("after one acknowledgement: %v", d)
	}
}

func TestResumeAfterACut(t *testing.T) {
	n := start(t)
	a := n.enrol()
	cable := n.cable()
	cfg := n.config(a)
	cfg.Server = cable.listener.Addr().String()
	var times atomic.Int64
	taken := make(chan seal.ID, 10)
	cfg.Deliver = each(func(f *trustv1.CommandFrame) error {
		if times.Add(1) == 1 {
			cable.cut() // before the journal has it
			return errors.New("the disk is full")
		}
		taken <- seal.ID(f.GetId())
		return nil
	})
	c, _ := n.run(cfg)
	n.connected(a)
	id := n.command(a)
	if got := next(t, "the command after the cut", taken); got != id {
		t.Errorf("got %s", got)
	}
	until(t, "it is acknowledged", func() bool { return n.stored(id).Acked == 1 })
	cable.cut()
	after := n.command(a)
	if got := next(t, "a command after the second cut", taken); got != after {
		t.Errorf("got %s", got)
	}
	until(t, "the channel stands again", func() bool { return c.Status().Authenticated })
}

func TestExpiredCommandsAreDropped(t *testing.T) {
	reasons := make(chan string, 4)
	n := start(t, func(cfg *Config, _ *Router) {
		cfg.Refused = func(_ context.Context, q *db.Queries, _ int64, _, _ seal.ID, reason string) error {
			q.AfterCommit(func() { reasons <- reason })
			return nil
		}
	})
	a := n.enrol()
	id, lives := n.command(a), n.command(a, func(f *trustv1.CommandFrame) { f.Expires += (10 * time.Minute).Milliseconds() })
	n.offset.Store(int64(3 * time.Minute)) // past its end, and an agent might still take it
	if err := n.router.Load().dropExpired(); err != nil {
		t.Fatal(err)
	}
	if n.stored(id).Acked != 0 {
		t.Error("dropped while an agent may still acknowledge it")
	}
	r := n.welcomed(a)
	if d := r.receive().GetDeliver(); !bytes.Equal(d.GetCommand().GetId(), lives[:]) {
		t.Errorf("an expired command was delivered: %v", d)
	}
	n.offset.Store(int64(5 * time.Minute))
	if err := n.router.Load().dropExpired(); err != nil {
		t.Fatal(err)
	}
	if reason := next(t, "word for its run", reasons); reason != "expired" {
		t.Errorf("reason %q", reason)
	}
	if c := n.stored(id); c.Acked != 1 || c.Refused != "expired" {
		t.Errorf("stored %+v", c)
	}
	if n.stored(lives).Acked != 0 {
		t.Error("one that lives was dropped")
	}
	if e := n.events("command.expired"); len(e) != 1 {
		t.Errorf("events %+v", e)
	}
}

func TestARunIsDue(t *testing.T) {
	n := start(t)
	a := n.enrol()
	due := make(chan *channelv1.RunDue, 1000)
	cfg := n.config(a)
	cfg.RunDue = func(_ context.Context, d *channelv1.RunDue) { due <- d }
	n.run(cfg)
	n.connected(a)
	// A thousand in one payload: more than any queue holds, and none is lost.
	var payload bytes.Buffer
	for i := range 1000 {
		run := seal.ID{0: byte(i), 1: byte(i >> 8)}
		_, err := protodelim.MarshalTo(&payload, &channelv1.ToAgent{Frame: &channelv1.ToAgent_RunDue{RunDue: &channelv1.RunDue{
			RunId: run[:], Action: "rotate", Account: &trustv1.Ref{FolderUid: a.id[:], RecordUid: run[:]},
		}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	n.bus.Publish(bus.Agent(1, a.id), payload.Bytes())
	for i := range 1000 {
		if d := next(t, "a due run", due); d.GetAction() != "rotate" || d.GetRunId()[0] != byte(i) {
			t.Fatalf("run %d: %v", i, d)
		}
	}
}

func TestMalformedHintsAreSurvived(t *testing.T) {
	n := start(t)
	a := n.enrol()
	r := n.welcomed(a)
	n.bus.Publish(bus.Agent(1, a.id), []byte{0xff, 0xff, 0xff})
	n.bus.Publish(bus.Agent(1, a.id), []byte{0x80})
	r.heartbeat(1, 0)
	if f := r.receive(); f.GetHeartbeatAck().GetN() != 1 {
		t.Errorf("got %v", f)
	}
}

func TestANewerChannelReplacesTheOlder(t *testing.T) {
	n := start(t)
	a := n.enrol()
	older := n.welcomed(a)
	n.connected(a)
	newer := n.welcomed(a)
	if f := older.ended(); f.GetRefused().GetReason() != socket.Replaced {
		t.Errorf("the older heard %v", f)
	}
	id := n.command(a)
	if d := newer.receive().GetDeliver(); !bytes.Equal(d.GetCommand().GetId(), id[:]) {
		t.Errorf("the newer got %v", d)
	}
	until(t, "the older's end is told", func() bool { return len(n.events(audit.AgentDisconnected)) == 1 })
	if p, _ := n.presence(a); p.Connected != 1 {
		t.Error("the agent counts as gone")
	}
}

func TestSignInIsRefused(t *testing.T) {
	n := start(t)
	a, other := n.enrol(), n.enrol()
	revoked := n.enrol()
	n.write(func(q *db.Queries) error {
		return q.RevokeClientsOf(context.Background(), db.RevokeClientsOfParams{Org: 1, OwnerID: revoked.id[:]})
	})
	second := seal.Hash([]byte("another organisation"))
	stranger := enrolled{id: seal.NewID(), key: a.key}
	for _, c := range []struct {
		what   string
		agent  enrolled
		host   string
		change func(*raw, *channelv1.Auth)
		reason string
		told   bool
	}{
		{"an agent that nobody enrolled", stranger, "127.0.0.1", nil, socket.AgentUnknown, false},
		{"a removed agent", revoked, "127.0.0.1", nil, socket.Revoked, true},
		{"another agent's key", enrolled{id: a.id, key: other.key}, "127.0.0.1", nil, socket.SignatureBad, true},
		{"another server's name", other, "evil.test", nil, socket.SignatureBad, true},
		{"another TLS connection", n.enrol(), "127.0.0.1", func(r *raw, auth *channelv1.Auth) {
			auth.Signature = bytes.Repeat([]byte{1}, 70)
		}, socket.SignatureBad, true},
		{"another organisation's id", n.enrol(), "127.0.0.1", func(_ *raw, auth *channelv1.Auth) { auth.OrgId = second[:] }, socket.WrongOrg, true},
		{"a short client id", a, "127.0.0.1", func(_ *raw, auth *channelv1.Auth) { auth.ClientId = auth.ClientId[:16] }, socket.Malformed, false},
		{"a long signature", a, "127.0.0.1", func(_ *raw, auth *channelv1.Auth) { auth.Signature = make([]byte, 1000) }, socket.Malformed, false},
	} {
		before := len(n.events(audit.AgentRefused))
		r := n.dial()
		f := r.auth(c.agent, c.host, func(auth *channelv1.Auth) {
			if c.change != nil {
				c.change(r, auth)
			}
		})
		if f.GetRefused().GetReason() != c.reason {
			t.Errorf("%s: %v, want %s", c.what, f, c.reason)
		}
		if r.ended() != nil {
			t.Errorf("%s: the channel went on", c.what)
		}
		if c.told {
			until(t, c.what+" is told", func() bool { return len(n.events(audit.AgentRefused)) == before+1 })
		} else if len(n.events(audit.AgentRefused)) != before {
			t.Errorf("%s: told, though nobody is known by it", c.what)
		}
	}
	// Again, at once: a refusal that repeats itself fills no disk.
	before := len(n.events())
	n.dial().auth(revoked, "127.0.0.1")
	r := n.welcomed(a)
	until(t, "a later event", func() bool { return len(n.events(audit.AgentConnected)) == 1 })
	r.sock.Abort()
	if got := len(n.events()); got != before+1 {
		t.Errorf("%d events more", got-before)
	}
}

// The exporter binds the sign-in to its connection: a signature made over
// another one, by whoever stands in the middle, is void.
func TestSignInIsBoundToItsConnection(t *testing.T) {
	n := start(t)
	a := n.enrol()
	r := n.dial()
	r.exporter[0] ^= 1
	if f := r.auth(a, "127.0.0.1"); f.GetRefused().GetReason() != socket.SignatureBad {
		t.Errorf("got %v", f)
	}
}

func TestARemovedAgentLosesItsChannel(t *testing.T) {
	n := start(t)
	a, b := n.enrol(), n.enrol()
	c, _ := n.run(n.config(a))
	stays := n.welcomed(b)
	until(t, "it is welcome", func() bool { return c.Status().Authenticated })
	n.write(func(q *db.Queries) error {
		return q.RevokeClientsOf(context.Background(), db.RevokeClientsOfParams{Org: 1, OwnerID: a.id[:]})
	})
	n.bus.Publish(bus.Log(1), nil)
	until(t, "it knows", func() bool { return c.Status().Reason == socket.Revoked })
	if s := c.Status(); s.Authenticated || time.Until(s.Retry) < time.Minute {
		t.Errorf("status %+v: a removed agent asks again soon", s)
	}
	stays.heartbeat(1, 0)
	if f := stays.receive(); f.GetHeartbeatAck() == nil {
		t.Errorf("the other agent got %v", f)
	}
}

func TestTheLogsHeadReachesThoseAtWork(t *testing.T) {
	n := start(t)
	idle, busy := n.welcomed(n.enrol()), n.welcomed(n.enrol())
	busy.heartbeat(1, 1)
	if f := busy.receive(); f.GetHeartbeatAck() == nil {
		t.Fatalf("got %v", f)
	}
	n.write(func(q *db.Queries) error {
		_, err := q.SetHead(context.Background(), db.SetHeadParams{ID: 1, Epoch: 8, Head: make([]byte, 32)})
		return err
	})
	n.bus.Publish(bus.Log(1), nil)
	if f := busy.receive(); f.GetLogHead().GetEpoch() != 8 {
		t.Errorf("at work: %v", f)
	}
	idle.heartbeat(1, 0)
	if f := idle.receive(); f.GetHeartbeatAck() == nil {
		t.Errorf("idle: %v", f)
	}
}

func TestProgressIsPushed(t *testing.T) {
	n := start(t)
	a := n.enrol()
	watch := n.bus.Subscribe(bus.Push(1))
	defer watch.Close()
	c, _ := n.run(n.config(a))
	until(t, "it is welcome", func() bool { return c.Status().Authenticated })
	run, account := seal.NewID(), &trustv1.Ref{FolderUid: a.id[:], RecordUid: a.id[:]}
	c.Progress(run, account, "no phase at all\x1b") // refused
	c.Progress(run, account, "applied")
	for {
		var got clientv1.WatchResponse
		if err := proto.Unmarshal(next(t, "a push", watch.C()), &got); err != nil {
			t.Fatal(err)
		}
		if got.GetRun() == nil {
			continue // that the agent came is an event
		}
		if got.GetRun().GetPhase() != "applied" || !bytes.Equal(got.GetRun().GetRunId(), run[:]) || !proto.Equal(got.GetRun().GetAccount(), account) {
			t.Errorf("pushed %v", &got)
		}
		break
	}
}

func TestOnlyALastingPhaseIsWritten(t *testing.T) {
	n := start(t)
	a := n.enrol()
	run := seal.NewID()
	n.write(func(q *db.Queries) error {
		return q.AddRun(context.Background(), db.AddRunParams{Org: 1, RunID: run[:], AgentID: a.id[:], AccountUid: run[:]})
	})
	phase := func() string {
		var r db.Run
		n.read(func(q *db.Queries) (err error) {
			r, err = q.RunByID(context.Background(), db.RunByIDParams{Org: 1, RunID: run[:]})
			return err
		})
		return r.Phase
	}
	r := n.welcomed(a)
	n.connected(a)
	for _, p := range []string{"resolved", "staged", "applied"} {
		r.send(&channelv1.ToRouter{Frame: &channelv1.ToRouter_Progress{Progress: &channelv1.Progress{RunId: run[:], Phase: p}}})
	}
	until(t, "the phase that lasts is there", func() bool {
		switch p := phase(); p {
		case "":
			return false
		case "applied":
			return true
		default:
			t.Fatalf("phase %q was written", p)
			return false
		}
	})
}

func TestNoRoomNoTLSNoBrowser(t *testing.T) {
	n := start(t, func(cfg *Config, _ *Router) { cfg.MaxAgents = 1 })
	n.welcomed(n.enrol())
	c, _ := n.run(n.config(n.enrol()))
	until(t, "the second agent is told to wait", func() bool { return c.Status().Reason == socket.Busy })

	n = start(t)
	client := n.server.Client()
	ask := func(origin string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.server.URL+socket.Path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13",
			"Sec-Websocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-Websocket-Protocol": socket.Protocol, "Origin": origin,
		} {
			if v != "" {
				req.Header.Set(k, v)
			}
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if code := ask(""); code != http.StatusSwitchingProtocols {
		t.Fatalf("an honest upgrade: status %d", code)
	}
	if code := ask("https://" + n.server.Listener.Addr().String()); code != http.StatusForbidden {
		t.Errorf("a browser: status %d", code)
	}
	w := &recorder{header: make(http.Header)}
	n.router.Load().ServeHTTP(w, &http.Request{Method: http.MethodGet, Header: make(http.Header)})
	if w.code != http.StatusUpgradeRequired {
		t.Errorf("without TLS: status %d", w.code)
	}
}

type recorder struct {
	header http.Header
	code   int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(b []byte) (int, error) { return len(b), nil }
func (r *recorder) WriteHeader(code int)        { r.code = code }

func TestTLS12IsNotEnough(t *testing.T) {
	n := start(t)
	conn, err := tls.Dial("tcp", n.server.Listener.Addr().String(), &tls.Config{RootCAs: n.roots, MaxVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	var status *socket.StatusError
	_, err = socket.Dial(t.Context(), conn, n.server.Listener.Addr().String(), socket.Path)
	if !errors.As(err, &status) || status.Code != http.StatusUpgradeRequired {
		t.Errorf("got %v", err)
	}
}
