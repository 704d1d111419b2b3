package run

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
	"unique"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/agent/jump"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/agent/policy"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// world is an organisation with one folder, one agent, a resource with its
// administrator, and one account: real log, real statements, real seals. The vault
// is in memory and the target a fake, so that a test can have it give any answer.
type world struct {
	journal string // the file
	t       *testing.T
	log     *trust.Log
	now     time.Time
	vault   *memoryVault
	target  *fakeTarget
	engine  *Engine

	device, agent       party
	folder              seal.ID
	folderKey           seal.Key
	pool                seal.ID
	account, admin, res trust.Ref
	statements          map[trust.Ref]seal.Digest
	seqs                map[trust.Ref]uint64 // of the statements
	self                bool
	told                []ksm.Refusal
	keyID               string               // of the key in a record that is put next
	known               uint64               // greatest number of the account's values that the person's client remembers
	pinned              []trust.Ref          // by commands, besides account and resource
	signer              party                // of the statements that are put
	keys                map[seal.ID]seal.Key // of further folders
}

type party struct {
	id   seal.ID
	sign ed25519.PrivateKey
	seal *seal.SealKey
	keys []byte
}

func newParty(t *testing.T, agent bool) party {
	t.Helper()
	_, sign, err := ed25519.GenerateKey(nil)
	must(t, err)
	sk, err := seal.GenerateSealKey()
	must(t, err)
	var device []byte
	if agent {
		k, err := seal.GenerateDeviceKey()
		must(t, err)
		device, err = seal.DevicePub(k)
		must(t, err)
	}
	return party{seal.NewID(), sign, sk, trust.EncodeKeys(sk.Public(), device)}
}

func (p party) entry(kind trustv1.EntryKind, owner seal.ID, name string) *trustv1.Entry {
	d := seal.Hash(p.keys)
	return &trustv1.Entry{EntryId: p.id.Bytes(), Kind: kind, Name: name, OwnerId: owner.Bytes(), SignPub: p.sign.Public().(ed25519.PublicKey), KeysDigest: d.Bytes(), V: trust.Version}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newWorld builds it. self: the account rotates itself.
func newWorld(t *testing.T, self bool) *world {
	w := &world{t: t, now: time.Now(), self: self, statements: map[trust.Ref]seal.Digest{}, seqs: map[trust.Ref]uint64{}, folder: seal.NewID(), folderKey: seal.NewKey()}
	_, root, err := ed25519.GenerateKey(nil)
	must(t, err)
	recovery := newParty(t, false)
	w.device = newParty(t, false)
	w.signer = w.device
	agent := newParty(t, true)
	w.agent = agent
	member, pool := seal.NewID(), seal.NewID()
	dev := w.device.entry(trustv1.EntryKind_ENTRY_KIND_DEVICE, member, "laptop")
	dev.NotAfter = w.now.Add(24 * time.Hour).UnixMilli()
	org, changes, err := trust.NewOrganisation(trust.Founding{
		Root: root, RecoveryID: recovery.id, RecoveryKeys: recovery.keys, MemberID: member, MemberName: "Ada", Device: dev,
	}, w.now)
	must(t, err)
	w.log = trust.NewLog(org)
	for _, c := range changes {
		_, err := w.log.Append(c, w.now)
		must(t, err)
	}
	ops := append(trust.NewFolderOps(org, w.folder, member, w.folderKey),
		trust.PutOp(&trustv1.Entry{EntryId: pool.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_POOL, Name: "dc1", V: trust.Version}),
		trust.PutOp(agent.entry(trustv1.EntryKind_ENTRY_KIND_AGENT, pool, "gw1")),
		trust.GrantOp(w.folder, pool, trust.Read))
	signed, _, err := trust.SignChange(org, w.log.NewChange(w.device.id, w.now, ops...), w.device.sign)
	must(t, err)
	_, err = w.log.Append(signed, w.now)
	must(t, err)

	w.account, w.admin, w.res = w.ref(), w.ref(), w.ref()
	w.vault = &memoryVault{w: w, records: map[seal.ID]*ksm.ExtRecord{}, state: map[seal.ID]string{}}
	sealed, err := trust.SealFolderKey(w.log, w.folder, w.folderKey, agent.id, agent.keys, w.now)
	must(t, err)
	w.vault.folder = ksm.ExtFolder{FolderUID: w.folder.Bytes(), KeyVersion: 1, Sealed: sealed}

	w.pool = pool
	resource := w.resource()
	if !self {
		resource.AdminAccount = w.admin.Proto()
	}
	w.putResource(resource)
	w.put(w.admin, "pamUser", []byte("adminpw"), w.accountStatement("admin", nil))
	w.put(w.account, "pamUser", []byte("old"), w.accountStatement("app", &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: w.now.Add(time.Hour).UnixMilli()}))

	w.journal = filepath.Join(t.TempDir(), "journal.db")
	j, _, err := journal.Open(w.journal, true, w.now)
	must(t, err)
	t.Cleanup(func() { j.Close() })
	w.target = &fakeTarget{secrets: map[string]string{"app": "old", "admin": "adminpw"}}
	w.engine = &Engine{
		Me:    Identity{ID: agent.id, Sign: agent.sign, Seal: agent.seal},
		Vault: w.vault, Plugins: w.target, Directory: fixedLog{w.log}, Journal: j, Policy: &policy.Policy{},
		Ways:   jump.New(jump.Config{}),
		Leases: NewLeases(func() time.Time { return time.Time{} }, func(int) {}, time.Now),
		Slots:  NewSlots(8), Limits: DefaultLimits, Hint: func(seal.ID, trust.Ref, string) {},
		Tell: func(f ksm.Refusal) { w.told = append(w.told, f) },
		Log:  slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now }, Open: context.Background(),
	}
	return w
}

