package work_test

import (
	"bytes"
	"context"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/work"
)

func TestEnds(t *testing.T) {
	for _, test := range []struct {
		name      string
		staged    bool
		committed bool
		outcome   trustv1.Outcome
		want      string
		event     string
	}{
		{"nothing to do", false, false, trustv1.Outcome_OUTCOME_NONE, work.Finished, "run.finished"},
		{"failed before staging", false, false, trustv1.Outcome_OUTCOME_FAILED, work.Failed, "run.failed"},
		{"undecided before staging", false, false, trustv1.Outcome_OUTCOME_PENDING, work.Alert, "run.alert"},
		{"no outcome", false, false, trustv1.Outcome_OUTCOME_UNSPECIFIED, work.Alert, "run.alert"},
		{"done", true, true, done, work.Finished, "run.finished"},
		{"changed, not verifiable", true, true, trustv1.Outcome_OUTCOME_UNVERIFIABLE, work.Finished, "run.finished"},
		{"a committed credential does not fail", true, true, trustv1.Outcome_OUTCOME_FAILED, work.Finished, "run.finished"},
		{"failed with its candidate outstanding", true, false, trustv1.Outcome_OUTCOME_FAILED, work.Alert, "run.alert"},
		{"done with its candidate outstanding", true, false, done, work.Alert, "run.alert"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := newVault(t)
			run := v.start()
			h := v.lease(v.a, run)
			data := v.seal("second")
			if test.staged {
				v.must(h.stage(h.stageRequest(data, 1)))
			}
			if test.committed {
				v.must(h.commit(h.settleRequest(committed, data, 1)))
			}
			v.must(h.report(h.endRequest(test.outcome)))
			r := v.runRow(run)
			if r.State != test.want || r.Finished == 0 || r.NextAttempt != 0 || r.Reason != "why.not" || r.Class != "policy" {
				t.Errorf("run: %+v", r)
			}
			if got := v.events("run."); got[len(got)-1] != test.event {
				t.Errorf("events: %v, want the last to be %s", got, test.event)
			}
			if len(v.finished) != 1 {
				t.Errorf("the rotation was told %d times", len(v.finished))
			}
			v.lease(v.b, v.start()) // the lease was returned
		})
	}
}

func TestRunInAlertIsTakenUpAgain(t *testing.T) {
	v := newVault(t)
	run := v.start()
	h := v.lease(v.a, run)
	data := v.seal("second")
	v.must(h.stage(h.stageRequest(data, 1)))
	v.must(h.report(h.endRequest(trustv1.Outcome_OUTCOME_PENDING)))
	h = v.lease(v.b, run)
	if r := v.runRow(run); r.State != work.Staged || r.Finished != 0 {
		t.Fatalf("run: %+v", r)
	}
	settle := h.settleRequest(committed, data, 1)
	settle.Finish = true
	v.must(h.commit(settle))
	if r := v.runRow(run); r.State != work.Finished || len(v.finished) != 2 {
		t.Errorf("run: %+v", r)
	}
}

// An agent that knows when a run goes on says so: that is no failed attempt, however often,
// and neither at once nor never.
func TestAgentSaysWhenARunGoesOn(t *testing.T) {
	v := newVault(t)
	run := v.start()
	h := v.lease(v.a, run)
	v.must(h.stage(h.stageRequest(v.seal("second"), 1)))
	attempt := v.runRow(run).Attempt
	for _, c := range []struct {
		after int64
		want  time.Duration
	}{
		{2 * time.Hour.Milliseconds(), 2 * time.Hour},
		{1, time.Minute},
		{math.MaxInt64, trust.MaxDrain},
	} {
		r := h.endRequest(trustv1.Outcome_OUTCOME_PENDING)
		r.Retry, r.After = true, c.after
		v.must(h.report(r))
		row := v.runRow(run)
		wait := time.UnixMilli(row.NextAttempt).Sub(v.clock())
		if row.State != work.Staged || wait < c.want*9/10 || wait > c.want*11/10 {
			t.Errorf("after %d ms: %s, comes back in %s, want about %s", c.after, row.State, wait, c.want)
		}
		v.pass(wait)
		h = v.lease(v.b, run)
		if got := v.runRow(run).Attempt; got > attempt+1 {
			t.Errorf("after %d ms: attempt %d, at first %d", c.after, got, attempt)
		}
	}
}

