package journal

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// bodiesLive is how long a command's body is kept after its run has ended: a
// repeated delivery is then still recognised, and its own lifetime (10 minutes
// and the clocks' difference) is over long before.
const bodiesLive = 2 * time.Hour

// Command is a command that was taken: its signed body, so that the run can go on
// after a crash.
type Command struct {
	ID      seal.ID   `json:"id"`
	Signed  []byte    `json:"signed"` // Signed{Command}
	Taken   time.Time `json:"taken"`
	RunID   seal.ID   `json:"runId"`
	Settled time.Time `json:"settled"` // run ended, or reply sent; zero: not yet
}

// Run is a run that this agent has begun and not yet seen the end of.
type Run struct {
	ID      seal.ID   `json:"id"`
	Folder  seal.ID   `json:"folder"`
	Account seal.ID   `json:"account"`
	Command seal.ID   `json:"command"` // zero: by schedule, or taken over
	Started time.Time `json:"started"`
}

// TakeCommands stores commands before they are acted on, in one write, and moves the
// greatest time known. It answers false for a command that is known already.
func (j *Journal) TakeCommands(list []Command) (taken []bool, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	err = j.update(func(tx *bbolt.Tx) error {
		taken = make([]bool, len(list)) // also when this is tried again
		for i, c := range list {
			if tx.Bucket(bucketCommands).Get(c.ID[:]) != nil {
				continue
			}
			taken[i] = true
			if err := advance(tx, c.Taken); err != nil {
				return err
			}
			if err := putJSON(tx, bucketCommands, c.ID[:], c); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return taken, nil
}

// Command finds a command that was taken.
func (j *Journal) Command(id seal.ID) (c Command, known bool, err error) {
	err = j.view(func(tx *bbolt.Tx) (err error) {
		known, err = getJSON(tx, bucketCommands, id[:], &c)
		return err
	})
	return c, known, err
}

// SettleCommand marks a command whose reply was sent. Bodies that were settled
// long enough ago are forgotten on the way.
func (j *Journal) SettleCommand(id seal.ID, now time.Time) error {
	return j.update(func(tx *bbolt.Tx) error { return settle(tx, id, now) })
}

func settle(tx *bbolt.Tx, id seal.ID, now time.Time) error {
	var c Command
	known, err := getJSON(tx, bucketCommands, id[:], &c)
	if err != nil || !known {
		return err
	}
	c.Settled = now
	return putJSON(tx, bucketCommands, id[:], c)
}

// Forget drops the bodies of commands that were settled more than two hours ago, and of
// those that were not within a day and began no run that goes on (it was too old to be
// begun, or is another command's); and old plans.
func (j *Journal) Forget(now time.Time) error {
	return j.update(func(tx *bbolt.Tx) error {
		cur := tx.Bucket(bucketCommands).Cursor()
		for k, _ := cur.First(); k != nil; k, _ = cur.Next() {
			var c Command
			if _, err := getJSON(tx, bucketCommands, k, &c); err != nil {
				return err
			}
			over := !c.Settled.IsZero() && now.Sub(c.Settled) > bodiesLive
			if !over && now.Sub(c.Taken) > 24*time.Hour {
				goesOn, err := begun(tx, c)
				if err != nil {
					return err
				}
				over = !goesOn
			}
			if over {
				if err := cur.Delete(); err != nil {
					return err
				}
			}
		}
		return forgetPlans(tx, now)
	})
}

// begun says whether a command has begun a run that has not ended: it is one for each run.
func begun(tx *bbolt.Tx, c Command) (bool, error) {
	var r Run
	known, err := getJSON(tx, bucketRuns, c.RunID[:], &r)
	return known && r.Command == c.ID, err
}

// OpenCommands lists the commands that were taken and not settled, in the order in
// which they came: those of one account are done in it.
func (j *Journal) OpenCommands() (out []Command, err error) {
	err = j.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketCommands).ForEach(func(k, _ []byte) error {
			var c Command
			if _, err := getJSON(tx, bucketCommands, k, &c); err != nil {
				return err
			}
			if c.Settled.IsZero() {
				out = append(out, c)
			}
			return nil
		})
	})
	slices.SortFunc(out, func(a, b Command) int { return a.Taken.Compare(b.Taken) })
	return out, err
}

// BeginRun stores that a run was begun; scheduled ones count among the starts that
// a mandate limits. A run that is there already is being resumed, which is no start;
// one of another account is refused: ids are the server's to choose.
func (j *Journal) BeginRun(r Run, scheduled bool) error {
	return j.update(func(tx *bbolt.Tx) error {
		var former Run
		known, err := getJSON(tx, bucketRuns, r.ID[:], &former)
		switch {
		case err != nil:
			return err
		case known && (former.Folder != r.Folder || former.Account != r.Account):
			return fmt.Errorf("run %s is one of account %s/%s already", r.ID, former.Folder, former.Account)
		case known && !scheduled:
			return nil
		}
		if err := advance(tx, r.Started); err != nil {
			return err
		}
		if scheduled {
			account := trust.Ref{Folder: r.Folder, Record: r.Account}
			if err := addActivity(tx, account, func(a *accountActivity) { a.Starts = append(a.Starts, r.Started) }); err != nil {
				return err
			}
		}
		return putJSON(tx, bucketRuns, r.ID[:], r)
	})
}

// Run finds a run that has not ended.
func (j *Journal) Run(id seal.ID) (r Run, known bool, err error) {
	err = j.view(func(tx *bbolt.Tx) (err error) {
		known, err = getJSON(tx, bucketRuns, id[:], &r)
		return err
	})
	return r, known, err
}

// EndRun forgets a run whose end the vault has acknowledged, settles the command
// that began it (zero: none), and remembers what became of its candidate, if it had
// one.
func (j *Journal) EndRun(id, command seal.ID, now time.Time, settled *Settled) error {
	return j.update(func(tx *bbolt.Tx) error {
		if settled != nil {
			if err := rememberSettled(tx, *settled); err != nil {
				return err
			}
			if settled.Value != nil {
				if err := noteCommitted(tx, settled.Account, now); err != nil {
					return err
				}
			}
		}
		if err := settle(tx, command, now); err != nil {
			return err
		}
		return tx.Bucket(bucketRuns).Delete(id[:])
	})
}

// OpenRuns lists the runs that have not ended: what a restarted agent resumes.
func (j *Journal) OpenRuns() (out []Run, err error) {
	err = j.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketRuns).ForEach(func(k, _ []byte) error {
			var r Run
			if _, err := getJSON(tx, bucketRuns, k, &r); err != nil {
				return err
			}
			out = append(out, r)
			return nil
		})
	})
	return out, err
}
