package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// longLog: what a log of many changes costs an agent that starts, one that enrols, and
// a person's new device.
func longLog(ctx context.Context, o options) (_ []*table, err error) {
	w, err := newWorld(ctx, o, 1, 4)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	var steps []logStep
	for _, size := range []int{o.changes / 10, o.changes} {
		began := time.Now()
		if err := w.grow(ctx, size); err != nil {
			return nil, fmt.Errorf("grow the log: %w", err)
		}
		s, err := w.logStep(ctx, size)
		if err != nil {
			return nil, fmt.Errorf("with %d changes: %w", size, err)
		}
		s.made = s.began.Sub(began)
		steps = append(steps, s)
	}
	return []*table{logTable(steps)}, nil
}

type logStep struct {
	changes             int
	began               time.Time
	made                time.Duration
	bare                time.Duration // verifying so many signatures, and hashing
	server              time.Duration // start to serving
	behind              time.Duration // a command to an agent that has none of the new changes
	agent, enrol, start time.Duration // an old agent's start; a new one's enrolment, and its start
	first               time.Duration // a command to the agent that has just started
	person              time.Duration // what a person's command takes that asks no agent
	device              time.Duration
	memServer, memAgent float64
}

func (w *world) logStep(ctx context.Context, size int) (s logStep, err error) {
	s = logStep{changes: size, began: time.Now()}
	if s.bare, err = w.bareLog(ctx); err != nil {
		return s, err
	}
	if _, err := w.command(ctx, "agent", "list"); err != nil { // this device takes the changes up
		return s, err
	}
	ask := []string{"plugin", "list", "--agent", w.agents[0].Name}
	if s.behind, err = w.command(ctx, ask...); err != nil {
		return s, err
	}
	if s.server, s.agent, err = w.restart(ctx); err != nil {
		return s, err
	}
	if s.first, err = w.command(ctx, ask...); err != nil {
		return s, err
	}
	if s.person, err = w.command(ctx, "agent", "list"); err != nil {
		return s, err
	}
	_, s.memAgent = memory(w.agents[0].Pid())
	if s.enrol, s.start, err = w.newAgent(ctx, fmt.Sprintf("new-%d", size)); err != nil {
		return s, err
	}
	if s.device, _, err = w.freshDevice(ctx, fmt.Sprintf("fresh-%d", size)); err != nil {
		return s, err
	}
	_, s.memServer = memory(w.Server.Pid())
	return s, nil
}

func logTable(steps []logStep) *table {
	last := steps[len(steps)-1]
	t := &table{Part: "log", Title: fmt.Sprintf("A log of %s changes", thousands(last.changes)), Columns: []string{"metric"}}
	for _, s := range steps {
		t.Columns = append(t.Columns, thousands(s.changes)+": floor", "product", "ratio")
	}
	t.Columns = append(t.Columns, "aim")
	add := func(metric, aim string, of func(logStep) any, floored bool) {
		row := []string{metric}
		largest := 0.0
		for _, s := range steps {
			v := of(s)
			if d, ok := v.(time.Duration); ok && floored {
				times := d.Seconds() / s.bare.Seconds()
				largest = max(largest, times)
				row = append(row, cell(s.bare), cell(v), fmt.Sprintf("%.1f", times))
			} else {
				row = append(row, "–", cell(v), "–")
			}
		}
		t.Rows = append(t.Rows, append(row, orDash(aimed(aim, largest <= 5))))
	}
	const few = "a few (at most 5)"
	add("agent, start to taking commands", few, func(s logStep) any { return s.agent }, true)
	add("the first command to it, by the command line", "", func(s logStep) any { return s.first }, true)
	add("a command to an agent that lacks the new changes", few, func(s logStep) any { return s.behind }, true)
	add("new agent, enrolment", few, func(s logStep) any { return s.enrol }, true)
	add("new agent, its first start", few, func(s logStep) any { return s.start }, true)
	add("`rotunda join`, a fresh device", few, func(s logStep) any { return s.device }, true)
	add("`rotunda agent list`", "", func(s logStep) any { return s.person }, true)
	add("server, start to serving", "", func(s logStep) any { return s.server }, false)
	add("server, most memory, MiB", "", func(s logStep) any { return s.memServer }, false)
	add("agent, most memory, MiB", "", func(s logStep) any { return s.memAgent }, false)
	t.note("Floor: verifying so many Ed25519 signatures and hashing the changes, on one core, in this run (the least of three).")
	t.note("The changes are floors, as each new statement of a record brings one, and grants, signed by a person's device and taken by the server, %d to a call, in %s. The server replays the log when it is first asked, which falls on the agent that starts. Each command line replays the log that its device keeps.", changesInCall, span(last.made))
	return t
}

