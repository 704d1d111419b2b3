package proof

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Rows in which the server plays with values that are staged, or makes others current.

// staged is an outstanding candidate as the server has it.
type staged struct {
	data, digest, result, authority []byte
	seq                             uint64
}

func (w *hostileWorld) staged(t *testing.T, r trust.Ref) (s staged) {
	t.Helper()
	w.read(t, "SELECT data, data_digest, result, authority, value_seq FROM staged WHERE org = 1 AND record_uid = ?", []any{r.Record.Bytes()},
		&s.data, &s.digest, &s.result, &s.authority, &s.seq)
	return s
}

// serveStaged has the server serve a candidate in place of the one that it has.
func (w *hostileWorld) serveStaged(t *testing.T, r trust.Ref, s staged) {
	t.Helper()
	w.sql(t, "UPDATE staged SET data = ?, data_digest = ?, result = ?, authority = ?, value_seq = ? WHERE org = 1 AND record_uid = ?",
		s.data, s.digest, s.result, s.authority, s.seq, r.Record.Bytes())
}

// has says whether the server has a candidate of a record.
func (w *hostileWorld) hasStaged(t *testing.T, r trust.Ref) bool {
	t.Helper()
	var n int
	w.read(t, "SELECT count(*) FROM staged WHERE org = 1 AND record_uid = ?", []any{r.Record.Bytes()}, &n)
	return n > 0
}

