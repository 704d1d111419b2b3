package proof

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// rekeyed is what "folder rekey" says.
type rekeyed struct {
	KeyVersion int  `json:"key_version"`
	NewKey     bool `json:"new_key"`
	Rekeyed    int
	Left       []struct{ Title, Reason string }
}

// A client that is killed while it re-keys a folder leaves one that everybody reads, and
// any client goes on with it. A record whose candidate is outstanding waits, and loses
// nothing.
func TestRekeyGoesOn(t *testing.T) {
	beside(t)
	ctx := t.Context()
	w := newWorld(t, "fault")
	pg := targets.Postgres(t)
	must(t, w.AddPostgres(ctx, "db", pg))
	for _, title := range []string{"app", "busy"} {
		_, err := w.AddRole(ctx, pg, "db", title, title)
		must(t, err)
	}
	const logins = 250
	csv := strings.Builder{}
	csv.WriteString("title,login,password\n")
	for n := range logins {
		fmt.Fprintf(&csv, "login%d,l%d,secret %d\n", n, n, n)
	}
	if _, err := w.CLI(ctx, []byte(csv.String()), "record", "import", "-", "--folder", installation.Folder); err != nil {
		t.Fatal(err)
	}
	const records = logins + 4 // and db, its administrator, app, busy

	// The agent has staged a new secret for one account, and goes no further.
	hit := filepath.Join(w.agent.Fault, "before-apply.hit")
	must(t, os.WriteFile(strings.TrimSuffix(hit, ".hit"), []byte("block"), 0o600))
	busy, err := w.Rotate(ctx, "busy", "--no-wait")
	must(t, err)
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(hit); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the agent did not come to apply: %s", w.agent.Tail())
		}
	}

	oldKeys := func() (n int) {
		t.Helper()
		var list struct {
			Folders []struct {
				OldKeys int `json:"old_keys"`
			}
		}
		must(t, w.JSON(ctx, &list, nil, "folder", "list"))
		return list.Folders[0].OldKeys
	}
	reads := func() {
		t.Helper()
		for _, n := range []int{0, logins / 2, logins - 1} {
			secret, err := w.Secret(ctx, fmt.Sprintf("login%d", n))
			if want := fmt.Sprintf("secret %d", n); err != nil || secret.ExposeString() != want {
				t.Errorf("login%d: %q, %v", n, secret.ExposeString(), err)
			}
		}
	}
	faults := t.TempDir()
	killed := &installation.Installation{Options: installation.Options{Bin: w.Bin, Dir: w.Dir, Env: []string{"ROTUNDA_FAULT_DIR=" + faults}}, Addr: w.Addr}
	for _, c := range []struct {
		point string
		old   int // records that wait then
	}{{"rekey-folder", records}, {"rekey-records", records - 100}, {"rekey-records", records - 200}} {
		must(t, os.WriteFile(filepath.Join(faults, c.point), []byte("kill"), 0o600))
		_, err := killed.CLI(ctx, nil, "folder", "rekey", installation.Folder, "--yes")
		if _, e := os.Stat(filepath.Join(faults, c.point+".hit")); e != nil || err == nil {
			t.Fatalf("the client was not killed at %s: %v", c.point, err)
		}
		// One of each hundred may be the record that waits for its run.
		if got := oldKeys(); got < c.old || got > c.old+2 {
			t.Errorf("killed at %s: %d records wait for their keys, want %d", c.point, got, c.old)
		}
		reads()
	}

	var r rekeyed
	out, err := w.CLI(ctx, nil, "folder", "rekey", installation.Folder, "--yes", "--json")
	if reasonOf(err) != string(trust.RunOutstanding) {
		t.Errorf("with a candidate outstanding it ends by %q: %v", reasonOf(err), err)
	}
	must(t, json.Unmarshal(out, &r))
	if r.NewKey || r.KeyVersion != 2 || len(r.Left) != 1 || r.Left[0].Title != "busy" || r.Left[0].Reason != string(trust.RunOutstanding) || oldKeys() != 1 {
		t.Errorf("the call that goes on: %+v", r)
	}
	reads()

	os.Remove(hit) // the agent goes on, with the keys that it had
	if _, err := w.CLI(ctx, nil, "run", "watch", busy.RunID); err != nil {
		t.Fatalf("the run across the re-keying: %v: %s", err, w.agent.Tail())
	}
	must(t, w.JSON(ctx, &r, nil, "folder", "rekey", installation.Folder, "--yes"))
	if r.NewKey || r.KeyVersion != 2 || r.Rekeyed != 1 || len(r.Left) > 0 || oldKeys() != 0 {
		t.Errorf("the last call: %+v", r)
	}
	for _, title := range []string{"busy", "app"} {
		if _, err := w.CLI(ctx, nil, "verify", title); err != nil {
			t.Errorf("LOST: the vault's secret of %s does not open its target: %v", title, err)
		}
		if o, err := w.Rotate(ctx, title); err != nil {
			t.Errorf("rotate %s afterwards: %v: %+v", title, err, o)
		}
	}
}

