package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Accounts are made through the people's API, where the server checks everything, and
// with the same packages as by a client, but many to a call, and with their mandate in
// the first statement: a client signs account and schedule one after the other, a call
// and a change of the log for each.

// account is one that was made.
type account struct {
	ref      trust.Ref
	resource trust.Ref
	title    string
}

// inCall is how many accounts one call makes, and how many schedules it sets.
const (
	inCall      = 500
	timesInCall = 2000
)

// addAccounts makes n accounts, spread over some of the resources, with that schedule;
// nil: with a mandate, and none yet.
func (w *world) addAccounts(ctx context.Context, n int, prefix string, on []trust.Ref, s *clientv1.Schedule) ([]account, error) {
	type call struct {
		ops      []*clientv1.WriteOp
		accounts []account
		err      error
	}
	calls := make(chan call, 1) // the next is signed while the server works on one
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(calls)
		for made := 0; made < n; {
			var c call
			for ; made < n && len(c.accounts) < inCall && c.err == nil; made++ {
				a := account{
					ref:      trust.Ref{Folder: w.folder, Record: seal.NewID()},
					resource: on[made%len(on)], title: prefix + "-" + strconv.Itoa(made),
				}
				var ops []*clientv1.WriteOp
				ops, c.err = w.newAccount(a, s)
				c.ops, c.accounts = append(c.ops, ops...), append(c.accounts, a)
			}
			select {
			case calls <- c:
			case <-ctx.Done():
				return
			}
		}
	}()
	var all []account
	for c := range calls {
		if c.err != nil {
			return nil, c.err
		}
		if err := w.write(ctx, c.ops); err != nil {
			return nil, fmt.Errorf("make accounts: %w", err)
		}
		all = append(all, c.accounts...)
	}
	if len(all) != n {
		return nil, errors.Join(fmt.Errorf("%d of %d accounts were made", len(all), n), context.Cause(ctx))
	}
	return all, nil
}

func (w *world) newAccount(a account, s *clientv1.Schedule) ([]*clientv1.WriteOp, error) {
	now := time.Now()
	key := seal.NewKey()
	defer key.Wipe()
	r := record.New(client.TypeAccount, a.title)
	if err := errors.Join(r.SetText("login", []byte(a.title)), r.SetText("password", []byte("first of "+a.title))); err != nil {
		return nil, err
	}
	data, err := r.JSON()
	if err != nil {
		return nil, err
	}
	box := trust.SealData(key, data)
	signed, digest, err := trust.SignStatement(w.me.Log, w.me.Keys.Sign, &trustv1.Statement{
		RecordUid: a.ref.Record.Bytes(), FolderUid: a.ref.Folder.Bytes(), KeyCheck: seal.RecordKeyCheck(w.me.OrgID, key, a.ref.Record).Bytes(),
		Seq: 1, Issued: now.UnixMilli(), Kind: trustv1.RecordKind_RECORD_KIND_ACCOUNT,
		Subject: &trustv1.Statement_Account{Account: &trustv1.Account{
			Resource: a.resource.Proto(), Login: a.title, SecretKind: "password", VerifyMode: "login",
			Mandate: &trustv1.Mandate{Enabled: true, MinIntervalS: uint32(trust.MinInterval / time.Second), ValidUntil: now.Add(trust.MaxMandate - time.Hour).UnixMilli()},
		}},
	})
	if err != nil {
		return nil, err
	}
	edited, _, err := trust.SignResult(w.me.Log, w.me.Keys.Sign, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_EDITED, By: w.me.Entry.Bytes(), Cause: make([]byte, 32), Account: a.ref.Proto(),
		ValueSeq: 1, DataDigest: seal.Hash(box).Bytes(), Time: now.UnixMilli(),
	})
	if err != nil {
		return nil, err
	}
	ops := []*clientv1.WriteOp{
		{Op: &clientv1.WriteOp_PutRecord{PutRecord: &clientv1.PutRecord{
			Ref: a.ref.Proto(), Kind: client.TypeAccount, RecordKey: trust.SealRecordKey(w.folderKey, key), KeyVersion: w.version, Data: box,
		}}},
		{Op: &clientv1.WriteOp_PutStatement{PutStatement: &clientv1.PutStatement{
			Ref: a.ref.Proto(), Seq: 1, Digest: digest.Bytes(), Links: &clientv1.Links{Resource: a.resource.Proto()},
			Blob: trust.SealStatement(w.me.OrgID, key, a.ref.Record, signed),
		}}},
		{Op: &clientv1.WriteOp_PutResult{PutResult: &clientv1.PutResult{Account: a.ref.Proto(), Signed: edited}}},
	}
	if s != nil {
		ops = append(ops, w.putRotation(a, s))
	}
	return ops, nil
}

