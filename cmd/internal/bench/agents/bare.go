package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// bareServer is where bare sockets lead.
type bareServer struct {
	Address string
	Cert    []byte // DER, its own authority
}

func (s bareServer) dial(from *net.Dialer, path string) (*websocket.Conn, error) {
	cert, err := x509.ParseCertificate(s.Cert)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	d := websocket.Dialer{
		NetDialContext:   from.DialContext,
		TLSClientConfig:  &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
		HandshakeTimeout: 20 * time.Second, ReadBufferSize: 4096, WriteBufferSize: 4096,
	}
	ws, resp, err := d.Dial("wss://"+s.Address+path, nil)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	return ws, nil
}

// playBareServer accepts sockets with the small buffers that the product's server has,
// and does nothing but answer their pings; of the one that is /agent and the one that is
// /client each gets what the other sends.
func playBareServer(in *bufio.Reader, out *json.Encoder) error {
	var none struct{}
	if err := config(in, &none); err != nil {
		return err
	}
	cert, err := selfSigned()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	b := &bareHub{ends: map[string]*websocket.Conn{}, come: make(chan struct{}, 2)}
	srv := &http.Server{
		Handler: b, ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	go srv.Serve(tls.NewListener(l, srv.TLSConfig)) //nolint:errcheck // until the process ends
	defer srv.Close()
	for {
		asked, err := word(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch asked {
		case "tell":
			err = out.Encode(bareServer{l.Addr().String(), cert.Certificate[0]})
		case "pair": // both ends are there
			<-b.come
			<-b.come
			err = out.Encode(true)
		}
		if err != nil {
			return err
		}
	}
}

type bareHub struct {
	buffers sync.Pool
	mu      sync.Mutex
	ends    map[string]*websocket.Conn
	come    chan struct{}
}

var otherEnd = map[string]string{"/agent": "/client", "/client": "/agent"}

func (b *bareHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{ReadBufferSize: 512, WriteBufferSize: 4096, WriteBufferPool: &b.buffers}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	if other, ok := otherEnd[r.URL.Path]; ok {
		b.mu.Lock()
		b.ends[r.URL.Path] = ws
		b.mu.Unlock()
		b.come <- struct{}{}
		go b.relay(ws, other)
		return
	}
	go func() {
		defer ws.Close()
		for {
			if _, _, err := ws.NextReader(); err != nil {
				return
			}
		}
	}()
}

func (b *bareHub) relay(ws *websocket.Conn, other string) {
	defer ws.Close()
	for {
		kind, message, err := ws.ReadMessage()
		if err != nil {
			return
		}
		b.mu.Lock()
		to := b.ends[other]
		b.mu.Unlock()
		if to == nil || to.WriteMessage(kind, message) != nil {
			return
		}
	}
}

// selfSigned makes a certificate of the kind that the product's server makes.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// dialsAtOnce keeps the dialling process from being what is measured, and the server
// from queues without end.
const dialsAtOnce = 64

type bareCrowdConfig struct {
	Server bareServer
	Count  int
}

// playBareCrowd dials, and holds the sockets, with a ping as often as an agent has a
// heartbeat. It knows one word, and answers with how long the dials took.
func playBareCrowd(in *bufio.Reader, out *json.Encoder) error {
	var cfg bareCrowdConfig
	if err := config(in, &cfg); err != nil {
		return err
	}
	socks := make([]*websocket.Conn, cfg.Count)
	errs := make([]error, cfg.Count)
	next := make(chan int)
	began := time.Now()
	var all sync.WaitGroup
	for range dialsAtOnce {
		all.Go(func() {
			for i := range next {
				socks[i], errs[i] = cfg.Server.dial(source(i), "/idle")
			}
		})
	}
	for i := range socks {
		next <- i
	}
	close(next)
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	took := time.Since(began)
	var held sync.WaitGroup
	for _, ws := range socks {
		held.Go(func() {
			for {
				if _, _, err := ws.NextReader(); err != nil {
					return
				}
			}
		})
	}
	defer held.Wait()
	defer func() {
		for _, ws := range socks {
			ws.Close()
		}
	}()
	ping := time.NewTicker(30 * time.Second)
	defer ping.Stop()
	words := make(chan error, 1)
	go func() {
		for {
			_, err := word(in)
			words <- err
			if err != nil {
				return
			}
		}
	}()
	for {
		select {
		case err := <-words:
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := out.Encode(took); err != nil {
				return err
			}
		case <-ping.C:
			for _, ws := range socks {
				if err := ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(10*time.Second)); err != nil {
					return err
				}
			}
		}
	}
}

// playBareAgent sends back what comes.
func playBareAgent(in *bufio.Reader) error {
	var server bareServer
	if err := config(in, &server); err != nil {
		return err
	}
	ws, err := server.dial(&net.Dialer{}, "/agent")
	if err != nil {
		return err
	}
	defer ws.Close()
	go func() {
		_, _ = io.Copy(io.Discard, in) // its end is the end
		ws.Close()
	}()
	for {
		kind, message, err := ws.ReadMessage()
		if err != nil {
			return nil
		}
		if err := ws.WriteMessage(kind, message); err != nil {
			return nil
		}
	}
}

// bareCrowd measures the dials and the memory of bare sockets.
func bareCrowd(ctx context.Context, o options) (f crowdFloor, err error) {
	server, at, err := startBareServer(ctx)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	// What is paid once is paid before.
	first, err := at.dial(source(0), "/idle")
	if err != nil {
		return f, err
	}
	defer first.Close()
	before, err := memoryOf(server.pid())
	if err != nil {
		return f, err
	}
	crowd, err := start("bare crowd", bareCrowdConfig{at, o.agents})
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, crowd.close()) }()
	if err := crowd.ask(ctx, "tell", &f.Took); err != nil {
		return f, err
	}
	after, err := memoryOf(server.pid())
	if err != nil {
		return f, err
	}
	f.Each = (after.Resident - before.Resident) / int64(o.agents)
	f.Peak = after.Peak
	return f, nil
}

