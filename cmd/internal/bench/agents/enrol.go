package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/internal/version"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

const (
	perPool   = 100 // simulated agents
	perChange = 2000
	perWrite  = 500 // each with its change and its keys

	beginPerSecond = 1500 // when nothing is measured yet
)

// newcomer is an agent between its token and its entry.
type newcomer struct {
	id   seal.ID
	seed seal.Key
	keys enrol.Keys
}

// enrolCrowd puts agents into the log: an administrator's device signs their
// enrolments, each agent's one-time key and its new key sign its entry, and the server
// judges every one, as always. Only the way there is shorter: the administrator's
// session brings all entries, in a few calls, where each agent would sign in and read
// the log for itself.
func enrolCrowd(ctx context.Context, c *client.Client, n int) (out crowdConfig, err error) {
	admin, err := administrator(ctx, c)
	if err != nil {
		return out, err
	}
	conn, err := enrol.Dial(admin.Server, admin.CAPin, version.Version)
	if err != nil {
		return out, err
	}
	defer conn.Close()
	if _, err := conn.StartSession(ctx, enrol.Signer{OrgID: admin.OrgID, EntryID: admin.Entry, Key: admin.Keys.Sign}); err != nil {
		return out, err
	}
	write := func(ops []*clientv1.WriteOp) error {
		_, err := conn.Write(ctx, connect.NewRequest(&clientv1.WriteRequest{Ops: ops}))
		return err
	}
	var fresh []newcomer
	for range n {
		keys, err := enrol.MakeKeys(client.KindAgent)
		if err != nil {
			return out, err
		}
		fresh = append(fresh, newcomer{seal.NewID(), seal.NewKey(), keys})
	}
	var changes []*clientv1.WriteOp
	var pool seal.ID
	for part := range slices.Chunk(fresh, perChange) {
		now := time.Now()
		var ops []*trustv1.Op
		for i, a := range part {
			at := len(changes)*perChange + i
			if at%perPool == 0 {
				pool = seal.NewID()
				ops = append(ops, trust.PutOp(&trustv1.Entry{EntryId: pool.Bytes(), Kind: client.KindPool, Name: fmt.Sprintf("site-%04d", at/perPool), V: trust.Version}))
			}
			ops = append(ops, trust.PutOp(trust.NewEnrolment(a.id, a.seed, client.KindAgent, pool, fmt.Sprintf("idle-%05d", at), 0, now.Add(time.Hour))))
		}
		op, err := change(admin.Log, now, admin.Entry, ops, admin.Keys.Sign)
		if err != nil {
			return out, err
		}
		changes = append(changes, op)
	}
	if err := write(changes); err != nil {
		return out, fmt.Errorf("put the enrolments: %w", err)
	}
	out = crowdConfig{Server: admin.Server, CAPin: admin.CAPin, OrgID: admin.OrgID, PerSecond: beginPerSecond}
	for part := range slices.Chunk(fresh, perWrite) {
		var ops []*clientv1.WriteOp
		for _, a := range part {
			now := time.Now()
			public, err := a.keys.Public()
			if err != nil {
				return out, err
			}
			e, _ := admin.Log.Entry(a.id)
			put := trust.PutOp(trust.Successor(e, a.keys.SignPub(), public, now.Add(trust.MaxDeviceAge)))
			op, err := change(admin.Log, now, a.id, []*trustv1.Op{put}, seal.EnrolSignKey(a.seed), a.keys.Sign)
			if err != nil {
				return out, err
			}
			ops = append(ops, op, &clientv1.WriteOp{Op: &clientv1.WriteOp_PutKeys{PutKeys: &clientv1.PutKeys{EntryId: a.id.Bytes(), Keys: public}}})
			der, err := seal.MarshalDeviceKey(a.keys.Device)
			if err != nil {
				return out, err
			}
			out.Agents = append(out.Agents, crowdAgent{a.id, der})
		}
		if err := write(ops); err != nil {
			return out, fmt.Errorf("put the agents: %w", err)
		}
	}
	return out, nil
}

// change signs ops, and takes them up in this process's own log as everybody will.
func change(l *trust.Log, now time.Time, signer seal.ID, ops []*trustv1.Op, keys ...ed25519.PrivateKey) (*clientv1.WriteOp, error) {
	signed, _, err := trust.SignChange(l.Org(), l.NewChange(signer, now, ops...), keys...)
	if err != nil {
		return nil, err
	}
	if _, err := l.Append(signed, now); err != nil {
		return nil, err
	}
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_Append{Append: signed}}, nil
}

// administrator makes a further device of the person's, whose keys this process holds.
func administrator(ctx context.Context, c *client.Client) (*enrol.Identity, error) {
	made, err := c.AddDevice(ctx, client.DeviceSpec{Name: "bench"})
	if err != nil {
		return nil, err
	}
	token, err := enrol.ParseToken(made.Text)
	if err != nil {
		return nil, err
	}
	return enrol.Join(ctx, enrol.JoinOptions{Token: token, Want: client.KindDevice, Version: version.Version})
}
