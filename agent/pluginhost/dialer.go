package pluginhost

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

const (
	helloTimeout   = 5 * time.Second  // for the token and the request
	maxDialTimeout = 60 * time.Second // however long the plugin would wait
	closedPoll     = time.Second      // see pump
)

// dialServer is the agent's side of one plugin process's dialer: it accepts the
// plugin's connections, checks, dials, and pumps.
type dialServer struct {
	l     *net.UnixListener
	slots chan struct{} // of all connections of the process, dialling ones too
	wg    sync.WaitGroup

	mu     sync.Mutex
	log    *slog.Logger
	told   bucket // of refusals that are logged
	grants map[[pluginv1.TokenLen]byte]*grant
	led    map[string][]string // where an address of a statement led: several servers may share a name
}

// grant is what one session or one Verify may reach.
type grant struct {
	s       *dialServer
	token   [pluginv1.TokenLen]byte
	dial    DialFunc
	local   func(context.Context, net.Conn) // nil: nothing of the agent's own machine
	refused func()                          // is told of dials that lead elsewhere; nil: nobody is
	max     int
	ctx     context.Context // ends with cut
	end     context.CancelFunc
	limit   time.Duration // of its call, once it has its turn; 0: the context's

	locals sync.WaitGroup // what local serves; complete once the grant is cut

	mu     sync.Mutex
	allow  map[string]bool
	open   map[*relay]struct{}
	holds  map[*Session]func() error // of those who use it; nil is a job without a session
	failed *sdk.Error                // why the agent's own side made no connection, last; nil: it made one
}

// relay is one connection of the plugin's and the target's side of it.
type relay struct {
	plugin *net.UnixConn
	target net.Conn // nil while dialling
}

func newDialServer(path string, uid, conns int, log *slog.Logger) (*dialServer, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	err = os.Chmod(path, 0o600)
	if err == nil && uid >= 0 {
		err = os.Chown(path, uid, uid)
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	s := &dialServer{l: l, log: log, slots: make(chan struct{}, conns), told: fullBucket(10, 0.1), grants: map[[pluginv1.TokenLen]byte]*grant{}, led: map[string][]string{}}
	s.wg.Go(s.serve)
	return s, nil
}

// rename takes what is logged from now on to another log.
func (s *dialServer) rename(log *slog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = log
}

// grant lets one job dial. The addresses are those of its statement, and where these led
// in this process before: a plugin verifies at the server that took the change.
func (s *dialServer) grant(allow []string, maxConns int, dial DialFunc, local func(context.Context, net.Conn), refused func()) (*grant, error) {
	g := &grant{s: s, dial: dial, local: local, refused: refused, max: maxConns, allow: map[string]bool{}, open: map[*relay]struct{}{}, holds: map[*Session]func() error{}}
	for _, a := range allow {
		n, err := normal(a)
		if err != nil {
			return nil, err
		}
		g.allow[n] = true
	}
	_, _ = rand.Read(g.token[:])
	g.ctx, g.end = context.WithCancel(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range slices.Collect(maps.Keys(g.allow)) {
		for _, remote := range s.led[a] {
			g.allow[remote] = true
		}
	}
	s.grants[g.token] = g
	return g, nil
}

// cut ends the grant: nothing can be dialled with it any more, and every connection
// is closed, on both sides. It may be called twice.
func (g *grant) cut() {
	g.s.mu.Lock()
	delete(g.s.grants, g.token)
	g.s.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.end()
	for r := range g.open {
		r.close()
	}
}

// heeds has hold asked before anything goes to the target, until leaves.
func (g *grant) heeds(s *Session, hold func() error) {
	if hold == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holds[s] = hold
}

func (g *grant) leaves(s *Session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.holds, s)
}

// held is asked before anything goes to the target. Where one of those who use the grant
// may not change it any more, the grant is cut.
func (g *grant) held() error {
	g.mu.Lock()
	var err error
	for _, hold := range g.holds {
		if err = hold(); err != nil {
			break
		}
	}
	g.mu.Unlock()
	if err != nil {
		g.cut()
	}
	return err
}

// outbound is what a plugin sends: an agent that was stopped in the middle of a change
// goes on where it stood, and others may have had the account since.
type outbound struct {
	*net.UnixConn
	g *grant
}

func (o outbound) Read(b []byte) (int, error) {
	k, err := o.UnixConn.Read(b)
	if k == 0 {
		return k, err
	}
	if lost := o.g.held(); lost != nil {
		clear(b[:k])
		return 0, lost
	}
	return k, err
}

func (r *relay) close() {
	_ = r.plugin.Close()
	if r.target != nil {
		_ = r.target.Close()
	}
}

// close ends every grant and waits for the connections to be gone.
func (s *dialServer) close() {
	_ = s.l.Close()
	s.mu.Lock()
	var all []*grant
	for _, g := range s.grants {
		all = append(all, g)
	}
	s.mu.Unlock()
	for _, g := range all {
		g.cut()
	}
	s.wg.Wait()
}

func (s *dialServer) serve() {
	for {
		c, err := s.l.AcceptUnix()
		if err != nil {
			return
		}
		select {
		case s.slots <- struct{}{}:
			s.wg.Go(func() {
				defer func() { <-s.slots }()
				s.one(c)
			})
		default:
			_ = c.Close()
		}
	}
}

// one serves a dial from its request to its last byte.
func (s *dialServer) one(c *net.UnixConn) {
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(helloTimeout))
	var token [pluginv1.TokenLen]byte
	if _, err := io.ReadFull(c, token[:]); err != nil {
		return
	}
	s.mu.Lock()
	g := s.grants[token]
	s.mu.Unlock()
	if g == nil {
		answer(c, pluginv1.DialClosed, "")
		return
	}
	req, err := pluginv1.ReadDialRequest(c)
	if err != nil {
		return
	}
	r := &relay{plugin: c}
	if status := g.enter(r, req); status != pluginv1.DialOK {
		if status == pluginv1.DialRefused {
			s.refused(req)
			if g.refused != nil {
				g.refused()
			}
		}
		answer(c, status, "")
		return
	}
	defer g.leave(r)
	if req.Network == pluginv1.LocalNetwork {
		defer g.locals.Done()
		_ = c.SetDeadline(time.Time{})
		if answer(c, pluginv1.DialOK, pluginv1.LocalAddress) == nil {
			g.local(g.ctx, outbound{c, g})
		}
		return
	}
	target, status := g.reach(c, req)
	if status != pluginv1.DialOK {
		answer(c, status, "")
		return
	}
	defer func() { _ = target.Close() }()
	if !g.connected(r, target, req.Address) {
		answer(c, pluginv1.DialClosed, "")
		return
	}
	_ = c.SetDeadline(time.Time{})
	if answer(c, pluginv1.DialOK, target.RemoteAddr().String()) != nil {
		return
	}
	g.pump(c, target)
}

