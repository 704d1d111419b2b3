package proof

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	_ "modernc.org/sqlite"

	"github.com/rotunda-pam/rotunda/internal/exitcode"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/sdk"
)

// badWorld is an installation with one account, in which things are done wrong.
type badWorld struct {
	*world
	pg  *targets.PG
	app kindOfTarget
}

// mistake is something that is wrong, what the programs say about it, and how it is
// put right.
type mistake struct {
	what string
	// wrong does it, and gives what puts it right again.
	wrong func(t *testing.T, w *badWorld) (mend func())
	said  []saying
}

// saying is how one command of rotunda ends while the mistake lasts.
type saying struct {
	args  string
	exit  int
	words []string // all of them are on standard error
}

func says(args string, exit int, words ...string) saying { return saying{args, exit, words} }

// Whatever is wrong, the command line ends with a stable code and says what to do.
// Afterwards the vault's secret still opens the target, and the next rotation is clean.
func TestBadInput(t *testing.T) {
	beside(t)
	w := newBadWorld(t)
	for _, m := range mistakes {
		t.Run(m.what, func(t *testing.T) {
			w.rotates(t)
			mend := m.wrong(t, w)
			for _, s := range m.said {
				w.says(t, s)
			}
			mend()
			if r, err := w.Record(t.Context(), "app"); err != nil || r.Candidate == nil {
				must(t, errors.Join(err, w.opens(t.Context(), w.app, "app")))
			}
			w.rotates(t)
		})
	}
	for _, m := range []struct {
		what string
		try  func(*testing.T, *badWorld)
	}{
		{"record edited during a run", editedDuringRun},
		{"database locked", databaseLocked},
		{"token expired", tokenExpired},
		{"server's clock off", serverClockOff},
		{"a firing soon after a rotation by hand", firedWhenFresh},
	} {
		t.Run(m.what, func(t *testing.T) {
			w.rotates(t)
			m.try(t, w)
			w.rotates(t)
		})
	}
}

const (
	lookAtTarget = "hint: see that the target runs and that the agent's host reaches its address"
	otherPlugin  = "hint: the agent's log tells what the plugin printed; install the plugin that belongs to this agent's version"
)

// hintOf is the line that says what to do about a check that failed.
func hintOf(r trust.Reason) string { return "hint: " + r.Hint() }

