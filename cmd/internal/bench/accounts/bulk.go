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
	"github.com/rotunda-pam/rotunda/sdk"
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
				ops, c.err = w.newScheduled(a, s)
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

// newAccount makes an account's record, with its first statement and its attested value.
func (w *world) newAccount(a account, login string, secret sdk.Secret, m *trustv1.Mandate) ([]*clientv1.WriteOp, error) {
	r := record.New(client.TypeAccount, a.title)
	b := secret.Expose()
	defer clear(b)
	if err := errors.Join(r.SetText("login", []byte(login)), r.SetText("password", b)); err != nil {
		return nil, err
	}
	ops, box, err := w.newRecord(a.ref, r, &trustv1.Statement{
		Kind: trustv1.RecordKind_RECORD_KIND_ACCOUNT,
		Subject: &trustv1.Statement_Account{Account: &trustv1.Account{
			Resource: a.resource.Proto(), Login: login, SecretKind: client.SecretPassword, VerifyMode: "login", Mandate: m,
		}},
	}, &clientv1.Links{Resource: a.resource.Proto()})
	if err != nil {
		return nil, err
	}
	edited, _, err := trust.SignResult(w.me.Log, w.me.Keys.Sign, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_EDITED, By: w.me.Entry.Bytes(), Cause: make([]byte, 32), Account: a.ref.Proto(),
		ValueSeq: 1, DataDigest: seal.Hash(box).Bytes(), Time: time.Now().UnixMilli(),
	})
	return append(ops, &clientv1.WriteOp{Op: &clientv1.WriteOp_PutResult{PutResult: &clientv1.PutResult{Account: a.ref.Proto(), Signed: edited}}}), err
}

// newResource makes a resource's record, with its first statement.
func (w *world) newResource(ref trust.Ref, title string, port, concurrency int, by trust.Ref) ([]*clientv1.WriteOp, error) {
	r := record.New(client.TypeMachine, title)
	if err := r.SetHost(record.Host{HostName: "127.0.0.1", Port: strconv.Itoa(port)}); err != nil {
		return nil, err
	}
	ops, _, err := w.newRecord(ref, r, &trustv1.Statement{
		Kind: trustv1.RecordKind_RECORD_KIND_RESOURCE,
		Subject: &trustv1.Statement_Resource{Resource: &trustv1.Resource{
			PoolId: w.pool.Bytes(), Plugin: "bench", Host: "127.0.0.1", Port: uint32(port), Concurrency: uint32(concurrency),
			Tls: &trustv1.Tls{Mode: trustv1.TlsMode_TLS_MODE_OFF}, AdminAccount: by.Proto(),
		}},
	}, &clientv1.Links{AdminAccount: by.Proto(), PoolId: w.pool.Bytes()})
	return ops, err
}

// newRecord makes a record with its first statement, and gives its sealed data too.
func (w *world) newRecord(ref trust.Ref, r *record.Record, s *trustv1.Statement, links *clientv1.Links) (ops []*clientv1.WriteOp, box []byte, err error) {
	key := seal.NewKey()
	defer key.Wipe()
	data, err := r.JSON()
	if err != nil {
		return nil, nil, err
	}
	box = trust.SealData(key, data)
	s.RecordUid, s.FolderUid, s.Seq, s.Issued = ref.Record.Bytes(), ref.Folder.Bytes(), 1, time.Now().UnixMilli()
	s.KeyCheck = seal.RecordKeyCheck(w.me.OrgID, key, ref.Record).Bytes()
	signed, digest, err := trust.SignStatement(w.me.Log, w.me.Keys.Sign, s)
	if err != nil {
		return nil, nil, err
	}
	return []*clientv1.WriteOp{
		{Op: &clientv1.WriteOp_PutRecord{PutRecord: &clientv1.PutRecord{
			Ref: ref.Proto(), Kind: r.Type(), RecordKey: trust.SealRecordKey(w.folderKey, key), KeyVersion: w.version, Data: box,
		}}},
		{Op: &clientv1.WriteOp_PutStatement{PutStatement: &clientv1.PutStatement{
			Ref: ref.Proto(), Seq: 1, Digest: digest.Bytes(), Links: links, Blob: trust.SealStatement(w.me.OrgID, key, ref.Record, signed),
		}}},
	}, box, nil
}

func (w *world) newScheduled(a account, s *clientv1.Schedule) ([]*clientv1.WriteOp, error) {
	ops, err := w.newAccount(a, a.title, sdk.NewSecret([]byte("first of "+a.title)), &trustv1.Mandate{
		Enabled: true, MinIntervalS: uint32(trust.MinInterval / time.Second), ValidUntil: time.Now().Add(trust.MaxMandate - time.Hour).UnixMilli(),
	})
	if err == nil && s != nil {
		ops = append(ops, w.putRotation(a, s))
	}
	return ops, err
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
		done := 0
		if active == 0 && time.Now().After(since) { // to ask the agents costs less
			all, err := w.runs(ctx, since)
			if err != nil {
				return nil, err
			}
			if done = endedOf(accounts, all); done == len(accounts) {
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

// listed waits until every account has a run that was made since and has ended, also
// where others are under way.
func (w *world) listed(ctx context.Context, accounts []account, since time.Time) (map[seal.ID]*clientv1.RunView, error) {
	for {
		all, err := w.runs(ctx, since)
		if err != nil {
			return nil, err
		}
		done := endedOf(accounts, all)
		if done == len(accounts) {
			return all, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d runs have ended: %w: %s", done, len(accounts), context.Cause(ctx), w.agents[0].Tail())
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// endedOf counts the accounts whose run has ended.
func endedOf(accounts []account, runs map[seal.ID]*clientv1.RunView) (n int) {
	for _, a := range accounts {
		if runs[a.ref.Record].GetFinished() > 0 {
			n++
		}
	}
	return n
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