// A removal that is killed while it re-keys is gone on with by the same command: no account
// is rotated under a key that the one removed has, and what waits is shown until it is done.
func TestRemovalGoesOn(t *testing.T) {
	beside(t)
	ctx := t.Context()
	w := newWorld(t, "fault")
	pg := targets.Postgres(t)
	must(t, w.AddPostgres(ctx, "db", pg))
	for _, title := range []string{"app", "web"} {
		_, err := w.AddRole(ctx, pg, "db", title, title)
		must(t, err)
	}
	const logins, accounts = 150, 3 // app, web, and the administrator of db
	csv := strings.Builder{}
	csv.WriteString("title,login,password\n")
	for n := range logins {
		fmt.Fprintf(&csv, "login%d,l%d,secret %d\n", n, n, n)
	}
	_, err := w.CLI(ctx, []byte(csv.String()), "record", "import", "-", "--folder", installation.Folder)
	must(t, err)
	const records = logins + accounts + 1
	w.comes(t, "Eve", "read")

	faults := t.TempDir()
	killed := &installation.Installation{Options: installation.Options{Bin: w.Bin, Dir: w.Dir, Env: []string{"ROTUNDA_FAULT_DIR=" + faults}}, Addr: w.Addr}
	var left struct {
		Known      []string                 `json:"known_folders"`
		Waiting    []struct{ Records int }  `json:"waiting_folders"`
		NotRotated []struct{ Title string } `json:"not_rotated"`
	}
	for _, c := range []struct {
		point string
		waits int
	}{{"rekey-folder", records}, {"rekey-records", records - 100}} {
		must(t, os.WriteFile(filepath.Join(faults, c.point), []byte("kill"), 0o600))
		_, err := killed.CLI(ctx, nil, "member", "remove", "Eve", "--yes")
		if _, e := os.Stat(filepath.Join(faults, c.point+".hit")); e != nil || err == nil {
			t.Fatalf("the client was not killed at %s: %v", c.point, err)
		}
		must(t, w.JSON(ctx, &left, nil, "member", "remove", "Eve", "--plan"))
		if len(left.Known) > 0 || len(left.Waiting) != 1 || left.Waiting[0].Records != c.waits || len(left.NotRotated) != accounts {
			t.Errorf("killed at %s: %+v", c.point, left)
		}
		// Whose record has a new key is rotated; the others are left, and said to be.
		_, err = w.CLI(ctx, nil, "rotate", "--exposed", "--yes", "--json")
		must(t, w.JSON(ctx, &left, nil, "member", "remove", "Eve", "--plan"))
		if kept := len(left.NotRotated); kept > 0 && reasonOf(err) != "key_known" || kept == 0 && err != nil || kept < accounts && c.waits == records {
			t.Errorf("killed at %s: %d accounts are left by rotate --exposed: %v", c.point, kept, err)
		}
	}
	must(t, w.JSON(ctx, &left, nil, "member", "remove", "Eve", "--yes"))
	if len(left.Known)+len(left.Waiting)+len(left.NotRotated) > 0 {
		t.Errorf("left by the call that went on: %+v", left)
	}
	var r rekeyed
	must(t, w.JSON(ctx, &r, nil, "folder", "rekey", installation.Folder, "--yes"))
	if !r.NewKey || r.KeyVersion != 3 {
		t.Errorf("the folder waited for more: %+v", r)
	}
	for _, title := range []string{"app", "web"} {
		if _, err := w.CLI(ctx, nil, "verify", title); err != nil {
			t.Errorf("LOST: the vault's secret of %s does not open its target: %v", title, err)
		}
	}
	if _, err := w.CLI(ctx, nil, "member", "remove", "Eve", "--yes", "--json"); reasonOf(err) != "not_found" {
		t.Errorf("a name of whom nothing is left: %v", err)
	}
}