var mistakes = []mistake{
	{
		"target unreachable", func(t *testing.T, w *badWorld) func() {
			must(t, w.pg.Down())
			return func() { must(t, w.pg.Up(t.Context())) }
		},
		[]saying{
			says("resource test db", 8, "could not log in to db (dial.unreachable)", lookAtTarget),
			says("resource probe db", 8, "saw no key of db (probe)", lookAtTarget),
			says("verify app", 7, "the target could not be asked", lookAtTarget, "hint: nothing is lost"),
			says("rotate app", 7, "not decided yet, both secrets are kept", lookAtTarget, "hint: nothing is lost", "rotunda run watch"),
		},
	},
	{
		"administrator's password wrong", func(t *testing.T, w *badWorld) func() {
			right := w.pg.AdminPassword.Expose()
			w.cli(t, []byte("not the password"), "record", "edit", "db-admin", "--password-stdin")
			return func() { w.cli(t, right, "record", "edit", "db-admin", "--password-stdin") }
		},
		[]saying{
			says("resource test db", 8, "(admin.refused)", "hint: set the administrator's present secret"),
			says("rotate app", 8, "not changed, the former secret is in use", "(admin.refused)", "hint: set the administrator's present secret", "hint: `rotunda run show"),
		},
	},
	{
		"account missing", func(t *testing.T, w *badWorld) func() {
			must(t, w.pg.Exec(t.Context(), "ALTER ROLE app RENAME TO gone"))
			return func() { must(t, w.pg.Exec(t.Context(), "ALTER ROLE gone RENAME TO app")) }
		},
		[]saying{
			says("rotate app", 8, "not changed, the former secret is in use", "(account.missing)", "hint: compare the login in the record with the account at the target"),
		},
	},
	{
		"account expired", func(t *testing.T, w *badWorld) func() {
			must(t, w.pg.Exec(t.Context(), "ALTER ROLE app VALID UNTIL '2001-01-01'"))
			return func() { must(t, w.pg.Exec(t.Context(), "ALTER ROLE app VALID UNTIL 'infinity'")) }
		},
		[]saying{
			says("rotate app", 7, "not decided yet, both secrets are kept", "(account.expired)", "hint: extend the account at the target: until then no secret opens it"),
		},
	},
	{
		"target's policy refuses", func(t *testing.T, w *badWorld) func() {
			port := refuser(t, w.pg.Address)
			w.cli(t, nil, "resource", "edit", "db", "--port", port, "--tls", "off", "--yes")
			return func() {
				w.cli(t, nil, "resource", "edit", "db", "--port", fmt.Sprint(w.pg.Port), "--tls", "pin", "--tls-key", hex.EncodeToString(w.pg.SPKI[:]), "--yes")
			}
		},
		[]saying{
			says("rotate app", 8, "not changed, the former secret is in use: policy (policy.refused)", "hint: set a password policy that the target takes"),
		},
	},
	{
		"agent's clock ahead", func(t *testing.T, w *badWorld) func() { return w.clock(t, w.agent.Fault, "15m") },
		[]saying{
			says("rotate app", 8, "(expired)", "compare the clocks of this machine and of the agent's host"),
			says("resource test db", 8, "(expired)", "compare the clocks of this machine and of the agent's host"),
		},
	},
	{
		"agent's clock behind", func(t *testing.T, w *badWorld) func() { return w.clock(t, w.agent.Fault, "-15m") },
		[]saying{
			says("rotate app", 8, "(clock_back)", hintOf(trust.ClockBack)),
			says("resource test db", 8, "(clock_back)", hintOf(trust.ClockBack)),
		},
	},
	{
		"local policy of the agent's host denies", func(t *testing.T, w *badWorld) func() {
			file := filepath.Join(w.agent.Dir, "policy.toml")
			must(t, os.WriteFile(file, []byte("networks.deny = [\"127.0.0.0/8\"]\nactions.allow = [\"rotate\", \"probe\"]\n"), 0o600))
			w.restartAgent(t)
			return func() { must(t, os.Remove(file)); w.restartAgent(t) }
		},
		[]saying{
			says("rotate app", 8, "not changed, the former secret is in use: permission (local_policy)", hintOf(trust.LocalPolicy)),
			says("verify app", 8, "(local_policy)", hintOf(trust.LocalPolicy)),
			says("resource test db", 8, "(local_policy)", hintOf(trust.LocalPolicy)),
			says("resource probe db", 8, "saw no key of db (local_policy)", hintOf(trust.LocalPolicy)),
		},
	},
	{
		"plugin files that are not what they should be", badPlugins,
		[]saying{
			says("rotate app", 8, "not changed, the former secret is in use", "(plugin_unknown)", hintOf(trust.PluginUnknown)),
			says("resource test db", 8, "(plugin_unknown)", hintOf(trust.PluginUnknown)),
			says("rotate absent", 8, "(plugin_unknown)", hintOf(trust.PluginUnknown)),
			says("rotate garbage", 8, "(plugin_protocol)", otherPlugin),
			says("rotate future", 8, "(plugin_protocol)", otherPlugin),
			says("rotate exits", 8, "(plugin_crashed)", otherPlugin),
			says("rotate liar", 8, "(plugin_manifest)", otherPlugin),
		},
	},
}

