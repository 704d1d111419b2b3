package trust

import (
	"errors"
	"fmt"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Activity is what an agent's journal knows of an account's runs. Times older
// than the mandate's interval may be left out; so is the start of the very run
// that is resumed.
type Activity struct {
	Starts    []time.Time // of scheduled runs
	Again     []time.Time // runs that were taken up again
	Staged    []time.Time // new candidates that this agent made
	Committed []time.Time // commits by this agent
	Greatest  time.Time   // greatest time that the journal has seen
}

// checkClock is ClockBack where my clock says less than the journal has seen.
func checkClock(greatest, now time.Time) error {
	if now.Before(greatest.Add(-Skew)) {
		return fail(ClockBack, "the clock says %s, the journal has seen %s", now.UTC().Format(time.RFC3339), greatest.UTC().Format(time.RFC3339))
	}
	return nil
}

// within counts the times between since and now. What lies behind now was noted by a
// clock that was ahead.
func within(times []time.Time, since, now time.Time) (n int) {
	for _, t := range times {
		if t.After(since) && !t.After(now.Add(Skew)) {
			n++
		}
	}
	return n
}

// ErrFresh is the cause of TooOften where there is nothing to do: somebody has
// rotated the account lately.
var ErrFresh = errors.New("its secret was changed within the mandate's least interval")

// CheckMandate is 4.4 steps 1 to 3 for a run that the server asked for: LogStale,
// WrongPool, NotLinked, MandateOff, MandateExpired, NotAllowed, ClockBack, TooOften. results
// are the account's Signed{Result}s as served. The caller journals the start.
func CheckMandate(l *Log, me seal.ID, account, resource *Statement, a Activity, results [][]byte, now time.Time) error {
	if err := l.CheckFresh(now); err != nil {
		return err
	}
	// 1. My pool is the resource's.
	agent, _ := l.Entry(me)
	pool := resource.Pool()
	if agent.Kind != trustv1.EntryKind_ENTRY_KIND_AGENT || agent.Owner != pool {
		return fail(WrongPool, "resource %s is another pool's", resource.Ref)
	}
	if mustRef(account.GetAccount().GetResource()) != resource.Ref {
		return fail(NotLinked, "account %s names another resource than %s", account.Ref, resource.Ref)
	}
	// 2. The mandate holds now, and its signer's Operate.
	if err := checkMandate(l, account, now); err != nil {
		return err
	}
	// 3. Not too often, by the journal and by results of agents of the pool.
	m := account.GetAccount().Mandate
	if err := checkClock(a.Greatest, now); err != nil {
		return err
	}
	since := now.Add(-time.Duration(m.MinIntervalS) * time.Second)
	commits, mine, others := within(a.Committed, since, now), map[seal.Digest]bool{}, map[seal.Digest]bool{}
	for _, signed := range results {
		if within([]time.Time{time.UnixMilli(claimed(signed).GetTime())}, since, now) == 0 {
			continue // before the signature, which costs more
		}
		r, err := OpenResult(l, signed)
		if err != nil || CheckWord(l, r, account.Ref, pool) != nil {
			continue
		}
		switch {
		case r.Phase == trustv1.Phase_PHASE_COMMITTED:
			commits++
		case r.Phase == trustv1.Phase_PHASE_STAGED && r.Signer.ID == me:
			mine[seal.Digest(r.DataDigest)] = true
		case r.Phase == trustv1.Phase_PHASE_STAGED:
			others[seal.Digest(r.DataDigest)] = true
		}
	}
	switch made := max(within(a.Staged, since, now), len(mine)) + len(others); {
	case commits > 0:
		return &Error{Reason: TooOften, What: fmt.Sprintf("account %s", account.Ref), Err: fmt.Errorf("%w of %d s", ErrFresh, m.MinIntervalS)}
	case made >= MaxNewCandidates:
		return fail(TooOften, "%d new candidates for account %s within %d s", made, account.Ref, m.MinIntervalS)
	case within(a.Starts, now.Add(-StartGap), now) > 0:
		return fail(TooOften, "a run of account %s started within the last %s", account.Ref, StartGap)
	}
	return nil
}

// CheckStarts bounds what the server may ask for without a mandate, a look at the
// account, which may cost a failed login: its runs start StartGap apart. ClockBack,
// TooOften.
func CheckStarts(account Ref, a Activity, now time.Time) error {
	if err := checkClock(a.Greatest, now); err != nil {
		return err
	}
	if within(a.Starts, now.Add(-StartGap), now) > 0 {
		return fail(TooOften, "a run of account %s started within the last %s", account, StartGap)
	}
	return nil
}

// CheckAgain bounds how often an account's runs are taken up again, whichever they are and
// whoever asked for them: the server says when a run has not ended, and each time may cost
// a failed login. TooOften.
func CheckAgain(account Ref, a Activity, now time.Time) error {
	if within(a.Again, now.Add(-StartGap), now) > 0 {
		return fail(TooOften, "a run of account %s was taken up again within the last %s", account, StartGap)
	}
	return nil
}

// checkMandate is 4.4 step 2.
func checkMandate(l *Log, account *Statement, now time.Time) error {
	m := account.GetAccount().GetMandate()
	switch {
	case !m.GetEnabled():
		return fail(MandateOff, "account %s", account.Ref)
	case now.After(time.UnixMilli(m.ValidUntil)):
		return fail(MandateExpired, "account %s: the mandate ended at %s", account.Ref, stamp(m.ValidUntil))
	case !l.Roles(account.Signer.ID, account.Ref.Folder).Has(Operate):
		return fail(NotAllowed, "device %q, which signed the mandate of %s, may not operate there", l.FullName(account.Signer), account.Ref)
	}
	return nil
}
