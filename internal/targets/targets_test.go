package targets

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/password"
	"github.com/rotunda-pam/rotunda/sdk"
)

func secret(s string) sdk.Secret { return sdk.NewSecret([]byte(s)) }

func TestPostgresLetsInOnlyTheRightPassword(t *testing.T) {
	pg := Postgres(t)
	ctx := t.Context()
	name, good := `we"ird 'name\`, secret(`p:a\s's"w ö`)
	if err := pg.CreateRole(ctx, name, good, ""); err != nil {
		t.Fatal(err)
	}
	check := func(pw sdk.Secret, want bool) {
		t.Helper()
		got, err := pg.Accepts(ctx, name, pw)
		if err != nil || got != want {
			t.Errorf("accepts: %v, %v, want %v", got, err, want)
		}
	}
	check(good, true)
	check(secret("another"), false)
	// Servers that begin as copies of one have no password in common, and none in the log.
	other := Postgres(t)
	for _, c := range []struct {
		password sdk.Secret
		want     bool
	}{{other.AdminPassword, true}, {pg.AdminPassword, false}} {
		if got, err := other.Accepts(ctx, other.Admin, c.password); err != nil || got != c.want {
			t.Errorf("the administrator: %v, %v, want %v", got, err, c.want)
		}
	}
	log, err := os.ReadFile(pg.LogFile)
	if err != nil || !bytes.Contains(log, []byte("CREATE ROLE")) || bytes.Contains(log, []byte(pg.AdminPassword.ExposeString())) {
		t.Errorf("the log lacks statements, or has the administrator's password: %v", err)
	}
	if err := pg.Down(); err != nil {
		t.Fatal(err)
	}
	if _, err := pg.Accepts(ctx, name, good); err == nil {
		t.Error("a stopped server judged a password")
	}
	if err := pg.Up(ctx); err != nil {
		t.Fatal(err)
	}
	check(good, true)
}

func TestRabbitLetsInOnlyTheRightPassword(t *testing.T) {
	r := Rabbit(t)
	ctx := t.Context()
	name, good := `we"ird /name`, secret(`p:a\s's"w ö`)
	if err := r.CreateUser(ctx, name, good, ""); err != nil {
		t.Fatal(err)
	}
	for pw, want := range map[string]bool{good.ExposeString(): true, "another": false} {
		if got, err := r.Accepts(ctx, name, secret(pw)); err != nil || got != want {
			t.Errorf("accepts: %v, %v, want %v", got, err, want)
		}
	}
	// The broker writes its log a while after it has answered, and tells nobody.
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		n, err := r.Failures(name)
		if err == nil && n == 1 {
			break
		}
		if err != nil || n > 1 || time.Now().After(end) {
			t.Fatalf("%d failures, %v; want 1", n, err)
		}
	}
}

func TestSSHDLetsInOnlyTheRightSecret(t *testing.T) {
	s := OpenSSH(t, SSHDOptions{})
	ctx := t.Context()
	public, private, err := password.SSHKey()
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := password.SSHKey()
	if err != nil {
		t.Fatal(err)
	}
	u, err := s.CreateUser(ctx, UserOptions{Password: secret("a good one"), AuthorizedKeys: append(public, '\n')})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		user string
		with sdk.Credential
		want bool
	}{
		{u.Name, sdk.Credential{Kind: sdk.Password, Secret: secret("a good one")}, true},
		{u.Name, sdk.Credential{Kind: sdk.Password, Secret: secret("another")}, false},
		{u.Name, sdk.Credential{Kind: sdk.SSHKey, Secret: sdk.NewSecret(private)}, true},
		{u.Name, sdk.Credential{Kind: sdk.SSHKey, Secret: sdk.NewSecret(other)}, false},
		{s.Admin, sdk.Credential{Kind: sdk.SSHKey, Secret: s.AdminKey}, true},
		{s.Admin, sdk.Credential{Kind: sdk.SSHKey, Secret: sdk.NewSecret(private)}, false},
	} {
		if got, err := s.Accepts(ctx, c.user, c.with); err != nil || got != c.want {
			t.Errorf("%s with a %s: %v, %v, want %v\n%s", c.user, c.with.Kind, got, err, c.want, logTail(s.LogFile))
		}
	}
}