// badPlugins gives the agent a folder of plugins in which postgres is not the file that
// its name says, and approved ones that are no plugins of its version.
func badPlugins(t *testing.T, w *badWorld) (mend func()) {
	dir := filepath.Join(w.Dir, "plugins")
	must(t, os.Mkdir(dir, 0o755))
	good, err := filepath.Glob(filepath.Join(w.Bin, "plugins", "postgres@*"))
	if err != nil || len(good) != 1 {
		t.Fatalf("%v: %v", good, err)
	}
	right, err := os.ReadFile(good[0])
	must(t, err)
	postgres := filepath.Join(dir, filepath.Base(good[0]))
	must(t, os.WriteFile(postgres, append(bytes.Clone(right), 0), 0o755))

	hostile := filepath.Join(w.Dir, "hostile")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", hostile, "github.com/rotunda-pam/rotunda/agent/pluginhost/internal/hostile")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	binary, err := os.ReadFile(hostile)
	must(t, err)
	for _, name := range []string{"garbage", "future", "exits", "liar", "absent"} {
		data := append(bytes.Clone(binary), name...) // a hash of its own
		sum := sha256.Sum256(data)
		file := filepath.Join(dir, name+"@"+hex.EncodeToString(sum[:]))
		must(t, os.WriteFile(file, data, 0o755))
		w.cli(t, nil, "plugin", "approve", file, "--name", name, "--version", "1.0.0", "--yes")
		if name == "absent" {
			must(t, os.Remove(file))
		}
		w.cli(t, nil, "resource", "add", "of-"+name, "--folder", installation.Folder, "--type", "database", "--pool", installation.Pool,
			"--plugin", name, "--host", w.pg.Host, "--port", fmt.Sprint(w.pg.Port), "--tls", "off")
		w.cli(t, nil, "resource", "edit", "of-"+name, "--admin", "db-admin", "--yes")
		w.cli(t, []byte("secret of nobody"), "record", "add", name, "--folder", installation.Folder, "--resource", "of-"+name, "--login", name, "--password-stdin")
	}
	config := filepath.Join(w.agent.Dir, "agent.toml")
	text, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, bytes.Replace(text, []byte(filepath.Join(w.Bin, "plugins")), []byte(dir), 1), 0o600))
	w.restartAgent(t)
	return func() { must(t, os.WriteFile(postgres, right, 0o755)) } // and no restart
}

// refuser stands before a PostgreSQL, like a module that checks passwords: it refuses
// every new one. It speaks to both sides in clear.
func refuser(t *testing.T, address string) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", address)
			if err != nil {
				client.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(client, server) // an end is an end
				client.Close()
			}()
			go func() {
				_ = refuse(client, server)
				server.Close()
			}()
		}
	}()
	_, port, err = net.SplitHostPort(l.Addr().String())
	must(t, err)
	return port
}

