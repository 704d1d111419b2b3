//go:build unix

// Package docs_test holds the manual against the programs: what a page tells the
// reader to type is typed, and what it shows is compared.
package docs_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
)

// block is a fenced block of a page: ```sh is run, ```text directly after it is what
// it prints, ```sh by-hand is left to the reader.
type block struct {
	page    string
	line    int
	section string
	lang    string
	text    string
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

func blocks(t *testing.T, page string) []block {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var all []block
	var open *block
	section := ""
	for i, line := range strings.Split(string(data), "\n") {
		switch {
		case open == nil && strings.HasPrefix(line, "```"):
			open = &block{page: page, line: i + 1, section: section, lang: strings.TrimPrefix(line, "```")}
		case open == nil && strings.HasPrefix(line, "## "):
			section = strings.TrimPrefix(line, "## ")
		case line == "```":
			all = append(all, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	if open != nil {
		t.Fatalf("%s: the block does not end", open)
	}
	return all
}

// The first pages are one story in one folder and one shell, so they are run as one.
func TestManualRuns(t *testing.T) {
	if _, err := exec.LookPath("psql"); err != nil {
		if err := targets.Install(t.Context(), func(s string) { t.Log(s) }, targets.PostgreSQL); err != nil {
			t.Skipf("left out: %v", err)
		}
	}
	const ending = "Ending it"
	var story, end []block
	_, noNode := exec.LookPath("npm")
	if err := targets.Install(t.Context(), func(s string) { t.Log(s) }, targets.OpenSSHD); err != nil {
		t.Logf("scripts/first.md is left out: %v", err)
	}
	for _, page := range []string{"getting-started.md", "scripts/first.md", "plugins/write.md", "plugins/test.md", "plugins/ship.md", "plugins/reference.md", "scripts/README.md", "machines.md", "people.md"} {
		for _, b := range blocks(t, page) {
			switch {
			case b.section == ending:
				end = append(end, b)
			case page == "scripts/first.md" && !targets.Installed(targets.OpenSSHD):
			case b.section == "In JavaScript" && noNode != nil:
				t.Logf("%s: left out: %v", b, noNode)
			default:
				story = append(story, b)
			}
		}
	}
	if len(end) == 0 {
		t.Fatalf("no page has a section %q", ending)
	}
	run(t, append(story, end...))
}

// run types the blocks into one shell and compares what they print.
func run(t *testing.T, all []block) {
	t.Helper()
	s := newShell(t)
	var script strings.Builder
	script.WriteString("set -euo pipefail\n")
	typed := 0
	for _, b := range all {
		switch b.lang {
		case "sh":
			typed++
			fmt.Fprintf(&script, "printf '\\n\\036%s\\n'\n%s", b, b.text)
		case "sh by-hand":
			t.Logf("%s: left out: it is for the reader's hand", b)
		case "go":
			if !inTheExample(t, b.text) {
				t.Errorf("%s: the example's code is another", b)
			}
		case "text", "": // compared below; a drawing
		default:
			t.Errorf("%s: %q is neither run nor compared", b, b.lang)
		}
	}
	script.WriteString("printf '\\n\\036the end\\n'\n")
	out, err := s.bash(script.String())
	out = strings.ReplaceAll(out, s.dir, "/tmp/rotunda-try") // as the page has it
	printed := map[string]string{}
	last := "the beginning"
	for _, part := range strings.Split(out, "\n\x1e")[1:] {
		name, text, _ := strings.Cut(part, "\n")
		printed[name], last = text, name
	}
	if err != nil || last != "the end" {
		t.Fatalf("%s does not do what the page says: %v\n%s%s", last, err, printed[last], s.logs())
	}
	compared := 0
	for i, b := range all {
		if b.lang != "text" {
			continue
		}
		if i == 0 || all[i-1].lang != "sh" {
			t.Errorf("%s: shows an output, but not directly after a command that is run", b)
			continue
		}
		compared++
		if got := printed[all[i-1].String()]; !matches(normal(b.text), normal(got)) {
			t.Errorf("%s prints\n%s\nand the page shows\n%s\ncompared are\n%q\n%q", all[i-1], got, b.text, normal(got), normal(b.text))
		}
	}
	t.Logf("%d blocks were run, %d outputs compared", typed, compared)
}

// inTheExample says whether a text stands in an example's code, so that the page shows
// what is built.
func inTheExample(t *testing.T, text string) bool {
	t.Helper()
	files, err := filepath.Glob("../examples/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(f string) bool {
		code, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(code, []byte(text))
	})
}

// shell is a folder and an environment like the reader's.
type shell struct {
	t     *testing.T
	dir   string
	env   []string
	ports *strings.Replacer
}

func newShell(t *testing.T) *shell {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t, "rotunda-page-")
	bin := os.Getenv("ROTUNDA_BIN")
	if bin == "" {
		bin = folder(t, "rotunda-page-bin-")
		if err := installation.Build(bin); err != nil {
			t.Fatal(err)
		}
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "ROTUNDA_") || strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "MAKE")
	})
	return &shell{
		t: t, dir: dir,
		// What the pages build bears no path either, so that another clone need not compile it again.
		env: append(env, "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -trimpath"), "ROTUNDA="+root, "ROTUNDA_BIN="+bin, "PATH="+bin+":"+os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC", "XDG_RUNTIME_DIR="+t.TempDir()),
		// The pages name fixed ports, which others may have on this machine.
		ports: strings.NewReplacer("8443", freePort(t), "9641", freePort(t), "9900", freePort(t), "2222", freePort(t)),
	}
}

