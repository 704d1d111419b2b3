package proof

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/keeper-security/secrets-manager-go/core"
	"github.com/keeper-security/secrets-manager-go/core/logger"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/ksmkey"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Rows with clients that speak only the secrets-manager protocol: the public SDK.

// application makes one that may edit the shared folder, for the row's time.
func (w *hostileWorld) application(t *testing.T) (name string) {
	t.Helper()
	name = w.name("app")
	w.cli(t, "app", "add", name)
	t.Cleanup(func() { w.cli(t, "app", "remove", name) })
	w.cli(t, "folder", "grant", installation.Folder, name, "read,edit")
	return name
}

// machine is a client of the public SDK.
type machine struct {
	*core.SecretsManager
	config core.IKeyValueStorage
	wire   *openedWire
}

// configured is a client with a complete configuration.
func (w *hostileWorld) configured(t *testing.T, app string) machine {
	t.Helper()
	key, err := exec.CommandContext(t.Context(), filepath.Join(w.Bin, "rotunda-server"), "machine-key", "--data", filepath.Join(w.Dir, "server")).Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(w.Dir, w.name("config"))
	w.cli(t, "app", "config", app, w.name("c"), "--server-key", strings.TrimSpace(string(key)), "--out", file)
	config, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return w.sdk(t, core.ClientOptions{Config: core.NewMemoryKeyValueStorage(strings.TrimSpace(string(config)))})
}

// bound is a client that binds by a one-time token.
func (w *hostileWorld) bound(t *testing.T, app string) machine {
	t.Helper()
	file := filepath.Join(w.Dir, w.name("token"))
	w.cli(t, "app", "token", app, w.name("c"), "--out", file)
	token, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return w.sdk(t, core.ClientOptions{Token: strings.TrimSpace(string(token)), Config: core.NewMemoryKeyValueStorage()})
}

func (w *hostileWorld) sdk(t *testing.T, o core.ClientOptions) machine {
	t.Helper()
	logger.SetLogLevel(logger.CriticalLevel)
	roots := x509.NewCertPool()
	for _, b := range w.pem(t, "ca.crt") {
		c, err := x509.ParseCertificate(b)
		if err != nil {
			t.Fatal(err)
		}
		roots.AddCert(c)
	}
	private, err := seal.ParseDeviceKey(w.pem(t, "machine-key-100.pem")[0])
	if err != nil {
		t.Fatal(err)
	}
	// The Go SDK knows its vendor's servers alone.
	pub, err := seal.DevicePub(private)
	if err == nil {
		err = ksmkey.Register(100, ksm.URL(pub))
	}
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) { // a token names no port
			return (&net.Dialer{}).DialContext(ctx, network, w.Addr)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	wire := &openedWire{to: transport, keys: ksm.ServerKeys{{ID: 100, Private: private}}}
	c := &core.Context{Transport: wire}
	m := core.NewSecretsManager(&o, &c)
	if m == nil {
		t.Fatal("the SDK made no client")
	}
	return machine{m, o.Config, wire}
}

func (w *hostileWorld) pem(t *testing.T, file string) (blocks [][]byte) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.Dir, "server", file))
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, block.Bytes)
	}
	return blocks
}

// openedWire passes requests on and keeps what the server can read of them. With an
// answer it answers itself, as the server could.
type openedWire struct {
	to     http.RoundTripper
	keys   ksm.ServerKeys
	answer []byte

	mu   sync.Mutex
	seen [][]byte
}

func (o *openedWire) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if opened, refused := o.keys.Open(r.Header, body); refused == nil {
		o.mu.Lock()
		o.seen = append(o.seen, opened.Payload)
		o.mu.Unlock()
		if o.answer != nil {
			return &http.Response{StatusCode: http.StatusOK, Request: r, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(opened.Seal(o.answer)))}, nil
		}
	}
	return o.to.RoundTrip(r)
}