func refuse(client, server net.Conn) error {
	no, err := (&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "22023", Message: "password is too easily cracked"}).Encode(nil)
	if err != nil {
		return err
	}
	if no, err = (&pgproto3.ReadyForQuery{TxStatus: 'I'}).Encode(no); err != nil {
		return err
	}
	for started := false; ; started = true {
		var kind []byte // the first message has none
		if started {
			kind = make([]byte, 1)
		}
		length := make([]byte, 4)
		for _, b := range [][]byte{kind, length} {
			if _, err := io.ReadFull(client, b); err != nil {
				return err
			}
		}
		body := make([]byte, binary.BigEndian.Uint32(length)-4)
		if _, err := io.ReadFull(client, body); err != nil {
			return err
		}
		if bytes.Contains(body, []byte("ALTER ROLE")) {
			if _, err := client.Write(no); err != nil {
				return err
			}
			continue
		}
		if _, err := server.Write(bytes.Join([][]byte{kind, length, body}, nil)); err != nil {
			return err
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newBadWorld(t *testing.T) *badWorld {
	t.Helper()
	w := &badWorld{world: newWorld(t, "fault"), pg: targets.Postgres(t)}
	w.app = kindOfTarget{name: "postgres", kind: sdk.Password, accepts: func(ctx context.Context, title string, c sdk.Credential) (bool, error) {
		return w.pg.Accepts(ctx, title, c.Secret)
	}}
	must(t, w.AddPostgres(t.Context(), "db", w.pg))
	_, err := w.AddRole(t.Context(), w.pg, "db", "app", "app")
	must(t, err)
	return w
}

// cli is a command that must work.
func (w *badWorld) cli(t *testing.T, stdin []byte, args ...string) string {
	t.Helper()
	out, err := w.CLI(t.Context(), stdin, args...)
	must(t, err)
	return string(out)
}

// says runs a command that must end as foreseen.
func (w *badWorld) says(t *testing.T, s saying) {
	t.Helper()
	out, err := w.CLI(t.Context(), nil, strings.Fields(s.args)...)
	var failed *installation.CLIError
	if !errors.As(err, &failed) {
		t.Errorf("rotunda %s: %v, want exit %d: %s", s.args, err, s.exit, out)
		return
	}
	if failed.Exit != s.exit {
		t.Errorf("rotunda %s: exit %d, want %d", s.args, failed.Exit, s.exit)
	}
	t.Logf("rotunda %s: exit %d\n%s", s.args, failed.Exit, failed.Stderr)
	for _, words := range s.words {
		if !strings.Contains(failed.Stderr, words) {
			t.Errorf("rotunda %s does not say %q", s.args, words)
		}
	}
}

// rotates shows that the honest thing works, and that nothing was lost: it takes up
// what a mistake has left undecided.
func (w *badWorld) rotates(t *testing.T) {
	t.Helper()
	if o, err := w.Rotate(t.Context(), "app"); err != nil {
		t.Fatalf("%v: %+v: %s", err, o, w.agent.Tail())
	}
	must(t, w.opens(t.Context(), w.app, "app"))
	if err := w.settled(t.Context(), "app"); err != nil {
		t.Fatalf("%v: %s", err, w.agent.Tail())
	}
}

// restartAgent has the agent read its settings again.
func (w *badWorld) restartAgent(t *testing.T) {
	t.Helper()
	w.agent.Stop()
	must(t, w.agent.Start(t.Context()))
}

// clock sets a program's clock off, until mend.
func (w *badWorld) clock(t *testing.T, fault, off string) (mend func()) {
	t.Helper()
	file := filepath.Join(fault, "clock")
	must(t, os.WriteFile(file, []byte(off), 0o600))
	return func() { must(t, os.Remove(file)) }
}

// block stops the agent at a point of the next run until release.
func (w *badWorld) block(t *testing.T, point string) (run string, release func()) {
	t.Helper()
	armed := filepath.Join(w.agent.Fault, point)
	t.Cleanup(func() { os.Remove(armed); os.Remove(armed + ".hit") }) // else all that comes later waits
	must(t, os.WriteFile(armed, []byte("block"), 0o600))
	o, err := w.Rotate(t.Context(), "app", "--no-wait")
	must(t, err)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) { // a file gives no signal
		if _, err := os.Stat(armed + ".hit"); err == nil {
			return o.RunID, func() { must(t, os.Remove(armed+".hit")) }
		}
		if time.Now().After(end) {
			t.Fatalf("%s was not reached: %s", point, w.agent.Tail())
		}
	}
}

// An edit that comes while a run goes on stands: the run's candidate is not staged over
// it, and the secret that opens the target is in the record or in its history.
func editedDuringRun(t *testing.T, w *badWorld) {
	before, err := w.Secret(t.Context(), "app")
	must(t, err)
	run, release := w.block(t, "before-stage")
	w.cli(t, []byte("set by hand"), "record", "edit", "app", "--password-stdin")
	release()
	w.says(t, says("run watch "+run, 8, "not changed, the former secret is in use: conflict (record.changed)", "hint: somebody edited the record while the run went on, and that edit stands"))
	if r, err := w.Record(t.Context(), "app"); err != nil || r.Candidate != nil {
		t.Errorf("a candidate was staged over the edit: %+v, %v", r, err)
	}
	if now, err := w.Secret(t.Context(), "app"); err != nil || !now.Equal(sdk.NewSecret([]byte("set by hand"))) {
		t.Errorf("the edit does not stand: %v", err)
	}
	var history struct {
		History []struct {
			Secret string `json:"secret"`
		} `json:"history"`
	}
	must(t, w.JSON(t.Context(), &history, nil, "record", "history", "app", "--reveal"))
	if len(history.History) == 0 || !before.Equal(sdk.NewSecret([]byte(history.History[0].Secret))) {
		t.Fatal("LOST: the secret that opens the target is not in the record's history")
	}
	w.cli(t, before.Expose(), "record", "edit", "app", "--password-stdin")
	w.rotates(t)

	// Once the candidate is staged, an edit has to wait.
	run, release = w.block(t, "before-apply")
	w.says(t, says("record edit app --title other", 5, "(run_outstanding)", hintOf(trust.RunOutstanding)))
	release()
	w.cli(t, nil, "run", "watch", run)
}

// Another process holds the database while a run is about to commit: the run goes on
// when it is let go.
func databaseLocked(t *testing.T, w *badWorld) {
	pool, err := sql.Open("sqlite", "file:"+w.Database()+"?_pragma=busy_timeout(10000)")
	must(t, err)
	defer pool.Close()
	pool.SetMaxOpenConns(1)
	run, release := w.block(t, "before-commit")
	_, err = pool.Exec("BEGIN EXCLUSIVE")
	must(t, err)
	release()
	w.says(t, says("record list", 6, "the server's database is not available", "hint: try again in a moment; if it stays so, the server's log tells its administrator why"))
	if log := strings.Join(w.Server.Log(), "\n"); !strings.Contains(log, "the database is locked by another process: stop the other server or tool that has this file open") {
		t.Errorf("the server's log does not tell: %s", w.Server.Tail())
	}
	_, err = pool.Exec("ROLLBACK")
	must(t, err)
	w.cli(t, nil, "run", "watch", run)
	must(t, w.opens(t.Context(), w.app, "app"))
}

// program runs one of the other programs, and gives what it printed and its exit code.
func (w *badWorld) program(t *testing.T, fault, name string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(w.Bin, name), args...)
	cmd.Env = append(os.Environ(), "ROTUNDA_FAULT_DIR="+fault)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	t.Logf("%s %s: exit %d\n%s", name, strings.Join(args, " "), cmd.ProcessState.ExitCode(), out)
	return string(out), cmd.ProcessState.ExitCode()
}

