package client

import (
	"context"
	"crypto/ed25519"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// withhold has the vault show no more of the log than its first n changes.
func (e *estate) withhold(n int) {
	log := trust.NewLog(e.facts.OrgID)
	for _, signed := range e.vault.changes[:n] {
		_, err := log.Append(signed, time.Now())
		e.must(err)
	}
	head := log.Head()
	e.vault.twist = func(m proto.Message) {
		a, ok := m.(*clientv1.GetLogResponse)
		if !ok {
			return
		}
		from := len(e.vault.changes) - len(a.Changes)
		a.Changes = a.Changes[:max(0, n-from)]
		a.HeadEpoch, a.HeadDigest = head.Epoch, head.Digest.Bytes()
	}
}

// beforeBob is how many changes the log had when Bob's phone was let in.
func beforeBob(e *estate) int {
	log := trust.NewLog(e.facts.OrgID)
	for n, signed := range e.vault.changes {
		_, err := log.Append(signed, time.Now())
		e.must(err)
		if _, there := log.Entry(e.phone); there {
			return n
		}
	}
	e.t.Fatal("Bob's phone is not in the log")
	return 0
}

// A client that has stood open reads what was signed a moment ago by somebody who knew more
// of the log, or was not in it yet. Where the server keeps the log's end back, it is refused
// and told of.
func TestSignedByLaterLog(t *testing.T) {
	all := func(e *estate) int { return len(e.vault.changes) }
	for _, tc := range []struct {
		name     string
		knows    func(*estate) int // so many changes
		later    func(*estate, *Client) (Ref, error)
		state    ValueState
		withheld ValueState
		reason   trust.Reason // of the record or its candidate, where the log is withheld
		told     string
	}{
		{"a statement", all, func(e *estate, ada *Client) (Ref, error) {
			return e.resource, ada.EditResource(e.t.Context(), e.resource, func(r *trustv1.Resource) error { r.Host = "db2"; return nil })
		}, InUse, Broken, trust.LogGap, "record.refused log_gap"},
		{"a candidate", all, func(e *estate, ada *Client) (Ref, error) {
			key, _, err := ada.folderKey(e.t.Context(), e.folder)
			e.candidate(key, 3)
			return e.account, err
		}, EditedOutside, EditedOutside, trust.CandidateUnattested, "candidate.refused candidate_unattested"},
		{"a first candidate", all, func(e *estate, ada *Client) (Ref, error) {
			key, _, err := ada.folderKey(e.t.Context(), e.folder)
			e.vault.change(e.account.Record.Bytes(), func(r *clientv1.RecordView) { r.Attestation, r.Last = nil, nil })
			e.candidate(key, 3)
			return e.account, err
		}, Unconfirmed, Unconfirmed, trust.CandidateUnattested, "candidate.refused candidate_unattested"},
		{"a statement of somebody new", beforeBob, func(e *estate, ada *Client) (Ref, error) {
			return e.asBob(ada).AddAccount(e.t.Context(), AccountSpec{Folder: e.folder, Title: "bob's", Resource: e.resource, Login: "bob", Secret: sdk.NewSecret([]byte("bob's"))})
		}, InUse, Unsigned, trust.SignerUnknown, ""},
	} {
		for _, withheld := range []bool{false, true} {
			t.Run(tc.name+map[bool]string{true: ", the log withheld"}[withheld], func(t *testing.T) {
				e := newEstate(t)
				ctx := t.Context()
				ada := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
				e.must(ada.Sync(ctx))
				_, _, err := ada.folderKey(ctx, e.folder)
				e.must(err)
				known := tc.knows(e)
				e.withhold(known)
				c := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
				e.must(c.Sync(ctx)) // and for half a minute it asks for no more
				e.vault.twist = nil
				_, err = ada.AddFolder(ctx, "Others")
				e.must(err)
				ref, err := tc.later(e, ada)
				e.must(err)
				state, reason := tc.state, trust.Reason("")
				if withheld {
					state, reason = tc.withheld, tc.reason
					e.withhold(known)
				}
				e.vault.noted = nil
				list, err := c.Get(ctx, ref)
				e.must(err)
				r := list[0]
				refused := trust.Reason(r.Reason)
				if r.Candidate != nil {
					refused = trust.Reason(r.Candidate.Reason)
				}
				if r.State != state || refused != reason {
					t.Errorf("%s (%s), wanted %s (%s)", r.State, refused, state, reason)
				}
				if told := slices.Contains(e.vault.noted, tc.told); tc.told != "" && told != withheld {
					t.Errorf("told of it: %t, wanted %t: %v", told, withheld, e.vault.noted)
				}
			})
		}
	}
}

// unserved is the vault, but for its log.
type unserved struct {
	*vault
	err error
}

func (v unserved) GetLog(context.Context, *connect.Request[clientv1.GetLogRequest]) (*connect.Response[clientv1.GetLogResponse], error) {
	return nil, v.err
}

// Where the later log cannot be had, the refusal stands; where it is refused, nothing is
// shown. It is told of in both cases.
func TestLaterLogIsNotServed(t *testing.T) {
	for code, shown := range map[connect.Code]bool{connect.CodeUnavailable: true, connect.CodePermissionDenied: false} {
		t.Run(code.String(), func(t *testing.T) {
			e := newEstate(t)
			ctx := t.Context()
			c, ada := e.client(e.vault, filepath.Join(t.TempDir(), "memory")), e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
			_, err := c.Get(ctx, e.resource) // with the folder's key and the log
			e.must(err)
			_, err = ada.AddFolder(ctx, "Others")
			e.must(err)
			e.must(ada.EditResource(ctx, e.resource, func(r *trustv1.Resource) error { r.Host = "db2"; return nil }))
			e.vault.noted = nil
			c.conn = &enrol.Conn{VaultServiceClient: unserved{e.vault, connect.NewError(code, errors.New("no log"))}}
			list, err := c.Get(ctx, e.resource)
			switch {
			case shown && (err != nil || list[0].State != Broken || list[0].Reason != string(trust.LogGap)):
				t.Errorf("%+v, %v", list, err)
			case !shown && (err == nil || len(list) > 0):
				t.Errorf("%d records are shown, %v", len(list), err)
			}
			if !slices.Contains(e.vault.noted, "record.refused log_gap") {
				t.Errorf("it is not told of: %v", e.vault.noted)
			}
		})
	}
}

// strip is what a machine's client and the server do together: the one writes that the
// record is a login, the other drops its statement.
func (e *estate) strip(folderKey seal.Key, ref Ref) {
	rec := record.New(TypeLogin, "shop")
	e.must(rec.SetText("password", []byte("what they like")))
	plain, err := rec.JSON()
	e.must(err)
	e.vault.change(ref.Record.Bytes(), func(r *clientv1.RecordView) {
		key, err := seal.UnwrapKey(folderKey, r.RecordKey)
		e.must(err)
		r.Kind, r.Data, r.Revision = TypeLogin, trust.SealData(key, plain), r.Revision+1
		r.Statement, r.Attestation, r.Last, r.Staged = nil, nil, nil, nil
	})
}

// A record that had a statement is none that needs none because its data says so.
func TestStatementDropped(t *testing.T) {
	account := func(e *estate, _ *Client) (Ref, error) { return e.account, nil }
	login := func(e *estate, _ *Client) (Ref, error) { return e.login, nil }
	signedOnce := func(e *estate, ada *Client) (Ref, error) { // so that the log has no floor of it
		return ada.AddAccount(e.t.Context(), AccountSpec{Folder: e.folder, Title: "once", Resource: e.resource, Login: "once"})
	}
	for name, tc := range map[string]struct {
		of    func(*estate, *Client) (Ref, error)
		seen  bool // before it is dropped
		state ValueState
	}{
		"floored in the log":       {account, false, Unsigned},
		"remembered here":          {signedOnce, true, Unsigned},
		"known to nobody":          {signedOnce, false, Kept},
		"one that never had one":   {login, true, Kept},
		"nor one that is new here": {login, false, Kept},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEstate(t)
			ctx := t.Context()
			ada, c := e.client(e.vault, filepath.Join(t.TempDir(), "memory")), e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
			key, _, err := ada.folderKey(ctx, e.folder)
			e.must(err)
			ref, err := tc.of(e, ada)
			e.must(err)
			if tc.seen {
				_, err := c.Get(ctx, ref)
				e.must(err)
			}
			e.strip(key, ref)
			e.vault.noted = nil
			list, err := c.Get(ctx, ref)
			e.must(err)
			reason := ""
			if tc.state == Unsigned {
				reason = string(trust.RecordUnsigned)
			}
			if r := list[0]; r.State != tc.state || r.Reason != reason || r.Type != TypeLogin {
				t.Errorf("%s (%s) of type %s, wanted %s (%s)", r.State, r.Reason, r.Type, tc.state, reason)
			}
			if told := slices.Contains(e.vault.noted, "record.refused record_unsigned"); told != (tc.state == Unsigned) {
				t.Errorf("told of it: %t: %v", told, e.vault.noted)
			}
		})
	}
}

