package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

const (
	// freshTime is how old a client's log may be when it is used.
	freshTime = 30 * time.Second
	// writeOps bounds the ops of one Write, writeBytes their size.
	writeOps   = 500
	writeBytes = 2 << 20
	// appendAttempts is how often a change is signed anew because another party was faster.
	appendAttempts = 8
	// maxNamed bounds how many people a hint names.
	maxNamed = 5
)

// Sync brings the log up to date and does an honest client's chores: sends
// missing changes back, fills missing keys, renews the log's freshness and this device,
// removes expired tokens, tells of expired devices. Every operation that needs the log
// does it by itself.
func (c *Client) Sync(ctx context.Context) error {
	if err := c.fetchLog(ctx); err != nil {
		return err
	}
	return c.chores(ctx)
}

// fresh makes sure that the log was fetched a moment ago, and that the chores
// were done once. What goes wrong with a chore is a notice, not an error: the
// person came for something else.
func (c *Client) fresh(ctx context.Context) error {
	if err := c.upToDate(ctx); err != nil {
		return err
	}
	if err := c.log.CheckFresh(c.now()); err != nil {
		c.tellRefusal(ctx, eventLogRefused, trust.ReasonOf(err))
		return fail("use the log", err)
	}
	return nil
}

// upToDate is fresh, also where the log's time is over.
func (c *Client) upToDate(ctx context.Context) error {
	c.sync.Lock()
	old := time.Since(c.sync.at) > freshTime
	chores := !c.sync.chores
	c.sync.chores = true
	c.sync.Unlock()
	if old {
		if err := c.fetchLog(ctx); err != nil {
			return err
		}
	}
	if _, err := c.me(); err != nil {
		return err
	}
	if chores {
		if err := c.chores(ctx); err != nil {
			if ClassOf(err) == Refused {
				return err
			}
			c.notice("chores", "%v", err)
		}
	}
	return nil
}

// fetchLog brings the log up to the server's head, and a server that lost
// changes up to this log.
func (c *Client) fetchLog(ctx context.Context) error {
	const op = "fetch the log"
	c.sync.Lock()
	defer c.sync.Unlock()
	if err := c.session(ctx, false); err != nil {
		return err
	}
	// Another process of this profile may know more.
	if err := c.readLog(); err != nil {
		return err
	}
	fetch := func() error {
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		return enrol.FetchLog(ctx, c.conn, c.log, c.now, c.keepChanges)
	}
	err := fetch()
	if connect.CodeOf(err) == connect.CodeUnauthenticated {
		if err := c.session(ctx, true); err != nil {
			return err
		}
		err = fetch()
	}
	switch reason := trust.ReasonOf(err); reason {
	case "":
	case trust.LogRollback:
		c.tellRefusal(ctx, eventLogRollback, reason)
		if err = c.sendBack(ctx); recovering(err) {
			c.alarm("log_kept", "the server does not take back what was signed after it was restored; this client keeps it: stop the former server, end the recovery (`rotunda org end-recovery`), and it is sent back")
			err = nil
		}
	default:
		c.tellRefusal(ctx, eventLogRefused, reason)
	}
	if err != nil {
		return fail(op, err)
	}
	c.sync.at = time.Now()
	return nil
}

// keepChanges stores changes that the log takes up next.
func (c *Client) keepChanges(signed [][]byte) error {
	if len(signed) == 0 {
		return nil
	}
	return c.memory.work(func(t *memoryTx) error { return t.addChanges(c.log.Next(), signed) })
}

