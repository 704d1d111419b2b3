// Package clientapi serves people's clients: the Connect service
// rotunda.client.v1.VaultService. It keeps ciphertext and what is said about it
// in clear, and enforces by the log's grants who may read and change what. It
// decides nothing that clients and agents would have to believe: they check
// everything again.
package clientapi

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/atonce"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/proto/rotunda/client/v1/clientv1connect"
	"github.com/rotunda-pam/rotunda/vault/directory"
	"github.com/rotunda-pam/rotunda/vault/work"
)

const maxRequest = 4 << 20

// compressFrom is from how many bytes on an answer is compressed.
const compressFrom = 16 << 10

// Config is what the service needs. All but Log and Version have to be
// given.
type Config struct {
	Store     store.Store
	Directory *directory.Directory
	Work      *work.Work
	Bus       bus.Bus
	Now       func() time.Time
	Log       *slog.Logger // nil: none
	Version   string       // of the server, for the event of a new organisation

	// RemoveFiles removes the contents of files, whose rows a Write deletes, once it is
	// durable: machineapi's.
	RemoveFiles func(q *db.Queries, org int64, files []db.File)

	// SetupCode lets somebody make an organisation; nil: nobody. It is asked
	// at each use, since it may change while the server runs.
	SetupCode func() []byte
	// Hosts are the names by which clients reach this server, without port.
	// The first is shown. A sign-in is good for one of them.
	Hosts []string
}

type service struct {
	Config
	log        *slog.Logger
	challenges challenges
	attempts   limiter
	notes      limiter // events that devices note
	watches    watches
	waits      watches // for replies
	answers    *atonce.Gate
}

// New gives the path below which the service is mounted, and its handler.
func New(c Config) (string, http.Handler) {
	s := &service{Config: c, log: c.Log, watches: watches{most: watchesPerEntry}, waits: watches{most: waitsPerEntry}, answers: atonce.New(largeAtOnce)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	path, h := clientv1connect.NewVaultServiceHandler(s,
		connect.WithReadMaxBytes(maxRequest),
		// What is sealed cannot be made smaller: only lists and logs are worth the work.
		connect.WithCompressMinBytes(compressFrom),
		connect.WithInterceptors(gate{s}))
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := &visit{conn: conn{r.TLS, r.RemoteAddr}, whenWritten: func() {}}
		defer func() { v.whenWritten() }()
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), visitKey{}, v)))
	})
}

// visit is one request.
type visit struct {
	conn        conn
	whenWritten func() // called when its answer has been written
}

type visitKey struct{}

func visitOf(ctx context.Context) *visit {
	v, _ := ctx.Value(visitKey{}).(*visit)
	return v
}

// conn is the connection that a request came by.
type conn struct {
	tls  *tls.ConnectionState
	addr string
}

func connOf(ctx context.Context) conn { return visitOf(ctx).conn }

// address is the client's, without port.
func (c conn) address() string {
	host, _, err := net.SplitHostPort(c.addr)
	if err != nil {
		return c.addr
	}
	return host
}

// network is what attempts are counted by: the address, of IPv6 its /64, since whoever
// has one address of it has all.
func (c conn) network() string {
	a, err := netip.ParseAddr(c.address())
	if err != nil || a.Unmap().Is4() {
		return c.address()
	}
	return netip.PrefixFrom(a.WithZone(""), 64).Masked().String()
}
