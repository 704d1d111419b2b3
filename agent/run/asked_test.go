package run

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// What the vault may ask for without a person's command: a rotation that a mandate
// allows, or a verify, now and then.
func TestWhatTheVaultMayAskFor(t *testing.T) {
	for action, want := range map[string]string{
		"rotate":  string(trust.MandateOff),
		"abandon": string(trust.Malformed),
		"":        string(trust.MandateOff), // the fake's rotate
		"x":       string(trust.Malformed),
		"Rotate":  string(trust.Malformed),
	} {
		w := newWorld(t, false)
		w.vault.action = action
		w.put(w.account, "pamUser", []byte("old"), w.accountStatement("app", nil))
		out, err := w.run(seal.NewID())
		if err != nil || out.Reason != want || out.Credential != failed || len(w.target.applied)+w.target.logins != 0 {
			t.Errorf("%q without a mandate: %+v, %v", action, out, err)
		}
	}

	w := newWorld(t, false)
	w.vault.action = "verify"
	if out, err := w.run(seal.NewID()); err != nil || out.Credential != done || w.target.logins != 1 {
		t.Fatalf("verify: %+v, %v", out, err)
	}
	if out, err := w.run(seal.NewID()); err != nil || !out.Later || out.Reason != string(trust.TooOften) || w.target.logins != 1 {
		t.Errorf("another at once: %+v, %v, %d logins", out, err, w.target.logins)
	}
	w.later(trust.StartGap + time.Second)
	if out, err := w.run(seal.NewID()); err != nil || out.Credential != done {
		t.Errorf("after the gap: %+v, %v", out, err)
	}
}

// A firing soon after a change has nothing to do; one after three candidates that came to
// nothing has failed.
func TestAFreshSecretIsNoFailure(t *testing.T) {
	w := newWorld(t, false)
	if out, err := w.run(seal.NewID()); err != nil || out.Credential != done {
		t.Fatalf("%+v, %v", out, err)
	}
	out, err := w.run(seal.NewID())
	if err != nil || out.Credential != trustv1.Outcome_OUTCOME_NONE || out.Reason != string(trust.TooOften) || out.Later {
		t.Errorf("after a change: %+v, %v", out, err)
	}
	if len(w.target.applied) != 1 || w.vault.records[w.account.Record].Staged != nil {
		t.Error("the target was touched, or a candidate was left")
	}

	w = newWorld(t, false)
	for range trust.MaxNewCandidates {
		if err := w.engine.Journal.NoteStaged(w.account, w.now); err != nil {
			t.Fatal(err)
		}
	}
	out, err = w.run(seal.NewID())
	if err != nil || out.Credential != failed || out.Reason != string(trust.TooOften) || len(w.target.applied) != 0 {
		t.Errorf("after three candidates: %+v, %v", out, err)
	}
}

// A scheduled run that is resumed was counted when it began; its mandate must hold now.
func TestResumedUnderAMandateThatEnded(t *testing.T) {
	w := newWorld(t, false)
	id := seal.NewID()
	ctx, cancel := context.WithCancel(t.Context())
	w.target.openHook, w.vault.fail = cancel, map[string]error{"stage": errCrash}
	if _, err := w.engine.Do(ctx, Job{ID: id, Account: w.account}); !errors.Is(err, context.Canceled) {
		t.Fatalf("the run was not interrupted: %v", err)
	}
	w.target.openHook = nil
	w.later(2 * time.Hour)
	out, err := w.run(id)
	if err != nil || out.Reason != string(trust.MandateExpired) || len(w.target.applied) != 0 {
		t.Errorf("%+v, %v: applied %d times", out, err, len(w.target.applied))
	}
}

