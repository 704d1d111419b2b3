package proof

import (
	"context"
	"crypto/ed25519"
	crand "crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/agent"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// people are those who own devices.
type people struct {
	shared seal.ID // folder of the accounts
	laptop *device // ada's
	tower  *device // other's
}

// device is a person's device whose keys the test holds, as a thief of its files and
// passphrase does, or a person who runs a client of his own making.
type device struct {
	w    *hostileWorld
	org  int64 // number in the server's database
	id   seal.ID
	keys enrol.Keys
	pin  seal.Digest // of the server's authority
	conn *enrol.Conn // signed in to the server
}

// ada is the administrator's device: her keys as her files give them.
func (w *hostileWorld) ada(t *testing.T) *device {
	t.Helper()
	if w.laptop == nil {
		w.laptop = w.deviceOf(t, w.Installation, 1)
	}
	return w.laptop
}

// deviceOf reads the keys of the device that an installation's command line uses.
func (w *hostileWorld) deviceOf(t *testing.T, i *installation.Installation, org int64) *device {
	t.Helper()
	var facts struct {
		CAPin seal.Digest `json:"ca_pin"`
		OrgID seal.Digest `json:"org_id"`
		Entry seal.ID     `json:"entry_id"`
	}
	var locked struct{ Locked, Keys []byte }
	dir := filepath.Join(i.Dir, "home", "default")
	readJSON(t, filepath.Join(dir, "profile.json"), &facts)
	readJSON(t, filepath.Join(dir, "device.json"), &locked)
	passphrase, err := os.ReadFile(filepath.Join(i.Dir, "passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := seal.Unlock(passphrase[:len(passphrase)-1], seal.LockedDeviceStore, locked.Locked)
	if err != nil {
		t.Fatal(err)
	}
	ad := append(append([]byte("rotunda/v1/device-keys\x00"), facts.OrgID[:]...), facts.Entry[:]...)
	store, err := seal.KeyFrom(raw)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := seal.OpenGCM(store, locked.Keys, ad)
	if err != nil {
		t.Fatal(err)
	}
	var stored enrol.Stored
	if err := json.Unmarshal(plain, &stored); err != nil {
		t.Fatal(err)
	}
	keys, err := stored.Keys()
	if err != nil {
		t.Fatal(err)
	}
	d := &device{w: w, org: org, id: facts.Entry, keys: keys, pin: facts.CAPin}
	d.signIn(t)
	return d
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

func (d *device) signIn(t *testing.T) {
	t.Helper()
	var err error
	if d.conn, err = enrol.Dial(d.w.Addr, d.pin, "hostile"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.conn.StartSession(t.Context(), enrol.Signer{OrgID: d.w.logOf(t, d.org).Org(), EntryID: d.id, Key: d.keys.Sign}); err != nil {
		t.Fatal(err)
	}
}

// member lets a person in who has these roles, on the shared folder or, with Admin,
// on all, and who does what the row wants with his keys.
func (w *hostileWorld) member(t *testing.T, roles trust.Roles) (member seal.ID, d *device) {
	t.Helper()
	ada := w.ada(t)
	keys, err := enrol.MakeKeys(trustv1.EntryKind_ENTRY_KIND_DEVICE)
	if err != nil {
		t.Fatal(err)
	}
	public, err := keys.Public()
	if err != nil {
		t.Fatal(err)
	}
	member, d = seal.NewID(), &device{w: w, org: 1, id: seal.NewID(), keys: keys, pin: ada.pin}
	folder := w.folder(t)
	if roles.Has(trust.Admin) {
		folder = seal.ID{}
	}
	name := w.name("member")
	ops := []*trustv1.Op{
		trust.PutOp(&trustv1.Entry{EntryId: member.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_MEMBER, Name: name, V: trust.Version}),
		trust.PutOp(&trustv1.Entry{
			EntryId: d.id.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_DEVICE, Name: name + "'s laptop", OwnerId: member.Bytes(), V: trust.Version,
			SignPub: keys.SignPub(), KeysDigest: seal.Hash(public).Bytes(), Roles: uint32(trust.AllRoles), NotAfter: time.Now().Add(30 * 24 * time.Hour).UnixMilli(),
		}),
	}
	if roles != 0 {
		ops = append(ops, trust.GrantOp(folder, member, roles))
	}
	signed := ada.sign(t, w.log(t), ops...)
	err = ada.write(t, appends(signed), &clientv1.WriteOp{Op: &clientv1.WriteOp_PutKeys{PutKeys: &clientv1.PutKeys{EntryId: d.id.Bytes(), Keys: public}}})
	if err != nil {
		t.Fatal(err)
	}
	d.signIn(t)
	return member, d
}

// folder is the shared folder.
func (w *hostileWorld) folder(t *testing.T) seal.ID {
	t.Helper()
	if w.shared.IsZero() {
		w.shared = w.ref(t, "db").Folder
	}
	return w.shared
}

// ---- changes of the log ----

// sign signs the change that follows a log's head.
func (d *device) sign(t *testing.T, l *trust.Log, ops ...*trustv1.Op) []byte {
	t.Helper()
	return signedBy(t, l, l.NewChange(d.id, time.Now(), ops...), d.keys.Sign)
}

func signedBy(t *testing.T, l *trust.Log, c *trustv1.Change, keys ...ed25519.PrivateKey) []byte {
	t.Helper()
	signed, _, err := trust.SignChange(l.Org(), c, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func appends(signed []byte) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_Append{Append: signed}}
}

// write asks the server to write, as this device.
func (d *device) write(t *testing.T, ops ...*clientv1.WriteOp) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := d.conn.Write(ctx, connect.NewRequest(&clientv1.WriteRequest{Ops: ops}))
	return err
}

// append signs a change and has the server take it; it gives the log with it.
func (d *device) append(t *testing.T, ops ...*trustv1.Op) *trust.Log {
	t.Helper()
	if err := d.write(t, appends(d.sign(t, d.w.log(t), ops...))); err != nil {
		t.Fatal(err)
	}
	return d.w.log(t)
}

// remove removes an entry at the row's end, if it is still there then.
func (w *hostileWorld) remove(t *testing.T, id seal.ID) {
	t.Helper()
	if _, live := w.log(t).Entry(id); live {
		w.ada(t).append(t, trust.RemoveOp(id))
	}
}

// ---- commands ----

// stolen is an agent's identity as its key file gives it.
func stolen(t *testing.T, a *installation.Agent) *agent.Identity {
	t.Helper()
	id, err := agent.LoadIdentity(filepath.Join(a.Dir, "data", "agent.key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// publicKeys are an agent's encoded public keys as the server has them.
func (w *hostileWorld) publicKeys(t *testing.T, id seal.ID) (keys []byte) {
	t.Helper()
	w.read(t, "SELECT keys FROM entry_keys WHERE org = 1 AND entry_id = ?", []any{id.Bytes()}, &keys)
	return keys
}

// rotation is a command to rotate an account, as an honest client makes it.
func (w *hostileWorld) rotation(t *testing.T, to seal.ID, title string) *trustv1.Command {
	t.Helper()
	account := w.ref(t, title)
	var resource trust.Ref
	var uid, folder []byte
	w.read(t, "SELECT resource_uid, resource_folder FROM record WHERE org = 1 AND record_uid = ?", []any{account.Record.Bytes()}, &uid, &folder)
	copy(resource.Record[:], uid)
	copy(resource.Folder[:], folder)
	now := time.Now()
	c := &trustv1.Command{
		Id: seal.NewID().Bytes(), AgentId: to.Bytes(), Action: trustv1.Action_ACTION_ROTATE, Account: account.Proto(), RunId: seal.NewID().Bytes(),
		Issued: now.UnixMilli(), Expires: now.Add(trust.DefaultLifetime).UnixMilli(),
	}
	for _, r := range []trust.Ref{account, resource} {
		var digest []byte
		w.read(t, "SELECT s.digest FROM statement s JOIN record r ON r.org = s.org AND r.record_uid = s.record_uid AND r.statement_seq = s.seq WHERE r.org = 1 AND r.record_uid = ?",
			[]any{r.Record.Bytes()}, &digest)
		c.Pins = append(c.Pins, &trustv1.Pin{Record: r.Proto(), Digest: digest})
	}
	return c
}

// seal signs a command with this device's key and seals it to its agent, as a client
// does.
func (d *device) seal(t *testing.T, l *trust.Log, c *trustv1.Command) *trustv1.CommandFrame {
	t.Helper()
	frame, _, err := trust.SealCommand(l, d.id, d.keys.Sign, d.w.publicKeys(t, seal.ID(c.AgentId)), c, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// reseal seals whatever bytes under a frame's clear part, to the agent that it names.
func (w *hostileWorld) reseal(t *testing.T, org seal.Digest, f *trustv1.CommandFrame, signed []byte) *trustv1.CommandFrame {
	t.Helper()
	var keys trustv1.Keys
	if err := proto.Unmarshal(w.publicKeys(t, seal.ID(f.To)), &keys); err != nil {
		t.Fatal(err)
	}
	f = proto.CloneOf(f)
	var err error
	f.Sealed, err = seal.SealTo(keys.SealPub, route(org, f), signed)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func route(org seal.Digest, f *trustv1.CommandFrame) seal.Route {
	return seal.Route{Purpose: seal.PurposeCommand, Org: org, From: seal.ID(f.From), To: seal.ID(f.To), Object: seal.ID(f.Id)}
}

// envelope signs a body of a kind as somebody with a key does who keeps to no rule.
func envelope(t *testing.T, key ed25519.PrivateKey, kind seal.Kind, org seal.Digest, body []byte) []byte {
	t.Helper()
	id := seal.KeyID(seal.AlgEd25519, key.Public().(ed25519.PublicKey))
	return encode(t, &trustv1.Signed{Body: body, Sigs: []*trustv1.Sig{{KeyId: id.Bytes(), Sig: seal.Sign(key, kind, org, body)}}})
}

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newSigner(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// hour is long enough for the server to go on delivering a frame.
func hour() int64 { return time.Now().Add(time.Hour).UnixMilli() }

// slip puts a frame into an agent's outbox, past the server's checks.
func (w *hostileWorld) slip(t *testing.T, to seal.ID, f *trustv1.CommandFrame) {
	t.Helper()
	w.sql(t, `INSERT INTO command (org, id, agent_id, from_id, run_id, frame, expires, created, n, acked, refused, reply, reply_detail)
		SELECT 1, ?, ?, ?, ?, ?, ?, ?, max(n) + 1, 0, '', x'', x'' FROM command WHERE org = 1`,
		f.Id, to.Bytes(), f.From, f.RunId, encode(t, f), hour(), time.Now().UnixMilli())
}

// again has a frame delivered once more, of which the server has been told before that it
// was: an acknowledgement waits for others before it is stored.
func (w *hostileWorld) again(t *testing.T, run string) {
	t.Helper()
	id, err := seal.ParseID(run)
	if err != nil {
		t.Fatal(err)
	}
	acked := 0
	for end := time.Now().Add(patience); acked == 0; time.Sleep(5 * time.Millisecond) {
		w.read(t, "SELECT acked <> 0 FROM command WHERE org = 1 AND run_id = ?", []any{id.Bytes()}, &acked)
		if time.Now().After(end) {
			t.Fatal("the command was never acknowledged")
		}
	}
	w.sql(t, "UPDATE command SET acked = 0, expires = ?, n = (SELECT max(n) + 1 FROM command WHERE org = 1) WHERE org = 1 AND run_id = ?", hour(), id.Bytes())
}

// ask sends an agent an honest question: it makes the server look into the agent's
// outbox, so that whatever was slipped into it is delivered before.
func (w *hostileWorld) ask(t *testing.T, to seal.ID) (command seal.ID) {
	t.Helper()
	return w.askAt(t, w.log(t), to)
}

// askAt is ask by somebody who has seen this log, where the server shows another.
func (w *hostileWorld) askAt(t *testing.T, l *trust.Log, to seal.ID) (command seal.ID) {
	t.Helper()
	ada, now := w.ada(t), time.Now()
	command = seal.NewID()
	frame := ada.seal(t, l, &trustv1.Command{
		Id: command.Bytes(), AgentId: to.Bytes(), Action: trustv1.Action_ACTION_INFO, Issued: now.UnixMilli(), Expires: now.Add(trust.DefaultLifetime).UnixMilli(),
	})
	ada.post(t, frame)
	return command
}

func (d *device) post(t *testing.T, f *trustv1.CommandFrame) {
	t.Helper()
	if err := d.write(t, &clientv1.WriteOp{Op: &clientv1.WriteOp_SendCommand{SendCommand: &clientv1.SendCommand{Command: f}}}); err != nil {
		t.Fatal(err)
	}
}

// answers is the honest case of an agent's channel: it answers a question. All that
// was delivered before is done with then.
func (w *hostileWorld) answers(t *testing.T, to seal.ID) {
	t.Helper()
	command := w.ask(t, to)
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		var reply, refused string
		w.read(t, "SELECT reply, refused FROM command WHERE org = 1 AND id = ?", []any{command.Bytes()}, &reply, &refused)
		if reply != "" {
			return
		}
		if refused != "" || time.Now().After(end) {
			t.Fatalf("the honest case: the agent does not answer: %q", refused)
		}
	}
}

// spurned asserts that an agent refuses a slipped frame with that reason: in its log,
// and in an event that names the command. To the target goes nothing, and the agent
// goes on to answer honest questions.
func (w *hostileWorld) spurned(t *testing.T, a *installation.Agent, to seal.ID, reason trust.Reason, f *trustv1.CommandFrame) {
	t.Helper()
	since := w.now(t, a)
	w.untouched(t, func() {
		w.slip(t, to, f)
		w.answers(t, to)
	})
	w.logged(t, since, a, `"msg":"command refused"`, `"reason":"`+string(reason)+`"`)
	e := w.told(t, since, "command.refused", reason)
	if got := e.Fields["command"]; got != seal.ID(f.Id).String() {
		t.Errorf("the event names command %s, want %s", got, seal.ID(f.Id))
	}
}

// spurnedLate is spurned by the shared agent where honest questions are refused for
// the same reason.
func (w *hostileWorld) spurnedLate(t *testing.T, to seal.ID, reason trust.Reason, f *trustv1.CommandFrame) {
	t.Helper()
	since := w.now(t)
	w.untouched(t, func() {
		w.slip(t, to, f)
		w.ask(t, to)
		w.logged(t, since, w.agent, `"msg":"command refused"`, `"reason":"`+string(reason)+`"`)
		if e := w.told(t, since, "command.refused", reason); e.Fields["command"] != seal.ID(f.Id).String() {
			t.Errorf("the event names command %s, want %s", e.Fields["command"], seal.ID(f.Id))
		}
	})
}

// clock sets an agent's clock off, until the row's end at the latest.
func (w *hostileWorld) clock(t *testing.T, a *installation.Agent, off time.Duration) (right func()) {
	t.Helper()
	w.strikes()
	file := filepath.Join(a.Fault, "clock")
	if err := os.WriteFile(file, []byte(off.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	right = func() { os.Remove(file) }
	t.Cleanup(right)
	return right
}

// other is the administrator's device of a second organisation on the same server.
func (w *hostileWorld) other(t *testing.T) *device {
	t.Helper()
	if w.tower == nil {
		w.tower = w.deviceOf(t, w.found(t, "Mallory"), 2)
	}
	return w.tower
}

// found makes a further organisation on the same server, with a command line of its
// own.
func (w *hostileWorld) found(t *testing.T, admin string, env ...string) *installation.Installation {
	t.Helper()
	i := w.elsewhere(t, admin, env...)
	server := filepath.Join(w.Dir, "server")
	_, err := i.CLI(t.Context(), nil, "org", "init", "--server", w.Addr, "--ca-file", filepath.Join(server, "ca.crt"),
		"--name", admin, "--device", "tower", "--kit", filepath.Join(i.Dir, "kit.age"), "--kit-recipient", installation.KitRecipient,
		"--setup-code-file", filepath.Join(server, "setup-code"))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// elsewhere is a command line in another person's home, without a device yet.
func (w *hostileWorld) elsewhere(t *testing.T, name string, env ...string) *installation.Installation {
	t.Helper()
	i := &installation.Installation{Options: installation.Options{Bin: w.Bin, Dir: filepath.Join(w.Dir, name), Env: env}, Addr: w.Addr}
	if err := os.MkdirAll(filepath.Join(i.Dir, "home"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(i.Dir, "passphrase"), []byte("a passphrase of "+name+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return i
}
