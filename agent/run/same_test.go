package run

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// editTitle has a person write the record anew, with the secret that it has.
func (w *world) editTitle() {
	w.t.Helper()
	x := w.row()
	key, err := seal.UnwrapKey(w.folderKey, x.RecordKey)
	must(w.t, err)
	plain, err := seal.OpenGCM(key, x.Data, nil)
	must(w.t, err)
	x.Data = trust.SealData(key, plain)
	x.Revision++
	w.attestSame()
}

// sameSecret is what writes a value of its own number and leaves the secret.
var sameSecret = map[string]func(w *world){
	"the title was edited":      (*world).editTitle,
	"a removal attested it":     (*world).attestSame,
	"the record was re-keyed":   (*world).rekeyAccount,
	"twice, and the folder too": func(w *world) { w.editTitle(); w.rekeyFolder(); w.rekeyAccount() },
}

// look has the agent see the record in a run that changes nothing.
func (w *world) look() {
	w.t.Helper()
	w.later(trust.StartGap * 2)
	w.vault.action = "verify"
	if _, err := w.run(seal.NewID()); err != nil {
		w.t.Fatal(err)
	}
	w.vault.action = ""
}

func (w *world) seq() uint64 {
	r, err := trust.OpenResult(w.log, w.row().Attestation)
	must(w.t, err)
	return r.ValueSeq
}

// sweep is a pass of the agent over what it keeps.
func (w *world) sweep() (jobs int, last Outcome) {
	w.t.Helper()
	w.later(trust.StartGap + time.Second) // since the last
	list, err := w.engine.Lost(w.t.Context(), []trust.Ref{w.account, w.admin})
	must(w.t, err)
	for _, j := range list {
		last, err = w.engine.Do(w.t.Context(), j)
		must(w.t, err)
	}
	return len(list), last
}

// The vault goes back to before a commit, or to before an edit that followed it and left
// the secret as it was. The agent has the only copy, and brings it back above all that it
// has seen.
func TestLostAfterEdit(t *testing.T) {
	for name, edit := range sameSecret {
		for _, seen := range []bool{true, false} {
			for _, lost := range []string{"commit and edit", "the commit's word and the edit", "the edit"} {
				w := newWorld(t, false)
				before := *w.row()
				if lost == "the commit's word and the edit" {
					w.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
						before = *w.row()
						w.target.secrets[r.Account.Name] = r.Candidate.Secret.ExposeString()
						return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
					}
				}
				if out, err := w.rotate(); err != nil || out.Credential != done {
					t.Fatalf("%s: %+v, %v", name, out, err)
				}
				w.target.apply = nil
				if lost == "the edit" {
					before = *w.row()
				}
				folder, key, floor := w.vault.folder, w.folderKey, w.log.Floor(w.account)
				others := map[seal.ID]ksm.ExtRecord{}
				for id, x := range w.vault.records {
					others[id] = *x
				}
				edit(w)
				known := w.seq()
				if seen {
					w.look()
				}
				w.known, w.vault.folder, w.folderKey = known, folder, key
				for id, x := range others {
					*w.vault.records[id] = x
				}
				*w.row() = before
				if w.log.Floor(w.account) > floor { // a person re-keys again what was put back
					if before.Staged != nil {
						continue // and has to wait for the candidate
					}
					if f, _ := w.log.Folder(w.folder); f.Version > 1 {
						w.rekeyFolder()
					}
					w.rekeyAccount()
				}
				back := w.seq()
				for pass := 1; ; pass++ {
					n, out := w.sweep()
					if n == 0 {
						break
					}
					if out.Credential != done || out.Reason != "healed" || pass > 2 {
						t.Fatalf("%s, seen %v, lost %s: pass %d: %d runs, %+v", name, seen, lost, pass, n, out)
					}
				}
				if !w.opens() || len(w.target.applied) != 1 || w.row().Staged != nil {
					t.Errorf("%s, seen %v, lost %s: the record opens the target: %v; applied %d times, staged %v", name, seen, lost, w.opens(), len(w.target.applied), w.row().Staged != nil)
				}
				if seen && back < known && w.seq() != known+1 {
					t.Errorf("%s, lost %s: it is value %d, after %d", name, lost, w.seq(), known)
				}
				if out, err := w.rotate(); err != nil || out.Credential != done || out.Reason != "" || !w.opens() || len(w.target.applied) != 2 {
					t.Errorf("%s, seen %v, lost %s, the next: %+v, %v", name, seen, lost, out, err)
				}
			}
		}
	}
}