func (w *world) resource() *trustv1.Resource {
	return &trustv1.Resource{PoolId: w.pool.Bytes(), Plugin: "fake", Host: "db.test", Port: 5432, Tls: &trustv1.Tls{Mode: trustv1.TlsMode_TLS_MODE_OFF}}
}

func (w *world) putResource(r *trustv1.Resource) {
	w.put(w.res, "pamDatabase", nil, &trustv1.Statement{Kind: trustv1.RecordKind_RECORD_KIND_RESOURCE, Subject: &trustv1.Statement_Resource{Resource: r}})
}

// waiting returns when a run waits for its turn on the resource.
func (w *world) waiting(resource trust.Ref) {
	w.t.Helper()
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); runtime.Gosched() {
		w.engine.Slots.mu.Lock()
		n := len(w.engine.Slots.resources[resource.String()].others)
		w.engine.Slots.mu.Unlock()
		if n > 0 {
			return
		}
	}
	w.t.Fatal("no run waits for its turn")
}

func (w *world) ref() trust.Ref { return trust.Ref{Folder: w.folder, Record: seal.NewID()} }

func (w *world) accountStatement(login string, m *trustv1.Mandate) *trustv1.Statement {
	return &trustv1.Statement{Kind: trustv1.RecordKind_RECORD_KIND_ACCOUNT, Subject: &trustv1.Statement_Account{Account: &trustv1.Account{
		Resource: w.res.Proto(), Login: login, SecretKind: "password", Mandate: m,
	}}}
}

// put stores a record with its statement, and an "edited" result where it has a
// secret, as a person's client does.
func (w *world) put(ref trust.Ref, kind string, secret []byte, s *trustv1.Statement) {
	w.t.Helper()
	key := seal.NewKey()
	rec := record.New(kind, "title")
	if kind == "script" {
		must(w.t, rec.SetText(record.ScriptText, secret))
		secret = nil
	}
	if secret != nil {
		must(w.t, rec.SetText("password", secret))
		must(w.t, rec.SetLabelled(record.KeyID, w.keyID))
	}
	plain, err := rec.JSON()
	must(w.t, err)
	check := seal.RecordKeyCheck(w.log.Org(), key, ref.Record)
	s.RecordUid, s.FolderUid, s.KeyCheck, s.Seq, s.Issued = ref.Record.Bytes(), ref.Folder.Bytes(), check.Bytes(), w.seqs[ref]+1, w.now.UnixMilli()
	signed, digest, err := trust.SignStatement(w.log, w.signer.sign, s)
	must(w.t, err)
	w.statements[ref] = digest
	w.seqs[ref]++
	folderKey, further := w.keys[ref.Folder]
	if !further {
		folderKey = w.folderKey
	}
	x := &ksm.ExtRecord{
		Ref: wireRef(ref), Kind: kind, RecordKey: trust.SealRecordKey(folderKey, key), KeyVersion: 1,
		Data: trust.SealData(key, plain), Revision: 1, Statement: trust.SealStatement(w.log.Org(), key, ref.Record, signed),
	}
	if secret != nil {
		d := seal.Hash(x.Data)
		x.Attestation, _, err = trust.SignResult(w.log, w.device.sign, &trustv1.Result{
			Phase: trustv1.Phase_PHASE_EDITED, By: w.device.id.Bytes(), Account: ref.Proto(), ValueSeq: 1, DataDigest: d.Bytes(),
			Cause: make([]byte, 32), Time: w.now.UnixMilli(), RunId: seal.NewID().Bytes(), Event: 1,
		})
		must(w.t, err)
		x.Recent = [][]byte{x.Attestation}
	}
	w.vault.records[ref.Record] = x
}