// A former secret that could not be ended is told, and is tried again.
func TestRetireRefused(t *testing.T) {
	for _, outcome := range []sdk.Outcome{sdk.Unchanged, 99} {
		w := newWorld(t, false)
		w.target.manifest.Overlap = []sdk.Kind{sdk.Password}
		w.target.retire = outcome
		id := seal.NewID()
		if out, err := w.run(id); err != nil || out.Credential != done || out.Reason != "retire.pending" || !out.Later {
			t.Errorf("%v: %+v, %v", outcome, out, err)
		}
		w.target.retire = 0
		if out, err := w.run(id); err != nil || out.Later || w.target.retired[len(w.target.retired)-1] != "old" {
			t.Errorf("%v, again: %+v, %v", outcome, out, err)
		}
	}
}

// After an interrupted commit the secret to be ended comes from the record's history,
// which must be what the attestation before says: not another record's, nor nothing.
func TestFormerIsAttested(t *testing.T) {
	for name, serve := range map[string]func(account, other *ksm.ExtRecord){
		"another record's": func(a, o *ksm.ExtRecord) { a.HistoryKey, a.HistoryData = o.RecordKey, o.Data },
		"nothing":          func(a, _ *ksm.ExtRecord) { a.HistoryKey, a.HistoryData = nil, nil },
		"without its word": func(a, _ *ksm.ExtRecord) { a.Recent = a.Recent[:1] },
		"as it was":        func(*ksm.ExtRecord, *ksm.ExtRecord) {},
	} {
		w := newWorld(t, false)
		w.target.manifest.Overlap = []sdk.Kind{sdk.Password}
		id := seal.NewID()
		ctx, cancel := context.WithCancel(t.Context())
		w.vault.crash, w.vault.stop = "commit", cancel
		if _, err := w.engine.Do(ctx, Job{ID: id, Account: w.account}); !errors.Is(err, context.Canceled) {
			t.Fatalf("%s: the run was not interrupted: %v", name, err)
		}
		serve(w.vault.records[w.account.Record], w.vault.records[w.admin.Record])
		out, err := w.run(id)
		if name == "as it was" {
			if err != nil || out.Later || !slices.Equal(w.target.retired, []string{"old"}) {
				t.Errorf("%s: %+v, %v: retired %d", name, out, err, len(w.target.retired))
			}
			continue
		}
		if err != nil || out.Credential != done || !out.Later || out.Reason != "retire.pending" || len(w.target.retired) != 0 {
			t.Errorf("%s: %+v, %v: retired %d", name, out, err, len(w.target.retired))
		}
	}
}

// A candidate that may be live is not abandoned because the target refuses it a second
// time, nor while the administrator, who could see why, cannot log in.
func TestMayBeLive(t *testing.T) {
	refuse := func(w *world) {
		w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
			return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.history"}, nil
		}
	}
	w := newWorld(t, false)
	w.target.manifest.Settle, w.target.manifest.LoginTries = time.Hour, 3
	w.target.verify = func(int, string) (sdk.VerifyResponse, error) { // a replica that lags
		return sdk.VerifyResponse{Verdict: sdk.Rejected}, nil
	}
	id := seal.NewID()
	if out, err := w.run(id); err != nil || out.Reason != "replicating" {
		t.Fatalf("%+v, %v", out, err)
	}
	refuse(w)
	w.later(trust.StartGap + time.Second)
	if out, err := w.run(id); err != nil || out.Credential != pending || out.Reason == string(trust.TooOften) || !w.kept() {
		t.Errorf("after a takeover: %+v, %v, kept %v", out, err, w.kept())
	}

	w = newWorld(t, false)
	ctx, cancel := context.WithCancel(t.Context())
	w.vault.crash, w.vault.stop = "stage", cancel
	id = seal.NewID()
	if _, err := w.engine.Do(ctx, Job{ID: id, Account: w.account}); !errors.Is(err, context.Canceled) {
		t.Fatalf("the run was not interrupted: %v", err)
	}
	w.target.openErr = &sdk.Error{Class: sdk.ClassUnreachable, Reason: "dial", NotSent: true}
	out, err := w.run(id)
	if err != nil || out.Credential != pending || !out.Later || w.vault.records[w.account.Record].Staged == nil {
		t.Errorf("without the administrator: %+v, %v", out, err)
	}
}

