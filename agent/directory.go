package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// recent is how long a fetched log serves further runs: a thousand runs that begin
// at once ask once. A hint of a newer head cuts it short.
const recent = 5 * time.Second

// endOfTime is later than every change.
var endOfTime = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// logPage is how many changes one request asks for.
const logPage = 1000

// directory keeps the organisation's log: verified, journalled, up to date.
type directory struct {
	vault   *ksm.Client
	journal *journal.Journal
	log     *trust.Log
	now     func() time.Time
	logger  *slog.Logger
	refuse  func(ksm.Refusal) // tells the vault of a log that was refused

	mu      sync.Mutex // one fetch at a time
	fetched time.Time
	hinted  uint64
	forked  error

	sent atomic.Uint64 // changes that servers had lost
}

// newDirectory replays the journalled log. Its dates were held against the clock
// when it came: a clock that was set back since then must not keep the agent from
// saying so.
func newDirectory(org seal.Digest, j *journal.Journal, now func() time.Time) (*directory, error) {
	l := trust.NewLog(org)
	err := j.Log(func(signed []byte) error {
		_, err := l.Append(signed, endOfTime)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("the journal's log does not hold: %w: stop the agent, move the journal away, and the log is fetched anew", err)
	}
	return &directory{journal: j, log: l, now: now}, nil
}

// Known implements run.Directory.
func (d *directory) Known() *trust.Log { return d.log }

// Fresh implements run.Directory. A vault that cannot be reached is no obstacle
// while the log's own time lasts.
func (d *directory) Fresh(ctx context.Context) (*trust.Log, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.forked != nil {
		return nil, d.forked
	}
	if d.now().Sub(d.fetched).Abs() >= recent || d.hinted >= d.log.Next() {
		if err := d.fetch(ctx); err != nil {
			if trust.ReasonOf(err) != "" {
				return nil, err
			}
			d.logger.Warn("the log could not be fetched", "error", err)
		}
	}
	return d.log, d.log.CheckFresh(d.now())
}

// Fetch brings the log up to date now.
func (d *directory) Fetch(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.forked != nil {
		return d.forked
	}
	return d.fetch(ctx)
}

// Hint remembers the head that the router claims; it proves nothing.
func (d *directory) Hint(epoch uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hinted = epoch
}

func (d *directory) fetch(ctx context.Context) error {
	for {
		got, err := d.vault.Log(ctx, ksm.LogRequest{From: d.log.Next(), Limit: logPage})
		if err != nil {
			return fmt.Errorf("fetch the log: %w", err)
		}
		if err := d.compare(ctx, got); err != nil {
			return err
		}
		next := d.log.Clone()
		var fresh [][]byte
		var refused error // what comes before it holds, and is kept
		for _, signed := range got.Changes {
			var done trust.Appended
			if done, refused = next.Append(signed, d.now()); refused != nil {
				break
			}
			if done.New {
				fresh = append(fresh, signed)
			}
		}
		if err := d.journal.AppendLog(d.log.Next(), fresh...); err != nil {
			return fmt.Errorf("keep the log: %w", err)
		}
		d.log.Adopt(next)
		if refused != nil {
			return d.refused(refused)
		}
		if len(fresh) == 0 || d.log.Next() > got.Epoch {
			if d.log.Next() <= got.Epoch {
				return d.refused(&trust.Error{Reason: trust.LogGap, What: fmt.Sprintf("the server names change %d and does not show it", got.Epoch)})
			}
			d.fetched, d.hinted = d.now(), 0
			return nil
		}
	}
}

// compare holds the server's head against this log: an older one gets back what it
// lacks, another one is a fork.
func (d *directory) compare(ctx context.Context, got ksm.LogAnswer) error {
	digest, err := seal.DigestFrom(got.Digest)
	if err != nil {
		return d.refused(&trust.Error{Reason: trust.Malformed, What: "log head", Err: err})
	}
	err = d.log.CheckServer(got.Epoch, digest)
	if trust.ReasonOf(err) != trust.LogRollback {
		if err != nil {
			return d.refused(err)
		}
		return nil
	}
	d.tell(err)
	if err := d.sendBack(ctx, got.Epoch+1); err != nil {
		d.logger.Warn("the server did not take back the changes that it lacks", "error", err)
	}
	return nil
}

// backBytes bounds the changes that are sent back in one request: base64 makes them a
// third larger, and a request's body has ksm.MaxBody.
const backBytes = 1 << 20

// sendBack gives the server the changes that it lacks, in parts.
func (d *directory) sendBack(ctx context.Context, from uint64) error {
	for {
		missing, err := d.journal.LogFrom(from, logPage)
		if err != nil || len(missing) == 0 {
			return err
		}
		n, size := 0, 0
		for n < len(missing) && (n == 0 || size+len(missing[n]) <= backBytes) {
			size += len(missing[n])
			n++
		}
		if _, err := d.vault.Append(ctx, ksm.AppendRequest{Changes: missing[:n]}); err != nil {
			return err
		}
		d.sent.Add(uint64(n))
		from += uint64(n)
	}
}

// refused tells of a log that fails a check. After a fork this server's log is
// believed no more: somebody who may sign deceives one of the two parties.
func (d *directory) refused(err error) error {
	d.tell(err)
	if trust.ReasonOf(err) == trust.LogFork {
		d.forked = err
	}
	return err
}

func (d *directory) tell(err error) {
	var check *trust.Error
	if !errors.As(err, &check) {
		return
	}
	d.logger.Error("log refused", "reason", check.Reason, "error", err, "do", check.Reason.Hint())
	name := "log.refused"
	if check.Reason == trust.LogRollback {
		name = "log_rollback" // this log is kept, and the server gets back what it lacks
	}
	d.refuse(ksm.Refusal{Name: name, Reason: string(check.Reason), Time: d.now().UnixMilli()})
}