func TestRetryComesBackLaterAndLater(t *testing.T) {
	v := newVault(t)
	run := v.start()
	h := v.lease(v.a, run)
	data := v.seal("second")
	v.must(h.stage(h.stageRequest(data, 1)))
	var last time.Duration
	for attempt := range 9 {
		r := h.endRequest(trustv1.Outcome_OUTCOME_PENDING)
		r.Retry = true
		v.must(h.report(r))
		v.must(h.report(r)) // its answer was lost
		row := v.runRow(run)
		if row.State != work.Staged || row.Finished != 0 || row.Reason != "why.not" {
			t.Fatalf("run: %+v", row)
		}
		wait := time.UnixMilli(row.NextAttempt).Sub(v.clock())
		nominal := min(time.Minute<<attempt, time.Hour)
		if wait < nominal*9/10 || wait > nominal*11/10 {
			t.Errorf("attempt %d waits %s, want about %s", attempt+1, wait, nominal)
		}
		last = wait
		v.pass(wait)
		h = v.lease(v.b, run)
	}
	if last > 70*time.Minute {
		t.Errorf("the last wait is %s", last)
	}
	if len(v.finished) != 0 {
		t.Error("a retry is no end")
	}
	// The twelfth failure is for a person to see; the candidate stays.
	for range 2 {
		r := h.endRequest(trustv1.Outcome_OUTCOME_PENDING)
		r.Retry = true
		v.must(h.report(r))
		v.pass(2 * time.Hour)
		h = v.lease(v.b, run)
	}
	r := h.endRequest(trustv1.Outcome_OUTCOME_PENDING)
	r.Retry = true
	v.must(h.report(r))
	if row := v.runRow(run); row.State != work.Alert || row.Reason != "why.not" {
		t.Errorf("run: %+v", row)
	}
	if h := v.lease(v.a, run); v.runRow(run).State != work.Staged {
		t.Errorf("the candidate is not taken up after the alert: %+v", h)
	}
}

// frame is a person's command as the server sees it.
func frame(v *vault, to, run seal.ID) *trustv1.CommandFrame {
	return &trustv1.CommandFrame{
		To: to.Bytes(), From: v.o.Admin.ID.Bytes(), Id: seal.NewID().Bytes(), RunId: run.Bytes(),
		Expires: v.clock().Add(2 * time.Minute).UnixMilli(), Sealed: []byte("sealed"),
	}
}

func (v *vault) startByPerson(run seal.ID, f *trustv1.CommandFrame) error {
	return v.try(func(ctx context.Context, q *db.Queries) error {
		return v.work.StartRun(ctx, q, v.org, work.Start{
			RunID: run, Account: v.account.Proto(), PoolID: v.pool[:], Action: "rotate", Cause: "person", Command: f, Actor: v.o.Admin.ID[:],
		})
	})
}

func TestPersonsRunWakesItsAgent(t *testing.T) {
	v := newVault(t)
	woken := v.bus.Subscribe(bus.Agent(v.org, v.a.ID))
	defer woken.Close()
	run := seal.NewID()
	first := frame(v, v.a.ID, run)
	v.must(v.startByPerson(run, first))
	select {
	case <-woken.C():
	case <-time.After(10 * time.Second):
		t.Fatal("the agent's channel was not woken")
	}
	if r := v.runRow(run); r.NextAttempt < v.clock().Add(time.Hour).UnixMilli() || !bytes.Equal(r.CommandID, first.Id) {
		t.Errorf("only the agent that has the command can drive an unstaged run: %+v", r)
	}
	v.wantCode("the same command again", v.startByPerson(run, first), ksm.CodeBadRequest)

	// Nobody took it: the client follows with a command for another agent.
	second := frame(v, v.b.ID, run)
	v.must(v.startByPerson(run, second))
	refuse := func(p work.Agent, id []byte) {
		v.write(func(ctx context.Context, q *db.Queries) error { return v.work.CommandRefused(ctx, q, p, id, "expired") })
	}
	refuse(v.agent(v.a), first.Id)
	if r := v.runRow(run); r.State != work.Queued {
		t.Errorf("the older command's refusal ended the run: %+v", r)
	}
	refuse(v.agent(v.b), second.Id)
	if r := v.runRow(run); r.State != work.Failed || r.Reason != "expired" {
		t.Errorf("run: %+v", r)
	}
}