// restartServer restarts the server, its fault points in a folder of its own.
func (w *badWorld) restartServer(t *testing.T) (fault string) {
	t.Helper()
	fault = filepath.Join(w.Dir, "fault", "server")
	must(t, os.MkdirAll(fault, 0o700))
	w.Server.Stop()
	old := w.Env
	w.Env = append(w.Env, "ROTUNDA_FAULT_DIR="+fault)
	must(t, w.StartServer(t.Context()))
	w.Env = old
	must(t, w.agent.WaitSeen(t.Context()))
	return fault
}

// A token past its time is refused by the server, and by the one who would use it. It is
// not used up: by the right clocks it is good.
func tokenExpired(t *testing.T, w *badWorld) {
	token := filepath.Join(w.Dir, "token")
	w.cli(t, nil, "agent", "token", "gw2", "--pool", installation.Pool, "--no-wait", "--valid-for", "1h", "--out", token)
	dir := filepath.Join(w.Dir, "gw2")
	config, fault := filepath.Join(dir, "agent.toml"), filepath.Join(dir, "fault")
	must(t, os.MkdirAll(fault, 0o700))
	must(t, os.WriteFile(config, fmt.Appendf(nil, "data_dir = %q\n", filepath.Join(dir, "data")), 0o600))
	refused := func(words ...string) {
		t.Helper()
		out, exit := w.program(t, fault, "rotunda-agent", "enrol", "--config", config, "--token-file", token)
		if exit != int(exitcode.Denied) {
			t.Errorf("exit %d", exit)
		}
		for _, word := range words {
			if !strings.Contains(out, word) {
				t.Errorf("it does not say %q", word)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "data", "agent.key")); err == nil {
			t.Error("a key file was left behind")
		}
	}
	mend := w.clock(t, fault, "2h")
	refused("the token is expired: it was good until", "ask for a new one, if this host's clock is right")
	mend()
	server := w.restartServer(t)
	w.cli(t, nil, "org", "show") // its certificate is of today
	mend = w.clock(t, server, "2h")
	refused("the device or enrolment is past its time", "hint: ask an administrator, or another device of yours, for a new token")
	mend()
	if out, exit := w.program(t, fault, "rotunda-agent", "enrol", "--config", config, "--token-file", token); exit != 0 {
		t.Errorf("the token does not work by the right clocks: %s", out)
	}
	w.cli(t, nil, "agent", "remove", "gw2", "--yes", "--no-rekey", "--no-rotate")
}