func TestMariaDBLetsInOnlyTheRightPassword(t *testing.T) {
	m := Maria(t)
	ctx := t.Context()
	odd := `a b"c'd\e#f$g;h=` + "\n" + `ü `
	for _, host := range []string{m.Host, "10.0.0.1"} {
		if err := m.CreateUser(ctx, odd, host, "mysql_native_password", secret(odd)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		user, with string
		as         string
	}{
		{odd, odd, odd + "@" + m.Host},
		{odd, odd + " ", ""},
		{odd, "", ""},
		{"nobody", odd, ""},
		{m.Admin, m.AdminPassword.ExposeString(), m.Admin + "@%"},
	} {
		as, ok, err := m.Accepts(ctx, c.user, secret(c.with))
		if err != nil || as != c.as || ok != (c.as != "") {
			t.Errorf("%q: %q, %v, %v, want %q\n%s", c.user, as, ok, err, c.as, logTail(m.LogFile))
		}
	}
	if n, err := m.Failures("nobody"); err != nil || n != 1 {
		t.Errorf("%d refused logins of nobody, %v, want 1", n, err)
	}
	if log, err := os.ReadFile(m.GeneralLog); err != nil || !bytes.Contains(log, []byte("CREATE USER")) {
		t.Errorf("the general log has no statements: %v", err)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	s := OpenSSH(t, SSHDOptions{})
	u, err := s.CreateUser(t.Context(), UserOptions{Password: secret("x"), SudoNoPassword: true})
	if err != nil {
		t.Fatal(err)
	}
	pid := s.proc.cmd.Process.Pid
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := user.Lookup(u.Name); err == nil {
		t.Errorf("account %s is still there", u.Name)
	}
	for _, f := range []string{u.Home, sudoRule(u.Home), s.dir, filepath.Join("/proc", strconv.Itoa(pid))} {
		if exists(f) {
			t.Errorf("%s is still there", f)
		}
	}
}

// A run that is killed is played by a second process of this test, which starts a
// server, makes an account and kills itself.
func TestLeftoversOfAKilledRunAreSwept(t *testing.T) {
	const child = "ROTUNDA_TARGETS_CHILD"
	if os.Getenv(child) != "" {
		s := OpenSSH(t, SSHDOptions{})
		u, err := s.CreateUser(t.Context(), UserOptions{})
		if err != nil {
			t.Fatal(err)
		}
		os.WriteFile(os.Getenv(child), []byte(u.Name+"\n"+s.dir+"\n"+strconv.Itoa(s.proc.cmd.Process.Pid)+"\n"), 0o600)
		p, _ := os.FindProcess(os.Getpid())
		p.Kill()
		select {}
	}
	_, _, ok := forTest(t, OpenSSHD)
	if !ok {
		return
	}
	if os.Getuid() != 0 {
		t.Skip("left out: an sshd that logs other users in needs root")
	}
	report := filepath.Join(t.TempDir(), "report")
	cmd := exec.Command(os.Args[0], "-test.run", t.Name())
	cmd.Env = append(os.Environ(), child+"="+report)
	out, err := cmd.CombinedOutput()
	left, _ := lines(report)
	if err == nil || len(left) != 3 {
		t.Fatalf("the run to be killed ended by itself (%v): %s", err, out)
	}
	if _, err := user.Lookup(left[0]); err != nil {
		t.Fatalf("the killed run left no account, so this test proves nothing: %v", err)
	}
	_, remove, err := WorkDir()
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	if _, err := user.Lookup(left[0]); err == nil {
		t.Errorf("account %s is still there", left[0])
	}
	if exists(left[1]) {
		t.Errorf("folder %s is still there", left[1])
	}
	if b, err := os.ReadFile(filepath.Join("/proc", left[2], "cmdline")); err == nil && len(b) > 0 {
		t.Errorf("sshd %s is still running: %q", left[2], b)
	}
}

func TestCleanTouchesNoFolderOfOthers(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "precious")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Clean(dir); err == nil || !exists(file) {
		t.Errorf("cleaned a folder that is not ours: %v", err)
	}
}

func TestADLetsInOnlyTheRightPassword(t *testing.T) {
	s := AD(t)
	ctx := t.Context()
	good := secret(`p:A\s's"w-ö€1`)
	dn, err := s.CreateUser(ctx, `o'brien, "jr"`, good, "sAMAccountName: obrien")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dn, "obrien@" + s.DNS, s.NetBIOS + `\obrien`} {
		for _, c := range []struct {
			with sdk.Secret
			want bool
		}{{good, true}, {secret("another"), false}, {good, true}} {
			if got, err := s.Accepts(ctx, name, c.with); err != nil || got != c.want {
				t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
			}
		}
	}
	if got, err := s.Get(ctx, dn, "sAMAccountName"); err != nil || got != "obrien" {
		t.Errorf("get: %q, %v", got, err)
	}
	// What a killed run leaves behind is known by its folder, though Samba writes over its
	// arguments.
	ended := s.proc.done
	if err := Clean(s.dir); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-ctx.Done():
		t.Error("the server goes on without its folder")
	}
	if _, err := s.Accepts(ctx, dn, good); err == nil {
		t.Error("a server that was stopped judged a password")
	}
}