// record reads a record as the machine client sees it.
func (m machine) record(t *testing.T, r trust.Ref) *core.Record {
	t.Helper()
	list, err := m.GetSecrets([]string{r.Record.String()})
	if err != nil || len(list) != 1 {
		t.Fatalf("the SDK reads %d records, %v", len(list), err)
	}
	return list[0]
}

// edit changes a record's JSON as whoever speaks the protocol may.
func (m machine) edit(t *testing.T, r trust.Ref, change func(*record.Record) error) {
	t.Helper()
	rec := m.record(t, r)
	data, err := record.Parse([]byte(rec.RawJson))
	if err == nil {
		err = change(data)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := data.JSON()
	if err != nil {
		t.Fatal(err)
	}
	rec.RawJson = string(b)
	if err := m.Save(rec); err != nil {
		t.Fatal(err)
	}
}

func editedOutside(t *testing.T, w *hostileWorld) {
	resource, g := w.resource(t)
	title := w.accountOn(t, resource)
	w.works(t, title)
	client := w.configured(t, w.application(t))

	elsewhere := w.newGate(t)
	since := w.now(t)
	client.edit(t, w.ref(t, resource), func(r *record.Record) error {
		return r.SetHost(record.Host{HostName: "localhost", Port: strconv.Itoa(elsewhere.port())})
	})
	before := g.traffic()
	w.untouched(t, func() { w.works(t, title) }, elsewhere)
	if g.traffic() == before {
		t.Error("the statement's host was not dialled")
	}
	if e := w.told(t, since, "record_edited", trust.RecordEdited); e.Fields["what"] != "host,port" || e.Record != path(w.ref(t, resource)) {
		t.Errorf("the event says %+v", e)
	}

	r := w.ref(t, title)
	secret := sdk.NewSecret([]byte("a secret that a client wrote"))
	client.edit(t, r, func(d *record.Record) error { return d.SetText("password", secret.Expose()) })
	if state, reason := w.state(t, r); state != "edited_outside" || reason != string(trust.ValueUnattested) {
		t.Errorf("the client shows the value as %s, %s", state, reason)
	}
	w.fails(t, trust.ValueUnattested, "record", "get", title, "--reveal", "--field", "secret")
	w.fails(t, trust.ValueUnattested, "record", "get", title, "--reveal", "--field", "secret", "--even-if", "rolled_back")
	w.cli(t, "record", "get", title, "--reveal", "--field", "secret", "--even-if", "edited_outside")
	w.refusedBy(t, w.agent, g, title, trust.ValueUnattested, func() {})
	w.rejects(t, title, secret)
	w.cli(t, "record", "adopt", title)
	w.works(t, title)
}

func machineMeddles(t *testing.T, w *hostileWorld) {
	title := w.account(t)
	w.works(t, title)
	r := w.ref(t, title)
	client := w.configured(t, w.application(t))

	// The honest case: on a record of its own all of it works.
	created, err := client.CreateSecretWithRecordData("", w.folder(t).String(), login("made by a machine"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := client.GetSecrets([]string{created})
	if err != nil || len(own) != 1 {
		t.Fatalf("%d records, %v", len(own), err)
	}
	own[0].SetPassword("another")
	if err := client.SaveBeginTransaction(own[0], core.TransactionTypeRotation); err != nil {
		t.Fatal(err)
	}
	if err := client.CompleteTransaction(created, false); err != nil {
		t.Fatal(err)
	}
	own, err = client.GetSecrets([]string{created})
	if err != nil || len(own) != 1 || own[0].Password() != "another" {
		t.Fatalf("the machine's own record: %v", err)
	}

	// In the middle of a run, as long as its candidate is outstanding.
	for _, point := range []string{"before-apply", "before-verify", "before-commit"} {
		var staging, committed staged
		run, line := w.midway(t, w.agent, title, point, func() {
			staging = w.staged(t, r)
			for _, rollback := range []bool{false, true} {
				if err := client.CompleteTransaction(r.Record.String(), rollback); err != nil {
					t.Errorf("the protocol knows no refusal here, and nothing is done: %v", err)
				}
			}
			rec := client.record(t, r)
			rec.SetPassword("what a machine would like")
			for name, write := range map[string]func() error{
				"update": func() error { return client.Save(rec) },
				"stage":  func() error { return client.SaveBeginTransaction(rec, core.TransactionTypeRotation) },
			} {
				if err := write(); err == nil || !strings.Contains(err.Error(), ksm.CodeOutstanding) {
					t.Errorf("%s while an agent's candidate is outstanding: %v", name, err)
				}
			}
			if again := w.staged(t, r); !bytes.Equal(again.data, staging.data) || !bytes.Equal(again.result, staging.result) {
				t.Error("the agent's candidate was changed")
			}
		})
		if !strings.Contains(line, `"credential":"done"`) {
			t.Errorf("run %s: %s", run, line)
		}
		w.read(t, "SELECT data FROM record WHERE org = 1 AND record_uid = ?", []any{r.Record.Bytes()}, &committed.data)
		if !bytes.Equal(committed.data, staging.data) {
			t.Error("what the agent staged is not what was committed")
		}
		w.opensTarget(t, title)
	}
	if _, err := client.DeleteSecrets([]string{created}); err != nil {
		t.Error(err)
	}
}

func login(title string) *core.RecordCreate {
	r := core.NewRecordCreate("login", title)
	r.Fields = append(r.Fields, core.NewLogin("ci"), core.NewPassword("of "+title))
	r.Custom = []any{}
	return r
}

// Whoever binds by a one-time token takes the owner's key from the server: a blind
// spot of the protocol, shown here so that nobody forgets it. A complete configuration
// holds the key, and the server has no say in it.
func ownerKeyOfServer(t *testing.T, w *hostileWorld) {
	app := w.application(t)
	server, err := seal.GenerateDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := seal.DevicePub(server)
	if err != nil {
		t.Fatal(err)
	}
	// readable says whether the server can open the key of a record that a client creates.
	readable := func(m machine) bool {
		t.Helper()
		uid, err := m.CreateSecretWithRecordData("", w.folder(t).String(), login(w.name("machine's")))
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if _, err := m.DeleteSecrets([]string{uid}); err != nil {
				t.Error(err)
			}
		}()
		for _, payload := range m.wire.seen {
			var create struct{ RecordUID, RecordKey, Data string }
			if json.Unmarshal(payload, &create) != nil || create.RecordUID != uid || create.RecordKey == "" {
				continue
			}
			sealed, err := base64.StdEncoding.DecodeString(create.RecordKey)
			if err != nil {
				t.Fatal(err)
			}
			_, err = seal.OpenECIES(server, sealed)
			return err == nil
		}
		t.Fatal("the request that creates the record was not seen")
		return false
	}
	if readable(w.configured(t, app)) {
		t.Fatal("the honest case: the server reads what a client creates")
	}
	w.keep(t, "app", "org = 1")
	w.sql(t, "UPDATE app SET owner_pub = ? WHERE org = 1", pub)

	token := w.bound(t, app)
	if _, err := token.GetSecrets(nil); err != nil { // binds
		t.Fatal(err)
	}
	if !readable(token) {
		t.Error("the blind spot is gone: say so in the threat model")
	}
	configured := w.configured(t, app)
	if readable(configured) {
		t.Error("the server's key is in a complete configuration")
	}
	// Nor can the server bind it anew.
	owner := configured.config.Get(core.KEY_OWNER_PUBLIC_KEY)
	configured.wire.answer, err = json.Marshal(map[string]string{
		"encryptedAppKey": ksm.Std(seal.SealGCM(seal.NewKey(), make([]byte, 32), nil)), "appOwnerPublicKey": ksm.Std(pub),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := configured.GetSecrets(nil); err == nil {
		t.Error("a configured client took a second binding")
	}
	configured.wire.answer = nil
	if configured.config.Get(core.KEY_OWNER_PUBLIC_KEY) != owner || readable(configured) {
		t.Error("a second binding changed the owner's key")
	}
}