// interrupted rotates an account by command and kills the agent at a point of it;
// worst is done while it is down. What it does once it is back up is what it does with
// whatever is staged then.
func (w *hostileWorld) interrupted(t *testing.T, title, point string, worst func()) (run string, since moment) {
	t.Helper()
	armed := filepath.Join(w.agent.Fault, point)
	if err := os.WriteFile(armed, []byte("kill"), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(armed)
	defer os.Remove(armed + ".hit")
	o, err := w.Rotate(t.Context(), title, "--no-wait", "--agent", w.agent.Name)
	if err != nil {
		t.Fatalf("rotate %s: %v: %+v", title, err, o)
	}
	select {
	case <-w.agent.Done():
	case <-time.After(patience):
		t.Fatalf("the agent did not come to %s: %s", point, w.agent.Tail())
	}
	worst()
	since = w.now(t)
	if err := w.agent.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return o.RunID, since
}

// refusedOnReturn is the end of an interrupted run: the agent refuses with that reason
// and the target sees nothing.
func (w *hostileWorld) refusedOnReturn(t *testing.T, title, event string, reason trust.Reason, worst func()) string {
	t.Helper()
	run, since := w.interrupted(t, title, "after-stage", func() {
		w.strikes() // the run has been at the target until now
		worst()
	})
	w.untouched(t, func() {
		line := w.logged(t, since, w.agent, `"msg":"run ended"`, `"run":"`+run+`"`, `"credential"`)
		if !strings.Contains(line, `"reason":"`+string(reason)+`"`) {
			t.Errorf("the agent ended the run otherwise than by %s: %s: %s", reason, line, w.agent.Tail())
		}
	})
	w.toldBy(t, since, event, reason, w.agent.Name)
	return run
}

// rejects asserts that the target does not let an account in with a secret.
func (w *hostileWorld) rejects(t *testing.T, role string, secret sdk.Secret) {
	t.Helper()
	switch ok, err := w.pg.Accepts(t.Context(), role, secret); {
	case err != nil:
		t.Fatal(err)
	case ok:
		t.Errorf("the target lets %s in with a secret that no run of now gave it", role)
	}
}

// olderCandidate makes an account, one of whose former candidates it gives with its
// secret: committed once, and no longer in use.
func (w *hostileWorld) olderCandidate(t *testing.T) (title string, r trust.Ref, old staged, secret sdk.Secret) {
	t.Helper()
	title = w.account(t)
	w.works(t, title)
	r = w.ref(t, title)
	w.midway(t, w.agent, title, "before-apply", func() { old = w.staged(t, r) })
	secret, err := w.Secret(t.Context(), title)
	if err != nil {
		t.Fatal(err)
	}
	w.works(t, title)
	return title, r, old, secret
}

func olderCandidates(t *testing.T, w *hostileWorld) {
	t.Run("to the agent that made it", func(t *testing.T) { olderCandidateServed(t, w) })
	t.Run("to an agent that remembers nothing", func(t *testing.T) { olderCandidateAsNew(t, w) })
}

func olderCandidateServed(t *testing.T, w *hostileWorld) {
	title, r, old, secret := w.olderCandidate(t)
	run := w.refusedOnReturn(t, title, "candidate.refused", trust.CandidateRollback, func() { w.serveStaged(t, r, old) })
	w.rejects(t, title, secret)
	w.opensTarget(t, title)
	w.abandons(t, r, run)
	w.works(t, title)
}

// abandons has a person clear a candidate that agents do not use. What the account has then
// is tried by a login.
func (w *hostileWorld) abandons(t *testing.T, r trust.Ref, run string) {
	t.Helper()
	w.looked(t)
	since := w.now(t)
	_, err := w.CLI(t.Context(), nil, "run", "abandon", run, "--unproven", "--wait", "60s", "--json")
	if w.hasStaged(t, r) {
		t.Fatalf("the candidate is not cleared by run abandon: %v: %s", err, w.agent.Tail())
	}
	w.told(t, since, "candidate.abandoned", "abandoned")
}

// abandonsBeside gives a candidate up beside a value that a machine client wrote and that
// the server has attested by a signature of nobody: it is not the account's by that.
func (w *hostileWorld) abandonsBeside(t *testing.T, title string) {
	r := w.ref(t, title)
	w.keepRecord(t, r)
	a := w.loot(t, r)
	written := trust.SealData(a.key, []byte(`{"type":"pamUser","title":"`+title+`","fields":[{"type":"password","value":["what a machine client likes"]}],"custom":[]}`))
	digest := seal.Hash(written)
	keys, err := enrol.MakeKeys(trustv1.EntryKind_ENTRY_KIND_AGENT)
	if err != nil {
		t.Fatal(err)
	}
	nobody := thief{stolenAgent(t, w.agent).id, keys}
	var seq uint64
	w.read(t, "SELECT value_seq FROM record WHERE org = 1 AND record_uid = ?", []any{r.Record.Bytes()}, &seq)
	run := seal.NewID()
	s := staged{data: trust.SealData(a.key, a.data), seq: seq + 2}
	s.digest = seal.Hash(s.data).Bytes()
	s.result, _ = w.result(t, nobody, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_STAGED, Account: r.Proto(), RunId: run.Bytes(), Event: 1, ValueSeq: s.seq, DataDigest: s.digest,
	})
	s.authority = trust.SealAuthority(w.log(t).Org(), a.key, r.Record, trust.Authority{Mandate: seal.Hash(a.signed)})

	since := w.now(t)
	w.sql(t, "UPDATE record SET data = ?, data_digest = ? WHERE org = 1 AND record_uid = ?", written, digest.Bytes(), r.Record.Bytes())
	w.hideResults(t, r)
	forged, d := w.result(t, nobody, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_COMMITTED, Account: r.Proto(), RunId: seal.NewID().Bytes(), ValueSeq: seq + 1, DataDigest: digest.Bytes(),
	})
	w.serveResult(t, r, forged, d, true)
	w.serveOld(t, r, s)
	w.sql(t, "UPDATE staged SET run_id = ? WHERE org = 1 AND record_uid = ?", run.Bytes(), r.Record.Bytes())
	due := w.due(t, r)
	w.sql(t, "UPDATE run SET run_id = ?, state = 'staged' WHERE org = 1 AND run_id = ?", run.Bytes(), due.Bytes())
	w.logged(t, since, w.agent, `"msg":"run ended"`, `"run":"`+run.String(), `"credential"`)
	w.abandons(t, r, run.String())
	var attested []byte
	w.read(t, "SELECT attestation FROM record WHERE org = 1 AND record_uid = ?", []any{r.Record.Bytes()}, &attested)
	if state, reason := w.state(t, r); seal.Digest(attested) != d || state != "unattested" {
		t.Errorf("the machine client's value was adopted unasked: it is %s, %s", state, reason)
	}
}