func startBareServer(ctx context.Context) (server *child, at bareServer, err error) {
	if server, err = start("bare server", struct{}{}); err != nil {
		return nil, at, err
	}
	if err := server.ask(ctx, "tell", &at); err != nil {
		return nil, at, errors.Join(err, server.close())
	}
	return server, at, nil
}

// bareEcho is a client, a relay and an agent that know nothing but sockets.
type bareEcho struct {
	server, agent *child
	ws            *websocket.Conn
	write         sync.Mutex

	mu      sync.Mutex
	waiting map[uint64]chan struct{}
	next    uint64
	err     error
	ended   chan struct{}
}

func newBareEcho(ctx context.Context) (e *bareEcho, err error) {
	e = &bareEcho{waiting: map[uint64]chan struct{}{}, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	var at bareServer
	if e.server, at, err = startBareServer(ctx); err != nil {
		return e, err
	}
	if e.agent, err = start("bare agent", at); err != nil {
		return e, err
	}
	if e.ws, err = at.dial(&net.Dialer{}, "/client"); err != nil {
		return e, err
	}
	go e.read()
	var paired bool
	return e, e.server.ask(ctx, "pair", &paired)
}

func (e *bareEcho) read() {
	defer close(e.ended)
	for {
		_, message, err := e.ws.ReadMessage()
		if err != nil || len(message) < 8 {
			e.mu.Lock()
			e.err = fmt.Errorf("the bare echo ended: %w", err)
			e.mu.Unlock()
			return
		}
		n := binary.BigEndian.Uint64(message)
		e.mu.Lock()
		if c := e.waiting[n]; c != nil {
			delete(e.waiting, n)
			close(c)
		}
		e.mu.Unlock()
	}
}

// once sends a message of the size that a sealed command has, and waits for it.
func (e *bareEcho) once(ctx context.Context) error {
	message := make([]byte, commandSize)
	back := make(chan struct{})
	e.mu.Lock()
	e.next++
	n := e.next
	e.waiting[n] = back
	e.mu.Unlock()
	binary.BigEndian.PutUint64(message, n)
	e.write.Lock()
	err := e.ws.WriteMessage(websocket.BinaryMessage, message)
	e.write.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-back:
		return nil
	case <-e.ended:
		return e.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (e *bareEcho) close() error {
	var errs []error
	if e.ws != nil {
		e.ws.Close()
	}
	for _, c := range []*child{e.agent, e.server} {
		if c != nil {
			errs = append(errs, c.close())
		}
	}
	return errors.Join(errs...)
}
