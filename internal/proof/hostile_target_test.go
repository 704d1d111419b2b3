package proof

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Rows about where a credential goes, and what the agent starts to send it.

func linkEdited(t *testing.T, w *hostileWorld) {
	resource, g := w.resource(t)
	other, elsewhere := w.resource(t)
	title := w.accountOn(t, resource)
	w.works(t, title)
	account, r, o := w.ref(t, title), w.ref(t, resource), w.ref(t, other)
	w.keepRecord(t, account)
	w.keepRecord(t, r)
	w.sql(t, "UPDATE record SET resource_uid = ?, resource_folder = ? WHERE org = 1 AND record_uid = ?", o.Record.Bytes(), o.Folder.Bytes(), account.Record.Bytes())
	w.sql(t, "UPDATE record SET (admin_uid, admin_folder) = (SELECT admin_uid, admin_folder FROM record WHERE org = 1 AND record_uid = ?) WHERE org = 1 AND record_uid = ?",
		o.Record.Bytes(), r.Record.Bytes())
	before := g.traffic()
	w.untouched(t, func() { w.works(t, title) }, elsewhere)
	if g.traffic() == before {
		t.Error("the statement's resource was not used")
	}
}

// impostor asserts that an agent sends no credential to a target that is not the
// statement's, and works again with the one that is.
func (w *hostileWorld) impostor(t *testing.T, g *gate, title, real, fake string, got *atomic.Int64) {
	t.Helper()
	since := w.now(t)
	g.lead(fake)
	before := g.traffic()
	o, err := w.Rotate(t.Context(), title, "--agent", w.agent.Name)
	if err == nil || o.Class != string(sdk.ClassAuth) || o.Reason != string(trust.TargetIdentity) {
		t.Errorf("%+v, %v, want class auth, reason target_identity", o, err)
	}
	w.logged(t, since, w.agent, `"msg":"run ended"`, `"run":"`+o.RunID+`"`, `"class":"auth"`, `"reason":"target_identity"`)
	w.toldBy(t, since, "target.refused", trust.TargetIdentity, w.agent.Name)
	if g.traffic() == before {
		t.Error("the impostor was not called at all")
	}
	if n := got.Load(); n != 0 {
		t.Errorf("the impostor got %d bytes, or attempts to log in", n)
	}
	g.lead(real)
}

func targetChanged(t *testing.T, w *hostileWorld) {
	t.Run("TLS key", func(t *testing.T) {
		resource, g := w.resource(t)
		title := w.accountOn(t, resource)
		w.works(t, title)
		var got atomic.Int64
		w.impostor(t, g, title, w.pg.Address, fakePostgres(t, &got), &got)
		w.works(t, title)
	})
	t.Run("SSH host key", func(t *testing.T) {
		if os.Geteuid() != 0 {
			w.lacks = append(w.lacks, "row 15's SSH host key")
			t.Skip("Unix accounts need root")
		}
		sshd := targets.OpenSSH(t, targets.SSHDOptions{})
		g := newGate(t, sshd.Address)
		behind := *sshd
		behind.Port, behind.Address = g.port(), g.l.Addr().String()
		resource, title := w.name("r"), w.name("a")
		if err := w.AddSSHD(t.Context(), resource, &behind); err != nil {
			t.Fatal(err)
		}
		pw := sdk.NewSecret([]byte("first-" + random()))
		user, err := sshd.CreateUser(t.Context(), targets.UserOptions{Password: pw})
		if err == nil {
			err = w.AddUser(t.Context(), resource, title, user.Name, sdk.Credential{Kind: sdk.Password, Secret: pw})
		}
		if err != nil {
			t.Fatal(err)
		}
		works := func() {
			t.Helper()
			if o, err := w.Rotate(t.Context(), title, "--agent", w.agent.Name); err != nil {
				t.Fatalf("the honest case: %v: %+v: %s", err, o, w.agent.Tail())
			}
			c, err := w.Credential(t.Context(), title, sdk.Password)
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := sshd.Accepts(t.Context(), user.Name, c); err != nil || !ok {
				t.Errorf("LOST: the vault's secret of %s does not open its target: %v", title, err)
			}
		}
		works()
		var got atomic.Int64
		w.impostor(t, g, title, sshd.Address, fakeSSHD(t, &got), &got)
		works()
	})
}