// sendBack gives the server the changes that it lacks (4.1 step 6).
func (c *Client) sendBack(ctx context.Context) error {
	const op = "send missing changes back to the server"
	head, err := call(ctx, c, op, c.conn.GetLog, &clientv1.GetLogRequest{FromEpoch: c.log.Next()})
	if err != nil {
		return err
	}
	first := head.HeadEpoch + 1
	var ops []*clientv1.WriteOp
	size := 0
	flush := func() error {
		if len(ops) == 0 {
			return nil
		}
		turn, err := call(ctx, c, op, c.conn.TakeTurn, &clientv1.TakeTurnRequest{Removal: true, SendBack: true})
		if err != nil {
			return err
		}
		_, err = call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: ops, Turn: turn.Turn})
		if ReasonOf(err) == "rekey_incomplete" {
			err = &Error{
				Class: Conflict, Reason: "rekey_incomplete", Op: op, Err: errors.New("the server has lost a folder's re-keying, and does not know that it was restored"),
				Hint: "put its backup back by `rotunda-server restore`, which marks it: then it takes back what it has lost",
			}
		}
		ops, size = nil, 0
		return err
	}
	var changes [][]byte
	err = c.memory.work(func(t *memoryTx) error {
		return t.changes(first, func(_ uint64, signed []byte) error {
			changes = append(changes, append([]byte(nil), signed...))
			return nil
		})
	})
	if err != nil {
		return fail(op, err)
	}
	for _, signed := range changes {
		if len(ops) == writeOps || size+len(signed) > writeBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		ops, size = append(ops, appendOp(signed)), size+len(signed)
	}
	if err := flush(); err != nil {
		return err
	}
	c.alarm("log_sent_back", "the server had lost %d changes of the log; this client sent them back: ask whether a backup was restored", len(changes))
	return nil
}

func appendOp(signed []byte) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_Append{Append: signed}}
}

// changeSpec is one change of the log with what is written in the same transaction.
type changeSpec struct {
	op      string
	removal bool
	renewal bool // makes a log usable whose time is over
	// ops makes the change's ops from the log as it is then: it may be called again.
	ops func(l *trust.Log) ([]*trustv1.Op, error)
	// with makes what goes along, from the log as the change makes it; nil: nothing.
	with func(after *trust.Log) ([]*clientv1.WriteOp, error)
}

// change takes a turn, fetches, signs, and writes, again where another party was faster.
func (c *Client) change(ctx context.Context, s changeSpec) (*clientv1.WriteResponse, error) {
	for attempt := 1; ; attempt++ {
		answer, err := c.changeOnce(ctx, s)
		if err == nil {
			return answer, nil
		}
		if attempt == appendAttempts || !lostRace(err) {
			return nil, err
		}
	}
}

// lostRace reports that another party's append came first. An answer that was
// lost is none: the change may be in the log.
func lostRace(err error) bool {
	switch ReasonOf(err) {
	case "turn_taken", "out_of_sync", "rekey_incomplete", string(trust.LogGap), string(trust.LogFork):
		return ClassOf(err) == Conflict
	}
	return false
}

func (c *Client) changeOnce(ctx context.Context, s changeSpec) (*clientv1.WriteResponse, error) {
	ready := c.fresh
	if s.renewal {
		ready = c.upToDate
	}
	if err := ready(ctx); err != nil {
		return nil, fail(s.op, err)
	}
	turn, err := call(ctx, c, s.op, c.conn.TakeTurn, &clientv1.TakeTurnRequest{Removal: s.removal})
	if err != nil {
		return nil, err
	}
	if turn.HeadEpoch+1 != c.log.Next() {
		if err := c.fetchLog(ctx); err != nil {
			return nil, fail(s.op, err)
		}
	}
	ops, err := s.ops(c.log)
	if err != nil {
		return nil, fail(s.op, err)
	}
	now := c.now()
	signed, _, err := trust.SignChange(c.facts.OrgID, c.log.NewChange(c.facts.Entry, now, ops...), c.keys.Sign)
	if err != nil {
		return nil, fail(s.op, err)
	}
	// What every reader will check is checked here first.
	after := c.log.Clone()
	if _, err := after.Append(signed, now); err != nil {
		return nil, ownChange(s.op, err, c.administrators())
	}
	write := &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{appendOp(signed)}, Turn: turn.Turn}
	if s.with != nil {
		more, err := s.with(after)
		if err != nil {
			return nil, fail(s.op, err)
		}
		write.Ops = append(write.Ops, more...)
	}
	answer, err := call(ctx, c, s.op, c.conn.Write, write)
	if err != nil {
		return nil, err
	}
	c.sync.Lock()
	defer c.sync.Unlock()
	next := c.log.Clone()
	done, err := next.Append(signed, now)
	if err != nil || !done.New {
		return answer, fail(s.op, err)
	}
	if err := c.keepChanges([][]byte{signed}); err != nil {
		return answer, fail(s.op, err)
	}
	c.log.Adopt(next)
	return answer, nil
}

