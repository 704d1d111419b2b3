package run

import (
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// rekeyFolder gives the folder a new key, under which all record keys are wrapped anew.
func (w *world) rekeyFolder() {
	w.t.Helper()
	f, _ := w.log.Folder(w.folder)
	former := w.folderKey
	w.folderKey = seal.NewKey()
	w.change(trust.FolderOp(w.log.Org(), w.folder, f.Version+1, w.folderKey))
	sealed, err := trust.SealFolderKey(w.log, w.folder, w.folderKey, w.agent.id, w.agent.keys, w.now)
	must(w.t, err)
	w.vault.folder = ksm.ExtFolder{FolderUID: w.folder.Bytes(), KeyVersion: f.Version + 1, Sealed: sealed}
	for _, x := range w.vault.records {
		for _, wrapped := range []*[]byte{&x.RecordKey, &x.HistoryKey} {
			if len(*wrapped) > 0 {
				if key, err := seal.UnwrapKey(former, *wrapped); err == nil { // else it is under the record's
					*wrapped = trust.SealRecordKey(w.folderKey, key)
				}
			}
		}
		x.KeyVersion = f.Version + 1
	}
}

// rekeyAccount gives the account a key of its own, with what a person's client signs for
// it: the next statement, its floor, and that the secret is as it was.
func (w *world) rekeyAccount() {
	w.t.Helper()
	x := w.row()
	former, err := seal.UnwrapKey(w.folderKey, x.RecordKey)
	must(w.t, err)
	plain, err := seal.OpenGCM(former, x.Data, nil)
	must(w.t, err)
	key := seal.NewKey()
	if len(x.HistoryKey) > 0 { // former values' keys come under the record's own
		old, err := seal.UnwrapKey(w.folderKey, x.HistoryKey)
		if err != nil {
			old, err = seal.UnwrapKey(former, x.HistoryKey)
		}
		must(w.t, err)
		x.HistoryKey = trust.SealRecordKey(key, old)
	}
	x.RecordKey, x.Data = trust.SealRecordKey(w.folderKey, key), trust.SealData(key, plain)
	x.Revision++

	s := w.accountStatement("app", &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: w.now.Add(time.Hour).UnixMilli()})
	seq := w.log.Floor(w.account) + 2
	w.change(trust.FloorOp(w.account, seq))
	s.RecordUid, s.FolderUid, s.KeyCheck = w.account.Record.Bytes(), w.folder.Bytes(), seal.RecordKeyCheck(w.log.Org(), key, w.account.Record).Bytes()
	s.Seq, s.Issued = seq, w.now.UnixMilli()
	signed, digest, err := trust.SignStatement(w.log, w.device.sign, s)
	must(w.t, err)
	w.statements[w.account] = digest
	x.Statement = trust.SealStatement(w.log.Org(), key, w.account.Record, signed)

	w.attestSame()
}

// attestSame has a person sign that the record's secret is as it was.
func (w *world) attestSame() {
	w.t.Helper()
	x := w.row()
	old, err := trust.OpenResult(w.log, x.Attestation)
	must(w.t, err)
	set, epoch := old.SetBy()
	x.Attestation, _, err = trust.SignResult(w.log, w.device.sign, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_EDITED, By: w.device.id.Bytes(), Account: w.account.Proto(), ValueSeq: max(old.ValueSeq, w.known) + 1,
		DataDigest: seal.Hash(x.Data).Bytes(), Prev: old.Digest.Bytes(), Time: w.now.UnixMilli(), Same: &trustv1.SameSecret{ValueSeq: set, LogEpoch: epoch},
	})
	must(w.t, err)
	x.Recent = append([][]byte{x.Attestation}, x.Recent...)
}

// An account is rotated on after its folder was re-keyed, before and after its own turn.
func TestRotatesAcrossRekey(t *testing.T) {
	w := newWorld(t, false)
	for n, step := range []func(){w.rekeyFolder, w.rekeyAccount, w.rekeyFolder} {
		step()
		if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() || len(w.events()) > 0 {
			t.Errorf("step %d: %+v, %v", n+1, out, err)
		}
	}
}

// The copy that an agent keeps is under the keys of its time. A folder and a record that
// were re-keyed since take nothing of its worth.
func TestKeptCopyAcrossRekey(t *testing.T) {
	for _, lost := range []string{"the candidate", "the commit"} {
		for name, rekey := range map[string]func(w *world){
			"the folder":            func(w *world) { w.rekeyFolder() },
			"folder and record":     func(w *world) { w.rekeyFolder(); w.rekeyAccount() },
			"twice":                 func(w *world) { w.rekeyFolder(); w.rekeyAccount(); w.rekeyFolder(); w.rekeyAccount() },
			"the record, by itself": func(w *world) { w.rekeyAccount() },
		} {
			t.Run(lost+"; re-keyed: "+name, func(t *testing.T) {
				w := newWorld(t, false)
				before := *w.row()
				want, reason, event := done, "", "candidate_lost_by_vault candidate_lost_by_vault"
				if lost == "the candidate" {
					w.target.verify = func(int, string) (sdk.VerifyResponse, error) { return sdk.VerifyResponse{}, errCrash }
					if out, err := w.rotate(); err != nil || out.Credential != pending || w.opens() {
						t.Fatalf("%+v, %v: the run should end between change and commit", out, err)
					}
					w.target.verify = nil
					w.row().Staged = nil
				} else {
					if out, err := w.rotate(); err != nil || out.Credential != done {
						t.Fatalf("%+v, %v", out, err)
					}
					*w.row() = before
					reason, event = "healed", "record.refused value_rollback"
				}
				rekey(w)
				out, err := w.rotate()
				if err != nil || out.Credential != want || out.Reason != reason || !w.opens() || len(w.target.applied) != 1 {
					t.Errorf("%+v, %v: the record opens the target: %v, applied %d times", out, err, w.opens(), len(w.target.applied))
				}
				if got := w.events(); !slices.Equal(got, []string{event}) {
					t.Errorf("events: %q", got)
				}
				if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() || len(w.target.applied) != 2 {
					t.Errorf("the next: %+v, %v", out, err)
				}
			})
		}
	}
}

// The former folder key, whatever is said of it, opens nothing any more.
func TestFormerFolderKeyRefused(t *testing.T) {
	for name, serve := range map[string]func(w *world, former ksm.ExtFolder, records map[seal.ID]ksm.ExtRecord){
		"as the former version": func(w *world, former ksm.ExtFolder, _ map[seal.ID]ksm.ExtRecord) { w.vault.folder = former },
		"as the new one": func(w *world, former ksm.ExtFolder, _ map[seal.ID]ksm.ExtRecord) {
			w.vault.folder.Sealed = former.Sealed
		},
		"with all that was under it": func(w *world, former ksm.ExtFolder, records map[seal.ID]ksm.ExtRecord) {
			w.vault.folder = former
			for uid, x := range records {
				*w.vault.records[uid] = x
			}
		},
	} {
		w := newWorld(t, false)
		former, records := w.vault.folder, map[seal.ID]ksm.ExtRecord{}
		for uid, x := range w.vault.records {
			records[uid] = *x
		}
		w.rekeyFolder()
		serve(w, former, records)
		if out, err := w.rotate(); err != nil || out.Credential != failed || out.Reason != string(trust.FolderKeySwapped) || w.target.logins > 0 {
			t.Errorf("%s: %+v, %v, %d logins", name, out, err, w.target.logins)
		}
	}
}
