package router

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	agentend "github.com/rotunda-pam/rotunda/agent/channel"
	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// soon bounds a wait for what must come; nothing that works waits it out.
const soon = 20 * time.Second

// node is a server node with a store, a bus and a TLS listener on loopback.
type node struct {
	t      *testing.T
	store  store.Store
	bus    bus.Bus
	router atomic.Pointer[Router]
	server *httptest.Server
	roots  *x509.CertPool
	offset atomic.Int64 // of the server's clock, nanoseconds
}

var orgID = seal.Hash([]byte("organisation"))

func start(t *testing.T, change ...func(*Config, *Router)) *node {
	t.Helper()
	n := &node{t: t, bus: bus.New()}
	var err error
	n.store, err = store.Open(t.Context(), filepath.Join(t.TempDir(), "rotunda.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.store.Close() })
	n.write(func(q *db.Queries) error {
		return q.CreateOrg(t.Context(), db.CreateOrgParams{OrgID: orgID[:], Epoch: 7, Head: make([]byte, 32)})
	})
	n.open(change...)
	n.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.router.Load().ServeHTTP(w, r)
	}))
	n.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	n.server.StartTLS()
	n.roots = x509.NewCertPool()
	n.roots.AddCert(n.server.Certificate())
	t.Cleanup(func() {
		n.stop()
		n.server.Close()
	})
	return n
}

// open puts a new hub at the node's address, as after a restart.
func (n *node) open(change ...func(*Config, *Router)) *Router {
	n.t.Helper()
	cfg := Config{
		Store: n.store, Bus: n.bus, Node: "one", Hosts: []string{"rotunda.test", "127.0.0.1"},
		Now: func() time.Time { return time.Now().Add(time.Duration(n.offset.Load())) },
		Log: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg, nil)
	}
	r, err := New(context.Background(), cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range change {
		f(&cfg, r)
	}
	n.router.Store(r)
	return r
}

func (n *node) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	if r := n.router.Load(); r != nil {
		r.Shutdown(ctx) //nolint:errcheck // a second time is an error
	}
}

func (n *node) write(f func(q *db.Queries) error) {
	n.t.Helper()
	if err := n.store.Write(context.Background(), f); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) read(f func(q *db.Queries) error) {
	n.t.Helper()
	if err := n.store.Read(context.Background(), f); err != nil {
		n.t.Fatal(err)
	}
}

// enrolled is an agent that the server knows.
type enrolled struct {
	id  seal.ID
	key *ecdsa.PrivateKey
}

func (n *node) enrol() enrolled {
	n.t.Helper()
	a := enrolled{id: seal.NewID()}
	var err error
	if a.key, err = seal.GenerateDeviceKey(); err != nil {
		n.t.Fatal(err)
	}
	pub, err := seal.DevicePub(a.key)
	if err != nil {
		n.t.Fatal(err)
	}
	client := seal.AgentClientID(orgID, a.id)
	n.write(func(q *db.Queries) error {
		return q.PutAgentClient(context.Background(), db.PutAgentClientParams{
			ClientID: client[:], Org: 1, OwnerID: a.id[:], Name: "agent", PublicKey: pub,
		})
	})
	return a
}

func (n *node) tls() *tls.Config { return &tls.Config{RootCAs: n.roots} }

// config is a complete configuration of the agent's end.
func (n *node) config(a enrolled) agentend.Config {
	return agentend.Config{
		Server: n.server.Listener.Addr().String(), TLS: n.tls(), OrgID: orgID, Agent: a.id,
		Sign:    func(input []byte) ([]byte, error) { return seal.SignP256(a.key, input) },
		Version: "1.2.3", OS: "linux", Arch: "amd64",
		Deliver: each(func(*trustv1.CommandFrame) error { return nil }),
		RunDue:  func(context.Context, *channelv1.RunDue) {},
		Log:     slog.New(slog.DiscardHandler),
	}
}

// run runs an agent's end until the test is over, or the returned function is called.
func (n *node) run(cfg agentend.Config) (*agentend.Channel, func()) {
	n.t.Helper()
	c, err := agentend.New(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.Run(ctx) }) //nolint:errcheck // ends with the context
	stop := sync.OnceFunc(func() { cancel(); wg.Wait() })
	n.t.Cleanup(stop)
	return c, stop
}

// until polls what gives no signal: a row, a status.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(soon)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", soon, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func next[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(soon):
		t.Fatalf("not within %s: %s", soon, what)
	}
	panic("unreachable")
}