// refused tells of a plugin that wants to go where its job does not lead.
func (s *dialServer) refused(req pluginv1.DialRequest) {
	s.mu.Lock()
	tell := s.told.take(1, time.Now())
	log := s.log
	s.mu.Unlock()
	if tell {
		log.Warn("plugin asked for an address that its job does not have", "network", cut(req.Network, maxStep), "address", cut(req.Address, maxText))
	}
}

func answer(c *net.UnixConn, s pluginv1.DialStatus, remote string) error {
	_ = c.SetWriteDeadline(time.Now().Add(helloTimeout))
	_, err := c.Write(pluginv1.AppendDialReply(nil, s, remote))
	_ = c.SetWriteDeadline(time.Time{})
	return err
}

func (g *grant) enter(r *relay, req pluginv1.DialRequest) pluginv1.DialStatus {
	address, err := normal(req.Address)
	known := func() bool { return err == nil && g.allow[address] }
	switch req.Network {
	case "tcp", "tcp4", "tcp6":
	case pluginv1.LocalNetwork:
		known = func() bool { return g.local != nil && req.Address == pluginv1.LocalAddress }
	default:
		return pluginv1.DialRefused
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !known():
		return pluginv1.DialRefused
	case g.ctx.Err() != nil:
		return pluginv1.DialClosed
	case len(g.open) >= g.max:
		return pluginv1.DialLimit
	}
	g.open[r] = struct{}{}
	if req.Network == pluginv1.LocalNetwork {
		g.locals.Add(1)
	}
	return pluginv1.DialOK
}

func (g *grant) leave(r *relay) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, r)
}

const maxRemotes = 64 // addresses that names have resolved to

// connected registers the target's side, unless the grant was cut meanwhile. The
// resolved address may be dialled from now on: pgx cancels a query there.
func (g *grant) connected(r *relay, target net.Conn, asked string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() != nil {
		return false
	}
	r.target = target
	if n, err := normal(target.RemoteAddr().String()); err == nil && len(g.allow) < maxRemotes && !g.allow[n] {
		g.allow[n] = true
		g.s.leads(asked, n)
	}
	return true
}

// leads notes where an address led, the newest last.
func (s *dialServer) leads(asked, remote string) {
	asked, err := normal(asked)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := slices.DeleteFunc(s.led[asked], func(o string) bool { return o == remote })
	s.led[asked] = append(known[max(0, len(known)-maxRemotes/2):], remote)
}

