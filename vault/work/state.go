package work

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// States of a run.
const (
	Queued    = "queued"    // nobody has its account's lease
	Leased    = "leased"    // an agent works, nothing is staged
	Staged    = "staged"    // its candidate is outstanding
	Committed = "committed" // the credential is settled, further steps go on
	Finished  = "finished"
	Failed    = "failed"
	Alert     = "alert" // it goes on no more by itself: a person has to look
	Dropped   = "dropped"
)

// step is what moves a run.
type step string

const (
	lease   step = "lease"
	stage   step = "stage"
	commit  step = "commit"
	abandon step = "abandon"
	release step = "release" // to be tried again
	succeed step = "succeed"
	fail    step = "fail"
	alert   step = "alert"
	drop    step = "drop"
)

// moves says where a step leads from a state. What is not in it is refused.
//
// A run in Alert can be taken again: a person's cancel, or the next attempt,
// works on it. A committed run cannot fail any more: its credential changed,
// and what became of the rest stands in the outcomes. While a run's own
// candidate is outstanding its end is an alert, whatever the agent says.
var moves = map[step]map[string]string{
	lease:   {Queued: Leased, Leased: Leased, Staged: Staged, Committed: Committed, Alert: Leased},
	stage:   {Leased: Staged, Staged: Staged},
	commit:  {Leased: Committed, Staged: Committed},
	abandon: {Leased: Leased, Staged: Leased},
	release: {Queued: Queued, Leased: Queued, Staged: Staged, Committed: Committed},
	succeed: {Leased: Finished, Staged: Alert, Committed: Finished},
	fail:    {Queued: Failed, Leased: Failed, Staged: Alert, Committed: Finished},
	alert:   {Leased: Alert, Staged: Alert, Committed: Alert},
	drop:    {Queued: Dropped, Leased: Dropped},
}

// ended holds the states in which a run's row has a finishing time.
var ended = map[string]bool{Finished: true, Failed: true, Alert: true, Dropped: true}

// closed holds the states that nobody can leave.
var closed = map[string]bool{Finished: true, Failed: true, Dropped: true}

// move applies a step to a run's row; save writes it.
func move(run *db.Run, s step) error {
	next, ok := moves[s][run.State]
	if !ok {
		return ksm.Refuse(ksm.CodeBadRequest, "a run in state %s knows no %s", run.State, s)
	}
	run.State = next
	return nil
}

// save writes the run's row and, once it is durable, tells those who wait for it.
// A run that ended by this is finished for its rotation, too.
func (w *Work) save(ctx context.Context, q *db.Queries, run db.Run, before string) error {
	if ended[run.State] {
		run.NextAttempt = 0
		if run.Finished == 0 {
			run.Finished = w.now().UnixMilli()
		}
	} else {
		run.Finished = 0
	}
	err := q.MoveRun(ctx, db.MoveRunParams{
		State: run.State, Phase: run.Phase, AgentID: run.AgentID, Attempt: run.Attempt, Class: run.Class, Reason: run.Reason,
		Started: run.Started, Finished: run.Finished, NextAttempt: run.NextAttempt,
		Credential: run.Credential, Dependents: run.Dependents, Scripts: run.Scripts,
		Org: run.Org, RunID: run.RunID,
	})
	if err != nil {
		return fmt.Errorf("write run: %w", err)
	}
	w.tellRun(q, run)
	if ended[run.State] && !ended[before] && w.Finisher != nil {
		return w.Finisher.Finished(ctx, q, run)
	}
	return nil
}

func (w *Work) tellRun(q *db.Queries, run db.Run) {
	w.push(q, run.Org, &clientv1.WatchResponse{What: &clientv1.WatchResponse_Run{Run: &clientv1.RunProgress{
		RunId:   run.RunID,
		Account: &trustv1.Ref{FolderUid: run.FolderUid, RecordUid: run.AccountUid},
		State:   run.State,
		Phase:   run.Phase,
	}}})
}

func (w *Work) tellRecord(q *db.Queries, org int64, folder, record []byte, revision int64) {
	w.push(q, org, &clientv1.WatchResponse{What: &clientv1.WatchResponse_Record{Record: &clientv1.RecordChanged{
		Ref:      &trustv1.Ref{FolderUid: folder, RecordUid: record},
		Revision: revision,
	}}})
}

// push tells the organisation's watching clients, once what was written is durable.
func (w *Work) push(q *db.Queries, org int64, what *clientv1.WatchResponse) {
	payload, err := proto.Marshal(what)
	if err != nil { // never: the message is plain
		return
	}
	q.AfterCommit(func() { w.Bus.Publish(bus.Push(org), payload) })
}

// wake has the scheduler look for runs that are due, once this is durable.
func (w *Work) wake(q *db.Queries) { q.AfterCommit(func() { w.Bus.Publish(bus.Work, nil) }) }

// Delays of a run's next attempt.
const (
	leaseCheck = 15 * time.Second // a run under way: is its lease still alive?
	firstRetry = time.Minute
	lastRetry  = time.Hour
	// unstagedTime is how long a person's run may wait for its agent: an agent
	// drops a command that has not staged within 60 minutes.
	unstagedTime = 65 * time.Minute
)

// retryDelay doubles from attempt to attempt, with a fifth of jitter, so that
// runs which failed together do not come back together.
func retryDelay(attempt int64) time.Duration {
	d := lastRetry
	if attempt < 7 {
		d = min(firstRetry<<max(attempt-1, 0), lastRetry)
	}
	return d - d/10 + rand.N(d/5)
}

// OfOneAgent reports whether a run can only be driven by the agent that has its
// command: a person's that has not staged. Nobody else is sent to it, and its next
// attempt is when it ends untaken.
func OfOneAgent(run db.Run) bool {
	return run.Cause == "person" && (run.State == Queued || run.State == Leased)
}

// rest sets when the dispatcher looks at a run that an agent has or had.
func (w *Work) rest(run *db.Run, in time.Duration) {
	if OfOneAgent(*run) {
		run.NextAttempt = run.Created + unstagedTime.Milliseconds()
		return
	}
	run.NextAttempt = w.now().Add(in).UnixMilli()
}