// A secret that a person set after the agent's is not the agent's to undo.
func TestSetByHandAndLost(t *testing.T) {
	w := newWorld(t, false)
	before := *w.row()
	if out, err := w.rotate(); err != nil || out.Credential != done {
		t.Fatalf("%+v, %v", out, err)
	}
	x := w.row()
	key, err := seal.UnwrapKey(w.folderKey, x.RecordKey)
	must(t, err)
	x.Data = trust.SealData(key, []byte(`{"title":"title","type":"pamUser","fields":[{"type":"password","value":["by hand"]}]}`))
	x.Attestation, _, err = trust.SignResult(w.log, w.device.sign, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_EDITED, By: w.device.id.Bytes(), Account: w.account.Proto(), ValueSeq: 3,
		DataDigest: seal.Hash(x.Data).Bytes(), Time: w.now.UnixMilli(),
	})
	must(t, err)
	w.target.secrets["app"] = "by hand"
	w.look()
	*w.row() = before
	if n, out := w.sweep(); n != 0 {
		t.Errorf("%d runs, %+v", n, out)
	}
	if out, err := w.rotate(); err != nil || out.Reason != string(trust.ValueRollback) || len(w.target.applied) != 1 || w.row().Staged != nil {
		t.Errorf("%+v, %v", out, err)
	}
}

// A former secret that is still to be ended is not forgotten when a person edits the
// record meanwhile, whoever goes on.
func TestEditWhileRetireIsPending(t *testing.T) {
	edits := map[string]func(w *world){
		"edited often": func(w *world) {
			before := slices.Clone(w.row().Recent)
			for range 20 {
				w.editTitle()
			}
			// As a vault serves it: the newest, and the words of the value that was replaced.
			w.row().Recent = append(slices.Clone(w.row().Recent[:16]), before...)
		},
		"the agent that committed was removed": func(w *world) {
			w.attestSame()
			other := newParty(w.t, true)
			w.change(trust.PutOp(other.entry(trustv1.EntryKind_ENTRY_KIND_AGENT, w.pool, "gw2")), trust.RemoveOp(w.agent.id))
			w.agent, w.engine.Me = other, Identity{ID: other.id, Sign: other.sign, Seal: other.seal}
			f, _ := w.log.Folder(w.folder)
			sealed, err := trust.SealFolderKey(w.log, w.folder, w.folderKey, other.id, other.keys, w.now)
			must(w.t, err)
			w.vault.folder = ksm.ExtFolder{FolderUID: w.folder.Bytes(), KeyVersion: f.Version, Sealed: sealed}
		},
	}
	for name, edit := range sameSecret {
		edits[name] = edit
	}
	for name, edit := range edits {
		for _, next := range []string{"the same run", "another run", "a restore to before the edit", "such a restore, and a crash"} {
			w := newWorld(t, false)
			w.target.manifest.Overlap, w.target.retire = []sdk.Kind{sdk.Password}, sdk.Unchanged
			id := seal.NewID()
			if out, err := w.run(id); err != nil || out.Reason != "retire.pending" {
				t.Fatalf("%s: %+v, %v", name, out, err)
			}
			between, _ := w.secret(w.account)
			before, floor := *w.row(), w.log.Floor(w.account)
			edit(w)
			w.look()
			w.target.retire, w.target.retired = 0, nil
			applied := 1
			switch next {
			case "the same run":
				w.later(trust.StartGap * 2)
				if out, err := w.run(id); err != nil || out.Credential != done || out.Later {
					t.Errorf("%s, %s: %+v, %v", name, next, out, err)
				}
			case "a restore to before the edit", "such a restore, and a crash":
				if w.log.Floor(w.account) > floor || w.seq() < 3 || name == "the agent that committed was removed" {
					continue // what is put back needs a person first, or was this agent's never
				}
				*w.row() = before
				if next == "a restore to before the edit" {
					w.look() // which brings the number back
					break
				}
				ctx, cancel := context.WithCancel(t.Context())
				w.vault.crash, w.vault.stop = "commit", cancel
				w.later(trust.StartGap * 2)
				if _, err := w.engine.Do(ctx, Job{ID: seal.NewID(), Account: w.account}); !errors.Is(err, context.Canceled) {
					t.Fatalf("%s: the run was not interrupted: %v", name, err)
				}
			case "another run":
				applied = 2
				if out, err := w.rotate(); err != nil || out.Credential != done {
					t.Errorf("%s, %s: %+v, %v", name, next, out, err)
				}
			}
			want := []string{"old"}
			if applied == 2 {
				want = append(want, between)
			}
			if !slices.Equal(w.target.retired, want) || len(w.target.applied) != applied || !w.opens() {
				t.Errorf("%s, %s: ended %d secrets, applied %d, the record opens the target: %v", name, next, len(w.target.retired), len(w.target.applied), w.opens())
			}
			current, _ := w.secret(w.account)
			w.target.retired = nil
			if out, err := w.rotate(); err != nil || out.Credential != done || !slices.Contains(w.target.retired, current) || slices.Contains(w.target.retired, "old") && next != "the same run" {
				t.Errorf("%s, %s, then: %+v, %v: ended %d secrets", name, next, out, err, len(w.target.retired))
			}
		}
	}
}
