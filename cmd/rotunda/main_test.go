package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"
	_ "modernc.org/sqlite"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"rotunda": main})
}

// TestScripts runs the program without a server: what it refuses, what it asks,
// what it prints.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", Setup: home, Cmds: words, RequireExplicitExec: true,
	})
}

// TestServer runs the program against a real server, each script with one of its own.
func TestServer(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts the server and an agent")
	}
	bin := os.Getenv("ROTUNDA_BIN")
	if bin == "" {
		bin = filepath.Join(t.TempDir(), "bin")
		if err := installation.Build(bin); err != nil {
			t.Fatal(err)
		}
		// Plugins run as users of their own, who must pass through.
		for _, dir := range []string{bin, filepath.Dir(bin), filepath.Dir(filepath.Dir(bin))} {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("alone", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir: "testdata/server", Cmds: words, RequireExplicitExec: true,
			Setup: func(e *testscript.Env) error { return withServer(t, e, bin) },
		})
	})
	t.Run("agent", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir: "testdata/agent", Cmds: words, RequireExplicitExec: true,
			Setup: func(e *testscript.Env) error { return withAgent(t, e, bin, targets.Postgres(t)) },
		})
	})
}

// withServer gives a script a server on which nothing was made yet.
func withServer(t *testing.T, e *testscript.Env, bin string) error {
	if err := home(e); err != nil {
		return err
	}
	i := &installation.Installation{Options: installation.Options{Bin: bin, Dir: e.WorkDir}}
	for _, d := range []string{"server", "log"} {
		if err := os.MkdirAll(filepath.Join(e.WorkDir, d), 0o700); err != nil {
			return err
		}
	}
	if err := i.StartServer(t.Context()); err != nil {
		return err
	}
	e.Defer(i.Close)
	e.Values[putback{}] = i
	programs(e, bin)
	key, err := exec.Command(filepath.Join(bin, "rotunda-server"), "machine-key", "--data", filepath.Join(e.WorkDir, "server")).Output()
	e.Setenv("SERVER", i.Addr)
	e.Setenv("MACHINE_KEY", strings.TrimSpace(string(key)))
	return err
}

// withAgent gives a script an organisation with an agent, a PostgreSQL and two
// accounts on it, and this device unlocked.
func withAgent(t *testing.T, e *testscript.Env, bin string, pg *targets.PG) error {
	if err := home(e); err != nil {
		return err
	}
	i, err := installation.Start(t.Context(), installation.Options{Bin: bin, Dir: e.WorkDir})
	if err != nil {
		return err
	}
	e.Defer(i.Close)
	programs(e, bin)
	e.Setenv("XDG_RUNTIME_DIR", filepath.Join(e.WorkDir, "home"))
	if _, err := i.AddAgent(t.Context(), "gw1", installation.Pool); err != nil {
		return err
	}
	if err := i.AddFolder(t.Context()); err != nil {
		return err
	}
	if err := i.AddPostgres(t.Context(), "db", pg); err != nil {
		return err
	}
	for _, title := range []string{"app", "reports"} {
		if _, err := i.AddRole(t.Context(), pg, "db", title, "cli_"+title); err != nil {
			return err
		}
	}
	return nil
}

// programs puts the built programs on a script's path, this one's too: under the race
// detector each start takes several times as long.
func programs(e *testscript.Env, bin string) {
	e.Setenv("PATH", bin+string(filepath.ListSeparator)+e.Getenv("PATH"))
	e.Setenv("PLUGINS", filepath.Join(bin, "plugins"))
}

