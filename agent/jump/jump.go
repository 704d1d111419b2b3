// Package jump opens the way to a target through SSH hosts, one behind the other. Who
// asked for the connection sees nothing of them: neither their keys nor their logins.
//
// The local policy is asked of every address on the way. The first host's is resolved
// and dialled here; those behind it are resolved here, too, and handed on as addresses,
// so that no name can lead elsewhere than the policy was asked about.
package jump

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Most is how many hosts may stand between the agent and a target.
const Most = 8

// Host is one SSH host on the way.
type Host struct {
	Address    string // host:port
	Pins       []byte // SHA-256 of the host keys that it may show, one after the other
	Login      string
	Credential sdk.Credential // a password, or an SSH key
}

// Config of the Ways.
type Config struct {
	// Dial reaches the first host. It asks the local policy itself.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Reach is the local policy's word on an address behind the first host.
	Reach func(netip.Addr) error
	// Resolve finds the addresses of a name (net.DefaultResolver.LookupNetIP).
	Resolve func(ctx context.Context, network, host string) ([]netip.Addr, error)
	// Idle is how long a connection to a host stays that nobody uses (1 min).
	Idle time.Duration
}

const (
	connectTime = 15 * time.Second // to log in to one host; less than a session may take to open
	refusedTime = time.Minute      // how long a host is left alone that refused the login
	closeTime   = time.Second      // how long a host may take to hear of a connection's end
)

// Ways are the connections to jump hosts that are open. Targets behind the same hosts,
// reached with the same logins, share them.
type Ways struct {
	cfg Config
	key []byte // of the digests
	ctx context.Context
	end context.CancelFunc
	wg  sync.WaitGroup

	mu   sync.Mutex
	hops map[[sha256.Size]byte]*hop
}

// hop is a connection to the last of some hosts.
type hop struct {
	digest [sha256.Size]byte
	ready  chan struct{} // closed when the next two are set
	client *ssh.Client
	err    error
	raw    net.Conn // beneath the client

	// Guarded by Ways.mu.
	users int // connections through it, and who waits for it
	idle  *time.Timer
}

// New makes ready; nothing is dialled before it is needed.
func New(cfg Config) *Ways {
	if cfg.Resolve == nil {
		cfg.Resolve = net.DefaultResolver.LookupNetIP
	}
	if cfg.Idle <= 0 {
		cfg.Idle = time.Minute
	}
	w := &Ways{cfg: cfg, key: make([]byte, 32), hops: map[[sha256.Size]byte]*hop{}}
	_, _ = rand.Read(w.key)
	w.ctx, w.end = context.WithCancel(context.Background())
	return w
}

// Close ends every connection, and waits for it.
func (w *Ways) Close() {
	w.end()
	w.mu.Lock()
	var all []*hop
	for _, h := range w.hops {
		all = append(all, h)
	}
	w.mu.Unlock()
	for _, h := range all {
		<-h.ready
		h.close()
	}
	w.wg.Wait()
}

// Dial is the dialer of what is behind the hosts, in the order in which they are passed.
// digest tells one way from another, logins included, under a key of this process.
func (w *Ways) Dial(hosts []Host) (dial func(ctx context.Context, network, address string) (net.Conn, error), digest [sha256.Size]byte) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return w.dial(ctx, hosts, network, address)
	}, w.digest(hosts)
}

func (w *Ways) digest(hosts []Host) [sha256.Size]byte {
	m := hmac.New(sha256.New, w.key)
	for _, h := range hosts {
		secret := h.Credential.Secret.Expose()
		for _, part := range [][]byte{[]byte(h.Address), h.Pins, []byte(h.Login), []byte(h.Credential.Kind), secret} {
			m.Write([]byte(strconv.Itoa(len(part)) + ":"))
			m.Write(part)
		}
		clear(secret)
	}
	return [sha256.Size]byte(m.Sum(nil))
}

// dial opens one connection behind the hosts.
func (w *Ways) dial(ctx context.Context, hosts []Host, network, address string) (net.Conn, error) {
	if len(hosts) == 0 {
		return w.cfg.Dial(ctx, network, address)
	}
	addresses, err := w.resolve(ctx, network, address)
	if err != nil {
		return nil, err
	}
	h, err := w.acquire(ctx, hosts)
	if err != nil {
		return nil, err
	}
	for _, to := range addresses {
		var c net.Conn
		if c, err = h.client.DialContext(ctx, "tcp", to.String()); err == nil {
			return &conn{Conn: c, ways: w, hop: h, remote: net.TCPAddrFromAddrPort(to)}, nil
		}
		if ctx.Err() != nil {
			w.forget(h) // it may be dead: who comes next makes a connection of his own
			break
		}
	}
	w.release(h)
	reason := "dial.unreachable"
	if refused := (*ssh.OpenChannelError)(nil); errors.As(err, &refused) && refused.Reason == ssh.Prohibited {
		reason = "jump.forbidden"
	}
	return nil, failed(hosts, sdk.ClassUnreachable, reason, fmt.Errorf("it opens no way to %s: %w", address, err))
}