func (w *world) putRotation(a account, s *clientv1.Schedule) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutRotation{PutRotation: &clientv1.PutRotation{
		Account: a.ref.Proto(), Resource: a.resource.Proto(), PoolId: w.pool.Bytes(), Schedule: s,
	}}}
}

// monthly is a schedule that does not fire while anything is measured.
func monthly() *clientv1.Schedule {
	return &clientv1.Schedule{Kind: &clientv1.Schedule_EveryS{EveryS: 30 * 86400}, Anchor: time.Now().Add(30 * 24 * time.Hour).UnixMilli()}
}

func once(at time.Time) *clientv1.Schedule {
	return &clientv1.Schedule{Kind: &clientv1.Schedule_Once{Once: at.UnixMilli()}}
}

// due schedules accounts: each at the time that at gives it.
func (w *world) due(ctx context.Context, accounts []account, at func(n int) time.Time) error {
	for from := 0; from < len(accounts); from += timesInCall {
		var ops []*clientv1.WriteOp
		for n, a := range accounts[from:min(len(accounts), from+timesInCall)] {
			ops = append(ops, w.putRotation(a, once(at(from+n))))
		}
		if err := w.write(ctx, ops); err != nil {
			return fmt.Errorf("schedule accounts: %w", err)
		}
	}
	return nil
}

func (w *world) write(ctx context.Context, ops []*clientv1.WriteOp) error {
	if time.Since(w.signedIn) > 5*time.Minute {
		if err := w.signIn(ctx); err != nil {
			return err
		}
	}
	_, err := w.conn.Write(ctx, connect.NewRequest(&clientv1.WriteRequest{Ops: ops}))
	return err
}

// runs are the newest run of each account, by its record: those that were made since.
func (w *world) runs(ctx context.Context, since time.Time) (map[seal.ID]*clientv1.RunView, error) {
	out := map[seal.ID]*clientv1.RunView{}
	q := &clientv1.ListRunsRequest{Page: &clientv1.Page{Size: 1000}}
	for {
		page, err := w.conn.ListRuns(ctx, connect.NewRequest(q))
		if err != nil {
			return nil, err
		}
		for _, r := range page.Msg.Runs {
			if r.Created < since.UnixMilli() {
				return out, nil // they are listed newest first
			}
			if id := seal.ID(r.Account.RecordUid); out[id] == nil {
				out[id] = r
			}
		}
		if page.Msg.Next == "" {
			return out, nil
		}
		q = proto.CloneOf(q)
		q.Page.Token = page.Msg.Next
	}
}

// ended waits until every account has a run that was made since and has ended. It asks
// seldom: to answer costs the server. busy, where given, is called in between.
func (w *world) ended(ctx context.Context, accounts []account, since time.Time, busy func()) (map[seal.ID]*clientv1.RunView, error) {
	for {
		active := 0.0
		for _, a := range w.agents {
			counts, err := a.Metrics(ctx)
			if err != nil {
				return nil, err
			}
			active += counts["rotunda_agent_active_runs"]
		}
		done, all := 0, map[seal.ID]*clientv1.RunView{}
		if active == 0 && time.Now().After(since) { // to ask the agents costs less
			var err error
			if all, err = w.runs(ctx, since); err != nil {
				return nil, err
			}
			for _, a := range accounts {
				if r := all[a.ref.Record]; r.GetFinished() > 0 {
					done++
				}
			}
			if done == len(accounts) {
				return all, nil
			}
		}
		if busy != nil {
			busy()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d runs have ended, %v are under way: %w: %s", done, len(accounts), active, context.Cause(ctx), w.agents[0].Tail())
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// wellDone checks that runs ended as they should.
func wellDone(accounts []account, runs map[seal.ID]*clientv1.RunView) error {
	for _, a := range accounts {
		r := runs[a.ref.Record]
		if r.GetState() != "finished" || r.GetCredential() != trustv1.Outcome_OUTCOME_DONE {
			return fmt.Errorf("the run of %s ended as %s: %s %s", a.title, r.GetState(), r.GetClass(), r.GetReason())
		}
	}
	return nil
}
