package proof

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// TestDependents rotates the password of a real PostgreSQL role that an application has
// from a file on another host, and the two roles of a pair in turn: at each moment after a
// rotation what stands in the file opens the database.
func TestDependents(t *testing.T) {
	beside(t)
	if os.Geteuid() != 0 {
		t.Skip("an sshd that logs other users in needs root")
	}
	w := newWorld(t)
	pg, sshd := targets.Postgres(t), targets.OpenSSH(t, targets.SSHDOptions{})
	if err := w.AddPostgres(t.Context(), "db", pg); err != nil {
		t.Fatal(err)
	}
	if err := w.AddSSHD(t.Context(), "web", sshd); err != nil {
		t.Fatal(err)
	}
	do := func(args ...string) []byte {
		t.Helper()
		out, err := w.CLI(t.Context(), nil, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	env := filepath.Join(dir, "app.env")
	dependents := func(file string) string {
		b, err := json.Marshal([]map[string]any{{"resource": "web", "plugin": "ssh", "config": map[string]any{
			"files": []string{file}, "key": "PASSWORD", "login_key": "USER",
		}}})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "dependents.json")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// login is what the application would use.
	login := func() (user string, password sdk.Secret) {
		t.Helper()
		b, err := os.ReadFile(env)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			switch name {
			case "USER":
				user = value
			case "PASSWORD":
				password = sdk.NewSecret([]byte(value))
			}
		}
		return user, password
	}
	works := func(want string) {
		t.Helper()
		user, password := login()
		ok, err := pg.Accepts(t.Context(), user, password)
		if user != want || err != nil || !ok {
			t.Errorf("the file names %q, whose password opens the database: %v, %v; want %s", user, ok, err, want)
		}
	}
	rotate := func(title string) (string, error) {
		t.Helper()
		o, err := w.Rotate(t.Context(), title)
		if err != nil {
			return o.Reason, err
		}
		if o.Dependents != "done" {
			return o.Reason, fmt.Errorf("dependents %s", o.Dependents)
		}
		return "", nil
	}

	first, err := w.AddRole(t.Context(), pg, "db", "a", "app_a")
	if err != nil {
		t.Fatal(err)
	}
	do("record", "edit", "a", "--dependents-file", dependents(env))
	if reason, err := rotate("a"); err == nil || reason != "file.missing" {
		t.Errorf("a file that is not there: %v, %s", err, reason)
	}
	if ok, err := pg.Accepts(t.Context(), "app_a", first); err != nil || !ok {
		t.Errorf("the password was changed although what uses it cannot follow: %v", err)
	}
	if err := os.WriteFile(env, []byte("# of the application\nUSER=app_a\nPASSWORD=x\nPORT=1\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if reason, err := rotate("a"); err != nil {
			t.Fatalf("%v: %s: %s", err, reason, w.agent.Tail())
		}
		works("app_a")
	}
	if b, err := os.ReadFile(env); err != nil || !strings.HasPrefix(string(b), "# of the application\n") || !strings.HasSuffix(string(b), "\nPORT=1\n") {
		t.Errorf("other lines of the file are gone: %v", err)
	}
	shown := string(do("record", "get", "a"))
	if !strings.Contains(shown, "ssh on web") || !strings.Contains(shown, env) {
		t.Errorf("the record does not show its dependents:\n%s", shown)
	}

	// The pair.
	if _, err := w.AddRole(t.Context(), pg, "db", "b", "app_b"); err != nil {
		t.Fatal(err)
	}
	do("record", "edit", "b", "--dependents-file", dependents(env), "--pair", "a", "--drain", "1h")
	do("record", "edit", "a", "--pair", "b", "--drain", "1h")
	in, idle := "b", "a" // b's secret was set last, by a person
	if reason, err := rotate(in); err == nil || reason != "pair.in_use" {
		t.Errorf("the one in use: %v, %s", err, reason)
	}
	if reason, err := rotate(idle); err == nil || reason != "pair.draining" {
		t.Errorf("the other one, at once: %v, %s", err, reason)
	}
	do("record", "edit", "a", "--drain", "0s")
	do("record", "edit", "b", "--drain", "0s")
	for range 3 {
		former, password := login()
		if reason, err := rotate(idle); err != nil {
			t.Fatalf("%s: %v: %s: %s", idle, err, reason, w.agent.Tail())
		}
		works("app_" + idle)
		if ok, err := pg.Accepts(t.Context(), former, password); former != "app_"+idle && (err != nil || !ok) {
			t.Errorf("who still uses %s is shut out: %v", former, err)
		}
		in, idle = idle, in
	}

	// What was written is in no place that the agent keeps.
	_, password := login()
	secret := password.Expose()
	defer clear(secret)
	err = filepath.WalkDir(filepath.Join(w.agent.Dir, "data"), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), string(secret)) {
			t.Errorf("the secret is in %s", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestDrain: a former key opens the account until the time that its record gives is over.
func TestDrain(t *testing.T) {
	beside(t)
	if os.Geteuid() != 0 {
		t.Skip("an sshd that logs other users in needs root")
	}
	w := newWorld(t)
	sshd := targets.OpenSSH(t, targets.SSHDOptions{})
	if err := w.AddSSHD(t.Context(), "web", sshd); err != nil {
		t.Fatal(err)
	}
	first, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	user, err := sshd.CreateUser(t.Context(), targets.UserOptions{AuthorizedKeys: append(first.Public, '\n')})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AddUser(t.Context(), "web", "deploy", user.Name, first); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CLI(t.Context(), nil, "record", "edit", "deploy", "--drain", "1h"); err != nil {
		t.Fatal(err)
	}
	o, err := w.Rotate(t.Context(), "deploy")
	if err != nil || o.Reason != "draining" {
		t.Fatalf("%+v, %v", o, err)
	}
	second, err := w.Credential(t.Context(), "deploy", sdk.SSHKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]sdk.Credential{"former": first, "new": second} {
		if ok, err := sshd.Accepts(t.Context(), user.Name, c); err != nil || !ok {
			t.Errorf("the %s key, while the former one may be used: %v, %v", name, ok, err)
		}
	}
}
