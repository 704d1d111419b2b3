// Package directory keeps every organisation's log as the honest server does:
// it verifies a change before it stores it, by the same code as agents and
// clients, and serves the verified replay to the rest of the vault. What follows
// from a change on the server follows in the same transaction: an agent's
// credentials, the end of a removed party's sessions, the events.
package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// changesAtOnce bounds what is read from the store in one query.
const changesAtOnce = 1000

// endOfTime is later than every change. What is stored was held against the clock when
// it came: a server whose clock is behind now still serves it.
var endOfTime = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// Directory is safe for concurrent use.
type Directory struct {
	bus bus.Bus
	now func() time.Time

	mu   sync.Mutex
	logs map[int64]*trust.Log // of what is durable
	wait map[int64]*turns
}

// New makes a directory. now nil is the store's clock.
func New(b bus.Bus, now func() time.Time) *Directory {
	if now == nil {
		now = store.Now
	}
	return &Directory{bus: b, now: now, logs: map[int64]*trust.Log{}, wait: map[int64]*turns{}}
}

// Number is the small number of an organisation on this server:
// store.ErrNotFound where it has none.
func (d *Directory) Number(ctx context.Context, q *db.Queries, org seal.Digest) (int64, error) {
	row, err := q.OrgByID(ctx, org[:])
	if err != nil {
		return 0, fmt.Errorf("organisation %s: %w", org, err)
	}
	return row.ID, nil
}

// View is an organisation's log as q sees it, or newer. Callers must not append
// to it. store.ErrNotFound: no such organisation.
func (d *Directory) View(ctx context.Context, q *db.Queries, org int64) (*trust.Log, error) {
	row, err := q.OrgByNumber(ctx, org)
	if err != nil {
		return nil, fmt.Errorf("organisation %d: %w", org, err)
	}
	id, err := seal.DigestFrom(row.OrgID)
	if err != nil {
		return nil, fmt.Errorf("organisation %d: its id: %w", org, err)
	}
	head, err := seal.DigestFrom(row.Head)
	if err != nil {
		return nil, fmt.Errorf("organisation %s: its head: %w", id, err)
	}
	d.mu.Lock()
	log := d.logs[org]
	d.mu.Unlock()
	if log == nil {
		log = trust.NewLog(id)
	}
	if mine, ok := log.DigestAt(uint64(row.Epoch)); ok {
		if mine != head {
			return nil, fmt.Errorf("organisation %s: change %d in the database is not the one that this server verified: stop it and restore the database", id, row.Epoch)
		}
		return log, nil
	}
	log = log.Clone()
	for log.Next() <= uint64(row.Epoch) {
		changes, err := q.ChangesFrom(ctx, db.ChangesFromParams{Org: org, Epoch: int64(log.Next()), N: changesAtOnce})
		if err != nil {
			return nil, fmt.Errorf("organisation %s: read its log: %w", id, err)
		}
		if len(changes) == 0 {
			return nil, fmt.Errorf("organisation %s: change %d is missing in the database: restore it", id, log.Next())
		}
		for _, c := range changes {
			if _, err := log.Append(c.Signed, endOfTime); err != nil {
				return nil, fmt.Errorf("organisation %s: change %d in the database: %w", id, c.Epoch, err)
			}
		}
	}
	if got := log.Head().Digest; got != head {
		return nil, fmt.Errorf("organisation %s: the database's log ends with %s, not with %s: restore it", id, got, head)
	}
	if !q.Writing() { // else it may hold what never becomes durable
		d.keep(org, log)
	}
	return log, nil
}

// ReadAll reads and verifies the logs of all organisations, so that nobody who asks has
// to wait for that. Its error tells of those that do not hold.
func (d *Directory) ReadAll(ctx context.Context, q *db.Queries) error {
	orgs, err := q.ListOrgs(ctx)
	if err != nil {
		return fmt.Errorf("list the organisations: %w", err)
	}
	var bad []error
	for _, o := range orgs {
		if _, err := d.View(ctx, q, o.ID); err != nil {
			bad = append(bad, err)
		}
	}
	return errors.Join(bad...)
}

// keep makes a log the one that View begins with, unless it has a newer one.
func (d *Directory) keep(org int64, log *trust.Log) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.logs[org]; old == nil || old.Next() < log.Next() {
		d.logs[org] = log
	}
}

// Create stores a new organisation's changes, within a Write. Its error is a
// *trust.Error where the changes do not hold, store.ErrExists where the
// organisation is there already.
func (d *Directory) Create(ctx context.Context, q *db.Queries, version string, changes ...[]byte) (int64, *trust.Log, error) {
	log := trust.NewLog(seal.Digest{})
	if len(changes) == 0 {
		return 0, nil, &trust.Error{Reason: trust.Malformed, What: "no changes"}
	}
	first, err := log.Append(changes[0], d.now())
	if err != nil {
		return 0, nil, err
	}
	id := log.Org()
	err = q.CreateOrg(ctx, db.CreateOrgParams{OrgID: id[:], Epoch: 0, Head: first.Digest[:], Created: d.now().UnixMilli()})
	if err != nil {
		return 0, nil, fmt.Errorf("create organisation %s: %w", id, err)
	}
	org, err := d.Number(ctx, q, id)
	if err != nil {
		return 0, nil, err
	}
	if err := d.store(ctx, q, org, first, changes[0]); err != nil {
		return 0, nil, err
	}
	if err := audit.Tell(ctx, q, d.bus, audit.Event{Org: org, Name: audit.OrgCreated, Fields: map[string]string{"server_version": version}}); err != nil {
		return 0, nil, err
	}
	log, err = d.append(ctx, q, org, log, changes[1:])
	return org, log, err
}