// A run that this agent has to finish itself is not waited for: it comes next.
func TestBehindARunOfItsOwn(t *testing.T) {
	w := newWorld(t, false)
	first := seal.NewID()
	must(t, w.engine.Journal.BeginRun(journal.Run{ID: first, Folder: w.account.Folder, Account: w.account.Record, Started: w.now}, false))
	w.vault.busy, w.vault.holder = true, first
	id := seal.NewID()
	job := Job{ID: id, Account: w.account, Command: w.command(trustv1.Action_ACTION_ROTATE, id)}
	if out, err := w.engine.Do(t.Context(), job); !errors.Is(err, ErrBehind) {
		t.Errorf("%+v, %v", out, err)
	}
	// One that came too late to be staged ends, and so does one that the vault tells of
	// again.
	w.later(2 * time.Hour)
	for _, job := range []Job{job, {ID: seal.NewID(), Account: w.account}} {
		if out, err := w.engine.Do(t.Context(), job); err != nil {
			t.Errorf("%+v, %v", out, err)
		}
	}
}

// A person may have a candidate given up that the target is proven not to have; nothing
// else gives it up, and nothing is applied on the way.
func TestAbandonWantsProof(t *testing.T) {
	verdict := func(v sdk.VerifyResponse) func(*world) {
		return func(w *world) {
			w.target.verify = func(int, string) (sdk.VerifyResponse, error) { return v, nil }
		}
	}
	notJudged := verdict(sdk.VerifyResponse{Reason: "not_judged"})
	for name, c := range map[string]struct {
		self bool
		set  func(*world)
		gone bool
		want trustv1.Outcome
	}{
		"rejected": {false, func(*world) {}, true, trustv1.Outcome_OUTCOME_NONE},
		"accepted": {false, func(w *world) { _, w.target.secrets["app"] = w.secret(w.account) }, true, done},
		"taken by an account that is kept out": {false, func(w *world) {
			w.target.manifest.NoLogin = true
			verdict(sdk.VerifyResponse{Reason: "no_login"})(w)
		}, false, pending},
		"undecided":                    {false, verdict(sdk.VerifyResponse{Reason: "locked"}), false, pending},
		"nobody can judge":             {false, notJudged, false, pending},
		"the administrator is refused": {false, func(w *world) { w.target.secrets["admin"] = "changed" }, false, pending},
		"itself, nobody can judge, and the current one opens": {true, notJudged, true, trustv1.Outcome_OUTCOME_NONE},
		"itself, nobody can judge, and the current one may live on": {true, func(w *world) {
			notJudged(w)
			w.target.manifest.OldLives = time.Hour
		}, false, pending},
		"itself, nobody can judge, and the one asked may not have heard": {true, func(w *world) {
			notJudged(w)
			w.target.manifest.Settle = time.Millisecond
		}, false, pending},
		"itself, nobody can judge, and the current one does not": {true, func(w *world) {
			notJudged(w)
			_, w.target.secrets["app"] = w.secret(w.account)
		}, false, pending},
	} {
		w := newWorld(t, c.self)
		id := seal.NewID()
		ctx, cancel := context.WithCancel(t.Context())
		w.vault.crash, w.vault.stop = "stage", cancel
		if _, err := w.engine.Do(ctx, Job{ID: id, Account: w.account}); !errors.Is(err, context.Canceled) {
			t.Fatalf("%s: the run was not interrupted: %v", name, err)
		}
		c.set(w)
		out, err := w.engine.Do(t.Context(), Job{ID: id, Account: w.account, Command: w.command(trustv1.Action_ACTION_CANCEL, id)})
		if err != nil || out.Credential != c.want || out.Later && out.Reason == "abandoned" {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		if gone := w.vault.records[w.account.Record].Staged == nil; gone != c.gone {
			t.Errorf("%s: the candidate is gone: %v", name, gone)
		}
		if len(w.target.applied) != 0 || !w.kept() {
			t.Errorf("%s: applied %d times, kept %v", name, len(w.target.applied), w.kept())
		}
	}
}

// A candidate that a lagging server refuses may have been applied a moment ago, by an
// agent that is gone: it is asked about when every server must have heard.
func TestAbandonWaitsUntilAllHaveHeard(t *testing.T) {
	w := newWorld(t, false)
	id := seal.NewID()
	ctx, cancel := context.WithCancel(t.Context())
	w.vault.crash, w.vault.stop = "stage", cancel
	if _, err := w.engine.Do(ctx, Job{ID: id, Account: w.account}); !errors.Is(err, context.Canceled) {
		t.Fatalf("the run was not interrupted: %v", err)
	}
	const settle = 200 * time.Millisecond
	w.target.manifest.Settle = settle
	start := time.Now()
	w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
		if time.Since(start) < settle {
			return sdk.VerifyResponse{Verdict: sdk.Rejected}, nil
		}
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	}
	out, err := w.engine.Do(t.Context(), Job{ID: id, Account: w.account, Command: w.command(trustv1.Action_ACTION_CANCEL, id)})
	if err != nil || out.Credential != done {
		t.Errorf("%+v, %v", out, err)
	}
}