// secret is the account's password in the vault's record, or beside it.
func (w *world) secret(ref trust.Ref) (current, staged string) {
	w.t.Helper()
	x := w.vault.records[ref.Record]
	key, err := seal.UnwrapKey(w.folderKey, x.RecordKey)
	must(w.t, err)
	open := func(box []byte) string {
		plain, err := seal.OpenGCM(key, box, nil)
		must(w.t, err)
		c, err := credential(plain, sdk.Password)
		must(w.t, err)
		return c.Secret.ExposeString()
	}
	current = open(x.Data)
	if x.Staged != nil {
		staged = open(x.Staged.Data)
	}
	return current, staged
}

// run does a scheduled run with a given id.
func (w *world) run(id seal.ID) (Outcome, error) {
	w.vault.mu.Lock()
	if w.vault.state[id] == "" {
		w.vault.state[id] = "queued"
	}
	w.vault.mu.Unlock()
	return w.engine.Do(w.t.Context(), Job{ID: id, Account: w.account})
}

// command is a person's, about the account.
func (w *world) command(action trustv1.Action, run seal.ID) *trust.Command {
	return w.commandBy(w.device, action, run)
}

func (w *world) commandBy(device party, action trustv1.Action, run seal.ID) *trust.Command {
	w.t.Helper()
	c := &trustv1.Command{
		Id: seal.NewID().Bytes(), AgentId: w.agent.id.Bytes(), Action: action, Account: w.account.Proto(), RunId: run.Bytes(),
		Issued: w.now.UnixMilli(), Expires: w.now.Add(2 * time.Minute).UnixMilli(),
	}
	for _, ref := range append([]trust.Ref{w.account, w.res}, w.pinned...) {
		c.Pins = append(c.Pins, &trustv1.Pin{Record: ref.Proto(), Digest: w.statements[ref].Bytes()})
	}
	if action == trustv1.Action_ACTION_CANCEL {
		c.Args = &trustv1.Command_Cancel{Cancel: &trustv1.CancelArgs{RunId: seal.NewID().Bytes()}}
	}
	frame, _, err := trust.SealCommand(w.log, device.id, device.sign, w.agent.keys, c, w.now)
	must(w.t, err)
	out, err := trust.OpenCommand(w.log, w.engine.Journal, w.agent.id, w.agent.seal, frame, w.now)
	must(w.t, err)
	return out
}

// change appends to the log.
func (w *world) change(ops ...*trustv1.Op) {
	w.t.Helper()
	signed, _, err := trust.SignChange(w.log.Org(), w.log.NewChange(w.device.id, w.now, ops...), w.device.sign)
	must(w.t, err)
	_, err = w.log.Append(signed, w.now)
	must(w.t, err)
}

// later moves the clock.
func (w *world) later(d time.Duration) { w.now = w.now.Add(d) }

type fixedLog struct{ l *trust.Log }

func (f fixedLog) Fresh(context.Context) (*trust.Log, error) { return f.l, nil }
func (f fixedLog) Fetch(context.Context) error               { return nil }
func (f fixedLog) Known() *trust.Log                         { return f.l }