// Scripts alone run by a person's command, and a run of theirs ends though it changed nothing.
func TestScriptsAlone(t *testing.T) {
	v := newVault(t)
	run := seal.NewID()
	start := func(f *trustv1.CommandFrame) error {
		return v.try(func(ctx context.Context, q *db.Queries) error {
			return v.work.StartRun(ctx, q, v.org, work.Start{
				RunID: run, Account: v.account.Proto(), PoolID: v.pool[:], Action: "script", Cause: "person", Command: f, Actor: v.o.Admin.ID[:],
			})
		})
	}
	v.wantCode("without a command", start(nil), ksm.CodeBadRequest)
	v.must(start(frame(v, v.a.ID, run)))
	h := v.lease(v.a, run)
	v.must(h.report(ksm.ReportRequest{Account: v.ref(), RunID: run[:], Epoch: h.epoch, Result: h.result(trustv1.Phase_PHASE_FINISHED, nil, 0, func(r *trustv1.Result) {
		r.Credential, r.Scripts = trustv1.Outcome_OUTCOME_NONE, trustv1.Outcome_OUTCOME_FAILED
		r.Class, r.Reason = "conflict", trust.ScriptsFailed
		r.ScriptSha256 = slices.Repeat([][]byte{make([]byte, 32)}, 2*trust.MaxScripts)
		for range 200 { // as many statements as that may be
			r.Statements = append(r.Statements, &trustv1.Pin{Record: (trust.Ref{Folder: seal.NewID(), Record: seal.NewID()}).Proto(), Digest: make([]byte, 32)})
		}
	})}))
	if r := v.runRow(run); r.State != work.Finished || r.Action != "script" || trustv1.Outcome(r.Scripts) != trustv1.Outcome_OUTCOME_FAILED || r.Reason != trust.ScriptsFailed {
		t.Errorf("run: %+v", r)
	}
}

func TestDrop(t *testing.T) {
	v := newVault(t)
	drop := func(id seal.ID) error {
		return v.try(func(ctx context.Context, q *db.Queries) error {
			return v.work.Drop(ctx, q, v.org, id[:], "by_person", v.o.Admin.ID[:])
		})
	}
	run := v.start()
	v.must(drop(run))
	if r := v.runRow(run); r.State != work.Dropped || len(v.finished) != 1 {
		t.Errorf("run: %+v", r)
	}
	run = v.start()
	v.lease(v.a, run)
	v.wantCode("a run that an agent has", drop(run), ksm.CodeOutstanding)
	v.wantCode("no run", drop(seal.NewID()), ksm.CodeBadRequest)
}

func TestReplies(t *testing.T) {
	v := newVault(t)
	f := frame(v, v.a.ID, seal.ID{})
	f.RunId = nil
	v.write(func(ctx context.Context, q *db.Queries) error {
		return v.work.SendCommand(ctx, q, v.org, f, v.o.Admin.ID[:])
	})
	h := &hand{vault: v, by: v.a}
	reply := func(text string) ksm.ReportRequest {
		detail := []byte(text)
		return ksm.ReportRequest{CommandID: f.Id, Detail: detail, Result: h.result(trustv1.Phase_PHASE_REPLIED, nil, 0, func(r *trustv1.Result) {
			r.RunId, r.LeaseEpoch = nil, 0
			r.DetailDigest = seal.Hash(detail).Bytes()
		})}
	}
	other := &hand{vault: v, by: v.b}
	v.wantCode("another agent's command", other.report(reply("forged")), ksm.CodeBadRequest)
	v.must(h.report(reply("first")))
	v.must(h.report(reply("second"))) // the first one stays
	v.read(func(ctx context.Context, q *db.Queries) error {
		c, err := q.CommandByID(ctx, db.CommandByIDParams{Org: v.org, ID: f.Id})
		if string(c.ReplyDetail) != "first" {
			t.Errorf("reply %q", c.ReplyDetail)
		}
		return err
	})
}

func TestRefusals(t *testing.T) {
	v := newVault(t)
	run := v.start()
	h := &hand{vault: v, by: v.a}
	told := func(name string, id seal.ID) ksm.ReportRequest {
		return ksm.ReportRequest{Refusals: []ksm.Refusal{{Name: name, Reason: "mandate_off", Record: v.ref(), RunID: id[:]}}}
	}
	v.wantCode("an event that only the server tells", h.report(told("run.committed", run)), ksm.CodeBadRequest)
	stranger := v.o.Agent(t, "stranger", v.o.Pool(t, "elsewhere"))
	v.sync()
	v.must((&hand{vault: v, by: stranger}).report(told("run.refused", run)))
	if r := v.runRow(run); r.State != work.Queued {
		t.Errorf("an agent of another pool ended the run: %+v", r)
	}
	v.must(h.report(told("run.refused", run)))
	if r := v.runRow(run); r.State != work.Failed || r.Reason != "mandate_off" {
		t.Errorf("run: %+v", r)
	}
	if got := v.events("run."); !slices.Contains(got, "run.refused") {
		t.Errorf("events: %v", got)
	}
	taken := v.start()
	v.lease(v.b, taken)
	v.must(h.report(told("run.refused", taken)))
	if r := v.runRow(taken); r.State != work.Leased {
		t.Errorf("a run that an agent works on was ended: %+v", r)
	}
	many := ksm.ReportRequest{Refusals: make([]ksm.Refusal, 65)}
	v.wantCode("too many", h.report(many), ksm.CodeTooLarge)
	v.wantCode("an empty report", h.report(ksm.ReportRequest{}), ksm.CodeBadRequest)
}
