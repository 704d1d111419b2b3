package clientapi_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/clientapi"
	"github.com/rotunda-pam/rotunda/vault/directory"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
	"github.com/rotunda-pam/rotunda/vault/work"
)

const setupCode = "the code of this test"

// server is the service behind real TLS, over a real store.
type server struct {
	t     *testing.T
	store store.Store
	http  *httptest.Server
	bus   bus.Bus
	dir   *directory.Directory
	sent  map[*orgtest.Org]int // changes that the server has

	removed []db.File                                                    // whose contents were removed
	reader  func(http.ResponseWriter, *http.Request) http.ResponseWriter // how answers are read; nil: at once

	mu    sync.Mutex
	later time.Duration // its clock, ahead of the true one
}

func newServer(t *testing.T) *server {
	t.Helper()
	st, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "rotunda.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	s := &server{t: t, store: st, bus: bus.New(), sent: map[*orgtest.Org]int{}}
	dir := directory.New(s.bus, s.now)
	s.dir = dir
	_, h := clientapi.New(clientapi.Config{
		Store: st, Directory: dir, Work: &work.Work{Directory: dir, Bus: s.bus, Now: s.now}, Bus: s.bus, Now: s.now,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Version: "test",
		SetupCode: func() []byte { return []byte(setupCode) },
		RemoveFiles: func(q *db.Queries, _ int64, files []db.File) {
			q.AfterCommit(func() { s.removed = append(s.removed, files...) })
		},
		Hosts: []string{"vault.example", "127.0.0.1"},
	})
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.reader != nil {
			w = s.reader(w, r)
		}
		h.ServeHTTP(w, r)
	}))
	s.http.EnableHTTP2 = true
	s.http.StartTLS()
	t.Cleanup(s.http.Close)
	return s
}

func (s *server) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.later)
}

// wait moves the server's clock.
func (s *server) wait(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.later += d
}

// restored marks the database as put back from a backup.
func (s *server) restored() {
	s.t.Helper()
	if _, err := s.dir.MarkRestored(s.t.Context(), s.store); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) dial() *enrol.Conn {
	s.t.Helper()
	pin := sha256.Sum256(s.http.Certificate().RawSubjectPublicKeyInfo)
	c, err := enrol.Dial(strings.TrimPrefix(s.http.URL, "https://"), pin, "test")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

// found stores an organisation and what its administrator has signed so far.
func (s *server) found(o *orgtest.Org) *client {
	s.t.Helper()
	var keys []*clientv1.PutKeys
	for _, e := range o.Log.Entries(trustv1.EntryKind_ENTRY_KIND_RECOVERY) {
		keys = append(keys, &clientv1.PutKeys{EntryId: e.ID.Bytes(), Keys: o.Keys[e.ID]})
	}
	keys = append(keys, &clientv1.PutKeys{EntryId: o.Admin.ID.Bytes(), Keys: o.Admin.Keys})
	_, err := s.dial().CreateOrganisation(s.t.Context(), connect.NewRequest(&clientv1.CreateOrganisationRequest{
		SetupCode: setupCode, Changes: o.Changes[:2], Keys: keys,
	}))
	if err != nil {
		s.t.Fatal(err)
	}
	admin := s.signIn(o, o.Admin)
	admin.catchUp()
	return admin
}

// client is a signed-in device.
type client struct {
	*enrol.Conn
	s     *server
	t     *testing.T
	o     *orgtest.Org
	party *orgtest.Party
}

func (s *server) signIn(o *orgtest.Org, p *orgtest.Party) *client {
	s.t.Helper()
	c := s.dial()
	if _, err := c.StartSession(s.t.Context(), enrol.Signer{OrgID: o.ID, EntryID: p.ID, Key: p.Sign}); err != nil {
		s.t.Fatal(err)
	}
	return &client{c, s, s.t, o, p}
}

// catchUp sends what the administrator has signed meanwhile, with all keys.
func (c *client) catchUp() {
	c.t.Helper()
	var ops []*clientv1.WriteOp
	for _, change := range c.o.Changes[max(c.s.sent[c.o], 2):] {
		ops = append(ops, appendOp(change))
	}
	for id, keys := range c.o.Keys {
		if _, live := c.o.Log.Entry(id); live {
			ops = append(ops, putKeys(id, keys))
		}
	}
	c.must(c.write(ops...))
	c.s.sent[c.o] = len(c.o.Changes)
}

func (c *client) write(ops ...*clientv1.WriteOp) (*clientv1.WriteResponse, error) {
	r, err := c.Write(c.t.Context(), connect.NewRequest(&clientv1.WriteRequest{Ops: ops}))
	if err != nil {
		return nil, err
	}
	return r.Msg, nil
}

func (c *client) must(r *clientv1.WriteResponse, err error) *clientv1.WriteResponse {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// refused asserts a reason.
func refused(t *testing.T, err error, reason string) {
	t.Helper()
	if got, _ := enrol.ErrorReason(err); err == nil || got != reason {
		t.Errorf("got reason %q (%v), want %q", got, err, reason)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		reason, _ := enrol.ErrorReason(err)
		t.Errorf("refused: %v (%s)", err, reason)
	}
}

// ---- ops ----

func appendOp(signed []byte) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_Append{Append: signed}}
}

func putKeys(id seal.ID, keys []byte) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutKeys{PutKeys: &clientv1.PutKeys{EntryId: id.Bytes(), Keys: keys}}}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// record makes a new record in a folder; its ciphertexts are noise, since the
// server cannot tell.
func newRecord(folder seal.ID, kind string) (trust.Ref, *clientv1.WriteOp) {
	ref := trust.Ref{Folder: folder, Record: seal.NewID()}
	return ref, &clientv1.WriteOp{Op: &clientv1.WriteOp_PutRecord{PutRecord: &clientv1.PutRecord{
		Ref: ref.Proto(), Kind: kind, RecordKey: random(60), KeyVersion: 1, Data: random(100),
	}}}
}

func replaceRecord(ref trust.Ref, revision int64, data []byte) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutRecord{PutRecord: &clientv1.PutRecord{Ref: ref.Proto(), Data: data, Revision: revision}}}
}

func putStatement(ref trust.Ref, seq uint64, digest, prev []byte) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutStatement{PutStatement: &clientv1.PutStatement{
		Ref: ref.Proto(), Seq: seq, Digest: digest, Prev: prev, Blob: random(200),
	}}}
}

func putFolderKey(folder seal.ID, version uint32, to seal.ID) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutFolderKey{PutFolderKey: &clientv1.PutFolderKey{
		FolderUid: folder.Bytes(), KeyVersion: version, RecipientId: to.Bytes(), Sealed: random(seal.SealOverhead + 32),
	}}}
}

func frame(from, to, run seal.ID) *trustv1.CommandFrame {
	f := &trustv1.CommandFrame{
		To: to.Bytes(), From: from.Bytes(), Id: seal.NewID().Bytes(), Expires: time.Now().Add(time.Minute).UnixMilli(), Sealed: random(300),
	}
	if !run.IsZero() {
		f.RunId = run.Bytes()
	}
	return f
}

func equal(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got %x, want %x", what, got, want)
	}
}
