package proof

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
	"github.com/rotunda-pam/rotunda/internal/trust"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	"github.com/rotunda-pam/rotunda/proto/rotunda/client/v1/clientv1connect"
)

// authority is a certificate authority: the server's own, whose key the operator has,
// or another.
type authority struct {
	cert *x509.Certificate
	key  any
}

// authority is the server's own.
func (w *hostileWorld) authority(t *testing.T) authority {
	t.Helper()
	file := filepath.Join(w.Dir, "server", "authority.pem")
	pair, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		t.Fatal(err)
	}
	return authority{pair.Leaf, pair.PrivateKey}
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, template := newCertificate(t, "another authority")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(crand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func newCertificate(t *testing.T, name string) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

// listen serves over TLS with a certificate of this authority, until the test ends.
func (a authority) listen(t *testing.T, h http.Handler) (address string) {
	t.Helper()
	key, template := newCertificate(t, "127.0.0.1")
	template.IPAddresses, template.ExtKeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(crand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}},
	})
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	// Who is not deceived ends the handshake: that is no news here.
	srv := &http.Server{Handler: h, ReadHeaderTimeout: patience, Protocols: protocols, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return l.Addr().String()
}

// ---- a vault that shows another log ----

// fakeVault shows the holder of a token whatever log it likes.
type fakeVault struct {
	clientv1connect.UnimplementedVaultServiceHandler
	org     seal.Digest
	entry   seal.ID
	changes [][]byte
	head    seal.Digest
}

func (w *hostileWorld) fakeVault(t *testing.T, org seal.Digest, entry seal.ID, changes [][]byte, head seal.Digest) (address string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(clientv1connect.NewVaultServiceHandler(&fakeVault{org: org, entry: entry, changes: changes, head: head}))
	return w.authority(t).listen(t, mux)
}

func (f *fakeVault) Challenge(context.Context, *connect.Request[clientv1.ChallengeRequest]) (*connect.Response[clientv1.ChallengeResponse], error) {
	return connect.NewResponse(&clientv1.ChallengeResponse{Challenge: make([]byte, 32), Host: "127.0.0.1", OrgId: f.org.Bytes(), EntryId: f.entry.Bytes()}), nil
}

func (f *fakeVault) SignIn(context.Context, *connect.Request[clientv1.SignInRequest]) (*connect.Response[clientv1.SignInResponse], error) {
	now := time.Now()
	return connect.NewResponse(&clientv1.SignInResponse{
		Bearer: base64.RawURLEncoding.EncodeToString(make([]byte, 32)), Now: now.UnixMilli(), Expires: now.Add(time.Hour).UnixMilli(),
	}), nil
}

func (f *fakeVault) GetLog(_ context.Context, r *connect.Request[clientv1.GetLogRequest]) (*connect.Response[clientv1.GetLogResponse], error) {
	answer := &clientv1.GetLogResponse{HeadEpoch: uint64(len(f.changes) - 1), HeadDigest: f.head.Bytes()}
	if from := r.Msg.FromEpoch; from < uint64(len(f.changes)) {
		answer.Changes = f.changes[from:]
	}
	return connect.NewResponse(answer), nil
}

// changes are an organisation's signed changes, as the server has them.
func (w *hostileWorld) changes(t *testing.T, number int64) (all [][]byte) {
	t.Helper()
	rows, err := w.file.QueryContext(t.Context(), "SELECT signed FROM log_change WHERE org = ? ORDER BY epoch", number)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var signed []byte
		if err := rows.Scan(&signed); err != nil {
			t.Fatal(err)
		}
		all = append(all, signed)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// ---- a router that asks for signatures ----

// fakeRouter stands where an agent looks for its router, and passes everything but
// the channel on to the server.
type fakeRouter struct {
	address string
	answers chan fakeAnswer

	mu        sync.Mutex
	challenge []byte
}

type fakeAnswer struct {
	auth      *channelv1.Auth
	challenge []byte
	exporter  [32]byte
}

func newFakeRouter(t *testing.T, w *hostileWorld) *fakeRouter {
	t.Helper()
	f := &fakeRouter{answers: make(chan fakeAnswer, 16)}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: w.Addr})
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	mux := http.NewServeMux()
	mux.Handle("/", proxy)
	mux.HandleFunc("GET "+socket.Path, f.open)
	f.address = w.authority(t).listen(t, mux)
	return f
}

// ask sets the challenge that the next channels begin with.
func (f *fakeRouter) ask(challenge []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.challenge = challenge
}

func (f *fakeRouter) open(rw http.ResponseWriter, r *http.Request) {
	exporter, err := r.TLS.ExportKeyingMaterial(seal.ChannelExporter, nil, 32)
	if err != nil {
		return
	}
	sock, err := socket.Accept(rw, r)
	if err != nil {
		return
	}
	defer sock.Close()
	f.mu.Lock()
	challenge := f.challenge
	f.mu.Unlock()
	message, err := proto.Marshal(&channelv1.ToAgent{Frame: &channelv1.ToAgent_Challenge{Challenge: &channelv1.Challenge{Challenge: challenge}}})
	if err != nil || sock.Write(message, patience) != nil {
		return
	}
	answer, err := sock.Read(patience)
	if err != nil {
		return // the agent went away, as it should
	}
	var frame channelv1.ToRouter
	if proto.Unmarshal(answer, &frame) == nil && frame.GetAuth() != nil {
		select {
		case f.answers <- fakeAnswer{frame.GetAuth(), challenge, [32]byte(exporter)}:
		default:
		}
	}
}

// redirect leads an agent that is stopped to another address, as whoever rules its
// network does.
func redirect(t *testing.T, a *installation.Agent, address string) {
	t.Helper()
	file := filepath.Join(a.Dir, "data", "agent.key")
	var key map[string]any
	readJSON(t, file, &key)
	key["server"] = address
	b, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// ---- a forger of agents' requests ----

// forge sends the vault a request in an agent's name, by somebody who lacks its key
// and changes the request on its way as he likes.
func (w *hostileWorld) forge(t *testing.T, org seal.Digest, id seal.ID, change func(*http.Request)) error {
	t.Helper()
	key, err := seal.GenerateDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	c, err := ksm.NewClient(ksm.ClientConfig{
		BaseURL: "https://" + w.Addr, HTTP: &http.Client{Transport: &forger{change}}, ClientID: seal.AgentClientID(org, id), Key: key, Version: "1",
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Log(t.Context(), ksm.LogRequest{})
	return err
}

type forger struct{ change func(*http.Request) }

func (f *forger) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPost {
		f.change(r)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	return transport.RoundTrip(r)
}

// signedPart is what a request's signature covers.
func signedPart(t *testing.T, r *http.Request) []byte {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("TransmissionKey"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return append(key, body...)
}

// replace makes a request of whatever was signed.
func replace(r *http.Request, signed, signature []byte) {
	const key = 65 + 12 + 32 + 16 // bytes of a sealed transmission key
	r.Header.Set("TransmissionKey", ksm.Std(signed[:key]))
	r.Header.Set("Authorization", "Signature "+ksm.Std(signature))
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(signed[key:])), int64(len(signed)-key)
}

// refusedWith is the code of the vault's refusal.
func refusedWith(err error) string {
	var refused *ksm.Error
	if errors.As(err, &refused) {
		return refused.Code
	}
	return string(trust.ReasonOf(err))
}
