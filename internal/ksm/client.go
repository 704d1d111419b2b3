package ksm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// requestTimeout bounds one attempt where the caller's context does not.
const requestTimeout = 30 * time.Second

// ClientConfig is what an agent needs to call its vault.
type ClientConfig struct {
	// BaseURL is the server, e.g. "https://vault.example:8443".
	BaseURL string
	// HTTP verifies the server by the pinned authority and keeps connections
	// alive; it has no cookie jar and follows no redirects of use here.
	HTTP *http.Client
	// ServerKey is the server's P-256 point and KeyID its id. Without them the
	// client fetches both at its first call, over the same verified TLS, and it
	// does so again when the server has changed its key.
	ServerKey []byte
	KeyID     int
	// ClientID is seal.AgentClientID; Key is the agent's device key.
	ClientID [ClientSize]byte
	Key      *ecdsa.PrivateKey
	// Version is the agent's, e.g. "1.2.0".
	Version string
}

// Client calls the agents' operations. It is safe for concurrent use.
//
// Its errors are of two sorts. An *Error (by errors.As) is the server's
// refusal: nothing was changed. Any other error leaves open whether the
// operation was done (the network broke, the server failed half way, the
// context ended): repeat it; every operation may be repeated.
type Client struct {
	cfg  ClientConfig
	id   string
	base string

	requests atomic.Uint64

	mu     sync.Mutex
	server ServerInfo
}

// Requests counts those that were sent since NewClient: each is a round trip.
func (c *Client) Requests() uint64 { return c.requests.Load() }

// ServerInfo is what GET PathServer answers, in clear: the TLS certificate
// vouches for it.
type ServerInfo struct {
	Host      string `json:"host"` // the name that the server knows itself by
	KeyID     int    `json:"keyId"`
	PublicKey []byte `json:"publicKey"` // P-256 point, 65 bytes
	Version   string `json:"version"`
}

// NewClient makes a client. It does not call the server.
func NewClient(cfg ClientConfig) (*Client, error) {
	switch {
	case cfg.HTTP == nil:
		return nil, errors.New("ksm: no HTTP client was given")
	case cfg.Key == nil:
		return nil, errors.New("ksm: no device key was given")
	case !strings.HasPrefix(cfg.BaseURL, "https://"):
		return nil, fmt.Errorf("ksm: the server's address %q is not https", cfg.BaseURL)
	}
	c := &Client{
		cfg:  cfg,
		id:   Std(cfg.ClientID[:]),
		base: strings.TrimSuffix(cfg.BaseURL, "/"),
	}
	if len(cfg.ServerKey) != 0 {
		if _, err := seal.ParseDevicePub(cfg.ServerKey); err != nil {
			return nil, fmt.Errorf("ksm: the server's key: %w", err)
		}
		c.server = ServerInfo{KeyID: cfg.KeyID, PublicKey: cfg.ServerKey}
	}
	return c, nil
}

// Fetch reads records, with what an agent needs beside them.
func (c *Client) Fetch(ctx context.Context, r FetchRequest) (FetchAnswer, error) {
	r.Ext = true
	return call[FetchAnswer](ctx, c, PathMachine, OpFetch, &r, &r.AgentHead)
}

// Log reads changes of the log.
func (c *Client) Log(ctx context.Context, r LogRequest) (LogAnswer, error) {
	return call[LogAnswer](ctx, c, PathAgent, OpLog, &r, &r.AgentHead)
}

// Append sends back changes that the server lacks.
func (c *Client) Append(ctx context.Context, r AppendRequest) (LogAnswer, error) {
	return call[LogAnswer](ctx, c, PathAgent, OpAppend, &r, &r.AgentHead)
}

// Keys reads entries' public keys.
func (c *Client) Keys(ctx context.Context, r KeysRequest) (KeysAnswer, error) {
	return call[KeysAnswer](ctx, c, PathAgent, OpKeys, &r, &r.AgentHead)
}

// Lease takes or retakes an account's lease. Busy and Closed are answers, not
// errors.
func (c *Client) Lease(ctx context.Context, r LeaseRequest) (LeaseAnswer, error) {
	return call[LeaseAnswer](ctx, c, PathAgent, OpLease, &r, &r.AgentHead)
}

// Stage stores a candidate durably.
func (c *Client) Stage(ctx context.Context, r StageRequest) error {
	_, err := call[struct{}](ctx, c, PathAgent, OpStage, &r, &r.AgentHead)
	return err
}