// olderCandidateAsNew: to an agent that remembers nothing, with the value of then, the
// older candidate would be the next one; but nobody applies another agent's old work.
func olderCandidateAsNew(t *testing.T, w *hostileWorld) {
	title := w.account(t)
	w.works(t, title)
	r := w.ref(t, title)
	var old staged
	then := w.keepRecord(t, r)
	w.midway(t, w.agent, title, "before-apply", func() { old = w.staged(t, r) })
	secret, err := w.Secret(t.Context(), title)
	if err != nil {
		t.Fatal(err)
	}
	w.works(t, title)
	fresh := w.another(t, installation.Pool)
	w.newcomerWorks(t, fresh)
	w.clock(t, fresh, 5*time.Hour)
	then()

	w.agent.Stop()
	w.serveOld(t, r, old)
	since := w.now(t, fresh)
	run := w.due(t, r)
	if _, reason := w.endedBy(t, since, run, fresh); reason != string(trust.CandidateExpired) {
		t.Errorf("the new agent ended the run by %s", reason)
	}
	w.reached(t, w.gate)
	w.toldBy(t, since, "candidate.refused", trust.CandidateExpired, fresh.Name)
	w.rejects(t, title, secret)
	w.sql(t, "DELETE FROM run WHERE org = 1 AND run_id = ?", run.Bytes()) // else it is tried again
	fresh.Stop()

	// The one that remembers brings back what was committed after it, and it is over.
	if err := w.agent.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.serveOld(t, r, old)
	since = w.now(t)
	run = w.due(t, r)
	if _, reason := w.endedBy(t, since, run, w.agent); reason != "healed" {
		t.Errorf("the agent that remembers ended the run by %s", reason)
	}
	w.reached(t, w.gate)
	w.toldBy(t, since, "record.refused", trust.ValueRollback, w.agent.Name)
	w.toldBy(t, since, "candidate.abandoned", trust.CandidateRollback, w.agent.Name)
	w.rejects(t, title, secret)
	w.opensTarget(t, title)
	w.works(t, title)
}

// serveOld puts a candidate beside a record that has none.
func (w *hostileWorld) serveOld(t *testing.T, r trust.Ref, s staged) {
	t.Helper()
	w.sql(t, `INSERT OR REPLACE INTO staged (org, record_uid, owner_kind, owner_id, run_id, epoch, base_revision, data, data_digest, value_seq, result, authority, time)
		VALUES (1, ?, 'agent', ?, ?, 1, 1, ?, ?, ?, ?, ?, ?)`,
		r.Record.Bytes(), stolen(t, w.agent).Entry.Bytes(), seal.NewID().Bytes(), s.data, s.digest, s.seq, s.result, s.authority, time.Now().UnixMilli())
}

// endedBy waits until one of the agents ends a run, and gives its name and the reason.
func (w *hostileWorld) endedBy(t *testing.T, since moment, run seal.ID, agents ...*installation.Agent) (name, reason string) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		for _, a := range agents {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			line, err := a.WaitLog(ctx, since.logs[a.Process], `"msg":"run ended"`, `"run":"`+run.String(), `"credential"`)
			cancel()
			if err == nil {
				_, reason, _ = strings.Cut(line, `"reason":"`)
				reason, _, _ = strings.Cut(reason, `"`)
				return a.Name, reason
			}
		}
		if time.Now().After(end) {
			t.Fatalf("no agent ended the run %s: %s", run, w.agent.Tail())
		}
	}
}

func candidateOfAnother(t *testing.T, w *hostileWorld) {
	other := w.account(t)
	w.works(t, other)
	var foreign staged
	w.midway(t, w.agent, other, "before-apply", func() { foreign = w.staged(t, w.ref(t, other)) })
	title := w.account(t)
	w.works(t, title)
	r := w.ref(t, title)
	run := w.refusedOnReturn(t, title, "candidate.refused", trust.CandidateUnattested, func() { w.serveStaged(t, r, foreign) })
	w.opensTarget(t, title)
	w.abandons(t, r, run)
	w.works(t, title)
}

func stagedMarkedCurrent(t *testing.T, w *hostileWorld) {
	title := w.account(t)
	w.works(t, title)
	r := w.ref(t, title)
	if state, reason := w.state(t, r); state != "in_use" {
		t.Fatalf("the honest case: the client shows the value as %s, %s", state, reason)
	}
	restore := func() {}
	w.refusedOnReturn(t, title, "record.refused", trust.ValueUnattested, func() {
		restore = w.keepRecord(t, r)
		w.sql(t, `UPDATE record SET (data, data_digest, value_seq, attestation) = (SELECT data, data_digest, value_seq,
			(SELECT digest FROM result WHERE signed = staged.result) FROM staged WHERE org = 1 AND record_uid = record.record_uid) WHERE org = 1 AND record_uid = ?`, r.Record.Bytes())
		w.sql(t, "DELETE FROM staged WHERE org = 1 AND record_uid = ?", r.Record.Bytes())
		if state, reason := w.state(t, r); state == "in_use" || reason != string(trust.ValueUnattested) {
			t.Errorf("the client shows the value as %s, %s", state, reason)
		}
		results := w.keep(t, "result", "org = 1 AND subject_uid = ?", r.Record.Bytes())
		w.hideResults(t, r)
		w.sql(t, "UPDATE record SET attestation = x'' WHERE org = 1 AND record_uid = ?", r.Record.Bytes())
		if state, reason := w.state(t, r); state != "unconfirmed" || reason != string(trust.ValueUnattested) {
			t.Errorf("the client shows the value as %s, %s", state, reason)
		}
		results()
	})
	restore()
	w.opensTarget(t, title)
	w.works(t, title)
}

