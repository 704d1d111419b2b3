package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/agent/policy"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is an organisation with one person's device and one agent, whose vault answers
// as the test says. The log, the commands and the seals are real; there is no channel.
type world struct {
	t      *testing.T
	log    *trust.Log
	signed [][]byte // of the log
	folder seal.ID
	dir    string
	id     *Identity
	device party
	vault  *fakeVault
	policy *policy.Policy
}

type party struct {
	id   seal.ID
	keys enrol.Keys
	pub  []byte
}

func newParty(t *testing.T, kind trustv1.EntryKind) party {
	t.Helper()
	k, err := enrol.MakeKeys(kind)
	must(t, err)
	pub, err := k.Public()
	must(t, err)
	return party{seal.NewID(), k, pub}
}

func (p party) entry(kind trustv1.EntryKind, owner seal.ID, name string) *trustv1.Entry {
	d := seal.Hash(p.pub)
	return &trustv1.Entry{EntryId: p.id.Bytes(), Kind: kind, Name: name, OwnerId: owner.Bytes(), SignPub: p.keys.SignPub(), KeysDigest: d.Bytes(), V: trust.Version}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	// A short path for sockets, through which the plugins' users may pass.
	dir, err := os.MkdirTemp("/tmp", "rotunda-a-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o711))
	w := &world{t: t, dir: dir, folder: seal.NewID(), policy: &policy.Policy{}, device: newParty(t, trustv1.EntryKind_ENTRY_KIND_DEVICE)}

	now := time.Now()
	_, root, err := ed25519.GenerateKey(nil)
	must(t, err)
	recovery := newParty(t, trustv1.EntryKind_ENTRY_KIND_DEVICE)
	agent := newParty(t, trustv1.EntryKind_ENTRY_KIND_AGENT)
	member, pool := seal.NewID(), seal.NewID()
	dev := w.device.entry(trustv1.EntryKind_ENTRY_KIND_DEVICE, member, "laptop")
	dev.NotAfter = now.Add(24 * time.Hour).UnixMilli()
	org, changes, err := trust.NewOrganisation(trust.Founding{
		Root: root, RecoveryID: recovery.id, RecoveryKeys: recovery.pub, MemberID: member, MemberName: "Ada", Device: dev,
	}, now)
	must(t, err)
	w.log = trust.NewLog(org)
	for _, c := range changes {
		w.add(c)
	}
	w.change(append(trust.NewFolderOps(org, w.folder, member, seal.NewKey()),
		trust.PutOp(&trustv1.Entry{EntryId: pool.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_POOL, Name: "dc1", V: trust.Version}),
		trust.PutOp(agent.entry(trustv1.EntryKind_ENTRY_KIND_AGENT, pool, "gw1")),
		trust.GrantOp(w.folder, pool, trust.Read))...)

	w.vault = newVault(t, w)
	cert := w.vault.Certificate()
	w.id = &Identity{
		OrgID: org, Entry: agent.id, Name: "gw1", Pool: pool, Server: w.vault.Listener.Addr().String(),
		CAPin: sha256.Sum256(cert.RawSubjectPublicKeyInfo), Keys: agent.keys,
	}
	must(t, os.Mkdir(filepath.Join(dir, "plugins"), 0o755))
	j, _, err := journal.Open(filepath.Join(dir, "journal.db"), true, now)
	must(t, err)
	must(t, j.AppendLog(0, w.signed...))
	must(t, j.Close())
	return w
}

func (w *world) add(signed []byte) {
	w.t.Helper()
	_, err := w.log.Append(signed, time.Now())
	must(w.t, err)
	w.signed = append(w.signed, signed)
}

// change appends to the organisation's log, as the vault shows it from now on.
func (w *world) change(ops ...*trustv1.Op) {
	w.t.Helper()
	signed, _, err := trust.SignChange(w.log.Org(), w.log.NewChange(w.device.id, time.Now(), ops...), w.device.keys.Sign)
	must(w.t, err)
	w.add(signed)
}

// start makes the agent, as its program does; nothing is dialled yet.
func (w *world) start() *Agent {
	w.t.Helper()
	a, err := New(Config{
		DataDir: w.dir, PluginDir: filepath.Join(w.dir, "plugins"), Policy: w.policy, Identity: w.id, Log: slog.New(slog.DiscardHandler),
	})
	must(w.t, err)
	return a
}

// end stops what start made, as far as Run would.
func (w *world) end(a *Agent) {
	w.t.Helper()
	a.stopWork(errDraining)
	a.later.Wait()
	a.work.Wait()
	must(w.t, a.plugins.Close(context.Background()))
	must(w.t, a.journal.Close())
}

// command is one that the device signs for the agent.
func (w *world) command(action trustv1.Action, edit ...func(*trustv1.Command)) *trustv1.CommandFrame {
	w.t.Helper()
	now := time.Now()
	c := &trustv1.Command{
		Id: seal.NewID().Bytes(), AgentId: w.id.Entry.Bytes(), Action: action, RunId: seal.NewID().Bytes(),
		Issued: now.UnixMilli(), Expires: now.Add(trust.DefaultLifetime).UnixMilli(),
	}
	for _, f := range edit {
		f(c)
	}
	pub, err := w.id.Keys.Public()
	must(w.t, err)
	frame, _, err := trust.SealCommand(w.log, w.device.id, w.device.keys.Sign, pub, c, now)
	must(w.t, err)
	return frame
}

// onAccount names an account and pins it with a resource; run is the run's id.
func (w *world) onAccount(account trust.Ref, run seal.ID) func(*trustv1.Command) {
	pin := func(r trust.Ref) *trustv1.Pin { return &trustv1.Pin{Record: r.Proto(), Digest: w.log.Org().Bytes()} }
	return func(c *trustv1.Command) {
		c.Account, c.RunId, c.Pins = account.Proto(), run.Bytes(), []*trustv1.Pin{pin(account), pin(w.account())}
	}
}

func (w *world) account() trust.Ref { return trust.Ref{Folder: w.folder, Record: seal.NewID()} }

// fakeVault opens the agents' envelopes and answers by its fields.
type fakeVault struct {
	logAnswer func(*ksm.LogAnswer) // alters it
	*httptest.Server
	w    *world
	keys ksm.ServerKeys

	mu      sync.Mutex
	refused int                                            // requests while it was down
	down    bool                                           // 503 to everything
	refuse  map[string]string                              // operation → code
	reports []ksm.ReportRequest                            // that were taken
	leases  chan ksm.LeaseRequest                          // asked for
	lease   func(ksm.LeaseRequest) (ksm.LeaseAnswer, bool) // nil: every run has ended already
	logs    int                                            // times that the log was asked for
	fetched []ksm.FetchRequest
	appends []ksm.AppendRequest
	records func(uid string) (ksm.ExtRecord, bool) // nil: it has none
}

func newVault(t *testing.T, w *world) *fakeVault {
	t.Helper()
	key, err := seal.GenerateDeviceKey()
	must(t, err)
	v := &fakeVault{w: w, keys: ksm.ServerKeys{{ID: 100, Private: key}}, refuse: map[string]string{}, leases: make(chan ksm.LeaseRequest, 1000)}
	v.Server = httptest.NewTLSServer(http.HandlerFunc(v.serve))
	t.Cleanup(v.Close)
	return v
}

func (v *fakeVault) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	down := v.down
	v.mu.Unlock()
	if down {
		v.set(func(v *fakeVault) { v.refused++ })
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if r.URL.Path == ksm.PathServer {
		pub, _ := seal.DevicePub(v.keys[0].Private)
		_ = json.NewEncoder(w).Encode(ksm.ServerInfo{Host: "127.0.0.1", KeyID: 100, PublicKey: pub})
		return
	}
	body, _ := io.ReadAll(r.Body)
	opened, refused := v.keys.Open(r.Header, body)
	if refused != nil {
		ksm.WriteError(w, r.URL.Path, refused)
		return
	}
	op := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	v.mu.Lock()
	code := v.refuse[op]
	v.mu.Unlock()
	if code != "" {
		ksm.WriteError(w, r.URL.Path, ksm.Refuse(code, "refused by the test"))
		return
	}
	answer, err := v.answer(op, opened.Payload)
	if err != nil {
		v.w.t.Error(err)
	}
	plain, err := json.Marshal(answer)
	if err != nil {
		v.w.t.Error(err)
	}
	_, _ = w.Write(opened.Seal(plain))
}

func (v *fakeVault) answer(op string, payload []byte) (any, error) {
	switch op {
	case ksm.OpLog:
		var r ksm.LogRequest
		err := json.Unmarshal(payload, &r)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.logs++
		h := v.w.log.Head()
		a := ksm.LogAnswer{Epoch: h.Epoch, Digest: h.Digest.Bytes()}
		if r.From < uint64(len(v.w.signed)) {
			a.Changes = v.w.signed[r.From:]
		}
		if v.logAnswer != nil {
			v.logAnswer(&a)
		}
		return a, err
	case ksm.OpAppend:
		var r ksm.AppendRequest
		err := json.Unmarshal(payload, &r)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.appends = append(v.appends, r)
		return ksm.LogAnswer{}, err
	case ksm.OpFetch:
		var r ksm.FetchRequest
		err := json.Unmarshal(payload, &r)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.fetched = append(v.fetched, r)
		var a ksm.FetchAnswer
		for _, uid := range r.RequestedRecords {
			if v.records == nil {
				break
			}
			if rec, ok := v.records(uid); ok {
				a.Records = append(a.Records, rec)
			}
		}
		return a, err
	case ksm.OpKeys:
		return ksm.KeysAnswer{Keys: [][]byte{v.w.device.pub}}, nil
	case ksm.OpLease:
		var r ksm.LeaseRequest
		err := json.Unmarshal(payload, &r)
		v.leases <- r
		if v.lease != nil {
			if a, ok := v.lease(r); ok && err == nil {
				return a, nil
			}
		}
		return ksm.LeaseAnswer{Closed: true}, err
	case ksm.OpReport:
		var r ksm.ReportRequest
		err := json.Unmarshal(payload, &r)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.reports = append(v.reports, r)
		return struct{}{}, err
	}
	return struct{}{}, nil
}

func (v *fakeVault) set(f func(*fakeVault)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(v)
}

// replies are the reports that answer a command.
func (v *fakeVault) replies() (out []ksm.ReportRequest) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range v.reports {
		if len(r.CommandID) > 0 {
			out = append(out, r)
		}
	}
	return out
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come about: %s", what)
		}
	}
}

func soon[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("it does not come: %s", what)
	}
	panic("unreachable")
}

// opened opens a reply as the device does.
func (w *world) opened(a *Agent, r ksm.ReportRequest) (*trust.Result, *trustv1.Detail) {
	w.t.Helper()
	id, err := seal.IDFrom(r.CommandID)
	must(w.t, err)
	c, known, err := a.journal.Command(id)
	if err != nil || !known {
		w.t.Fatalf("a reply to a command that is not journalled: %v", err)
	}
	var env trustv1.Signed
	must(w.t, proto.Unmarshal(c.Signed, &env))
	result, err := trust.CheckResult(w.log, r.Result, trust.Expect{Agent: w.id.Entry, Cause: seal.MessageDigest(seal.KindCommand, w.log.Org(), env.Body)})
	must(w.t, err)
	detail, err := trust.OpenReply(w.log, result, w.device.id, w.device.keys.Seal, id, r.Detail)
	must(w.t, err)
	return result, detail
}