func (n *node) connected(a enrolled) {
	n.t.Helper()
	until(n.t, "the agent is connected", func() bool { p, ok := n.presence(a); return ok && p.Connected == 1 })
}

func (n *node) presence(a enrolled) (db.AgentSeen, bool) {
	var rows []db.AgentSeen
	n.read(func(q *db.Queries) (err error) {
		rows, err = q.PresenceOf(context.Background(), db.PresenceOfParams{Org: 1, Ids: [][]byte{a.id[:]}})
		return err
	})
	if len(rows) == 0 {
		return db.AgentSeen{}, false
	}
	return rows[0], true
}

func (n *node) events(names ...string) []db.Event {
	n.t.Helper()
	var events []db.Event
	n.read(func(q *db.Queries) (err error) {
		events, err = audit.List(context.Background(), q, audit.Filter{Org: 1, Names: names, Limit: 1000})
		return err
	})
	return events
}

// command puts a command into an agent's outbox, as a person's client does.
func (n *node) command(a enrolled, change ...func(*trustv1.CommandFrame)) seal.ID {
	n.t.Helper()
	id, run, from := seal.NewID(), seal.NewID(), seal.NewID()
	frame := &trustv1.CommandFrame{
		To: a.id[:], From: from[:], Id: id[:], RunId: run[:],
		Expires: time.Now().Add(2 * time.Minute).UnixMilli(), Sealed: []byte("sealed to the agent"),
	}
	for _, f := range change {
		f(frame)
	}
	raw, err := proto.Marshal(frame)
	if err != nil {
		n.t.Fatal(err)
	}
	n.write(func(q *db.Queries) error {
		q.AfterCommit(func() { n.bus.Publish(bus.Agent(1, a.id), nil) })
		return q.AddCommand(context.Background(), db.AddCommandParams{
			Org: 1, ID: id[:], AgentID: a.id[:], FromID: frame.From, RunID: frame.RunId, Frame: raw,
			Expires: frame.Expires, Created: time.Now().UnixMilli(),
		})
	})
	return id
}

func (n *node) stored(id seal.ID) db.Command {
	n.t.Helper()
	var c db.Command
	n.read(func(q *db.Queries) (err error) {
		c, err = q.CommandByID(context.Background(), db.CommandByIDParams{Org: 1, ID: id[:]})
		return err
	})
	return c
}

// raw is an agent's end that does only what the test says.
type raw struct {
	t        *testing.T
	sock     *socket.Conn
	conn     net.Conn // below it
	exporter [32]byte
}

func (n *node) dial() *raw {
	n.t.Helper()
	conf := n.tls()
	conf.ServerName = "127.0.0.1"
	tcp, err := net.Dial("tcp", n.server.Listener.Addr().String())
	if err != nil {
		n.t.Fatal(err)
	}
	secure := tls.Client(tcp, conf)
	if err := secure.Handshake(); err != nil {
		n.t.Fatal(err)
	}
	state := secure.ConnectionState()
	material, err := state.ExportKeyingMaterial(seal.ChannelExporter, nil, 32)
	if err != nil {
		n.t.Fatal(err)
	}
	sock, err := socket.Dial(n.t.Context(), secure, n.server.Listener.Addr().String(), socket.Path)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { sock.Abort() })
	return &raw{t: n.t, sock: sock, conn: secure, exporter: [32]byte(material)}
}

func (r *raw) receive() *channelv1.ToAgent {
	r.t.Helper()
	message, err := r.sock.Read(soon)
	if err != nil {
		r.t.Fatal(err)
	}
	var frame channelv1.ToAgent
	if err := proto.Unmarshal(message, &frame); err != nil {
		r.t.Fatal(err)
	}
	return &frame
}

func (r *raw) send(frame *channelv1.ToRouter) {
	r.t.Helper()
	message, err := proto.Marshal(frame)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.sock.Write(message, soon); err != nil {
		r.t.Fatal(err)
	}
}

// auth answers the challenge; change makes a wrong answer of it.
func (r *raw) auth(a enrolled, host string, change ...func(*channelv1.Auth)) *channelv1.ToAgent {
	r.t.Helper()
	challenge := r.receive().GetChallenge().GetChallenge()
	client := seal.AgentClientID(orgID, a.id)
	signature, err := seal.SignP256(a.key, seal.ChannelInput(orgID, client, host, [32]byte(challenge), r.exporter))
	if err != nil {
		r.t.Fatal(err)
	}
	auth := &channelv1.Auth{OrgId: orgID[:], ClientId: client[:], Signature: signature, Version: "raw"}
	for _, f := range change {
		f(auth)
	}
	r.send(&channelv1.ToRouter{Frame: &channelv1.ToRouter_Auth{Auth: auth}})
	return r.receive()
}