// resolve finds the addresses of host:port that the local policy allows.
func (w *Ways) resolve(ctx context.Context, network, address string) ([]netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, err
	}
	var found []netip.Addr
	if a, err := netip.ParseAddr(host); err == nil {
		found = []netip.Addr{a}
	} else if found, err = w.cfg.Resolve(ctx, strings.Replace(network, "tcp", "ip", 1), host); err != nil {
		return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "jump.name", Err: fmt.Errorf("%s is behind a jump host and this agent cannot resolve it, so that its local policy cannot be asked: name it by its address (and, for TLS, its name by --tls-name): %w", host, err)}
	}
	var out []netip.AddrPort
	var denied error
	for _, a := range found {
		if err := w.cfg.Reach(a); err != nil {
			denied = err
			continue
		}
		if a = a.Unmap(); network == "tcp4" && !a.Is4() || network == "tcp6" && !a.Is6() {
			continue
		}
		out = append(out, netip.AddrPortFrom(a, uint16(port)))
	}
	switch {
	case len(out) > 0:
		return out, nil
	case denied != nil:
		return nil, &sdk.Error{Class: sdk.ClassPermission, Reason: string(trust.LocalPolicy), Err: denied}
	}
	return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "jump.name", Err: fmt.Errorf("%s has no address for %s", host, network)}
}

// acquire gives the connection to the last of the hosts, making it if need be.
func (w *Ways) acquire(ctx context.Context, hosts []Host) (*hop, error) {
	digest := w.digest(hosts)
	w.mu.Lock()
	if w.ctx.Err() != nil {
		w.mu.Unlock()
		return nil, failed(hosts, sdk.ClassUnreachable, "jump.unreachable", w.ctx.Err())
	}
	h := w.hops[digest]
	if h == nil {
		h = &hop{digest: digest, ready: make(chan struct{})}
		w.hops[digest] = h
		w.wg.Go(func() { w.run(h, hosts) })
	}
	h.users++
	if h.idle != nil {
		h.idle.Stop()
	}
	w.mu.Unlock()
	select {
	case <-h.ready:
	case <-ctx.Done():
		w.release(h)
		return nil, failed(hosts, sdk.ClassUnreachable, "jump.unreachable", fmt.Errorf("no answer yet: %w", context.Cause(ctx)))
	}
	if h.err != nil {
		w.release(h)
		return nil, h.err
	}
	return h, nil
}

// run is a connection's life.
func (w *Ways) run(h *hop, hosts []Host) {
	ctx, cancel := context.WithTimeout(w.ctx, connectTime)
	h.client, h.raw, h.err = w.connect(ctx, hosts)
	cancel()
	close(h.ready)
	if e := (*sdk.Error)(nil); errors.As(h.err, &e) && e.Reason == "jump.refused" {
		// The same login again would be refused again, and hosts count those.
		t := time.NewTimer(refusedTime)
		defer t.Stop()
		select {
		case <-t.C:
		case <-w.ctx.Done():
		}
	}
	if h.err == nil {
		_ = h.client.Wait()
	}
	w.forget(h)
}

// forget has nobody begin to use a connection any more.
func (w *Ways) forget(h *hop) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hops[h.digest] == h {
		delete(w.hops, h.digest)
	}
}

// release gives a use back. A connection that nobody uses ends after a while, and at
// once where nobody will.
func (w *Ways) release(h *hop) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h.users--
	if h.users > 0 {
		return
	}
	wait := w.cfg.Idle
	if w.hops[h.digest] != h {
		wait = 0
	}
	h.idle = time.AfterFunc(wait, func() {
		w.mu.Lock()
		unused := h.users == 0
		if unused && w.hops[h.digest] == h && h.connected() {
			delete(w.hops, h.digest)
		}
		w.mu.Unlock()
		if unused {
			h.close()
		}
	})
}

// connected says whether the connection was made.
func (h *hop) connected() bool {
	select {
	case <-h.ready:
		return h.err == nil
	default:
		return false
	}
}

// close ends a connection that was made, without a word to the host: that could block.
func (h *hop) close() {
	if h.connected() {
		_ = h.raw.Close()
	}
}

// hostError names the host that failed.
type hostError struct {
	place   int // on the way, from 1
	address string
	err     error
}

func (e *hostError) Error() string {
	return fmt.Sprintf("jump host %d (%s): %v", e.place, e.address, e.err)
}

func (e *hostError) Unwrap() error { return e.err }

// failed is an error of the last of the hosts that were to be passed.
func failed(hosts []Host, class sdk.Class, reason string, err error) error {
	if own := (*sdk.Error)(nil); errors.As(err, &own) {
		class, reason = own.Class, own.Reason
		if own == err && own.Err != nil { //nolint:errorlint // one inside another error is part of that one's text
			err = own.Err
		}
	}
	n := len(hosts)
	return &sdk.Error{Class: class, Reason: reason, Err: &hostError{n, hosts[n-1].Address, err}}
}