func TestFerretDBLetsInOnlyTheRightPassword(t *testing.T) {
	f := Ferret(t)
	ctx := t.Context()
	odd := `o'brien "jr" $x/.é`
	for _, db := range []string{"shop", "stock"} {
		if err := f.CreateUser(ctx, odd, db, secret("of "+db)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		db, with string
		want     bool
	}{{"shop", "of shop", true}, {"shop", "of stock", false}, {"stock", "of stock", true}, {"admin", "of shop", false}} {
		if got, err := f.Accepts(ctx, odd, c.db, secret(c.with)); err != nil || got != c.want {
			t.Errorf("%s with %q: %v, %v, want %v", c.db, c.with, got, err, c.want)
		}
	}
	if n, err := f.Failures(odd); err != nil || n != 1 { // the other was of nobody
		t.Errorf("%d refused logins, %v, want 1\n%s", n, err, logTail(f.LogFile))
	}
	if err := f.Down(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Accepts(ctx, odd, "shop", secret("of shop")); err == nil {
		t.Error("a stopped server judged a password")
	}
	if err := f.Up(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Accepts(ctx, odd, "shop", secret("of shop")); err != nil || !got {
		t.Errorf("after a restart: %v, %v", got, err)
	}
}

func TestKubeLetsInOnlyATokenThatLives(t *testing.T) {
	k := Kube(t)
	ctx := t.Context()
	do := func(method, path string, body any, want int) []byte {
		t.Helper()
		status, out, err := k.Do(ctx, method, path, body)
		if err != nil || status != want {
			t.Fatalf("%s %s: status %d, %v, want %d: %s", method, path, status, err, want, out)
		}
		return out
	}
	const of = "/api/v1/namespaces/default/"
	do("POST", of+"serviceaccounts", map[string]any{"metadata": map[string]string{"name": "app"}}, http.StatusCreated)
	do("POST", of+"secrets", map[string]any{"metadata": map[string]string{"name": "app-1"}}, http.StatusCreated)
	var secretMade struct{ Metadata struct{ UID string } }
	if err := json.Unmarshal(do("GET", of+"secrets/app-1", nil, http.StatusOK), &secretMade); err != nil {
		t.Fatal(err)
	}
	var request struct{ Status struct{ Token string } }
	answer := do("POST", of+"serviceaccounts/app/token", map[string]any{"spec": map[string]any{
		"boundObjectRef": map[string]string{"kind": "Secret", "apiVersion": "v1", "name": "app-1", "uid": secretMade.Metadata.UID},
	}}, http.StatusCreated)
	if err := json.Unmarshal(answer, &request); err != nil {
		t.Fatal(err)
	}
	token := secret(request.Status.Token)
	for _, c := range []struct {
		with sdk.Secret
		want bool
	}{{token, true}, {secret("another"), false}, {k.Admin, true}} {
		if got, err := k.Accepts(ctx, c.with); err != nil || got != c.want {
			t.Errorf("accepts: %v, %v, want %v", got, err, c.want)
		}
	}
	do("DELETE", of+"secrets/app-1", nil, http.StatusOK)
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) { // the API remembers a token for ten seconds
		got, err := k.Accepts(ctx, token)
		if err == nil && !got {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("a token whose Secret is gone: %v, %v", got, err)
		}
	}
}