// Whose agent's word counts for a value, the resource says: where that is kept from somebody
// who may read it, no agent's does. What an agent of an unknown pool says is neither
// remembered nor signed on.
func TestResourceWithheld(t *testing.T) {
	e := newEstate(t)
	ctx := t.Context()
	ada := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
	apart, err := ada.AddFolder(ctx, "Apart") // which Bob may not read
	e.must(err)
	e.must(ada.Grant(ctx, apart.UID, e.vault.pool, Read))
	resource, err := ada.AddResource(ctx, ResourceSpec{Folder: apart.UID, Type: TypeDatabase, Title: "db2", Pool: e.vault.pool, Plugin: "postgres", Host: "db2", Port: 5432, TLS: &trustv1.Tls{Mode: trustv1.TlsMode_TLS_MODE_SYSTEM}})
	e.must(err)
	account, err := ada.AddAccount(ctx, AccountSpec{Folder: e.folder, Title: "far", Resource: resource, Login: "far", Secret: sdk.NewSecret([]byte("far's"))})
	e.must(err)
	outsider, pool := seal.NewID(), seal.NewID()
	keys, err := enrol.MakeKeys(KindAgent)
	e.must(err)
	public, err := keys.Public()
	e.must(err)
	_, err = ada.change(ctx, changeSpec{op: "set up", ops: func(*trust.Log) ([]*trustv1.Op, error) {
		return []*trustv1.Op{
			putPool(pool, "dc2"), trust.GrantOp(e.folder, pool, Read), trust.PutOp(&trustv1.Entry{
				EntryId: outsider.Bytes(), Kind: KindAgent, OwnerId: pool.Bytes(), Name: "gw9", V: trust.Version, SignPub: keys.SignPub(), KeysDigest: seal.Hash(public).Bytes(),
			}),
		}, nil
	}})
	e.must(err)

	type signer struct {
		id  seal.ID
		key ed25519.PrivateKey
	}
	poolsOwn, another, person := signer{e.vault.agent, e.vault.agentKeys.Sign}, signer{outsider, keys.Sign}, signer{}
	for name, tc := range map[string]struct {
		bob, withheld bool
		by            signer
		state         ValueState
		reason        string
		unknown       bool
		seen          uint64
	}{
		"served, the pool's agent":                    {false, false, poolsOwn, InUse, "", false, 9},
		"served, another pool's":                      {false, false, another, Unattested, string(trust.ValueUnattested), false, 0},
		"withheld, the pool's agent":                  {false, true, poolsOwn, Unattested, PoolUnknown, true, 0},
		"withheld, another pool's":                    {false, true, another, Unattested, PoolUnknown, true, 0},
		"withheld, a person":                          {false, true, person, InUse, "", false, 1},
		"who may not read it, the pool's agent":       {true, false, poolsOwn, InUse, "", true, 0},
		"who may not read it, another pool's":         {true, false, another, InUse, "", true, 0},
		"who may not read it, nor is shown, a person": {true, true, person, InUse, "", false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			e := *e
			e.t = t
			v := e.vault.clone()
			if tc.by.key != nil {
				v.change(account.Record.Bytes(), func(r *clientv1.RecordView) {
					signed, _, err := trust.SignResult(v.log, tc.by.key, &trustv1.Result{
						By: tc.by.id.Bytes(), Phase: trustv1.Phase_PHASE_COMMITTED, RunId: seal.NewID().Bytes(), Account: r.Ref, ValueSeq: 9,
						DataDigest: seal.Hash(r.Data).Bytes(), LeaseEpoch: 1, Event: 1, Time: time.Now().UnixMilli(),
					})
					e.must(err)
					r.Attestation = &clientv1.ResultView{Signed: signed}
					r.Last = r.Attestation
				})
			}
			if tc.withheld {
				v.twist = func(m proto.Message) {
					if a, ok := m.(*clientv1.GetRecordsResponse); ok {
						a.Records = slices.DeleteFunc(a.Records, func(r *clientv1.RecordView) bool { return proto.Equal(r.Ref, resource.Proto()) })
					}
				}
			}
			c := e.client(v, filepath.Join(t.TempDir(), "memory"))
			if tc.bob {
				c.facts.Entry, c.keys = e.phone, e.phoneKeys
				c.folders.put(e.folder, 1, ada.folders.keys[e.folder].key)
			}
			list, err := c.Get(ctx, account)
			e.must(err)
			if r := list[0]; r.State != tc.state || r.Reason != tc.reason || r.PoolUnknown != tc.unknown || (r.Attested == nil) != (tc.state != InUse) {
				t.Errorf("%s (%s), the pool unknown: %t, attested by %v", r.State, r.Reason, r.PoolUnknown, r.Attested)
			}
			e.must(c.memory.work(func(m *memoryTx) error {
				if seen, err := m.Value(account); err != nil || seen.Seq != tc.seen {
					t.Errorf("value %d is remembered, wanted %d: %v", seen.Seq, tc.seen, err)
				}
				return nil
			}))
			notes, want := "anew", ""
			if tc.unknown {
				want = PoolUnknown
			}
			if err := c.EditRecord(ctx, account, RecordEdit{Notes: &notes}); ReasonOf(err) != want {
				t.Errorf("signed on: %v", err)
			}
		})
	}
}
