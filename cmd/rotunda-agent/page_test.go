package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/agent/policy"
)

// These tests hold docs/agent.md and the unit against the program.

func page(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every setting is on the page with its default, and the page has no other.
func TestSettingsOfThePage(t *testing.T) {
	shown := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (.*?) \\| .* \\|$").FindAllStringSubmatch(page(t), -1) {
		shown[m[1]] = strings.Trim(m[2], "`")
	}
	file := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := loadSettings(file)
	if err != nil {
		t.Fatal(err)
	}
	// What stands for a default that is no constant, and for one that is applied later.
	words := map[string]string{"plugin_dir": "plugins` beside the program", "key_file": "agent.key` in `data_dir", "runs": "64", "processes": "16"}
	v := reflect.ValueOf(*s)
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("toml")
		want := v.Field(i).String()
		if want == "" {
			want = "none"
		}
		if w := words[key]; w != "" {
			want = w
		}
		if got, ok := shown[key]; !ok || got != want {
			t.Errorf("%s: the page says its default is %q, want %q", key, got, want)
		}
		delete(shown, key)
	}
	for key := range shown {
		t.Errorf("the page has the setting %s, and the agent has not", key)
	}
}

func TestPolicyOfThePage(t *testing.T) {
	_, rest, ok := strings.Cut(page(t), "```toml\n")
	text, _, end := strings.Cut(rest, "```")
	if !ok || !end {
		t.Fatal("the page shows no policy")
	}
	p, err := policy.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range policy.Actions {
		if p.Permit(a) != nil {
			t.Errorf("the page's policy lists all actions but %s", a)
		}
	}
}

// The unit is one that systemd understands, and starts what the page installs.
func TestUnit(t *testing.T) {
	unit, err := os.ReadFile("../../examples/systemd/rotunda-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	const start = "ExecStart=/usr/local/bin/rotunda-agent run"
	if !bytes.Contains(unit, []byte(start+"\n")) {
		t.Fatalf("the unit has no line %s", start)
	}
	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skipf("left out: systemd does not read the unit: %v", err)
	}
	// Nothing is installed here: any program stands for the agent.
	file := filepath.Join(t.TempDir(), "rotunda-agent.service")
	if err := os.WriteFile(file, bytes.Replace(unit, []byte(start), []byte("ExecStart=/bin/true run"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), verify, "verify", "--man=no", file).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
