package client

import (
	"testing"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// A former value is attested by a result of its record whose word counts; the server may
// serve any other beside it, and a run's last one names no value at all.
func TestFormerValues(t *testing.T) {
	h := newHistory(t)
	folderKey, recordKey := seal.NewKey(), seal.NewKey()
	ada, _ := h.log.Entry(h.admin)
	ref := trust.Ref{Folder: seal.NewID(), Record: seal.NewID()}
	h.do(trust.NewFolderOps(h.log.Org(), ref.Folder, ada.Owner, folderKey)...)
	data := trust.SealData(recordKey, []byte(`{"title":"t","type":"pamUser","fields":[]}`))
	result := func(phase trustv1.Phase, account trust.Ref, digest []byte) []byte {
		r := &trustv1.Result{
			Phase: phase, By: h.admin.Bytes(), Account: account.Proto(), Time: h.now.UnixMilli(), RunId: seal.NewID().Bytes(),
			DataDigest: digest, ValueSeq: 1,
		}
		signed, _, err := trust.SignResult(h.log, h.sign, r)
		h.must(err)
		return signed
	}
	this := seal.Hash(data).Bytes()
	other := trust.Ref{Folder: ref.Folder, Record: seal.NewID()}
	for _, row := range []struct {
		name     string
		signed   []byte
		attested bool
		reason   trust.Reason
	}{
		{"none", nil, false, ""},
		{"an edit's", result(trustv1.Phase_PHASE_EDITED, ref, this), true, ""},
		{"a person's who gave it up", result(trustv1.Phase_PHASE_ABANDONED, ref, this), true, ""},
		{"an edit's of other data", result(trustv1.Phase_PHASE_EDITED, ref, seal.Hash([]byte("other")).Bytes()), false, ""},
		{"an edit's of another record", result(trustv1.Phase_PHASE_EDITED, other, this), false, trust.NotAllowed},
		{"an agent's, that a device signed", result(trustv1.Phase_PHASE_COMMITTED, ref, this), false, trust.NotAllowed},
		{"a run's last", result(trustv1.Phase_PHASE_FINISHED, ref, nil), false, trust.NotAllowed},
		{"a reply", result(trustv1.Phase_PHASE_REPLIED, ref, nil), false, trust.NotAllowed},
		{"no result", []byte{0xff}, false, trust.Malformed},
	} {
		got := (&Client{log: h.log}).historyValue(ref, folderKey, &clientv1.HistoryView{
			RecordKey: trust.SealRecordKey(folderKey, recordKey), Data: data, Result: row.signed,
		})
		if got.Attested != row.attested || got.Reason != string(row.reason) {
			t.Errorf("%s: attested %t, reason %q; want %t, %q", row.name, got.Attested, got.Reason, row.attested, row.reason)
		}
	}
}