// memoryVault keeps what a vault keeps of one account.
type memoryVault struct {
	w       *world
	mu      sync.Mutex
	folder  ksm.ExtFolder
	further []ksm.ExtFolder
	records map[seal.ID]*ksm.ExtRecord
	state   map[seal.ID]string // of runs
	epoch   uint64
	writes  int
	last    ksm.ReportRequest
	leases  []string // causes
	busy    bool     // another run holds the lease
	forgets bool     // every run but those that it is asked for to recover

	restated []ksm.RestateRequest
	holder   seal.ID
	action   string           // asked for with a lease; empty: rotate
	fail     map[string]error // by operation, once
	crash    string           // the operation at whose answer the agent is stopped, once
	stop     func()           // stops it
}

var errCrash = errors.New("killed here")

// before refuses what a test says, and every call under a context that has ended.
func (v *memoryVault) before(ctx context.Context, op string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := v.fail[op]; err != nil {
		delete(v.fail, op)
		if k, ok := err.(killed); ok {
			k.cancel()
		}
		return err
	}
	return nil
}

func (v *memoryVault) after(op string) error {
	if v.crash == op {
		v.crash = ""
		v.stop()
		return errCrash
	}
	return nil
}

func (v *memoryVault) Fetch(context.Context, ...seal.ID) (ksm.FetchAnswer, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.fetched(), nil
}

func (v *memoryVault) fetched() ksm.FetchAnswer {
	a := ksm.FetchAnswer{Folders: append([]ksm.ExtFolder{v.folder}, v.further...)}
	for _, r := range v.records {
		a.Records = append(a.Records, *r)
	}
	return a
}

func (v *memoryVault) Lease(_ context.Context, r ksm.LeaseRequest) (ksm.LeaseAnswer, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.leases = append(v.leases, r.Cause)
	switch {
	case v.forgets && r.Cause != "recover":
		return ksm.LeaseAnswer{}, ksm.Refuse(ksm.CodeRunUnknown, "there is no such run")
	case v.state[seal.ID(r.RunID)] == "finished":
		return ksm.LeaseAnswer{Closed: true}, nil
	case v.busy:
		return ksm.LeaseAnswer{Busy: true, Epoch: v.epoch, Holder: v.holder.Bytes()}, nil
	}
	v.epoch++
	v.writes++
	answer := ksm.LeaseAnswer{Epoch: v.epoch, TermMS: 10_000, Action: "rotate", Cause: "schedule"}
	if v.action != "" {
		answer.Action = v.action
	}
	if r.Fetch && v.epoch%2 == 1 { // a vault may leave them out
		fetched := v.fetched()
		answer.Fetched = &fetched
	}
	if r.Cause == "recover" {
		answer.Action, answer.Cause = "verify", "recover"
	}
	return answer, nil
}

func (v *memoryVault) Stage(ctx context.Context, r ksm.StageRequest) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.before(ctx, "stage"); err != nil {
		return err
	}
	x := v.records[seal.ID(r.Account.Record)]
	if x.Staged != nil {
		return ksm.Refuse(ksm.CodeOutstanding, "a candidate is outstanding")
	}
	if x.Revision != r.Revision {
		return ksm.Refuse(ksm.CodeOutOfSync, "the record has moved")
	}
	if last, err := trust.OpenResult(v.w.log, x.Attestation); err == nil && r.ValueSeq <= last.ValueSeq {
		return ksm.Refuse(ksm.CodeOutOfSync, "value %d does not follow value %d", r.ValueSeq, last.ValueSeq)
	}
	x.Staged = &ksm.ExtStaged{Owner: "agent", RunID: r.RunID, Time: v.w.now.UnixMilli(), Data: r.Data, Result: r.Result, Authority: r.Authority}
	x.Recent = append([][]byte{r.Result}, x.Recent...)
	v.writes++
	return v.after("stage")
}

func (v *memoryVault) Commit(ctx context.Context, r ksm.SettleRequest) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.before(ctx, "commit"); err != nil {
		return err
	}
	x := v.records[seal.ID(r.Account.Record)]
	if x.Staged == nil || seal.Hash(x.Staged.Data) != seal.Digest(r.DataDigest) {
		return ksm.Refuse(ksm.CodeNotStaged, "nothing is staged")
	}
	x.HistoryKey, x.HistoryData = x.RecordKey, x.Data
	x.Data, x.Staged, x.Attestation = x.Staged.Data, nil, r.Result
	x.Recent = append([][]byte{r.Result}, x.Recent...)
	x.Revision++
	v.writes++
	if r.Finish {
		v.state[seal.ID(r.RunID)] = "finished"
	}
	return v.after("commit")
}