func committedForged(t *testing.T, w *hostileWorld) {
	title := w.account(t)
	w.works(t, title)
	r := w.ref(t, title)
	var replay []byte
	w.read(t, "SELECT signed FROM result WHERE org = 1 AND subject_uid = ? AND phase = ? ORDER BY n DESC",
		[]any{r.Record.Bytes(), trustv1.Phase_PHASE_COMMITTED}, &replay)
	pool, outsider := w.outsider(t)
	defer w.remove(t, pool)

	forged := func(run seal.ID) ([]byte, seal.Digest) {
		return w.result(t, outsider, &trustv1.Result{
			Phase: trustv1.Phase_PHASE_COMMITTED, Account: r.Proto(), RunId: run.Bytes(), Event: 1, ValueSeq: 9,
			DataDigest: seal.Hash([]byte("whatever")).Bytes(), Credential: trustv1.Outcome_OUTCOME_DONE,
		})
	}
	for name, make := range map[string]func(run seal.ID) ([]byte, seal.Digest){
		"replayed": func(seal.ID) ([]byte, seal.Digest) { return replay, seal.Hash(seal.NewID().Bytes()) },
		"forged":   forged,
	} {
		t.Run(name, func(t *testing.T) {
			since := w.now(t)
			caught, release := w.hold(t, w.agent, "before-resolve")
			o, err := w.Rotate(t.Context(), title, "--no-wait", "--agent", w.agent.Name)
			if err != nil {
				t.Fatal(err)
			}
			caught()
			run, err := seal.ParseID(o.RunID)
			if err != nil {
				t.Fatal(err)
			}
			signed, digest := make(run)
			kept := w.keep(t, "result", "org = 1 AND subject_uid = ?", r.Record.Bytes())
			w.serveResult(t, r, signed, digest, false)
			w.sql(t, "UPDATE result SET run_id = ? WHERE org = 1 AND digest = ?", run.Bytes(), digest.Bytes())
			w.fails(t, trust.ResultForged, "run", "watch", o.RunID)
			w.told(t, since, "result.refused", trust.ResultForged)
			kept()
			release()
			w.logged(t, since, w.agent, `"msg":"run ended"`, `"run":"`+o.RunID+`"`, `"credential":"done"`)
		})
	}
	w.opensTarget(t, title)
}

func candidateWithoutAuthority(t *testing.T, w *hostileWorld) {
	title := w.account(t)
	w.works(t, title)
	r := w.ref(t, title)
	thief := stolenAgent(t, w.agent)
	a := w.loot(t, r)
	secret := sdk.NewSecret([]byte("what the thief of an agent would like"))
	data, err := record.Parse(a.data)
	if err == nil {
		err = data.SetText("password", secret.Expose())
	}
	if err != nil {
		t.Fatal(err)
	}
	clear, err := data.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var seq uint64
	w.read(t, "SELECT value_seq FROM record WHERE org = 1 AND record_uid = ?", []any{r.Record.Bytes()}, &seq)
	run := seal.NewID()
	var s staged
	s.data, s.seq = trust.SealData(a.key, clear), seq+1
	s.digest = seal.Hash(s.data).Bytes()
	s.result, _ = w.result(t, thief, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_STAGED, Account: r.Proto(), RunId: run.Bytes(), Event: 1, ValueSeq: s.seq, DataDigest: s.digest,
	})
	s.authority = trust.SealAuthority(w.log(t).Org(), a.key, r.Record, trust.Authority{Mandate: seal.Hash(a.signed)})

	since := w.now(t)
	due := w.due(t, r)
	w.sql(t, "UPDATE run SET run_id = ?, state = 'staged' WHERE org = 1 AND run_id = ?", run.Bytes(), due.Bytes())
	w.serveOld(t, r, s)
	w.sql(t, "UPDATE staged SET run_id = ? WHERE org = 1 AND record_uid = ?", run.Bytes(), r.Record.Bytes())
	w.logged(t, since, w.agent, `"msg":"run ended"`, `"run":"`+run.String(), `"reason":"candidate_unauthorised"`, `"credential"`)
	w.toldBy(t, since, "candidate.refused", trust.CandidateUnauthorised, w.agent.Name)
	w.rejects(t, title, secret)
	w.opensTarget(t, title)
	w.abandons(t, r, run.String())
	w.works(t, title)
	w.rejects(t, title, secret)
	t.Run("abandoned beside a value with a forged attestation", func(t *testing.T) { w.abandonsBeside(t, title) })
}