// folder is one through which the plugins' users can pass.
func folder(t *testing.T, prefix string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func freePort(t *testing.T) string {
	t.Helper()
	port, err := installation.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(port)
}

// bash runs a script in a process group of its own, of which nothing is left
// afterwards.
func (s *shell) bash(script string) (string, error) {
	file := filepath.Join(s.dir, ".page.sh")
	if err := os.WriteFile(file, []byte(s.ports.Replace(script)), 0o600); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", file)
	cmd.Dir, cmd.Env = s.dir, s.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if cmd.Process == nil {
		return "", err
	}
	// A page that broke off left its servers: they are asked first, so that they end
	// what they have started.
	group := -cmd.Process.Pid
	_ = syscall.Kill(group, syscall.SIGTERM)
	for end := time.Now().Add(15 * time.Second); syscall.Kill(group, 0) == nil && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond) // they are not our children
	}
	_ = syscall.Kill(group, syscall.SIGKILL)
	return out.String(), err
}

// logs is what the programs logged last.
func (s *shell) logs() string {
	var b strings.Builder
	files, _ := filepath.Glob(filepath.Join(s.dir, "*.log"))
	for _, f := range files {
		data, _ := os.ReadFile(f)
		fmt.Fprintf(&b, "--- %s\n%s", filepath.Base(f), data[max(0, len(data)-2000):])
	}
	return b.String()
}

// Values that differ from run to run.
var varying = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?`), "TIME"},
	{regexp.MustCompile(`\b(?:[0-9a-f]{4} ){15}[0-9a-f]{4}\b`), "FINGERPRINT"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "DIGEST"},
	{regexp.MustCompile(`(^|[^A-Za-z0-9_-])[A-Za-z0-9_-]{22}($|[^A-Za-z0-9_-])`), "${1}ID$2"},
	{regexp.MustCompile(`(localhost|127\.0\.0\.1)([:"]?,? ?(?:port )?)\d+`), "$1${2}PORT"},
	{regexp.MustCompile(`\b\d+ s ago\b`), "AGO"},
	{regexp.MustCompile(`\d+\.\d+ ?s\b`), "SECONDS"},
	{regexp.MustCompile(`\b\d+ ms\b`), "MILLISECONDS"},
	{regexp.MustCompile(`^\d+ +TIME`), "SEQ TIME"},
	{regexp.MustCompile(`[ \t]+`), " "},
}

// normal is a text without what differs from run to run.
func normal(text string) []string {
	var lines []string
	for _, l := range strings.Split(strings.TrimSpace(text), "\n") {
		for _, v := range varying {
			l = v.re.ReplaceAllString(l, v.with)
		}
		lines = append(lines, strings.TrimSpace(l))
	}
	return lines
}

// matches compares an output with what the page shows of it: … alone on its line
// stands for any lines, within a line for any characters.
func matches(shown, printed []string) bool {
	if len(shown) == 0 {
		return len(printed) == 0
	}
	if shown[0] == "…" {
		return matches(shown[1:], printed) || len(printed) > 0 && matches(shown, printed[1:])
	}
	if len(printed) == 0 {
		return false
	}
	line := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(shown[0]), "…", ".*") + "$")
	return line.MatchString(printed[0]) && matches(shown[1:], printed[1:])
}

// What cannot fail proves nothing.
func TestComparisonFails(t *testing.T) {
	for _, row := range []struct {
		shown, printed string
		same           bool
	}{
		{"a\nb", "a\nb", true},
		{"a\nb", "a\nc", false},
		{"a", "a\nb", false},
		{"a\n…", "a\nb\nc", true},
		{"…\nc", "a\nb\nc", true},
		{"…\nc", "a\nb", false},
		{"x … z", "x y z", true},
		{"at 2026-01-01 10:00:00 by", "at 2027-02-03 11:12:13  by", true},
		{"at 2026-01-01 10:00:00 by", "at once by", false},
		{"run: 7wBo6tV8IvDyLihPKbRQJQ", "run: cYqFMkvBlSxnp6gL4_Iu6A", true},
	} {
		if got := matches(normal(row.shown), normal(row.printed)); got != row.same {
			t.Errorf("%q for %q: %v", row.shown, row.printed, got)
		}
	}
}