const changesInCall = 500

// grow appends changes until the log has so many.
func (w *world) grow(ctx context.Context, size int) error {
	fetch := func() error {
		return enrol.FetchLog(ctx, w.conn, w.me.Log, time.Now, func([][]byte) error { return nil })
	}
	if err := fetch(); err != nil {
		return err
	}
	for int(w.me.Log.Next()) < size {
		turn, err := w.conn.TakeTurn(ctx, connect.NewRequest(&clientv1.TakeTurnRequest{}))
		if err != nil {
			return err
		}
		if err := fetch(); err != nil {
			return err
		}
		next := w.me.Log.Clone()
		var ops []*clientv1.WriteOp
		for len(ops) < changesInCall && int(next.Next()) < size {
			signed, _, err := trust.SignChange(w.me.OrgID, next.NewChange(w.me.Entry, time.Now(), w.oneOp(int(next.Next()))), w.me.Keys.Sign)
			if err != nil {
				return err
			}
			if _, err := next.Append(signed, time.Now()); err != nil {
				return err
			}
			ops = append(ops, &clientv1.WriteOp{Op: &clientv1.WriteOp_Append{Append: signed}})
		}
		if _, err := w.conn.Write(ctx, connect.NewRequest(&clientv1.WriteRequest{Ops: ops, Turn: turn.Msg.Turn})); err != nil {
			return err
		}
		w.me.Log.Adopt(next)
	}
	return nil
}

// oneOp is what a change of an organisation that has lived for long mostly says: that a
// record has a new statement; and now and then that somebody's rights change.
func (w *world) oneOp(n int) *trustv1.Op {
	switch n % 10 {
	case 3:
		return trust.GrantOp(w.folder, w.me.Owner, trust.Read|trust.Edit)
	case 7:
		return trust.GrantOp(w.folder, w.me.Owner, trust.Read)
	}
	return trust.FloorOp(trust.Ref{Folder: w.folder, Record: seal.NewID()}, 2)
}

// bareLog is what nobody can go below who trusts no server: every signature, and every
// hash of the chain, over the very changes.
func (w *world) bareLog(ctx context.Context) (time.Duration, error) {
	var bodies [][]byte
	log := trust.NewLog(w.me.OrgID)
	err := enrol.FetchLog(ctx, w.conn, log, time.Now, func(signed [][]byte) error {
		bodies = append(bodies, signed...)
		return nil
	})
	if err != nil {
		return 0, err
	}
	public := w.me.Keys.SignPub()
	signatures := make([][]byte, len(bodies))
	for i, b := range bodies {
		signatures[i] = ed25519.Sign(w.me.Keys.Sign, b)
	}
	var least time.Duration
	for range 3 {
		began := time.Now()
		var chain [sha256.Size]byte
		for i, b := range bodies {
			if !ed25519.Verify(public, b, signatures[i]) {
				return 0, errors.New("a signature of this process's own does not hold")
			}
			h := sha256.New()
			h.Write(chain[:])
			h.Write(b)
			chain = [sha256.Size]byte(h.Sum(nil))
		}
		if took := time.Since(began); least == 0 || took < least {
			least = took
		}
	}
	return least, nil
}

// newAgent enrols an agent, starts it and stops it, and says how long the first two took.
func (w *world) newAgent(ctx context.Context, name string) (enrolled, started time.Duration, err error) {
	a, err := w.PrepareAgent(ctx, name, installation.Pool)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := a.Enrol(ctx); err != nil {
		return 0, 0, err
	}
	enrolled = time.Since(began)
	began = time.Now()
	if err := a.Launch(); err != nil {
		return 0, 0, err
	}
	err = waitHealthy(ctx, a)
	started = time.Since(began)
	a.Stop()
	return enrolled, started, err
}
