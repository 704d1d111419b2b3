package machineapi_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/ksmkey"
	"github.com/rotunda-pam/rotunda/vault/directory"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
	"github.com/rotunda-pam/rotunda/vault/machineapi"
	"github.com/rotunda-pam/rotunda/vault/work"
)

// The process's own authority and server key: the Go SDK takes roots from
// SSL_CERT_FILE and keys from one table, each once for a process.
var (
	caFile    string // PEM
	caPool    *x509.CertPool
	tlsCert   tls.Certificate
	serverKey *ecdsa.PrivateKey
)

const serverKeyID = 100

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "rotunda-machineapi-")
	check(err)
	makeAuthority(dir)
	os.Setenv("SSL_CERT_FILE", caFile)
	serverKey, err = seal.GenerateDeviceKey()
	check(err)
	check(ksmkey.Register(serverKeyID, base64.RawURLEncoding.EncodeToString(serverPoint())))
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func serverPoint() []byte {
	point, err := seal.DevicePub(serverKey)
	check(err)
	return point
}

func makeAuthority(dir string) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	check(err)
	ca, err = x509.ParseCertificate(caDER)
	check(err)
	caPool = x509.NewCertPool()
	caPool.AddCert(ca)
	caFile = filepath.Join(dir, "ca.pem")
	check(os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o600))

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	check(err)
	tlsCert = tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key}
}

// server is a real one over TLS, with an organisation whose application "ci"
// may edit one folder, read a second, and not see a third.
type server struct {
	t     testing.TB
	store store.Store
	dir   *directory.Directory
	bus   bus.Bus
	work  *work.Work
	api   *machineapi.API
	addr  string // 127.0.0.1:port
	o     *orgtest.Org
	org   int64
	app   seal.ID
	key   seal.Key // the application's
	owner *ecdsa.PrivateKey
	files string
	data  string // the database's folder

	edit, read, hidden seal.ID // folders

	mu    sync.Mutex
	now   time.Time // zero: the real time
	calls atomic.Int64

	reader func(http.ResponseWriter) http.ResponseWriter // how answers are read; nil: at once
}

func newServer(t testing.TB, alter ...func(*machineapi.Config)) *server {
	t.Helper()
	s := &server{t: t, bus: bus.New(), key: seal.NewKey(), files: filepath.Join(t.TempDir(), "files"), data: t.TempDir()}
	var err error
	s.store, err = store.Open(t.Context(), filepath.Join(s.data, "rotunda.db"))
	s.must(err)
	t.Cleanup(func() { s.must(s.store.Close()) })
	s.dir = directory.New(s.bus, s.clock)
	s.work = &work.Work{Directory: s.dir, Bus: s.bus, Now: s.clock}
	s.owner, err = seal.GenerateDeviceKey()
	s.must(err)
	s.found()
	s.listen(alter...)
	return s
}

func (s *server) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now.IsZero() {
		return time.Now()
	}
	return s.now
}

func (s *server) setClock(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = at
}

func (s *server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// found makes the organisation and what its administrator's client would store.
func (s *server) found() {
	s.t.Helper()
	s.o = orgtest.New(s.t, s.clock)
	s.app = s.o.App(s.t, "ci")
	s.edit, s.read, s.hidden = s.o.Folder(s.t), s.o.Folder(s.t), s.o.Folder(s.t)
	s.o.Grant(s.t, s.edit, s.app, trust.Read|trust.Edit)
	s.o.Grant(s.t, s.read, s.app, trust.Read)
	s.write(func(ctx context.Context, q *db.Queries) error {
		var err error
		if s.org, _, err = s.dir.Create(ctx, q, "test", s.o.Changes...); err != nil {
			return err
		}
		point, err := seal.DevicePub(s.owner)
		if err != nil {
			return err
		}
		err = q.PutApp(ctx, db.PutAppParams{
			Org: s.org, AppID: s.app[:], AppData: seal.SealGCM(s.key, []byte(`{"title":"ci","type":"app"}`), nil), OwnerPub: point,
		})
		if err != nil {
			return err
		}
		for name, folder := range map[string]seal.ID{"edit": s.edit, "read": s.read, "hidden": s.hidden} {
			key := s.o.Folders[folder]
			err := q.PutFolder(ctx, db.PutFolderParams{Org: s.org, FolderUid: folder[:], Data: seal.SealCBC(key, []byte(`{"name":"`+name+`"}`))})
			if err != nil {
				return err
			}
			// Wrapped for all three: what the application sees is the grant's matter.
			err = q.PutAppFolder(ctx, db.PutAppFolderParams{
				Org: s.org, AppID: s.app[:], FolderUid: folder[:], KeyVersion: 1, Wrapped: seal.WrapKey(s.key, key),
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *server) listen(alter ...func(*machineapi.Config)) {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	s.addr = l.Addr().String()
	config := machineapi.Config{
		Store: s.store, Directory: s.dir, Work: s.work, Bus: s.bus, Keys: ksm.ServerKeys{{ID: serverKeyID, Private: serverKey}},
		Host: "localhost", BaseURL: s.url(), Files: s.files, Version: "test", Now: s.clock,
	}
	for _, f := range alter {
		f(&config)
	}
	s.api, err = machineapi.New(config)
	s.must(err)
	mux := http.NewServeMux()
	for _, p := range s.api.Paths() {
		mux.Handle(p, s.api)
	}
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls.Add(1)
		if s.reader != nil {
			w = s.reader(w)
		}
		mux.ServeHTTP(w, r)
	})
	srv := &http.Server{
		Handler: counted, TLSConfig: &tls.Config{Certificates: []tls.Certificate{tlsCert}}, ReadHeaderTimeout: 10 * time.Second,
	}
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(l, "", "") }()
	s.t.Cleanup(func() {
		srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			s.t.Errorf("serve: %v", err)
		}
	})
}

func (s *server) port() string {
	_, port, _ := net.SplitHostPort(s.addr)
	return port
}

func (s *server) url() string { return "https://localhost:" + s.port() }

// client is an HTTP client that trusts the test's authority and finds the server
// whatever port the address has: the Go SDK strips it.
func (s *server) transport() *http.Transport {
	return &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: caPool}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, s.addr)
		},
	}
}

