package run

import (
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// The administrator's own secret is changed by himself, while nobody else works on the
// resource, and what is left to do then is done with the new one.
func TestAdministratorsOwn(t *testing.T) {
	w := newWorld(t, false)
	w.target.manifest.Overlap = []sdk.Kind{sdk.Password}
	w.put(w.admin, "pamUser", []byte("adminpw"), w.accountStatement("admin", &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: w.now.Add(time.Hour).UnixMilli()}))
	release, err := w.engine.Slots.Acquire(t.Context(), w.res.String(), false)
	must(t, err)
	id := seal.NewID()
	w.vault.state[id] = "queued"
	ended := make(chan Outcome, 1)
	go func() {
		out, err := w.engine.Do(t.Context(), Job{ID: id, Account: w.admin})
		if err != nil {
			t.Error(err)
		}
		ended <- out
	}()
	w.waiting(w.res)
	w.target.mu.Lock()
	if w.target.opens > 0 {
		t.Error("it began while another run worked on the resource")
	}
	w.target.mu.Unlock()
	release()
	if out := <-ended; out.Credential != done {
		t.Fatalf("%+v", out)
	}
	now, _ := w.secret(w.admin)
	if w.target.secrets["admin"] != now || now == "adminpw" {
		t.Error("the vault and the target do not have the same new secret")
	}
	if !slices.Equal(w.target.admins, []string{"adminpw", now}) || !slices.Equal(w.target.retired, []string{"adminpw"}) {
		t.Errorf("%d sessions were opened, %d secrets ended: want one by the former secret, and one by the new one that ends it", len(w.target.admins), len(w.target.retired))
	}
	if out, err := w.run(seal.NewID()); err != nil || out.Credential != done || !w.opens() {
		t.Errorf("another account after it: %+v, %v", out, err)
	}
}

// Which of the administrator's secrets the target has is his own run's to find out: others
// try neither.
func TestAdministratorsChangeIsOutstanding(t *testing.T) {
	for owner, want := range map[string]trustv1.Outcome{"agent": pending, "client": done} {
		w := newWorld(t, false)
		w.vault.records[w.admin.Record].Staged = &ksm.ExtStaged{Owner: owner}
		out, err := w.run(seal.NewID())
		if err != nil || out.Credential != want || want == pending && (!out.Later || out.Reason != "admin.outstanding" || w.target.opens > 0) {
			t.Errorf("staged by %s: %+v, %v, %d sessions", owner, out, err, w.target.opens)
		}
	}
}