func (v *memoryVault) Abandon(_ context.Context, r ksm.SettleRequest) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.records[seal.ID(r.Account.Record)].Staged = nil
	v.writes++
	return nil
}

func (v *memoryVault) Restate(ctx context.Context, r ksm.RestateRequest) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.before(ctx, "restate"); err != nil {
		return err
	}
	v.records[seal.ID(r.Record.Record)].Statement = r.Blob
	v.restated = append(v.restated, r)
	return nil
}

func (v *memoryVault) Report(ctx context.Context, r ksm.ReportRequest) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.before(ctx, "report"); err != nil {
		return err
	}
	v.last = r
	v.writes++
	if x := v.records[seal.ID(r.Account.Record)]; len(r.Result) > 0 {
		x.Recent = append([][]byte{r.Result}, x.Recent...)
	}
	if !r.Retry {
		v.state[seal.ID(r.RunID)] = "finished"
	}
	return nil
}

// fakeTarget is a target with passwords, whose answers a test can replace.
type fakeTarget struct {
	mu       sync.Mutex
	manifest sdk.Manifest
	secrets  map[string]string
	still    map[string]string // former ones, by which nothing can be changed, that it takes for a while
	applied  []string
	logins   int
	opens    int
	opened   pluginhost.Target // that the newest session leads to
	admins   []string          // secrets that sessions were opened with
	extras   map[string]string // that the newest session was opened with
	retired  []string
	retire   sdk.Outcome        // 0: ends it
	stored   sdk.VerifyResponse // that a read-back answers
	keys     map[string]fakeKey // that it made, by their ids; nil: it has passwords
	mints    int
	swept    []string
	list     func() error           // nil: it lists all
	mint     func() (string, error) // nil: makes one, and gives its id
	sweepErr error

	plans []sdk.Account                               // that a plan was made for
	steps []string                                    // that were asked for
	with  [2]string                                   // the newest step: its job's administrator, and its extra "second"
	users map[string]string                           // by the settings of a dependent: the secret that it has
	plan  func(pluginhost.Job) ([]sdk.Step, error)    // nil: two steps
	step  func(what string) (sdk.StepResponse, error) // nil: does it

	ran        []scriptRan                                // scripts, in order
	script     func(scriptRan) (sdk.AfterResponse, error) // nil: does it
	unscripted error                                      // nil: scripts have processes
	findsNone  bool                                       // its plugin knows no discovery

	makes func(pluginhost.Job, sdk.Account) (string, error) // a script that makes secrets
	finds func(pluginhost.Job) ([]sdk.Finding, bool, error) // one that finds accounts

	openErr  error
	openHook func()
	apply    func(sdk.ApplyRequest) (sdk.ApplyResponse, error) // nil: takes it
	verify   func(n int, secret string) (sdk.VerifyResponse, error)
}

func (f *fakeTarget) Find(name string) (pluginhost.Plugin, error) {
	return pluginhost.Plugin{Name: name}, nil
}

func (f *fakeTarget) Describe(_ context.Context, p pluginhost.Plugin) (pluginhost.Description, error) {
	m := f.manifest
	m.Self, m.Dependents, m.After, m.Generator, m.Discoverer = true, true, true, true, !f.findsNone
	if f.unscripted != nil && p.Script != (unique.Handle[string]{}) {
		return pluginhost.Description{}, f.unscripted
	}
	if m.Concurrency == 0 {
		m.Concurrency = 4
	}
	if m.Kinds == nil {
		m.Kinds = []sdk.Kind{sdk.Password}
	}
	return pluginhost.Description{Manifest: m}, nil
}
func (f *fakeTarget) ExpectScript() {}

func (f *fakeTarget) Forget(string) {}

func (f *fakeTarget) Plan(_ context.Context, _ pluginhost.Plugin, j pluginhost.Job, r sdk.ApplyRequest) ([]sdk.Step, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plans = append(f.plans, r.Account)
	if f.plan != nil {
		return f.plan(j)
	}
	return []sdk.Step{{ID: "one", Title: "the first"}, {ID: "two", Title: "the second"}}, nil
}