// ownChange is an error of a change that this client made itself: not the
// server's fault, but a right that the caller lacks, which who has, or something
// impossible.
func ownChange(op string, err error, who string) error {
	check, ok := errors.AsType[*trust.Error](err)
	switch {
	case ok && check.Reason == trust.LogSigner:
		return &Error{
			Class: Denied, Reason: string(trust.NotAllowed), Op: op, Err: errors.New(check.What),
			Hint: "who can do it, or give you the right: " + who,
		}
	case ok && check.Reason == trust.Malformed:
		return &Error{Class: Invalid, Reason: "invalid", Op: op, Err: errors.New(check.What)}
	}
	return fail(op, err)
}

// administrators names those who may do everything.
func (c *Client) administrators() string {
	var names []string
	for _, e := range c.log.Entries(KindMember) {
		if c.log.Roles(e.ID, seal.ID{}).Has(Admin) {
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	if len(names) > maxNamed {
		names = append(names[:maxNamed], "…")
	}
	return "an administrator (" + strings.Join(names, ", ") + ")"
}

// ---- chores ----

func (c *Client) chores(ctx context.Context) error {
	c.sync.Lock()
	c.sync.chores = true
	c.sync.Unlock()
	me, err := c.me()
	if err != nil {
		return err
	}
	if err := c.changeDue(ctx, me); recovering(err) {
		c.notice("recovering", "the server was restored from a backup, and the log takes no new change until an administrator runs `rotunda org end-recovery`")
	} else if err != nil {
		return err
	}
	return c.fillMissing(ctx)
}

// changeDue appends the changes that are due.
func (c *Client) changeDue(ctx context.Context, me trust.Entry) error {
	if c.log.Roles(me.ID, seal.ID{}).Has(Admin) {
		if err := c.renew(ctx); err != nil {
			return err
		}
		if err := c.removeExpired(ctx); err != nil {
			return err
		}
	} else if c.log.Warn(c.now()) {
		c.notice("log_half", "the log is good until %s, and no administrator has signed in for long: then agents stop", c.log.ValidUntil().Format(time.DateOnly))
	}
	return c.renewMyself(ctx, me)
}

// renew extends the log's freshness when a third of it is gone.
func (c *Client) renew(ctx context.Context) error {
	if !c.log.RenewalDue(c.now()) {
		return nil
	}
	_, err := c.change(ctx, changeSpec{
		op: "renew the log", renewal: true,
		ops: func(*trust.Log) ([]*trustv1.Op, error) { return nil, nil },
	})
	if err != nil {
		return err
	}
	c.notice("log_renewed", "the log is good until %s now", c.log.ValidUntil().Format(time.DateOnly))
	return nil
}

// renewMyself puts this device anew when less than a quarter of its time is left.
func (c *Client) renewMyself(ctx context.Context, me trust.Entry) error {
	now := c.now()
	if me.NotAfter.IsZero() || me.NotAfter.Sub(now) > trust.MaxDeviceAge/4 || me.Expired(now) {
		return nil
	}
	self := c.log.Policy().SelfDevices || c.log.Roles(me.ID, seal.ID{}).Has(Admin)
	if !self {
		c.notice("device_ends", "this device is good until %s: ask an administrator for a token in time", me.NotAfter.Format(time.DateOnly))
		return nil
	}
	_, err := c.change(ctx, changeSpec{
		op: "renew this device",
		ops: func(l *trust.Log) ([]*trustv1.Op, error) {
			e, ok := l.Entry(me.ID)
			if !ok {
				return nil, notFound("", "this device was removed")
			}
			return []*trustv1.Op{trust.PutOp(&trustv1.Entry{
				EntryId: e.ID.Bytes(), Kind: e.Kind, Name: e.Name, OwnerId: e.Owner.Bytes(), SignPub: e.SignPub,
				KeysDigest: e.KeysDigest.Bytes(), V: max(e.V, trust.Version), Roles: uint32(e.Roles),
				NotAfter: now.Add(trust.MaxDeviceAge).UnixMilli(),
			})}, nil
		},
	})
	return err
}

// removeExpired removes enrolments past their time, and tells of devices past
// theirs: what an expired device signed stands until it is removed, so a person
// looks at what its removal would void.
func (c *Client) removeExpired(ctx context.Context) error {
	now := c.now()
	var gone []trust.Entry
	for _, e := range c.log.Entries(trustv1.EntryKind_ENTRY_KIND_ENROLMENT) {
		if e.Expired(now.Add(-trust.Skew)) {
			gone = append(gone, e)
		}
	}
	for _, e := range c.log.Entries(trustv1.EntryKind_ENTRY_KIND_DEVICE) {
		if e.Expired(now.Add(-trust.Skew)) {
			c.notice("device_expired", "the device %q of %s is past its time: look at its removal, which lists what it signed", e.Name, c.nameOf(e.Owner))
		}
	}
	if len(gone) == 0 {
		return nil
	}
	_, err := c.change(ctx, changeSpec{
		op: "remove expired tokens", removal: true,
		ops: func(l *trust.Log) ([]*trustv1.Op, error) {
			var ops []*trustv1.Op
			for _, e := range gone[:min(len(gone), writeOps)] {
				if now, ok := l.Entry(e.ID); ok && now.Kind == e.Kind {
					ops = append(ops, trust.RemoveOp(e.ID))
				}
			}
			return ops, nil
		},
	})
	if err != nil {
		return err
	}
	c.notice("tokens_expired", "%d tokens past their time were removed", len(gone))
	for _, e := range gone {
		if e.Unattended {
			c.notice("token_keys", "the token of %q carried folder keys: whoever has seen it can open them; `rotunda doctor` says which folders to re-key", c.nameOf(e.ID))
		}
	}
	return nil
}

// nameOf is an entry's name, of a device with its person's; of one that is not live, the
// name that it had.
func (c *Client) nameOf(id seal.ID) string {
	if e, ok := c.log.Entry(id); ok {
		if e.Kind == KindDevice {
			return c.log.FullName(e)
		}
		return e.Name
	}
	if id.IsZero() {
		return ""
	}
	if name := c.formerName(id); name != "" {
		return name + " (removed)"
	}
	return fmt.Sprintf("(removed %s)", id)
}

// formerName is the name that an entry had which is not live any more, "" for an id that
// no change of the log has put.
func (c *Client) formerName(id seal.ID) string {
	c.former.Lock()
	defer c.former.Unlock()
	if next := c.log.Next(); c.former.next != next {
		puts := map[seal.ID]*trustv1.Entry{}
		err := c.eachChange(func(change *trustv1.Change) {
			for _, op := range change.Ops {
				if e := op.GetPut(); e != nil {
					puts[idOr(e.EntryId)] = e
				}
			}
		})
		if err != nil {
			return ""
		}
		c.former.puts, c.former.next = puts, next
	}
	e := c.former.puts[id]
	if owner := c.former.puts[idOr(e.GetOwnerId())]; e.GetKind() == KindDevice && owner != nil {
		return owner.Name + " / " + e.Name
	}
	return e.GetName()
}

// eachChange calls f with every change of the stored log, which was verified before.
func (c *Client) eachChange(f func(*trustv1.Change)) error {
	return c.memory.work(func(t *memoryTx) error {
		return t.changes(0, func(_ uint64, signed []byte) error {
			var envelope trustv1.Signed
			var change trustv1.Change
			if err := proto.Unmarshal(signed, &envelope); err != nil {
				return err
			}
			if err := proto.Unmarshal(envelope.Body, &change); err != nil {
				return err
			}
			f(&change)
			return nil
		})
	})
}
