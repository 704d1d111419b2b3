package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// luaOfTests is the plugin lua, as it was built with the programs, or built now.
func luaOfTests(t *testing.T) string {
	t.Helper()
	found, _ := filepath.Glob(filepath.Join(os.Getenv("ROTUNDA_BIN"), "plugins", "lua@*"))
	if os.Getenv("ROTUNDA_BIN") != "" && len(found) == 1 {
		return found[0]
	}
	if testing.Short() {
		t.Skip("builds the plugin lua")
	}
	program := filepath.Join(t.TempDir(), "lua")
	if out, err := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, "../../plugins/lua").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// A new script of each kind is one in which the plugin finds nothing wrong, and its tests
// pass, and do not pass when the script does something else.
func TestNewScriptsPass(t *testing.T) {
	lua, dir := luaOfTests(t), t.TempDir()
	do := func(want exit, args ...string) string {
		t.Helper()
		p, stdout, stderr := fakeProcess(t, args...)
		p.dir, p.getenv = dir, func(name string) string { return map[string]string{"ROTUNDA_LUA": lua}[name] }
		if got := run(p); got != want {
			t.Errorf("%s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, want, stdout, stderr)
		}
		return stdout.String()
	}
	made := [][]string{{string(script.AfterRotation), "edits-a-file", "--file"}}
	for _, kind := range script.Kinds {
		made = append(made, []string{string(kind), strings.ReplaceAll(string(kind), "_", "-")})
	}
	for _, args := range made {
		name := args[1]
		do(exitOK, append([]string{"script", "new"}, args...)...)
		do(exitOK, "script", "check", name+".lua")
		if out := do(exitOK, "script", "test", name+".lua"); !strings.Contains(out, " passed, 0 failed") {
			t.Errorf("%s: %s", name, out)
		}
		file := filepath.Join(dir, name+".lua")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		other := strings.NewReplacer("return sdk.changed", "return sdk.unknown", "0123456789", "x0", "row.rolname", "row.rolsuper").Replace(string(text))
		if err := os.WriteFile(file, []byte(other), 0o600); err != nil {
			t.Fatal(err)
		}
		do(exitFailed, "script", "test", name+".lua")
		if err := os.WriteFile(file, []byte(string(text)+"os.exit()\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := do(exitFindings, "script", "check", name+".lua"); !strings.Contains(out, ": there is no global os\n    os.exit()\n") {
			t.Errorf("%s: %s", name, out)
		}
	}
	do(exitUsage, "script", "new", string(script.Rotator), "x", "--file")
}

// A new rotator with a kit passes it, and one that sets nothing does not: on the service that
// the kit starts, by the program that agents run scripts by.
func TestNewRotatorPassesItsKit(t *testing.T) {
	targets.Longer(t)
	clone, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	do := func(want exit, args ...string) string {
		t.Helper()
		p, stdout, stderr := fakeProcess(t, args...)
		p.dir = dir
		if got := run(p); got != want {
			t.Errorf("%s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, want, stdout, stderr)
		}
		return stdout.String()
	}
	do(exitOK, "script", "new", "rotator", "users", "--rotunda", clone)
	if out := do(exitOK, "script", "test", "users.lua", "--kit"); !strings.Contains(out, "ok        TestConformance/KillEveryStep") {
		t.Error(out)
	}
	file := filepath.Join(dir, "users.lua")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lies := strings.Replace(string(text), "function set_secret(_, job)", "function set_secret(_, job)\n  if true then return sdk.changed end", 1)
	if err := os.WriteFile(file, []byte(lies), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := do(exitFailed, "script", "test", "users.lua", "--kit"); !strings.Contains(out, "FAILED    TestConformance/FirstChange") {
		t.Error(out)
	}
}
