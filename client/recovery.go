package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Recovery says how a server fares that was put back from a backup. All but the names
// is the server's word.
type Recovery struct {
	Restored   time.Time // zero: it never was
	Recovering bool      // the log takes only what was signed before
	Changes    uint64    // of the log, as this client has it
	Parties    []Party   // agents and devices in the log
}

// Party is an agent or a device, and how much of the log it has said to hold since the
// restore.
type Party struct {
	ID       seal.ID
	Kind     trustv1.EntryKind
	Name     string // with its pool's or member's
	Reported time.Time
	Changes  uint64
}

// Heard reports that the party has reported since the restore.
func (p Party) Heard() bool { return !p.Reported.IsZero() }

// Recovery asks how the server fares.
func (c *Client) Recovery(ctx context.Context) (Recovery, error) {
	if err := c.fetchLog(ctx); err != nil {
		return Recovery{}, err
	}
	got, err := call(ctx, c, "ask how the server recovers", c.conn.GetRecovery, &clientv1.GetRecoveryRequest{})
	if err != nil {
		return Recovery{}, err
	}
	r := Recovery{Restored: when(got.Restored), Recovering: got.Recovering, Changes: c.log.Next()}
	reported := map[seal.ID]*clientv1.Reported{}
	for _, p := range got.Reported {
		reported[idOr(p.EntryId)] = p
	}
	for _, kind := range []trustv1.EntryKind{KindAgent, KindDevice} {
		var list []Party
		for _, e := range c.log.Entries(kind) {
			p := reported[e.ID]
			list = append(list, Party{ID: e.ID, Kind: kind, Name: c.log.FullName(e), Reported: when(p.GetTime()), Changes: p.GetChanges()})
		}
		slices.SortStableFunc(list, func(a, b Party) int { return a.Reported.Compare(b.Reported) }) // those not heard of first
		r.Parties = append(r.Parties, list...)
	}
	return r, nil
}

// EndRecovery lets the log of a restored server grow again. What a party that has not
// reported knows, and nobody else, would fork the log from then on.
func (c *Client) EndRecovery(ctx context.Context, restored time.Time) error {
	_, err := call(ctx, c, "end the recovery", c.conn.Write, &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{
		{Op: &clientv1.WriteOp_EndRecovery{EndRecovery: &clientv1.EndRecovery{Restored: milli(restored)}}},
	}})
	return err
}

// bringOwnKeys gives a server that was put back from a backup of before this device's
// enrolment its public keys again: without them nobody can seal a folder key to it. It is
// tried once, where a key has not come.
func (c *Client) bringOwnKeys(ctx context.Context) {
	c.ownKeys.Do(func() {
		const op = "bring this device's public keys"
		got, err := call(ctx, c, op, c.conn.GetKeys, &clientv1.GetKeysRequest{EntryIds: [][]byte{c.facts.Entry.Bytes()}})
		if err != nil || len(got.Keys) > 0 {
			return // they are there, and others' clients fill in what is missing
		}
		public, err := c.keys.Public()
		if err == nil {
			_, err = call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{
				{Op: &clientv1.WriteOp_PutKeys{PutKeys: &clientv1.PutKeys{EntryId: c.facts.Entry.Bytes(), Keys: public}}},
			}})
		}
		if err != nil {
			c.notice("own_keys", "the server has lost this device's public keys, and does not take them back: %v", err)
			return
		}
		c.notice("own_keys", "the server had lost this device's public keys; they were sent again")
	})
}

// knownRuns bounds the runs that are looked at for what agents know of a value.
const knownRuns = 20

// knownValue is the greatest number of an account's value that this device or an agent
// of the resource's pool has seen: a value that a person sets goes above it, else those
// who remember more would not use it.
func (c *Client) knownValue(ctx context.Context, op string, o *opened) (uint64, error) {
	var pool seal.ID
	resource, unread := c.resourceOf(ctx, op, o)
	if unread == nil {
		pool = poolOf(resource.Statement)
	}
	var seen trust.ValueSeen
	err := c.memory.work(func(m *memoryTx) (err error) {
		seen, err = trust.Remembered(m, o.Ref, pool)
		return err
	})
	if err != nil {
		return 0, fail(op, err)
	}
	known := seen.Seq
	if unread != nil {
		return known, nil // whose pool is not known here is not believed
	}
	runs, _, err := c.Runs(ctx, RunFilter{Account: o.Ref.Record, State: "failed", Limit: knownRuns})
	if err != nil {
		return 0, err
	}
	served, _ := lastValue(o)
	for _, r := range runs {
		if r.Reason != string(trust.ValueRollback) {
			continue
		}
		view, err := call(ctx, c, op, c.conn.GetRun, &clientv1.GetRunRequest{RunId: r.ID.Bytes()})
		if err != nil {
			return 0, err
		}
		for _, v := range view.Results {
			res, err := trust.CheckResult(c.log, v.Signed, trust.Expect{Pool: pool, Account: o.Ref})
			// A stolen agent must not lift the number out of everybody's reach.
			if err == nil && res.Reason == string(trust.ValueRollback) && res.ValueSeq <= served+trust.MaxFloorRaise {
				known = max(known, res.ValueSeq)
			}
		}
	}
	if known > served+trust.MaxFloorRaise {
		return 0, &Error{
			Class: Refused, Reason: string(trust.ValueRollback), Op: op, Err: fmt.Errorf("this device has seen value %d, and value %d is served", known, served),
			Hint: trust.ValueRollback.Hint(),
		}
	}
	return known, nil
}

// recovering reports an error of a server that takes no new change of the log.
func recovering(err error) bool {
	var own *Error
	return errors.As(err, &own) && own.Reason == string(trust.LogRecovering)
}