// A server whose clock is off is found by whoever looks.
func serverClockOff(t *testing.T, w *badWorld) {
	fault := w.restartServer(t)
	mend := w.clock(t, fault, "10m")
	w.agent.Stop()
	must(t, w.agent.StartUnwell(t.Context()))
	ok, body, err := w.agent.Health(t.Context())
	var h struct{ ClockSkewMS int64 }
	if err != nil || json.Unmarshal(body, &h) != nil || ok || h.ClockSkewMS < 9*60*1000 || h.ClockSkewMS > 11*60*1000 {
		t.Errorf("the agent's health does not tell of ten minutes: %v, %s", err, body)
	}
	out, exit := w.program(t, w.agent.Fault, "rotunda-agent", "doctor", "--config", filepath.Join(w.agent.Dir, "agent.toml"))
	if exit != int(exitcode.Findings) || !strings.Contains(out, "bad   clock      the server's clock differs from this host's by ") || !strings.Contains(out, "set the clocks by NTP") {
		t.Errorf("the agent's doctor does not tell of the clock")
	}
	found, err := w.CLI(t.Context(), nil, "doctor")
	if err == nil || !bytes.Contains(found, []byte("fail  clock")) || !bytes.Contains(found, []byte("set the clocks by NTP")) {
		t.Errorf("rotunda doctor does not tell of the clock: %v\n%s", err, found)
	}
	mend()
	w.restartAgent(t)
	if out, exit := w.program(t, w.agent.Fault, "rotunda-agent", "doctor", "--config", filepath.Join(w.agent.Dir, "agent.toml")); exit != 0 {
		t.Errorf("the agent's doctor: %s", out)
	}
}

// A firing that comes within the mandate's least interval after a rotation by hand is
// skipped: no run failed, nothing waits, and a single time is over by it.
func firedWhenFresh(t *testing.T, w *badWorld) {
	bad := func() (n int) {
		var list struct {
			Runs []json.RawMessage `json:"runs"`
		}
		must(t, w.JSON(t.Context(), &list, nil, "run", "list", "--account", "app", "--failed"))
		return len(list.Runs)
	}
	before, failed := w.Secret(t.Context(), "app")
	must(t, failed)
	failures := bad()
	at := time.Now().Add(10 * time.Second) // two programs are to look at it before
	w.cli(t, nil, "rotation", "set", "app", "--at", at.Format(time.RFC3339Nano), "--min-interval", "1h")
	if out := w.cli(t, nil, "rotation", "preview", "app"); !strings.Contains(out, "too_often") {
		t.Errorf("the preview does not say that it will be refused: %s", out)
	}
	var rotation struct {
		State    string `json:"state"`
		Reason   string `json:"reason"`
		Failures int    `json:"failures"`
	}
	p := pauses{}
	for end := at.Add(20 * time.Second); rotation.State != "done"; p.sleep() {
		must(t, w.JSON(t.Context(), &rotation, nil, "rotation", "show", "app"))
		if time.Now().After(end) {
			t.Fatalf("%+v: %s", rotation, w.agent.Tail())
		}
	}
	if rotation.Reason != string(trust.TooOften) || rotation.Failures != 0 {
		t.Errorf("%+v", rotation)
	}
	if n := bad(); n != failures {
		t.Errorf("%d failed runs, %d before", n, failures)
	}
	if out := w.cli(t, nil, "events", "--name", "schedule.skipped", "--limit", "1"); !strings.Contains(out, "too_often") {
		t.Errorf("no event tells of it: %s", out)
	}
	if now, err := w.Secret(t.Context(), "app"); err != nil || !now.Equal(before) {
		t.Errorf("the secret was changed: %v", err)
	}
	w.cli(t, nil, "rotation", "set", "app", "--manual")
}