// welcomed opens a raw channel for good.
func (n *node) welcomed(a enrolled) *raw {
	n.t.Helper()
	r := n.dial()
	if f := r.auth(a, "127.0.0.1"); f.GetWelcome() == nil {
		n.t.Fatalf("not welcomed: %v", f)
	}
	return r
}

func (r *raw) heartbeat(n uint64, leases uint32) {
	r.t.Helper()
	r.send(&channelv1.ToRouter{Frame: &channelv1.ToRouter_Heartbeat{Heartbeat: &channelv1.Heartbeat{N: n, Leases: leases}}})
}

func (r *raw) ack(id seal.ID, reason string) {
	r.t.Helper()
	r.send(&channelv1.ToRouter{Frame: &channelv1.ToRouter_Ack{Ack: &channelv1.Ack{CommandId: id[:], Reason: reason}}})
}

// ended waits for the end of the channel and gives the last frame before it.
func (r *raw) ended() *channelv1.ToAgent {
	r.t.Helper()
	var last *channelv1.ToAgent
	for {
		message, err := r.sock.Read(soon)
		if err != nil {
			return last
		}
		last = &channelv1.ToAgent{}
		if err := proto.Unmarshal(message, last); err != nil {
			r.t.Fatal(err)
		}
	}
}

// cable is a TCP way to the node that the test can cut.
type cable struct {
	listener net.Listener
	mu       sync.Mutex
	conns    []net.Conn
}

func (n *node) cable() *cable {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	c := &cable{listener: l}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", n.server.Listener.Addr().String())
			if err != nil {
				in.Close()
				return
			}
			c.mu.Lock()
			c.conns = append(c.conns, in, out)
			c.mu.Unlock()
			wg.Go(func() { io.Copy(out, in); out.Close() }) //nolint:errcheck // cut on purpose
			wg.Go(func() { io.Copy(in, out); in.Close() })  //nolint:errcheck // cut on purpose
		}
	})
	n.t.Cleanup(func() { l.Close(); c.cut(); wg.Wait() })
	return c
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// plain is a web server without TLS that refuses everything.
func plain(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func proxyTo(address string) func(*http.Request) (*url.URL, error) {
	return func(*http.Request) (*url.URL, error) { return url.Parse("http://" + address) }
}

// tunnel is an HTTP proxy; it tells what it was asked.
func tunnel(t *testing.T) (address string, asked <-chan *http.Request) {
	t.Helper()
	requests := make(chan *http.Request, 16)
	var wg sync.WaitGroup
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wg.Add(2) // before the test hears of it, and so before it waits
		started := false
		defer func() {
			if !started {
				wg.Add(-2)
			}
		}()
		requests <- r
		out, err := net.Dial("tcp", r.Host)
		if err != nil || r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		in, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		started = true
		io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")                  //nolint:errcheck // a test's proxy
		go func() { defer wg.Done(); io.Copy(out, in); out.Close() }() //nolint:errcheck // ends with the test
		go func() { defer wg.Done(); io.Copy(in, out); in.Close() }()  //nolint:errcheck // ends with the test
	}))
	t.Cleanup(func() { s.Close(); wg.Wait() })
	return s.Listener.Addr().String(), requests
}

// evil is a server with a challenge of its own.
type evil struct {
	addr string
	tls  *tls.Config
}

func hostile(t *testing.T, challenge []byte) evil {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sock, err := socket.Accept(w, r)
		if err != nil {
			return
		}
		defer sock.Abort()
		if write(sock, &channelv1.ToAgent{Frame: &channelv1.ToAgent_Challenge{Challenge: &channelv1.Challenge{Challenge: challenge}}}) == nil {
			sock.Read(soon) //nolint:errcheck // whatever it answers
		}
	}))
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return evil{addr: s.Listener.Addr().String(), tls: &tls.Config{RootCAs: roots}}
}

// each makes an agent's Deliver of what is done with one command.
func each(one func(*trustv1.CommandFrame) error) func(context.Context, []*trustv1.CommandFrame) []error {
	return func(_ context.Context, frames []*trustv1.CommandFrame) []error {
		answers := make([]error, len(frames))
		for i, f := range frames {
			answers[i] = one(f)
		}
		return answers
	}
}