// home gives a script profiles and passphrases of its own.
func home(e *testscript.Env) error {
	e.Setenv("ROTUNDA_HOME", filepath.Join(e.WorkDir, "home"))
	run := filepath.Join(e.WorkDir, "run")
	e.Setenv("XDG_RUNTIME_DIR", run)
	e.Setenv("TZ", "UTC")
	e.Setenv("KIT_KEY", installation.KitRecipient)
	e.Setenv("GORACE", "atexit_sleep_ms=10") // else each program that is built for the race detector ends a second late
	e.Setenv("ESC", "red\x1b[31m name")
	for name, text := range map[string]string{
		"pass": "correct horse battery\n", "other": "another horse entirely\n", "short": "short\n", "empty": "",
		"big": strings.Repeat("large ", 20_000),
	} {
		if err := os.WriteFile(filepath.Join(e.WorkDir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return os.Mkdir(run, 0o700)
}

// words are the commands of the scripts beside testscript's own.
var words = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	// exits CODE COMMAND...: runs the command, which ends with exactly this code.
	"exits": exits,
	// agekey NAME: makes a key of age's; its identity is the file NAME, its recipient $NAME.
	"agekey": func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 1 {
			ts.Fatalf("usage: agekey NAME")
		}
		id, err := age.GenerateX25519Identity()
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(id.String()+"\n"), 0o600))
		ts.Setenv(args[0], id.Recipient().String())
	},
	// json PATH VALUE: the standard output is one line of JSON with this value there.
	"json": func(ts *testscript.TestScript, neg bool, args []string) {
		if len(args) != 2 {
			ts.Fatalf("usage: json PATH VALUE")
		}
		if got := jsonAt(ts, "stdout", args[0]); (got == args[1]) == neg {
			ts.Fatalf("%s is %q, not as wanted: %q", args[0], got, args[1])
		}
	},
	// jsonerr PATH VALUE: the same of the last line of standard error.
	"jsonerr": func(ts *testscript.TestScript, neg bool, args []string) {
		if len(args) != 2 {
			ts.Fatalf("usage: jsonerr PATH VALUE")
		}
		if got := jsonAt(ts, "stderr", args[0]); (got == args[1]) == neg {
			ts.Fatalf("%s is %q, not as wanted: %q", args[0], got, args[1])
		}
	},
	// capture NAME PATH: keeps a value of the standard output's JSON in a variable.
	"capture": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) != 2 {
			ts.Fatalf("usage: capture NAME PATH")
		}
		ts.Setenv(args[0], jsonAt(ts, "stdout", args[1]))
	},
	// token FIELD IN OUT: writes the token in IN with another seed, head, ca or server.
	"token": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) != 3 {
			ts.Fatalf("usage: token seed|head|ca|server IN OUT")
		}
		t, err := enrol.ParseToken(sdk.NewSecret([]byte(ts.ReadFile(args[1]))))
		ts.Check(err)
		switch args[0] {
		case "seed":
			seed := t.Seed.Expose()
			seed[0] ^= 1
			t.Seed = sdk.NewSecret(seed)
		case "head":
			t.Head[0] ^= 1
		case "ca":
			t.CAPin[0] ^= 1
		case "server":
			t.Server = "127.0.0.1:1"
		default:
			ts.Fatalf("a token has no %s", args[0])
		}
		ts.Check(os.WriteFile(ts.MkAbs(args[2]), t.Text().Expose(), 0o600))
	},
	// settings FILE KEY=VALUE...: writes an agent's settings.
	"settings": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) < 2 {
			ts.Fatalf("usage: settings FILE KEY=VALUE...")
		}
		var text strings.Builder
		for _, a := range args[1:] {
			name, value, _ := strings.Cut(a, "=")
			fmt.Fprintf(&text, "%s = %q\n", name, value)
		}
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text.String()), 0o600))
	},
	// putback FILE: stops the script's server, and starts one with what the backup holds.
	"putback": func(ts *testscript.TestScript, _ bool, args []string) {
		i := ts.Value(putback{}).(*installation.Installation)
		i.Server.Stop()
		data := filepath.Dir(i.Database())
		ts.Check(ts.Exec("rotunda-server", "restore", "--data", data, "--replace", args[0]))
		ts.Check(i.StartServer(context.Background()))
	},
	// holding FILE CODE COMMAND...: exits, while another process, which this test is,
	// holds the write lock of the database.
	"holding": func(ts *testscript.TestScript, neg bool, args []string) {
		if len(args) < 3 || neg {
			ts.Fatalf("usage: holding FILE CODE COMMAND...")
		}
		release, err := hold(ts.MkAbs(args[0]))
		ts.Check(err)
		defer release()
		exits(ts, false, args[1:])
	},
}

// putback names the script's server among its values.
type putback struct{}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		got = ended.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit %d, want %d", got, want)
	}
}

// hold takes the write lock of an SQLite database, and makes the database where there
// is none.
func hold(path string) (release func(), err error) {
	pool, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)") // the server writes, too
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(1)
	if _, err := pool.Exec("BEGIN EXCLUSIVE"); err != nil {
		pool.Close()
		return nil, err
	}
	return func() { pool.Close() }, nil
}

// jsonAt is the value at a path such as records.0.title.
func jsonAt(ts *testscript.TestScript, file, path string) string {
	text := strings.TrimSpace(ts.ReadFile(file))
	if file == "stderr" {
		text = text[strings.LastIndexByte(text, '\n')+1:]
	}
	var v any
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		ts.Fatalf("%s is not JSON: %v", file, err)
	}
	if strings.Contains(text, "\n") || dec.More() {
		ts.Fatalf("%s holds more than one line of JSON", file)
	}
	for _, part := range strings.Split(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			next, ok := at[part]
			if !ok {
				return "(none)"
			}
			v = next
		case []any:
			if part == "len" {
				return fmt.Sprint(len(at))
			}
			n, err := strconv.Atoi(part)
			if err != nil || n < 0 || n >= len(at) {
				return "(none)"
			}
			v = at[n]
		default:
			return "(none)"
		}
	}
	return fmt.Sprint(v)
}