// Commit makes the candidate the account's secret.
func (c *Client) Commit(ctx context.Context, r SettleRequest) error {
	_, err := call[struct{}](ctx, c, PathAgent, OpCommit, &r, &r.AgentHead)
	return err
}

// Abandon moves the candidate to the record's history.
func (c *Client) Abandon(ctx context.Context, r SettleRequest) error {
	_, err := call[struct{}](ctx, c, PathAgent, OpAbandon, &r, &r.AgentHead)
	return err
}

// Report ends a run, answers a command, or tells of refusals.
func (c *Client) Report(ctx context.Context, r ReportRequest) error {
	_, err := call[struct{}](ctx, c, PathAgent, OpReport, &r, &r.AgentHead)
	return err
}

// Restate gives a restored vault a statement back that it has lost.
func (c *Client) Restate(ctx context.Context, r RestateRequest) error {
	_, err := call[struct{}](ctx, c, PathAgent, OpRestate, &r, &r.AgentHead)
	return err
}

// Server is what the server says of itself, fetched now.
func (c *Client) Server(ctx context.Context) (ServerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+PathServer, nil)
	if err != nil {
		return ServerInfo{}, fmt.Errorf("ksm: the server's address: %w", err)
	}
	status, body, err := c.do(req)
	if err != nil {
		return ServerInfo{}, fmt.Errorf("ksm: read the server's key: %w", err)
	}
	var info ServerInfo
	if status != http.StatusOK || json.Unmarshal(body, &info) != nil {
		return ServerInfo{}, fmt.Errorf("ksm: read the server's key: status %d: is %s a Rotunda server?", status, c.base)
	}
	if _, err := seal.ParseDevicePub(info.PublicKey); err != nil {
		return ServerInfo{}, fmt.Errorf("ksm: the server's key: %w", err)
	}
	c.mu.Lock()
	c.server = info
	c.mu.Unlock()
	return info, nil
}

func (c *Client) serverKey(ctx context.Context) (ServerInfo, error) {
	c.mu.Lock()
	info := c.server
	c.mu.Unlock()
	if len(info.PublicKey) != 0 {
		return info, nil
	}
	return c.Server(ctx)
}

// call does one operation. The head is filled in here, since op must be the
// path's.
func call[A any](ctx context.Context, c *Client, path, op string, request any, head *AgentHead) (A, error) {
	var answer A
	*head = AgentHead{ClientVersion: "rt" + c.cfg.Version, ClientID: c.id, Op: op}
	payload, err := json.Marshal(request)
	if err != nil {
		return answer, fmt.Errorf("ksm: encode %s: %w", op, err)
	}
	defer clear(payload)
	out, err := c.exchange(ctx, path+op, payload)
	var refused *Error
	if errors.As(err, &refused) && refused.Code == CodeKey {
		// The server has a new key: fetch it and try once more.
		if _, err := c.Server(ctx); err != nil {
			return answer, err
		}
		out, err = c.exchange(ctx, path+op, payload)
	}
	if err != nil {
		return answer, fmt.Errorf("%s: %w", op, err)
	}
	if len(out) == 0 {
		return answer, nil
	}
	defer clear(out)
	if err := json.Unmarshal(out, &answer); err != nil {
		return answer, fmt.Errorf("%s: the server's answer cannot be read", op)
	}
	return answer, nil
}

// exchange seals a payload, posts it and opens the answer.
func (c *Client) exchange(ctx context.Context, path string, payload []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	info, err := c.serverKey(ctx)
	if err != nil {
		return nil, err
	}
	header, sealed, key, err := sealRequest(info.PublicKey, info.KeyID, c.cfg.Key, payload)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(sealed))
	if err != nil {
		return nil, fmt.Errorf("the server's address: %w", err)
	}
	req.Header = header
	status, body, err := c.do(req)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		if e := readError(status, body); e != nil {
			return nil, e
		}
		return nil, fmt.Errorf("the server answered status %d; whether it was done is not known", status)
	}
	if len(body) == 0 {
		return nil, nil
	}
	out, err := seal.OpenGCM(key, body, nil)
	if err != nil {
		return nil, errors.New("the server's answer does not open")
	}
	return out, nil
}

// do sends a request and reads the whole answer, so that the connection can be
// used again.
func (c *Client) do(req *http.Request) (int, []byte, error) {
	c.requests.Add(1)
	resp, err := c.cfg.HTTP.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxAnswer+1))
	if err != nil {
		return 0, nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > MaxAnswer {
		return 0, nil, fmt.Errorf("the answer has more than %d bytes", MaxAnswer)
	}
	return resp.StatusCode, body, nil
}