// Where a plugin's targets replicate or do not, the resource says which this one does: a
// candidate that another run may have applied is given up by the target's policy only where
// no server lags.
func TestSettlesWhereTheResourceSays(t *testing.T) {
	for config, want := range map[string]trustv1.Outcome{
		``:                   failed,
		`{}`:                 failed,
		`{"replicas":false}`: failed,
		`{"replicas":true}`:  pending,
		`{"replicas":1}`:     pending, // a plugin takes none of these
		`[]`:                 pending,
	} {
		w := newWorld(t, false)
		r := w.resource()
		r.AdminAccount, r.Config = w.admin.Proto(), []byte(config)
		w.putResource(r)
		w.target.manifest = sdk.Manifest{Settle: time.Hour, SettleIf: "replicas", LoginTries: 3}
		id := seal.NewID()
		ctx, cancel := context.WithCancel(t.Context())
		w.vault.crash, w.vault.stop = "stage", cancel
		if _, err := w.engine.Do(ctx, Job{ID: id, Account: w.account}); !errors.Is(err, context.Canceled) {
			t.Fatalf("%s: the run was not interrupted: %v", config, err)
		}
		w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
			return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.history"}, nil
		}
		w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
			return sdk.VerifyResponse{Verdict: sdk.Rejected}, nil
		}
		out, err := w.run(id)
		if err != nil || out.Credential != want || (w.row().Staged != nil) != (want == pending) {
			t.Errorf("%s: %+v, %v", config, out, err)
		}
	}
}

// An administrator who may not read what is stored does not leave the account in limbo:
// the new secret is tried by a login.
func TestReadBackWithoutTheRight(t *testing.T) {
	for reason, want := range map[string]trustv1.Outcome{"readback.rights": done, "readback.form": pending} {
		w := newWorld(t, false)
		w.target.manifest.Readback, w.target.stored = true, sdk.VerifyResponse{Reason: reason}
		s := w.accountStatement("app", &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: w.now.Add(time.Hour).UnixMilli()})
		s.GetAccount().VerifyMode = "readback"
		w.put(w.account, "pamUser", []byte("old"), s)
		out, err := w.run(seal.NewID())
		if err != nil || out.Credential != want || (w.target.logins > 0) != (want == done) || !w.kept() {
			t.Errorf("%s: %+v, %v: %d logins", reason, out, err, w.target.logins)
		}
	}
}
