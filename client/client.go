package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Options of Open.
type Options struct {
	// Passphrase is asked once when the profile is locked; nil: Locked is the answer.
	Passphrase func(ctx context.Context) (sdk.Secret, error)
	// Notice is told what the client did or saw on its own; nil: dropped. It may be
	// called from several goroutines.
	Notice        func(Notice)
	ClientVersion string
	// OnlyLook leaves the chores to another client of this person: nothing is signed unasked.
	OnlyLook bool
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Notice is something that the person should know.
type Notice struct {
	Code  string // keys_filled, log_sent_back, log_renewed, log_half, devices_expired, …
	Text  string
	Alarm bool // what the server served failed a check
}

// callTime bounds one call of the server where the caller sets no bound.
const callTime = 60 * time.Second

// Client is a signed-in device (it signs in at the first call that needs it).
type Client struct {
	profile *Profile
	facts   facts
	keys    enrol.Keys
	options Options
	now     func() time.Time
	conn    *enrol.Conn
	memory  memory
	log     *trust.Log

	sign struct { // one sign-in at a time
		sync.Mutex
		ends time.Time
	}
	sync struct { // one log fetch at a time
		sync.Mutex
		at     time.Time // of the last fetch that worked
		chores bool      // done since Open
	}
	former struct { // names of entries, also of those that are gone
		sync.Mutex
		next uint64 // the log's, when puts was read
		puts map[seal.ID]*trustv1.Entry
	}
	told struct { // what the server's record was told of
		sync.Mutex
		refusals map[string]bool
	}
	names   names
	folders folderCache
	public  keyCache
	ownKeys sync.Once // bringOwnKeys
}

// Open prepares a client; it does not call the server yet.
func Open(ctx context.Context, p *Profile, o Options) (*Client, error) {
	f, err := p.facts()
	if err != nil {
		return nil, err
	}
	keys, err := p.keys(f)
	if ClassOf(err) == Locked && o.Passphrase != nil {
		pass, e := o.Passphrase(ctx)
		if e != nil {
			return nil, e
		}
		if e := p.Unlock(pass, 0); e != nil {
			return nil, e
		}
		keys, err = p.keys(f)
	}
	if err != nil {
		return nil, err
	}
	c := &Client{profile: p, facts: f, keys: keys, options: o, now: o.Now, memory: p.memory(), log: trust.NewLog(f.OrgID)}
	if c.now == nil {
		c.now = time.Now
	}
	c.sync.chores = o.OnlyLook
	if c.conn, err = enrol.Dial(f.Server, f.CAPin, o.ClientVersion); err != nil {
		return nil, invalid("open the profile "+p.name, "%v", err)
	}
	if err := c.readLog(); err != nil {
		return nil, err
	}
	return c, nil
}

// readLog replays the stored log from where this client's log ends.
func (c *Client) readLog() error {
	err := c.memory.work(func(t *memoryTx) error {
		return t.changes(c.log.Next(), func(epoch uint64, signed []byte) error {
			if epoch != c.log.Next() {
				return fmt.Errorf("change %d is missing", c.log.Next())
			}
			_, err := c.log.Append(append([]byte(nil), signed...), c.now())
			return err
		})
	})
	if err == nil || trust.ReasonOf(err) == trust.ClockFuture || ReasonOf(err) != "" {
		return fail("read the stored log", err)
	}
	return &Error{
		Class: Internal, Reason: "profile_damaged", Op: "read the stored log", Err: err,
		Hint: "move " + c.memory.path + " away: the log is fetched anew, and what this device remembers is lost: a server could then show older records and not be found out",
	}
}

// Close ends connections and wipes the keys: its own for signing, the folders', and the
// store's of its profile, which is locked to this process then, unless it was unlocked for
// longer. The seal key stays until the memory is used for something else: crypto/hpke has
// nothing to wipe it by.
func (c *Client) Close() error {
	c.conn.Close()
	c.folders.wipe()
	clear(c.keys.Sign)
	c.profile.forget()
	return nil
}

func (c *Client) notice(code, format string, args ...any) {
	if c.options.Notice != nil {
		c.options.Notice(Notice{Code: code, Text: fmt.Sprintf(format, args...)})
	}
}

// alarm is a notice of a check that failed.
func (c *Client) alarm(code, format string, args ...any) {
	if c.options.Notice != nil {
		c.options.Notice(Notice{Code: code, Text: fmt.Sprintf(format, args...), Alarm: true})
	}
}

// session signs in when there is no session, or it is about to end.
func (c *Client) session(ctx context.Context, again bool) error {
	c.sign.Lock()
	defer c.sign.Unlock()
	if !again && time.Until(c.sign.ends) > time.Minute {
		return nil
	}
	s, err := c.conn.StartSession(ctx, enrol.Signer{OrgID: c.facts.OrgID, EntryID: c.facts.Entry, Key: c.keys.Sign})
	if err != nil {
		c.sign.ends = time.Time{}
		return fail("sign in", err)
	}
	c.sign.ends = s.Ends
	return nil
}

// method is a call of the people's API.
type method[Q, A any] func(context.Context, *connect.Request[Q]) (*connect.Response[A], error)

// call signs in if need be, calls, and signs in again once where the session has ended.
func call[Q, A any](ctx context.Context, c *Client, op string, m method[Q, A], q *Q) (*A, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if err := c.session(ctx, false); err != nil {
		return nil, fail(op, err)
	}
	a, err := m(ctx, connect.NewRequest(q))
	if connect.CodeOf(err) == connect.CodeUnauthenticated {
		if err := c.session(ctx, true); err != nil {
			return nil, fail(op, err)
		}
		a, err = m(ctx, connect.NewRequest(q))
	}
	if err != nil {
		return nil, fail(op, err)
	}
	return a.Msg, nil
}

// me is the caller's entry: a device that the log still holds.
func (c *Client) me() (trust.Entry, error) {
	e, ok := c.log.Entry(c.facts.Entry)
	if !ok {
		return trust.Entry{}, &Error{
			Class: Denied, Reason: string(trust.SignerUnknown), Op: "use this device",
			Err:  errors.New("the log does not hold this device: it was removed"),
			Hint: "ask an administrator, or another device of yours, for a token",
		}
	}
	return e, nil
}
