package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// fakeProcess makes surroundings of which nothing is the real process's.
func fakeProcess(t *testing.T, args ...string) (p *process, stdout, stderr *bytes.Buffer) {
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	dir := t.TempDir()
	return &process{
		args: args, getenv: func(string) string { return "" },
		stdin: strings.NewReader(""), stdout: stdout, stderr: stderr,
		hideInput: func() (func(), error) { return func() {}, nil },
		now:       func() time.Time { return time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) },
		dir:       dir, home: dir,
		notify: func(chan<- os.Signal) func() { return func() {} },
		goos:   "linux", goarch: "amd64",
	}, stdout, stderr
}

// TestHelpGolden holds the help of every visible command against a file.
func TestHelpGolden(t *testing.T) {
	p, _, _ := fakeProcess(t)
	known := map[string]bool{}
	for _, cmd := range visible((&cli{p: p}).tree()) {
		path := strings.Fields(cmd.CommandPath())
		name := strings.Join(path, "_") + ".golden"
		known[name] = true
		t.Run(cmd.CommandPath(), func(t *testing.T) {
			p, stdout, stderr := fakeProcess(t, append(path[1:], "--help")...)
			if code := run(p); code != exitOK || stderr.Len() > 0 {
				t.Fatalf("exit %d: %s", code, stderr)
			}
			golden(t, filepath.Join("testdata", "help", name), stdout.Bytes())
		})
	}
	files, err := os.ReadDir(filepath.Join("testdata", "help"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !known[f.Name()] {
			t.Errorf("testdata/help/%s is of no command", f.Name())
		}
	}
}

// TestReferenceIsCurrent: docs/cli.md is what the program says of itself.
func TestReferenceIsCurrent(t *testing.T) {
	p, stdout, stderr := fakeProcess(t, "docs")
	if code := run(p); code != exitOK {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	golden(t, filepath.Join("..", "..", "docs", "cli.md"), stdout.Bytes())
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not current: go test ./cmd/rotunda -update\n--- want\n%s\n--- got\n%s", file, want, got)
	}
}

// TestEveryCommandIsSaid: each has a sentence, in lower case and without a full
// stop, and no flag without a meaning.
func TestEveryCommandIsSaid(t *testing.T) {
	p, _, _ := fakeProcess(t)
	for _, cmd := range visible((&cli{p: p}).tree()) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || cmd.Short != strings.ToLower(cmd.Short[:1])+cmd.Short[1:] {
			t.Errorf("%s: %q", cmd.CommandPath(), cmd.Short)
		}
		checkFlags(t, cmd)
	}
}

func checkFlags(t *testing.T, cmd *cobra.Command) {
	t.Helper()
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
			t.Errorf("%s --%s: %q", cmd.CommandPath(), f.Name, f.Usage)
		}
		// A secret's own flag is a name of where it comes from, never the secret.
		for _, word := range []string{"password", "passphrase", "secret", "setup-code"} {
			if strings.Contains(f.Name, word) && f.Value.Type() == "string" && !strings.HasSuffix(f.Name, "-file") {
				t.Errorf("%s --%s takes a secret from the command line", cmd.CommandPath(), f.Name)
			}
		}
	})
}