func (s *server) write(f func(ctx context.Context, q *db.Queries) error) {
	s.t.Helper()
	s.must(s.store.Write(s.t.Context(), func(q *db.Queries) error { return f(s.t.Context(), q) }))
}

func (s *server) query(f func(ctx context.Context, q *db.Queries) error) {
	s.t.Helper()
	s.must(s.store.Read(s.t.Context(), func(q *db.Queries) error { return f(s.t.Context(), q) }))
}

// record is a record that a person's client has stored.
type record struct {
	uid seal.ID
	key seal.Key
}

func (s *server) addRecord(folder seal.ID, data string) record {
	s.t.Helper()
	r := record{seal.NewID(), seal.NewKey()}
	box := trust.SealData(r.key, []byte(data))
	digest := seal.Hash(box)
	s.write(func(ctx context.Context, q *db.Queries) error {
		return q.CreateRecord(ctx, db.CreateRecordParams{
			Org: s.org, RecordUid: r.uid[:], FolderUid: folder[:], Kind: "login", RecordKey: seal.WrapKey(s.o.Folders[folder], r.key),
			KeyVersion: 1, Data: box, DataDigest: digest[:], Now: s.clock().UnixMilli(),
		})
	})
	return r
}

// addStatement makes agents rotate a record. The server looks at its number only.
func (s *server) addStatement(r record) {
	s.t.Helper()
	s.write(func(ctx context.Context, q *db.Queries) error {
		return q.SetRecordStatement(ctx, db.SetRecordStatementParams{StatementSeq: 1, Org: s.org, RecordUid: r.uid[:]})
	})
}

func (s *server) row(uid []byte) (r db.Record) {
	s.t.Helper()
	s.query(func(ctx context.Context, q *db.Queries) (err error) {
		r, err = q.RecordByUID(ctx, db.RecordByUIDParams{Org: s.org, RecordUid: uid})
		return err
	})
	return r
}

const loginRecord = `{"type":"login","title":"Build host","notes":"n","fields":[` +
	`{"type":"login","value":["ci"]},{"type":"password","value":["s3cret-%s"]},{"type":"url","value":["https://one","https://two"]},` +
	`{"type":"host","label":"target","value":[{"hostName":"db.example","port":"5432"}]},{"type":"fileRef","value":[]}],` +
	`"custom":[{"type":"text","label":"stage","value":["blue"]}]}`

func login(password string) string { return fmt.Sprintf(loginRecord, password) }

// token makes a one-time token as an administrator's client does; only its hash
// and the application's key under it are stored.
func (s *server) token(alter ...func(*db.AddAppClientParams)) string {
	s.t.Helper()
	raw := seal.NewKey()
	mac := hmac.New(sha512.New, raw.Expose())
	mac.Write([]byte("KEEPER_SECRETS_MANAGER_CLIENT_ID"))
	p := db.AddAppClientParams{
		ClientID: mac.Sum(nil), Org: s.org, OwnerID: s.app[:], Name: "token", EncryptedAppKey: seal.WrapKey(raw, s.key),
		TokenExpires: s.clock().Add(time.Hour).UnixMilli(), Created: s.clock().UnixMilli(),
	}
	for _, f := range alter {
		f(&p)
	}
	s.write(func(ctx context.Context, q *db.Queries) error { return q.AddAppClient(ctx, p) })
	return base64.RawURLEncoding.EncodeToString(raw.Expose())
}

// machine is a client that was made with a complete configuration.
type machine struct {
	id  []byte
	key *ecdsa.PrivateKey
}

func (s *server) prebound(name string, alter ...func(*db.AddAppClientParams)) machine {
	s.t.Helper()
	m := machine{id: make([]byte, 64)}
	rand.Read(m.id)
	var err error
	m.key, err = seal.GenerateDeviceKey()
	s.must(err)
	point, err := seal.DevicePub(m.key)
	s.must(err)
	p := db.AddAppClientParams{
		ClientID: m.id, Org: s.org, OwnerID: s.app[:], Name: name, PublicKey: point, Created: s.clock().UnixMilli(),
	}
	for _, f := range alter {
		f(&p)
	}
	s.write(func(ctx context.Context, q *db.Queries) error { return q.AddAppClient(ctx, p) })
	return m
}

// configuration is the machine's complete configuration, ready to hand out.
func (s *server) configuration(m machine, host string) map[string]string {
	s.t.Helper()
	der, err := seal.MarshalDeviceKey(m.key)
	s.must(err)
	owner, err := seal.DevicePub(s.owner)
	s.must(err)
	return map[string]string{
		"hostname": host, "clientId": ksm.Std(m.id), "privateKey": ksm.Std(der), "appKey": ksm.Std(s.key.Expose()),
		"appOwnerPublicKey": ksm.Std(owner), "serverPublicKeyId": strconv.Itoa(serverKeyID), "serverPublicKey": ksm.URL(serverPoint()),
	}
}

func encode(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