// serveEach serves connections until the test ends.
func serveEach(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}

// fakePostgres has a TLS key of its own, and counts what it is sent under it.
func fakePostgres(t *testing.T, got *atomic.Int64) (address string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(crand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return serveEach(t, func(c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, 8)); err != nil { // SSLRequest
			return
		}
		if _, err := c.Write([]byte("S")); err != nil {
			return
		}
		n, _ := io.Copy(io.Discard, tls.Server(c, config)) // what comes under TLS, until the other side ends it
		got.Add(n)
	})
}

// fakeSSHD has a host key of its own, and counts attempts to log in.
func fakeSSHD(t *testing.T, got *atomic.Int64) (address string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{
		PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
			got.Add(1)
			return nil, nil
		},
		PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
			got.Add(1)
			return nil, nil
		},
	}
	config.AddHostKey(signer)
	return serveEach(t, func(c net.Conn) {
		if conn, _, _, err := ssh.NewServerConn(c, config); err == nil {
			conn.Close()
		}
	})
}

func pluginReplaced(t *testing.T, w *hostileWorld) {
	resource, g := w.resource(t)
	first, second := w.accountOn(t, "db"), w.accountOn(t, resource)
	w.works(t, first)
	files, err := filepath.Glob(filepath.Join(w.Bin, "plugins", "postgres@*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("plugins: %v, %v", files, err)
	}
	kept := filepath.Join(w.Dir, w.name("plugin"))
	binary, err := os.ReadFile(files[0])
	if err == nil {
		err = os.WriteFile(kept, append(binary, 0), 0o755) // it still runs, and is another
	}
	if err != nil {
		t.Fatal(err)
	}
	w.strikes()
	if err := exchange(kept, files[0]); err != nil {
		t.Fatal(err)
	}
	back := func() {
		if kept != "" {
			if err := exchange(kept, files[0]); err != nil {
				t.Error(err)
			}
			kept = ""
		}
	}
	t.Cleanup(back)

	// What runs is a private copy of what was checked: a resource that gets a process of
	// its own now is served by it.
	if o, err := w.Rotate(t.Context(), second, "--agent", w.agent.Name); err != nil {
		t.Errorf("an agent that has checked the plugin's file: %v: %+v", err, o)
	}
	w.reached(t, g)
	if err := w.restartAgent(t); err != nil {
		t.Fatal(err)
	}
	since := w.now(t)
	w.untouched(t, func() {
		o, err := w.Rotate(t.Context(), second, "--agent", w.agent.Name)
		if err == nil || o.Reason != string(trust.PluginUnknown) {
			t.Errorf("%+v, %v, want plugin_unknown", o, err)
		}
		w.logged(t, since, w.agent, `"msg":"run ended"`, `"run":"`+o.RunID+`"`, `"reason":"plugin_unknown"`, `"credential"`)
	}, g)
	e := w.toldBy(t, since, "plugin.refused", trust.PluginUnknown, w.agent.Name)
	if e.Fields["name"] != "postgres" || "postgres@"+e.Fields["sha256"] != filepath.Base(files[0]) {
		t.Errorf("the event says %+v", e.Fields)
	}
	back()
	w.works(t, second)
}

func (w *hostileWorld) restartAgent(t *testing.T) error {
	t.Helper()
	w.agent.Stop()
	return w.agent.Start(t.Context())
}

// exchange swaps two files' places, so that neither is ever missing.
func exchange(a, b string) error {
	spare := a + ".spare"
	content, err := os.ReadFile(b)
	if err != nil {
		return err
	}
	if err := os.WriteFile(spare, content, 0o755); err != nil {
		return err
	}
	near := filepath.Join(filepath.Dir(b), ".exchange")
	other, err := os.ReadFile(a)
	if err != nil {
		return err
	}
	if err := os.WriteFile(near, other, 0o755); err != nil {
		return err
	}
	if err := os.Rename(near, b); err != nil {
		return err
	}
	return os.Rename(spare, a)
}

// serveRecord has the server serve a record that a member made: whatever its
// statement says, no check of an honest server or client is in the way.
func (w *hostileWorld) serveRecord(t *testing.T, by thief, folderKey seal.Key, kind string, r trust.Ref, data []byte, s *trustv1.Statement) seal.Key {
	t.Helper()
	key := seal.NewKey()
	box := trust.SealData(key, data)
	digest := seal.Hash(box)
	var resource, admin trust.Ref
	var pool []byte
	if a := s.GetAccount(); a != nil {
		resource, _ = trust.RefFrom(a.Resource)
	}
	if res := s.GetResource(); res != nil {
		admin, _ = trust.RefFrom(res.AdminAccount)
		pool = res.PoolId
	}
	now := time.Now().UnixMilli()
	w.keepRecord(t, r)
	w.sql(t, `INSERT INTO record (org, record_uid, folder_uid, sub_folder_uid, kind, record_key, key_version, made_version, data, data_digest, revision, value_seq, attestation,
		statement_seq, resource_uid, resource_folder, admin_uid, admin_folder, pool_id, created, updated)
		VALUES (1, ?, ?, x'', ?, ?, 1, 1, ?, ?, 1, 0, x'', 0, ?, ?, ?, ?, ?, ?, ?)`,
		r.Record.Bytes(), r.Folder.Bytes(), kind, trust.SealRecordKey(folderKey, key), box, digest.Bytes(),
		resource.Record.Bytes(), resource.Folder.Bytes(), admin.Record.Bytes(), admin.Folder.Bytes(), orEmpty(pool), now, now)
	s.RecordUid, s.FolderUid, s.Seq = r.Record.Bytes(), r.Folder.Bytes(), 1
	w.serveStatement(t, r, key, 1, w.sign(t, by, key, s))
	if s.GetAccount() != nil {
		signed, d := w.result(t, by, &trustv1.Result{Phase: trustv1.Phase_PHASE_EDITED, Account: r.Proto(), ValueSeq: 1, DataDigest: digest.Bytes(), RunId: seal.NewID().Bytes()})
		w.serveResult(t, r, signed, d, true)
	}
	return key
}

func orEmpty(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func foreignAdministrator(t *testing.T, w *hostileWorld) {
	var honest struct{ OK bool }
	if err := w.JSON(t.Context(), &honest, nil, "resource", "test", "db", "--agent", w.agent.Name); err != nil || !honest.OK {
		t.Fatalf("the honest case: %+v, %v: %s", honest, err, w.agent.Tail())
	}
	db := w.loot(t, w.ref(t, "db")).statement.GetResource()
	for name, roles := range map[string]trust.Roles{"without a role there": 0, "with operate alone": trust.Operate} {
		for as, aim := range map[string]func(*trustv1.Resource){
			"administrator": func(r *trustv1.Resource) { r.AdminAccount = db.AdminAccount },
			"extra":         func(r *trustv1.Resource) { r.Extras = []*trustv1.Extra{{Name: "second", Account: db.AdminAccount}} },
		} {
			t.Run(as+" "+name, func(t *testing.T) {
				member, bob := w.member(t, roles)
				defer w.remove(t, member)
				folder, key := w.newFolder(t, member, bob)
				host := w.newGate(t)
				r := trust.Ref{Folder: folder, Record: seal.NewID()}
				res := &trustv1.Resource{
					PoolId: db.PoolId, Plugin: "postgres", Host: "127.0.0.1", Port: uint32(host.port()), Tls: &trustv1.Tls{Mode: trustv1.TlsMode_TLS_MODE_OFF},
				}
				aim(res)
				s := &trustv1.Statement{Kind: trustv1.RecordKind_RECORD_KIND_RESOURCE, Subject: &trustv1.Statement_Resource{Resource: res}}
				w.serveRecord(t, bob.stolen(), key, "pamDatabase", r, []byte(`{"type":"pamDatabase","title":"mine","fields":[],"custom":[]}`), s)

				since := w.now(t)
				w.untouched(t, func() {
					bob.post(t, w.commandOf(t, bob, trustv1.Action_ACTION_TEST, trust.Ref{}, seal.ID{}, r))
					w.logged(t, since, w.agent, `"msg":"command failed"`, `"reason":"not_linked"`)
				}, host, w.gate)
				w.toldBy(t, since, "record.refused", trust.NotLinked, w.agent.Name)
				honest, seqs := w.othersSign(t, bob, folder, key, r, func(t *testing.T) {
					since := w.now(t)
					w.untouched(t, func() {
						bob.post(t, w.commandOf(t, bob, trustv1.Action_ACTION_TEST, trust.Ref{}, seal.ID{}, r))
						w.logged(t, since, w.agent, `"msg":"command failed"`, `"reason":"not_linked"`)
					}, host, w.gate)
				})
				t.Run("after a restore", func(t *testing.T) {
					before, honestBefore := seqs()
					w.ada(t).append(t, trust.FloorOp(r, uint64(before)+5), trust.FloorOp(honest, uint64(honestBefore)+5))
					w.untouched(t, func() {
						w.fails(t, trust.StatementRollback, "folder", "rekey", folder.String(), "--new")
						w.fails(t, trust.NotLinked, "folder", "rekey", folder.String(), "--restored")
					}, host, w.gate)
					if after, honestAfter := seqs(); after != before || honestAfter <= honestBefore+5 {
						t.Errorf("the statement went from %d to %d, the honest one beside it from %d to %d", before, after, honestBefore, honestAfter)
					}
				})
			})
		}
	}
}

// othersSign has an administrator do all that signs statements of others anew in a
// member's folder: re-key it, remove somebody who could read it, change the record
// otherwise. The statement of r, which nobody may use, is left as it is, and shown so.
func (w *hostileWorld) othersSign(t *testing.T, bob *device, folder seal.ID, key seal.Key, r trust.Ref, refused func(t *testing.T)) (honest trust.Ref, seqs func() (mine, other int64)) {
	t.Helper()
	// What anybody may use is signed anew beside it, else nothing ran.
	honest = trust.Ref{Folder: folder, Record: seal.NewID()}
	pool := w.entry(t, trustv1.EntryKind_ENTRY_KIND_POOL, installation.Pool)
	w.serveRecord(t, bob.stolen(), key, "pamDatabase", honest, []byte(`{"type":"pamDatabase","title":"honest","fields":[],"custom":[]}`), &trustv1.Statement{
		Kind: trustv1.RecordKind_RECORD_KIND_RESOURCE,
		Subject: &trustv1.Statement_Resource{Resource: &trustv1.Resource{
			PoolId: pool.ID.Bytes(), Plugin: "postgres", Host: "127.0.0.1", Port: 1, Tls: &trustv1.Tls{Mode: trustv1.TlsMode_TLS_MODE_OFF},
		}},
	})
	reader, _ := w.member(t, 0)
	w.ada(t).append(t, trust.GrantOp(folder, reader, trust.Read))
	name, _ := w.log(t).Entry(reader)
	defer w.remove(t, reader)

	seqs = func() (mine, other int64) {
		w.read(t, "SELECT statement_seq FROM record WHERE org = 1 AND record_uid = ?", []any{r.Record.Bytes()}, &mine)
		w.read(t, "SELECT statement_seq FROM record WHERE org = 1 AND record_uid = ?", []any{honest.Record.Bytes()}, &other)
		return mine, other
	}
	for _, c := range []struct {
		what string
		args []string
	}{
		{"a re-keying", []string{"folder", "rekey", folder.String()}},
		{"an offboarding", []string{"member", "remove", name.Name}},
	} {
		t.Run("after "+c.what, func(t *testing.T) {
			before, honestBefore := seqs()
			w.fails(t, trust.NotLinked, c.args...)
			after, honestAfter := seqs()
			if after != before || honestAfter == honestBefore {
				t.Errorf("the statement went from %d to %d, the honest one beside it from %d to %d", before, after, honestBefore, honestAfter)
			}
			if state, reason := w.state(t, r); state != "not_linked" || reason != string(trust.NotLinked) {
				t.Errorf("the client shows it as %s, %s", state, reason)
			}
			refused(t)
		})
	}
	return honest, seqs
}

// commandOf is a member's command to the shared agent, pinned to what the server
// serves of the records.
func (w *hostileWorld) commandOf(t *testing.T, d *device, action trustv1.Action, account trust.Ref, run seal.ID, pins ...trust.Ref) *trustv1.CommandFrame {
	t.Helper()
	now := time.Now()
	c := &trustv1.Command{
		Id: seal.NewID().Bytes(), AgentId: stolen(t, w.agent).Entry.Bytes(), Action: action,
		Issued: now.UnixMilli(), Expires: now.Add(trust.DefaultLifetime).UnixMilli(),
	}
	if !account.IsZero() {
		c.Account, c.RunId = account.Proto(), run.Bytes()
		pins = append([]trust.Ref{account}, pins...)
	}
	for _, r := range pins {
		var digest []byte
		w.read(t, "SELECT s.digest FROM statement s JOIN record r ON r.org = s.org AND r.record_uid = s.record_uid AND r.statement_seq = s.seq WHERE r.org = 1 AND r.record_uid = ?",
			[]any{r.Record.Bytes()}, &digest)
		c.Pins = append(c.Pins, &trustv1.Pin{Record: r.Proto(), Digest: digest})
	}
	return d.seal(t, w.log(t), c)
}

func loginTakenOver(t *testing.T, w *hostileWorld) {
	victim := w.account(t)
	w.works(t, victim)
	member, bob := w.member(t, trust.Read) // he may see where others log in
	defer w.remove(t, member)
	folder, key := w.newFolder(t, member, bob)
	db := w.ref(t, "db")
	r := trust.Ref{Folder: folder, Record: seal.NewID()}
	s := &trustv1.Statement{Kind: trustv1.RecordKind_RECORD_KIND_ACCOUNT, Subject: &trustv1.Statement_Account{Account: &trustv1.Account{
		Resource: db.Proto(), Login: victim, SecretKind: "password", VerifyMode: "login",
		Mandate: &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: time.Now().Add(24 * time.Hour).UnixMilli()},
	}}}
	w.serveRecord(t, bob.stolen(), key, "pamUser", r,
		[]byte(`{"type":"pamUser","title":"mine","fields":[{"type":"password","value":["bob's own"]}],"custom":[]}`), s)

	t.Run("by command", func(t *testing.T) {
		since := w.now(t)
		run := w.due(t, r)
		w.sql(t, "UPDATE run SET cause = 'person', next_attempt = 0, agent_id = ? WHERE org = 1 AND run_id = ?", stolen(t, w.agent).Entry.Bytes(), run.Bytes())
		w.untouched(t, func() {
			bob.post(t, w.commandOf(t, bob, trustv1.Action_ACTION_ROTATE, r, run, db))
			w.logged(t, since, w.agent, `"msg":"run ended"`, `"run":"`+run.String(), `"reason":"not_linked"`, `"credential"`)
		})
		w.toldBy(t, since, "record.refused", trust.NotLinked, w.agent.Name)
	})
	t.Run("by mandate", func(t *testing.T) {
		w.dueRefused(t, r, "record.refused", trust.NotLinked)
	})
	_, seqs := w.othersSign(t, bob, folder, key, r, func(t *testing.T) {
		w.dueRefused(t, r, "record.refused", trust.NotLinked)
		w.strikes()
		w.fails(t, trust.NotLinked, "rotation", "set", path(r), "--every", "1d")
		w.fails(t, trust.NotLinked, "record", "edit", path(r), "--verify-mode", "readback")
		since := w.now(t)
		run := w.due(t, r)
		w.sql(t, "UPDATE run SET cause = 'person', next_attempt = 0, agent_id = ? WHERE org = 1 AND run_id = ?", stolen(t, w.agent).Entry.Bytes(), run.Bytes())
		w.untouched(t, func() {
			bob.post(t, w.commandOf(t, bob, trustv1.Action_ACTION_ROTATE, r, run, db))
			w.logged(t, since, w.agent, `"msg":"run ended"`, `"run":"`+run.String(), `"reason":"not_linked"`, `"credential"`)
		})
	})
	t.Run("after his own offboarding", func(t *testing.T) {
		var plan struct {
			Statements []struct {
				NotLinked bool `json:"not_linked"`
			}
		}
		name, _ := w.log(t).Entry(member)
		if err := w.JSON(t.Context(), &plan, nil, "member", "remove", name.Name, "--plan"); err != nil || len(plan.Statements) != 1 || !plan.Statements[0].NotLinked {
			t.Errorf("the plan lists %+v, %v", plan.Statements, err)
		}
		before, _ := seqs()
		w.strikes()                                                          // what he made is still served
		w.cli(t, "member", "remove", name.Name, "--no-rekey", "--no-rotate") // other rows need the secrets that he could read
		if after, _ := seqs(); after != before {
			t.Errorf("the statement went from %d to %d", before, after)
		}
		w.dueRefused(t, r, "record.refused", trust.SignerUnknown)
	})
	w.opensTarget(t, victim)
	w.works(t, victim)
}

func replyForged(t *testing.T, w *hostileWorld) {
	resource, _ := w.resource(t)
	r := w.ref(t, resource)
	w.cli(t, "resource", "probe", resource, "--agent", w.agent.Name)
	w.cli(t, "resource", "test", resource, "--agent", w.agent.Name)
	replay := func(action trustv1.Action) (reply, detail []byte) {
		// Honest replies to this very person, about this very resource.
		offset := map[trustv1.Action]int{trustv1.Action_ACTION_PROBE: 1, trustv1.Action_ACTION_TEST: 0}[action]
		w.read(t, "SELECT reply, reply_detail FROM command WHERE org = 1 AND length(reply) > 0 ORDER BY n DESC LIMIT 1 OFFSET ?", []any{offset}, &reply, &detail)
		return reply, detail
	}
	pool, outsider := w.outsider(t)
	defer w.remove(t, pool)
	ada := w.ada(t)
	forge := func(trustv1.Action) (reply, sealed []byte) {
		keys := seal.Hash([]byte("keys of the operator's choice"))
		detail := &trustv1.Detail{Probe: &trustv1.ProbeReply{Address: "127.0.0.1:1", TlsSpkiSha256: [][]byte{keys.Bytes()}}}
		sealed, err := trust.SealReply(w.log(t), outsider.id, ada.id, w.publicKeys(t, ada.id), seal.NewID(), detail)
		if err != nil {
			t.Fatal(err)
		}
		signed, _ := w.result(t, outsider, &trustv1.Result{
			Phase: trustv1.Phase_PHASE_REPLIED, Credential: trustv1.Outcome_OUTCOME_DONE, Account: r.Proto(), Event: 1,
			Cause: seal.Hash([]byte("the command's digest is not the operator's to know")).Bytes(), DetailDigest: seal.Hash(sealed).Bytes(),
		})
		return signed, sealed
	}
	seq := w.statementSeq(t, r)
	for name, answer := range map[string]func(trustv1.Action) ([]byte, []byte){"forged": forge, "replayed": replay} {
		for action, args := range map[trustv1.Action][]string{
			trustv1.Action_ACTION_PROBE: {"resource", "probe", resource, "--pin"},
			trustv1.Action_ACTION_TEST:  {"resource", "test", resource},
		} {
			t.Run(name+" "+args[1], func(t *testing.T) {
				reply, detail := answer(action)
				since := w.now(t)
				// The answer is there before the agent can have one.
				trigger := w.name("forge")
				if _, err := w.file.Exec(fmt.Sprintf("CREATE TRIGGER %s AFTER INSERT ON command BEGIN UPDATE command SET reply = x'%x', reply_detail = x'%x' WHERE org = NEW.org AND id = NEW.id; END",
					trigger, reply, detail)); err != nil {
					t.Fatal(err)
				}
				defer func() {
					if _, err := w.file.Exec("DROP TRIGGER " + trigger); err != nil {
						t.Error(err)
					}
				}()
				w.fails(t, trust.ResultForged, append(args, "--agent", w.agent.Name)...)
				w.told(t, since, "result.refused", trust.ResultForged)
			})
		}
	}
	if now := w.statementSeq(t, r); now != seq {
		t.Errorf("something was pinned: statement %d, it was %d", now, seq)
	}
}