// A server that was restored to before a re-keying has the former key alone, and the log
// that others sent back: nobody accepts what it serves. Once a person has re-keyed the
// folder again, the agent brings back by itself what it had set, before and after.
func TestRekeyAfterRestore(t *testing.T) {
	beside(t)
	ctx := t.Context()
	w := newWorld(t, "fault")
	pg := targets.Postgres(t)
	must(t, w.AddPostgres(ctx, "db", pg))
	rotate := func(title string) {
		t.Helper()
		if o, err := w.Rotate(ctx, title); err != nil || o.Reason != "" {
			t.Fatalf("%s: %v: %+v", title, err, o)
		}
	}
	for _, title := range []string{"app", "early", "asked"} {
		_, err := w.AddRole(ctx, pg, "db", title, title)
		must(t, err)
		rotate(title)
	}
	data, backup := filepath.Dir(w.Database()), filepath.Join(t.TempDir(), "backup")
	server := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(filepath.Join(w.Bin, "rotunda-server"), args...).CombinedOutput(); err != nil {
			t.Fatalf("rotunda-server %s: %v: %s", args[0], err, out)
		}
	}
	server("backup", "--data", data, "--out", backup)
	var r rekeyed
	rotate("early")
	must(t, w.JSON(ctx, &r, nil, "folder", "rekey", installation.Folder, "--yes"))
	rotate("app")
	rotate("asked")
	if _, err := w.CLI(ctx, nil, "verify", "early"); err != nil { // the agent sees the value that the re-keying signed
		t.Fatal(err)
	}
	// All three secrets are the agent's to bring back.
	mark := w.agent.Mark()
	w.Server.Stop()
	must(t, os.Rename(data, data+".lost"))
	server("restore", "--data", data, backup)
	must(t, w.StartServer(ctx))
	sentBack := func(words ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, 8*time.Minute) // the fifth of the agent's looks, at the latest
		defer cancel()
		if _, err := w.agent.WaitLog(ctx, mark, words...); err != nil {
			t.Fatal(err)
		}
	}
	sentBack(`"msg":"accounts of which the restored server had lost something were looked at"`)

	if _, err := w.CLI(ctx, nil, "record", "get", "db", "--json"); err == nil {
		t.Error("a record under the former folder key is shown")
	}
	if _, err := w.CLI(ctx, nil, "org", "end-recovery", "--yes"); err != nil {
		t.Fatal(err)
	}
	var folders struct{ Folders []struct{ UID string } }
	must(t, w.JSON(ctx, &folders, nil, "folder", "list"))
	uid := folders.Folders[0].UID // its name is under the former key
	out, err := w.CLI(ctx, nil, "folder", "rekey", uid, "--yes", "--json")
	must(t, json.Unmarshal(out, &r))
	if reasonOf(err) != string(trust.StatementRollback) || r.KeyVersion != 3 || len(r.Left) != 5 {
		t.Errorf("re-keyed: %+v, %v", r, err)
	}
	must(t, w.JSON(ctx, &r, nil, "folder", "rekey", uid, "--restored", "--yes"))
	if r.Rekeyed != 5 || r.NewKey || len(r.Left) > 0 {
		t.Errorf("with the statements signed anew: %+v", r)
	}
	// Who will not wait for the agent's next look has the account run. That look may be now.
	began := time.Now()
	if o, err := w.Rotate(ctx, "asked"); err != nil || o.Reason != "healed" && o.Reason != "" {
		t.Errorf("asked for: %v: %+v", err, o)
	}
	sentBack(`"msg":"what the restored server had lost was sent back"`, `"accounts_left":0`)
	t.Logf("what agents had set is back %s after the re-keying", time.Since(began))
	for _, title := range []string{"app", "early", "asked"} {
		secret, err := w.Secret(ctx, title)
		must(t, err)
		if ok, err := pg.Accepts(ctx, title, secret); err != nil || !ok {
			t.Errorf("LOST: the vault's secret of %s does not open its target: %v", title, err)
		}
		rotate(title)
	}
}
