package run

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// A candidate may wait while people go who could read it: whenever it is committed, and
// by whichever run, the result says that the secret is of the time before.
func TestSecretIsAsOldAsItsCandidate(t *testing.T) {
	for name, meanwhile := range map[string]func(*world){
		"taken up":                  func(*world) {},
		"staged anew":               func(w *world) { w.row().Staged = nil },
		"staged anew and taken up":  func(w *world) { w.row().Staged = nil; w.restage() },
		"staged anew under a later": func(w *world) { w.row().Staged = nil; w.restage(); w.change(trust.PolicyOp(90, true)) },
	} {
		w := newWorld(t, false)
		w.change(trust.PolicyOp(120, true)) // 1 would be the oldest that there is
		staged := w.log.Head().Epoch
		w.restage()
		if w.row().Staged == nil {
			t.Fatalf("%s: nothing is staged", name)
		}
		w.change(trust.PolicyOp(100, true))
		meanwhile(w)
		set := func() uint64 {
			if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() {
				t.Fatalf("%s: %+v, %v", name, out, err)
			}
			return w.set()
		}
		if epoch := set(); epoch != staged {
			t.Errorf("%s: a secret of epoch %d counts as one of epoch %d", name, staged, epoch)
		}
		if epoch, now := set(), w.log.Head().Epoch; epoch != now {
			t.Errorf("%s: the next one, of epoch %d, counts as one of epoch %d", name, now, epoch)
		}
	}
}

// set is the epoch of the log by which the account's secret counts as set.
func (w *world) set() (epoch uint64) {
	w.t.Helper()
	r, err := trust.OpenResult(w.log, w.row().Attestation)
	must(w.t, err)
	_, epoch = r.SetBy()
	return epoch
}

// The log goes on while a run does: who could read the record when the run opened it may
// know the secret.
func TestSecretIsAsOldAsTheRecordThatItWasMadeFor(t *testing.T) {
	removal := func(w *world) { w.change(trust.PolicyOp(100, true)) } // or whatever else is in the log
	for name, during := range map[string]func(w *world){
		"the session is opened": func(w *world) {
			w.target.openHook = func() { removal(w); w.target.openHook = nil }
		},
		"the target takes it": func(w *world) {
			w.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				removal(w)
				w.target.secrets[r.Account.Name] = r.Candidate.Secret.ExposeString()
				return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
			}
		},
		"nothing": func(*world) {},
	} {
		w := newWorld(t, false)
		w.change(trust.PolicyOp(120, true))
		opened := w.log.Head().Epoch
		during(w)
		if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() {
			t.Fatalf("%s: %+v, %v", name, out, err)
		}
		if epoch := w.set(); epoch != opened || w.log.Head().Epoch == opened && name != "nothing" {
			t.Errorf("while %s: a secret of epoch %d counts as one of epoch %d, the log is at %d", name, opened, epoch, w.log.Head().Epoch)
		}
	}
}

// A secret that an agent brings back to a restored server is an old one, also where it dies
// on the way and another one, which remembers nothing of it, takes up what it staged.
func TestSecretThatWasBroughtBackIsOld(t *testing.T) {
	w := newWorld(t, false)
	before := *w.row()
	if out, err := w.rotate(); err != nil || out.Credential != done {
		t.Fatalf("%+v, %v", out, err)
	}
	made := w.set()
	w.change(trust.PolicyOp(100, true))
	*w.row() = before
	ctx, cancel := context.WithCancel(t.Context())
	w.vault.crash, w.vault.stop = "stage", cancel
	w.later(2 * time.Minute)
	if _, err := w.engine.Do(ctx, Job{ID: seal.NewID(), Account: w.account}); !errors.Is(err, context.Canceled) || w.row().Staged == nil {
		t.Fatalf("the run was not interrupted: %v", err)
	}
	w.another()
	if out, err := w.rotate(); err != nil || out.Credential != done || out.Reason != trust.Healed || len(w.target.applied) != 1 || !w.opens() {
		t.Fatalf("by another agent: %+v, %v: applied %d times", out, err, len(w.target.applied))
	}
	if epoch := w.set(); epoch > made {
		t.Errorf("a secret of epoch %d counts as one of epoch %d", made, epoch)
	}
}

// another has the engine be another agent of the pool, with a journal of its own.
func (w *world) another() {
	w.t.Helper()
	other := newParty(w.t, true)
	w.change(trust.PutOp(other.entry(trustv1.EntryKind_ENTRY_KIND_AGENT, w.pool, "gw2")))
	f, _ := w.log.Folder(w.folder)
	sealed, err := trust.SealFolderKey(w.log, w.folder, w.folderKey, other.id, other.keys, w.now)
	must(w.t, err)
	w.vault.folder = ksm.ExtFolder{FolderUID: w.folder.Bytes(), KeyVersion: f.Version, Sealed: sealed}
	j, _, err := journal.Open(filepath.Join(w.t.TempDir(), "journal.db"), true, w.now)
	must(w.t, err)
	w.t.Cleanup(func() { j.Close() })
	w.agent, w.engine.Journal = other, j
	w.engine.Me = Identity{ID: other.id, Sign: other.sign, Seal: other.seal}
}

// restage has a run stage a candidate, that of its memory where there is one, and come no
// further.
func (w *world) restage() {
	w.t.Helper()
	apply := w.target.apply
	w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "refused", NotSent: true}
	}
	_, err := w.rotate()
	must(w.t, err)
	w.target.apply = apply
}
