package clientapi_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// TestPagesEndByBytes: whatever makes records large makes short pages, and all arrive.
func TestPagesEndByBytes(t *testing.T) {
	const (
		rows    = 8
		large   = 1 << 20
		largest = 6 << 20 // a page of 4 MiB, and the row that made it full
	)
	records := func(sc *scene, p *clientv1.Page) (proto.Message, []string, string, error) {
		r, err := sc.admin.ListRecords(t.Context(), connect.NewRequest(&clientv1.ListRecordsRequest{Page: p, Kinds: []string{"login"}}))
		if err != nil {
			return nil, nil, "", err
		}
		var keys []string
		for _, v := range r.Msg.Records {
			keys = append(keys, string(v.Ref.RecordUid))
		}
		return r.Msg, keys, r.Msg.Next, nil
	}
	each := func(do func(sc *scene, ref trust.Ref, create *clientv1.WriteOp)) func(*scene) {
		return func(sc *scene) {
			for range rows {
				ref, create := newRecord(sc.folder, "login")
				do(sc, ref, create)
			}
		}
	}
	for _, c := range []struct {
		what string
		make func(sc *scene)
		page func(sc *scene, p *clientv1.Page) (answer proto.Message, keys []string, next string, err error)
	}{
		{"their data", each(func(sc *scene, _ trust.Ref, create *clientv1.WriteOp) {
			create.GetPutRecord().Data = random(large)
			sc.admin.must(sc.admin.write(create))
		}), records},
		{"their statements", each(func(sc *scene, ref trust.Ref, create *clientv1.WriteOp) {
			statement := putStatement(ref, 1, random(32), nil)
			statement.GetPutStatement().Blob = random(large)
			sc.admin.must(sc.admin.write(create, statement))
		}), records},
		{"their candidates", each(func(sc *scene, ref trust.Ref, create *clientv1.WriteOp) {
			sc.admin.must(sc.admin.write(create))
			err := sc.store.Write(t.Context(), func(q *db.Queries) error {
				return q.AddStaged(t.Context(), db.AddStagedParams{Org: 1, RecordUid: ref.Record[:], OwnerKind: "agent", Data: random(large)})
			})
			if err != nil {
				t.Fatal(err)
			}
		}), records},
		{"the details of their results", each(func(sc *scene, ref trust.Ref, create *clientv1.WriteOp) {
			detail := random(large)
			signed := edit(t, sc.o, sc.o.Admin, ref, create.GetPutRecord().Data, 1, func(r *trustv1.Result) { r.DetailDigest = seal.Hash(detail).Bytes() })
			put := putResult(ref, signed)
			put.GetPutResult().Detail = detail
			sc.admin.must(sc.admin.write(create, put))
		}), records},
		{"a record's former values", func(sc *scene) {
			for i := range rows + 1 {
				sc.admin.must(sc.admin.write(replaceRecord(sc.account, int64(i)+1, random(large))))
			}
		}, func(sc *scene, p *clientv1.Page) (proto.Message, []string, string, error) {
			r, err := sc.admin.ListHistory(t.Context(), connect.NewRequest(&clientv1.ListHistoryRequest{Ref: sc.account.Proto(), Page: p}))
			if err != nil {
				return nil, nil, "", err
			}
			var keys []string
			for _, v := range r.Msg.History {
				if len(v.Data) == large {
					keys = append(keys, string(v.Data[:16]))
				}
			}
			return r.Msg, keys, r.Msg.Next, nil
		}},
		{"a record's former statements", func(sc *scene) {
			err := sc.store.Write(t.Context(), func(q *db.Queries) error {
				for seq := range int64(rows + 1) {
					err := q.AddStatement(t.Context(), db.AddStatementParams{Org: 1, RecordUid: sc.account.Record[:], Seq: seq + 1, Digest: random(32), Blob: random(large)})
					if err != nil {
						return err
					}
				}
				return q.SetRecordStatement(t.Context(), db.SetRecordStatementParams{StatementSeq: rows + 1, Org: 1, RecordUid: sc.account.Record[:]})
			})
			if err != nil {
				t.Fatal(err)
			}
		}, func(sc *scene, p *clientv1.Page) (proto.Message, []string, string, error) {
			r, err := sc.admin.ListStatements(t.Context(), connect.NewRequest(&clientv1.ListStatementsRequest{Ref: sc.account.Proto(), Page: p}))
			if err != nil {
				return nil, nil, "", err
			}
			var keys []string
			for _, v := range r.Msg.Statements {
				keys = append(keys, string(v.Digest))
			}
			return r.Msg, keys, r.Msg.Next, nil
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			sc := newScene(t, newServer(t))
			c.make(sc)
			all := walk(t, 1000, func(p *clientv1.Page) ([]string, string, error) {
				answer, keys, next, err := c.page(sc, p)
				if err == nil && proto.Size(answer) > largest {
					t.Errorf("a page of %d bytes", proto.Size(answer))
				}
				return keys, next, err
			})
			if len(all) != rows {
				t.Errorf("%d rows, want %d", len(all), rows)
			}
		})
	}
}

