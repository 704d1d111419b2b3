package proof

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/sdk"
)

// healing bounds what a sweep may take: its pause at the beginning, and a second look.
const healing = 90 * time.Second

// server runs one of the server program's tools.
func (w *hostileWorld) server(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(w.Bin, "rotunda-server"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("rotunda-server %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// putBack ends the server, and puts a backup in the place of all that it has.
func (w *hostileWorld) putBack(t *testing.T, backup string) {
	t.Helper()
	w.strikes()
	w.Server.Stop()
	w.file.Close()
	data := filepath.Dir(w.Database())
	if err := os.Rename(data, data+".lost"); err != nil {
		t.Fatal(err)
	}
	t.Log(w.server(t, "restore", "--data", data, backup))
	if err := w.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.openDatabase(t)
}

// The whole database is restored to what it was before accounts were rotated, a resource
// edited, a schedule switched off and a member removed. It has a world of its own: what
// comes after is not what the others began with.
func restoredToYesterday(t *testing.T, w *hostileWorld) {
	rotated, scheduled, byHand := w.account(t), w.account(t), w.account(t)
	resource, g := w.resource(t)
	elsewhere := w.accountOn(t, resource)
	member, bob := w.member(t, trust.Read|trust.Edit|trust.Operate)
	gw1 := stolen(t, w.agent).Entry
	for _, title := range []string{rotated, scheduled, elsewhere} {
		w.works(t, title)
	}
	for _, title := range []string{scheduled, byHand} {
		w.cli(t, "rotation", "set", title, "--every", "1d")
	}
	backup := filepath.Join(t.TempDir(), "backup")
	w.server(t, "backup", "--data", filepath.Dir(w.Database()), "--out", backup)

	// What happens after the backup, while the server runs.
	w.works(t, rotated)
	w.works(t, rotated)
	w.cli(t, "record", "edit", rotated, "--url", "https://example.test") // a value of its own number, which the agent sees
	w.cli(t, "verify", rotated)
	w.cli(t, "resource", "edit", resource, "--host", "localhost")
	w.works(t, elsewhere)
	r, s, h := w.ref(t, resource), w.ref(t, scheduled), w.ref(t, byHand)
	if state, reason := w.runEnds(t, w.due(t, h)); state != "finished" { // the command line sees nothing of it
		t.Fatalf("the scheduled run ended as %s, %s", state, reason)
	}
	w.cli(t, "rotation", "set", scheduled, "--manual")
	w.works(t, scheduled)
	w.remove(t, member)
	w.answers(t, gw1)
	w.knows(t, w.agent, w.log(t).Head().Epoch)
	edited, off, last := w.statementSeq(t, r), w.statementSeq(t, s), w.log(t)

	lost := map[string]sdk.Secret{}
	for _, title := range []string{rotated, scheduled, elsewhere} {
		var err error
		if lost[title], err = w.Secret(t.Context(), title); err != nil {
			t.Fatal(err)
		}
	}
	set := sdk.NewSecret([]byte("set-by-hand-while-it-was-down"))
	if err := w.pg.Exec(t.Context(), `ALTER ROLE "`+byHand+`" PASSWORD '`+set.ExposeString()+`'`); err != nil {
		t.Fatal(err)
	}
	mark := w.agent.Mark()
	w.putBack(t, backup)
	since := moment{logs: map[*installation.Process]int{w.agent.Process: mark}}
	w.read(t, "SELECT coalesce(max(seq), 0) FROM event WHERE org = 1", nil, &since.event)
	if got := w.statementSeq(t, r); got >= edited {
		t.Fatalf("the backup holds statement %d, the edit made %d", got, edited)
	}
	ada := w.ada(t)

	// Nobody asks the agent for anything: it comes back, and is told.
	w.loggedWithin(t, healing, since, w.agent, `"msg":"what the restored server had lost was sent back"`, `"accounts_left":0`)
	w.logged(t, since, w.agent, `"msg":"log refused"`, `"reason":"log_rollback"`)
	if got := w.log(t).Head(); got.Digest != last.Head().Digest {
		t.Errorf("the log ends with change %d, it was %d", got.Epoch, last.Head().Epoch)
	}
	w.toldBy(t, since, "log_rollback", trust.LogRollback, w.agent.Name)
	if got := w.statementSeq(t, r); got != edited {
		t.Errorf("the resource has statement %d, it was %d", got, edited)
	}
	if got := w.statementSeq(t, s); got != off {
		t.Errorf("the account has statement %d, it was %d", got, off)
	}
	w.toldBy(t, since, "statement.restated", "", w.agent.Name)
	w.reached(t, w.gate, g) // by logins alone: the targets' secrets are what they were
	for title, secret := range lost {
		if got, err := w.Secret(t.Context(), title); err != nil || !got.Equal(secret) {
			t.Errorf("another secret than the one that was lost came back of %s: %v", title, err)
		}
		w.opensTarget(t, title)
		w.works(t, title)
	}
	w.dueRefused(t, s, "run.refused", trust.MandateOff)

	t.Run("the removed member stays removed", func(t *testing.T) {
		err := ada.write(t, appends(bob.sign(t, w.log(t))))
		if reason, _ := enrol.ErrorReason(err); reason != string(trust.LogSigner) {
			t.Errorf("a change of his: %q: %v", reason, err)
		}
		w.spurned(t, w.agent, gw1, trust.SignerUnknown, bob.seal(t, w.log(t), w.rotation(t, gw1, rotated)))
		if _, live := w.log(t).Entry(member); live {
			t.Error("he is in the log")
		}
	})
	t.Run("what nobody has is a person's to set", func(t *testing.T) {
		w.refused(t, byHand, trust.ValueRollback, func() {})
		out, _ := w.CLI(t.Context(), nil, "doctor")
		if !strings.Contains(string(out), "the value served of "+byHand+" is older than one that is known") {
			t.Errorf("doctor does not tell: %s", out)
		}
		if _, err := w.CLI(t.Context(), set.Expose(), "record", "edit", byHand, "--password-stdin"); err != nil {
			t.Fatal(err)
		}
		w.opensTarget(t, byHand)
		w.works(t, byHand)
	})
	t.Run("the log grows when an administrator says so", func(t *testing.T) {
		w.fails(t, trust.LogRecovering, "folder", "add", "after")
		err := ada.write(t, appends(ada.sign(t, w.log(t))))
		if reason, _ := enrol.ErrorReason(err); reason != string(trust.LogRecovering) {
			t.Errorf("a change without a turn: %q: %v", reason, err)
		}
		var shown struct {
			Since string `json:"recovering_since"`
		}
		if err := w.JSON(t.Context(), &shown, nil, "org", "show"); err != nil || shown.Since == "" {
			t.Errorf("org show: %+v, %v", shown, err)
		}
		if out, _ := w.CLI(t.Context(), nil, "doctor"); !strings.Contains(string(out), "the server was restored from a backup at") {
			t.Errorf("doctor does not tell: %s", out)
		}
		var ended struct {
			NotReported int `json:"not_reported"`
			Parties     []struct{ Kind, Name, Reported string }
		}
		if err := w.JSON(t.Context(), &ended, nil, "org", "end-recovery", "--yes"); err != nil {
			t.Fatal(err)
		}
		if ended.NotReported != 0 || len(ended.Parties) != 2 {
			t.Errorf("who has reported: %+v", ended)
		}
		w.toldBy(t, since, "server.recovered", "", "Ada / laptop")
		w.cli(t, "folder", "add", "after")
		w.fails(t, "not_recovering", "org", "end-recovery")
	})
}