func (f *fakeTarget) Do(_ context.Context, _ pluginhost.Plugin, j pluginhost.Job, s sdk.Step, c sdk.Credential) (sdk.StepResponse, error) {
	return f.use("do "+s.ID, j, c)
}

func (f *fakeTarget) Undo(_ context.Context, _ pluginhost.Plugin, j pluginhost.Job, s sdk.Step, c sdk.Credential) (sdk.StepResponse, error) {
	return f.use("undo "+s.ID, j, c)
}

func (f *fakeTarget) use(what string, j pluginhost.Job, c sdk.Credential) (sdk.StepResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what += " for " + string(j.Resource.Config)
	f.steps = append(f.steps, what)
	f.with = [2]string{j.Admin.Secret.ExposeString(), j.Extra["second"].Secret.ExposeString()}
	if f.step != nil {
		if out, err := f.step(what); err != nil || out.Outcome != sdk.Changed {
			return out, err
		}
	}
	if f.users == nil {
		f.users = map[string]string{}
	}
	f.users[string(j.Resource.Config)] = c.Secret.ExposeString()
	return sdk.StepResponse{Outcome: sdk.Changed}, nil
}

func (f *fakeTarget) Open(_ context.Context, _ pluginhost.Plugin, j pluginhost.Job) (Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opens++
	if f.openHook != nil {
		f.openHook()
	}
	f.opened = j.Target
	f.admins = append(f.admins, j.Admin.Secret.ExposeString())
	f.extras = map[string]string{}
	for name, c := range j.Extra {
		f.extras[name] = c.Secret.ExposeString()
	}
	if f.openErr != nil {
		return nil, f.openErr
	}
	if !f.takes(j.AdminAs.Name, j.Admin.Secret) {
		return nil, &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused", NotSent: true}
	}
	return fakeSession{f}, nil
}

func (f *fakeTarget) Verify(_ context.Context, _ pluginhost.Plugin, j pluginhost.VerifyJob) (sdk.VerifyResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logins++
	if f.verify != nil {
		return f.verify(f.logins, j.Credential.Secret.ExposeString())
	}
	if f.keys != nil {
		if k, ok := f.keys[j.Credential.ID]; ok && k.secret == j.Credential.Secret.ExposeString() {
			return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
		}
	} else if f.takes(j.Account.Name, j.Credential.Secret) {
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	}
	return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}, nil
}

// set has a name log in with a secret: and with the one before, where that lives on.
func (f *fakeTarget) set(name, secret string) {
	if f.manifest.OldLives > 0 && f.secrets[name] != secret {
		f.still = map[string]string{name: f.secrets[name]}
	}
	f.secrets[name] = secret
}

// takes says whether a login succeeds.
func (f *fakeTarget) takes(name string, secret sdk.Secret) bool {
	s := secret.ExposeString()
	return s != "" && (s == f.secrets[name] || s == f.still[name])
}

type fakeSession struct{ f *fakeTarget }

func (s fakeSession) Apply(_ context.Context, r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	secret := r.Candidate.Secret.ExposeString()
	s.f.applied = append(s.f.applied, secret)
	if s.f.apply != nil {
		return s.f.apply(r)
	}
	if still := s.f.still[r.Account.Name]; still != "" && r.Current.Secret.ExposeString() == still {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassAuth, Reason: "bad_secret"}, nil
	}
	s.f.set(r.Account.Name, secret)
	return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
}

func (s fakeSession) Retire(_ context.Context, r sdk.RetireRequest) (sdk.RetireResponse, error) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.f.keys != nil {
		delete(s.f.keys, r.Old.ID)
	}
	if r.Keep.Secret.Equal(r.Old.Secret) {
		return sdk.RetireResponse{}, errors.New("the secret to keep is the one to end")
	}
	s.f.retired = append(s.f.retired, r.Old.Secret.ExposeString())
	if s.f.retire != 0 {
		return sdk.RetireResponse{Outcome: s.f.retire}, nil
	}
	return sdk.RetireResponse{Outcome: sdk.Changed}, nil
}

func (s fakeSession) Readback(context.Context, sdk.ApplyRequest) (sdk.VerifyResponse, error) {
	return s.f.stored, nil
}
func (fakeSession) Cut()   {}
func (fakeSession) Close() {}