// TestRecordsTooLargeForOneAnswer: those asked for by name are refused together, and come
// by themselves.
func TestRecordsTooLargeForOneAnswer(t *testing.T) {
	sc := newScene(t, newServer(t))
	ask := &clientv1.GetRecordsRequest{}
	for range 9 {
		ref, create := newRecord(sc.folder, "login")
		statement := putStatement(ref, 1, random(32), nil)
		statement.GetPutStatement().Blob = random(1 << 20)
		sc.admin.must(sc.admin.write(create, statement))
		ask.Refs = append(ask.Refs, ref.Proto())
	}
	_, err := sc.admin.GetRecords(t.Context(), connect.NewRequest(ask))
	refused(t, err, "too_large")
	ask.Refs = ask.Refs[:7]
	r, err := sc.admin.GetRecords(t.Context(), connect.NewRequest(ask))
	ok(t, err)
	if err == nil && len(r.Msg.Records) != 7 {
		t.Errorf("%d records", len(r.Msg.Records))
	}
}

// TestRunWithLargeDetails: all its results come, and as many of their details as one
// answer bears; what is signed of another account in the run's name is none of them.
func TestRunWithLargeDetails(t *testing.T) {
	sc := newScene(t, newServer(t))
	run := seal.NewID()
	ref, create := newRecord(sc.folder, "login")
	sc.admin.must(sc.admin.write(sc.startRun(sc.o.Admin, run), create))
	add := func(of trust.Ref, n int) {
		detail := random(1 << 20)
		data := sc.admin.get(of).Data
		signed := edit(t, sc.o, sc.o.Admin, of, data, uint64(n), func(r *trustv1.Result) {
			r.RunId, r.DetailDigest = run.Bytes(), seal.Hash(detail).Bytes()
		})
		put := putResult(of, signed)
		put.GetPutResult().Detail = detail
		sc.admin.must(sc.admin.write(put))
	}
	for i := range 12 {
		add(sc.account, i+1)
	}
	add(ref, 1)
	r, err := sc.admin.GetRun(t.Context(), connect.NewRequest(&clientv1.GetRunRequest{RunId: run.Bytes()}))
	if err != nil {
		t.Fatal(err)
	}
	details := slices.DeleteFunc(slices.Clone(r.Msg.Results), func(v *clientv1.ResultView) bool { return len(v.Detail) == 0 })
	if len(r.Msg.Results) != 12 || len(details) != 8 {
		t.Errorf("%d results, %d with their detail; want 12 and 8", len(r.Msg.Results), len(details))
	}
}

// TestListOfOldKeysEndsByBytes: as other pages do.
func TestListOfOldKeysEndsByBytes(t *testing.T) {
	sc := newScene(t, newServer(t))
	for range 8 {
		ref, create := newRecord(sc.folder, "login")
		statement := putStatement(ref, 1, random(32), nil)
		statement.GetPutStatement().Blob = random(1 << 20)
		sc.admin.must(sc.admin.write(create, statement))
	}
	sc.o.Change(t, trust.FolderOp(sc.o.ID, sc.folder, 2, seal.NewKey()))
	sc.wait(trust.Skew + time.Minute)
	sc.restored() // a change that such a server had lost brings nothing along
	sc.admin.catchUp()
	all := walk(t, 1000, func(p *clientv1.Page) (keys []string, next string, err error) {
		r, err := sc.admin.ListOldKeys(t.Context(), connect.NewRequest(&clientv1.ListOldKeysRequest{FolderUid: sc.folder.Bytes(), Page: p}))
		if err != nil {
			return nil, "", err
		}
		if n := proto.Size(r.Msg); n > 6<<20 {
			t.Errorf("a page of %d bytes", n)
		}
		for _, v := range r.Msg.Records {
			keys = append(keys, string(v.Record.Ref.RecordUid))
		}
		return keys, r.Msg.Next, nil
	})
	if len(all) != 10 {
		t.Errorf("%d records, want 10", len(all))
	}
}

// slowly is an answer that is not read before somebody wants to.
type slowly struct {
	http.ResponseWriter
	asked func()
}

func (s slowly) Write(b []byte) (int, error) {
	s.asked()
	return s.ResponseWriter.Write(b)
}

// TestAnswersAtOnce: who does not read his answers holds a few of them, whatever he asks
// for; others are answered.
func TestAnswersAtOnce(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	bob := sc.member(t, trust.Read)
	written, read := make(chan string), make(chan struct{})
	s.reader = func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		who := r.Header.Get("Authorization")
		return slowly{w, func() { written <- who; <-read }}
	}
	answered := make(chan error)
	list := func(c *client) {
		_, err := c.ListFolders(t.Context(), connect.NewRequest(&clientv1.ListFoldersRequest{}))
		answered <- err
	}
	const most = 4
	for range most + 1 {
		go list(sc.admin)
	}
	admin := <-written
	for range most - 1 {
		<-written
	}
	go list(bob)
	if who := <-written; who == admin {
		t.Fatalf("more than %d of his answers are under way", most)
	}
	for range 2 {
		read <- struct{}{}
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
	if who := <-written; who != admin {
		t.Error("the fifth is not answered when there is room")
	}
	close(read)
	for range most {
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
}