// reach dials. Meanwhile it watches the plugin's side, so that a dial that was given
// up ends; the plugin sends nothing until it is answered.
func (g *grant) reach(c *net.UnixConn, req pluginv1.DialRequest) (net.Conn, pluginv1.DialStatus) {
	timeout := maxDialTimeout
	if req.Timeout > 0 {
		timeout = min(timeout, req.Timeout)
	}
	ctx, cancel := context.WithTimeout(g.ctx, timeout)
	defer cancel()
	_ = c.SetReadDeadline(time.Time{})
	gone := make(chan bool, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		stopped := errors.Is(err, os.ErrDeadlineExceeded)
		if !stopped {
			cancel()
		}
		gone <- !stopped
	}()
	target, err := g.dial(ctx, req.Network, req.Address)
	g.note(err)
	_ = c.SetReadDeadline(time.Unix(1, 0))
	given := <-gone
	switch {
	case err == nil && !given:
		return target, pluginv1.DialOK
	case err == nil:
		_ = target.Close()
		return nil, pluginv1.DialClosed
	case g.ctx.Err() != nil:
		return nil, pluginv1.DialClosed
	case ctx.Err() != nil || isTimeout(err):
		return nil, pluginv1.DialTimeout
	case isDenied(err):
		return nil, pluginv1.DialDenied
	default:
		return nil, pluginv1.DialUnreachable
	}
}

// note keeps what the plugin learns a code of at most: the local policy's word, or which
// jump host failed.
func (g *grant) note(err error) {
	var own *sdk.Error
	errors.As(err, &own)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failed = own
}

// explain puts the agent's own word in place of the plugin's, which could only say that
// it did not get through. Whether something was sent before, the plugin knows.
func (g *grant) explain(err error) error {
	g.mu.Lock()
	failed := g.failed
	g.mu.Unlock()
	if failed == nil {
		return err
	}
	switch e := err.(type) { //nolint:errorlint // what is inside another error is part of that one
	case *sdk.Error:
		if e.Class == sdk.ClassUnreachable || e.Class == sdk.ClassPermission {
			return &sdk.Error{Class: failed.Class, Reason: failed.Reason, NotSent: e.NotSent, Err: failed.Err}
		}
	case *Error:
		if e.Reason == PluginDeadline || e.Reason == PluginDeaf {
			return &Error{Reason: e.Reason, Plugin: e.Plugin, Err: fmt.Errorf("%w: %w", e.Err, &sdk.Error{Class: failed.Class, Reason: failed.Reason, Err: failed.Err})}
		}
	}
	return err
}

// unreached is explain for an answer that is none: a verdict that nobody reached.
func (g *grant) unreached() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failed == nil {
		return nil
	}
	return &sdk.Error{Class: g.failed.Class, Reason: g.failed.Reason, Err: g.failed.Err}
}

func isDenied(err error) bool {
	var e *sdk.Error
	return errors.As(err, &e) && e.Class == sdk.ClassPermission
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// pump carries bytes both ways until both are done, and each side's end of file to
// the other. A reset by the target reads as end of file in the plugin.
func (g *grant) pump(plugin *net.UnixConn, target net.Conn) {
	up, down := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(up)
		pour(target, outbound{plugin, g})
		if closeWrite(target) != nil || hungUp(plugin) {
			_ = target.Close()
			return
		}
		// Only the plugin's writing half is shut. Reads no longer tell when it goes away
		// altogether, so it is asked now and then.
		t := time.NewTicker(closedPoll)
		defer t.Stop()
		for !hungUp(plugin) {
			select {
			case <-t.C:
			case <-down:
				return
			}
		}
		_ = target.Close()
	}()
	pour(plugin, target)
	_ = plugin.CloseWrite()
	close(down)
	<-up
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// pour copies with a pooled buffer: splicing would be faster on long streams, but
// takes a pipe for each direction.
func pour(w io.Writer, r io.Reader) {
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	defer clear(*b)
	for {
		k, err := r.Read(*b)
		if k > 0 {
			if _, err := w.Write((*b)[:k]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// normal is the one spelling of host:port that addresses are compared in.
func normal(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" {
		return "", errors.New("address " + strconv.Quote(address) + ": want host:port, the port a number")
	}
	if ip := net.ParseIP(host); ip != nil {
		host = ip.String()
	}
	return net.JoinHostPort(strings.ToLower(strings.TrimSuffix(host, ".")), strconv.FormatUint(n, 10)), nil
}