// Append verifies changes against the log as q sees it and stores them, within a
// Write, with all that follows from them. It gives the log with the changes. A
// change that the log has already is passed over. Its error is a *trust.Error
// where a change does not hold; then the Write has to fail, and NoteRefusal tells
// of it.
func (d *Directory) Append(ctx context.Context, q *db.Queries, org int64, changes ...[]byte) (*trust.Log, error) {
	log, err := d.View(ctx, q, org)
	if err != nil {
		return nil, err
	}
	missing := slices.DeleteFunc(slices.Clone(changes), log.Has)
	return d.append(ctx, q, org, log.Clone(), missing)
}

// AppendTo is Append of one more change for a Write that has appended already: log is
// what that gave it. To read the log again for each of a thousand changes would cost as
// much as a million.
func (d *Directory) AppendTo(ctx context.Context, q *db.Queries, org int64, log *trust.Log, signed []byte) error {
	return d.add(ctx, q, org, log, [][]byte{signed})
}

// append adds to log, which is this transaction's own.
func (d *Directory) append(ctx context.Context, q *db.Queries, org int64, log *trust.Log, changes [][]byte) (*trust.Log, error) {
	if err := d.add(ctx, q, org, log, changes); err != nil {
		return nil, err
	}
	q.AfterCommit(func() {
		d.keep(org, log)
		d.publish(org, log.Head())
	})
	return log, nil
}

func (d *Directory) add(ctx context.Context, q *db.Queries, org int64, log *trust.Log, changes [][]byte) error {
	recovering, restored, err := recovery(ctx, q, org)
	if err != nil {
		return err
	}
	for _, signed := range changes {
		added, err := log.Append(signed, d.now())
		if err != nil {
			return err
		}
		if !added.New {
			continue
		}
		if recovering && !time.UnixMilli(added.Change.Issued).Before(restored) {
			return errRecovering(restored)
		}
		if err := d.store(ctx, q, org, added, signed); err != nil {
			return err
		}
		if err := d.follow(ctx, q, org, log, added); err != nil {
			return fmt.Errorf("what follows from change %d: %w", added.Epoch, err)
		}
	}
	return nil
}

func (d *Directory) store(ctx context.Context, q *db.Queries, org int64, a trust.Appended, signed []byte) error {
	err := q.AddChange(ctx, db.AddChangeParams{
		Org: org, Epoch: int64(a.Epoch), Digest: a.Digest[:], Signed: signed, Received: d.now().UnixMilli(),
	})
	if err != nil {
		return fmt.Errorf("store change %d: %w", a.Epoch, err)
	}
	if a.Epoch == 0 {
		return nil // the organisation's row is made with it
	}
	n, err := q.SetHead(ctx, db.SetHeadParams{ID: org, Epoch: int64(a.Epoch), Head: a.Digest[:]})
	if err != nil {
		return fmt.Errorf("store change %d: %w", a.Epoch, err)
	}
	if n != 1 {
		return fmt.Errorf("store change %d: the organisation's head is not change %d", a.Epoch, a.Epoch-1)
	}
	return nil
}

// PutKeys stores a live party's public keys where they are those of its entry,
// within a Write. log is the transaction's. An agent can talk to the vault from
// then on. Its error is a *trust.Error where the keys are not the entry's.
func (d *Directory) PutKeys(ctx context.Context, q *db.Queries, org int64, log *trust.Log, id seal.ID, keys []byte) error {
	e, ok := log.Entry(id)
	if !ok {
		return &trust.Error{Reason: trust.RecipientUnverified, What: "keys of " + id.String() + ", which is no live entry"}
	}
	k, err := trust.CheckKeys(e, keys)
	if err != nil {
		return err
	}
	if err := q.PutEntryKeys(ctx, db.PutEntryKeysParams{Org: org, EntryID: id[:], Keys: keys}); err != nil {
		return fmt.Errorf("store the keys of %s: %w", id, err)
	}
	if len(k.DevicePub) == 0 {
		return nil
	}
	client := seal.AgentClientID(log.Org(), id)
	err = q.PutAgentClient(ctx, db.PutAgentClientParams{
		ClientID: client[:], Org: org, OwnerID: id[:], Name: e.Name, PublicKey: k.DevicePub, Created: d.now().UnixMilli(),
	})
	if err != nil {
		return fmt.Errorf("let agent %s in: %w", id, err)
	}
	return nil
}

// NoteRefusal writes the event of a change that was refused, in a Write of its
// own. cause is what Append answered; anything but a *trust.Error is no refusal
// and writes nothing.
func (d *Directory) NoteRefusal(ctx context.Context, s store.Store, org int64, actor seal.ID, cause error) error {
	var refused *trust.Error
	if !errors.As(cause, &refused) {
		return nil
	}
	name := audit.AppendRefused
	if refused.Reason == trust.EnrolUsed {
		name = audit.EnrolRefused
	}
	return s.Write(ctx, func(q *db.Queries) error {
		return audit.Tell(ctx, q, d.bus, audit.Event{Org: org, Name: name, Actor: actor.Bytes(), Reason: string(refused.Reason)})
	})
}
