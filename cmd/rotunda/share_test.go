package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/installation"
)

// people is an installation with members, each with a profile of his name.
type people struct {
	t *testing.T
	i *installation.Installation
}

func newPeople(t *testing.T, names ...string) *people {
	t.Helper()
	p := startPeople(t)
	for _, name := range names {
		p.join(name)
	}
	return p
}

func startPeople(t *testing.T) *people {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and starts the server")
	}
	i, err := installation.Start(t.Context(), installation.Options{Bin: programsDir(t), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return &people{t, i}
}

func (p *people) join(name string, flags ...string) {
	p.t.Helper()
	token := filepath.Join(p.i.Dir, name+".token")
	p.do(append([]string{"member", "add", name, "--out", token, "--no-wait"}, flags...)...)
	p.do("join", token, "--profile", name, "--passphrase-file", filepath.Join(p.i.Dir, "passphrase"), "--unlock-for", "12h")
}

func (p *people) do(args ...string) string {
	p.t.Helper()
	out, err := p.i.CLI(p.t.Context(), []byte("the-secret\n"), args...)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(out)
}

// fails runs what has to fail, and gives what it printed.
func (p *people) fails(reason string, args ...string) string {
	p.t.Helper()
	out, err := p.i.CLI(p.t.Context(), []byte("the-secret\n"), args...)
	if err == nil || !strings.Contains(err.Error(), reason) {
		p.t.Fatalf("%s: got %v, want %q\n%s", strings.Join(args, " "), err, reason, out)
	}
	return string(out)
}

func (p *people) read(into any, args ...string) {
	p.t.Helper()
	if err := json.Unmarshal([]byte(p.do(append(args, "--json")...)), into); err != nil {
		p.t.Fatal(err)
	}
}

// findings are what doctor says of removals.
func (p *people) findings(args ...string) (list []string) {
	p.t.Helper()
	out, _ := p.i.CLI(p.t.Context(), nil, append([]string{"doctor", "--json"}, args...)...)
	var doctor struct {
		Findings []struct{ Check, Status, Text string }
	}
	if err := json.Unmarshal(out, &doctor); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
	for _, f := range doctor.Findings {
		if f.Check == "removals" {
			list = append(list, f.Status+" "+f.Text)
		}
	}
	if len(list) == 0 {
		p.t.Fatalf("doctor did not look at removals: %s", out)
	}
	return list
}

// wants fails unless a text stands in the list.
func (p *people) wants(list []string, text string) {
	p.t.Helper()
	if !slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, text) }) {
		p.t.Errorf("nothing says %q in %q", text, list)
	}
}

type apps struct {
	Apps []struct {
		Name    string
		Held    bool
		Clients []struct{ Name string }
		KnownTo []string `json:"known_to"`
	}
}

// Who holds an application's key, as folders and rights come and go.
func TestApplicationKey(t *testing.T) {
	p := newPeople(t, "Bob", "Mallory")
	seen := func(profile string) (a apps) {
		t.Helper()
		args := []string{"app", "list"}
		if profile != "" {
			args = append(args, "--profile", profile)
		}
		p.read(&a, args...)
		return a
	}
	p.do("folder", "add", "Production")
	p.do("folder", "add", "Second")
	p.do("app", "add", "ci")
	p.do("folder", "grant", "Production", "Bob", "share")
	p.do("folder", "list", "--profile", "Bob")
	// The first folder is an administrator's to give.
	p.fails("not_found", "folder", "grant", "Production", "ci", "read", "--profile", "Bob")
	p.do("folder", "grant", "Production", "ci", "read")
	p.do("app", "token", "ci", "runner", "--out", filepath.Join(p.i.Dir, "ci.token"))

	p.do("folder", "add", "Own", "--profile", "Mallory")
	p.fails("not_found", "folder", "grant", "Own", "ci", "read", "--profile", "Mallory")
	p.do("folder", "list")
	if a := seen("Mallory"); len(a.Apps) != 0 {
		t.Errorf("who has no role sees %+v", a)
	}
	if a := seen("Bob"); len(a.Apps) != 1 || !a.Apps[0].Held || len(a.Apps[0].Clients) != 1 {
		t.Errorf("who shares its folder sees %+v", a)
	}

	// What Bob may not read does not come under a key that he has.
	p.fails("the application's key is, or was, with Bob / first device, who may not read the folder", "folder", "grant", "Second", "ci", "read")
	p.do("folder", "grant", "Second", "Bob", "read")
	p.do("folder", "grant", "Second", "ci", "read")
	if a := seen("Bob"); len(a.Apps) != 1 || a.Apps[0].Held || len(a.Apps[0].Clients) != 0 {
		t.Errorf("who shares one of two folders sees %+v", a)
	}
	p.fails("no client", "app", "remove", "ci", "--client", "runner", "--profile", "Bob", "--yes")
	if a := seen(""); len(a.Apps[0].KnownTo) != 0 {
		t.Errorf("he reads all its folders: %+v", a)
	}
	p.do("folder", "grant", "Second", "Bob", "none")
	if a := seen(""); len(a.Apps[0].KnownTo) != 1 || !strings.HasPrefix(a.Apps[0].KnownTo[0], "Bob (") {
		t.Errorf("with whom the key is: %+v", a)
	}
	p.wants(p.findings(), "could hold the key of the application ci, under which its folders' keys are")
	p.do("folder", "grant", "Production", "ci", "none", "--profile", "Bob") // his folder stays his to withdraw
}

// An administrator who may not read a folder ends somebody's membership: what he could
// not look at is said, and nothing is called done.
func TestRemovalWithoutReading(t *testing.T) {
	p := newPeople(t, "Grace")
	p.join("Ben", "--roles", "admin")
	p.do("folder", "add", "Payroll")
	p.do("agent", "token", "gw1", "--pool", "dc1", "--no-wait", "--out", filepath.Join(p.i.Dir, "gw1.token"))
	p.do("folder", "grant", "Payroll", "dc1", "read", "--yes")
	p.do("resource", "add", "db1", "--folder", "Payroll", "--type", "database", "--pool", "dc1", "--plugin", "postgres", "--host", "db1.internal", "--port", "5432", "--tls", "system")
	p.do("record", "add", "payroll", "--folder", "Payroll", "--resource", "db1", "--login", "payroll", "--password-stdin")
	p.do("folder", "grant", "Payroll", "Grace", "read")
	p.do("folder", "list", "--profile", "Grace")

	var plan struct {
		Folders []struct {
			Records int
			Unread  bool `json:"not_looked_at"`
		}
	}
	p.read(&plan, "member", "remove", "Grace", "--plan", "--profile", "Ben")
	if len(plan.Folders) != 1 || !plan.Folders[0].Unread {
		t.Errorf("the plan: %+v", plan)
	}
	shown := p.do("member", "remove", "Grace", "--plan", "--profile", "Ben")
	p.wants([]string{shown}, "1 folder you cannot read: not looked at")

	var left struct {
		Unread []string `json:"not_looked_at"`
		Known  []string `json:"known_folders"`
	}
	out := p.fails("not_allowed", "member", "remove", "Grace", "--yes", "--json", "--profile", "Ben")
	if err := json.Unmarshal([]byte(out), &left); err != nil || len(left.Unread) != 1 || len(left.Known) != 1 {
		t.Errorf("what is left: %+v, %v: %s", left, err, out)
	}
	p.wants(p.findings("--profile", "Ben"), "the key of a folder that you cannot read")
	p.do("folder", "rekey", "Payroll", "--yes")
	found := p.findings("--profile", "Ben")
	p.wants(found, "warn 1 folder you cannot read: not looked at")
	if slices.ContainsFunc(found, func(s string) bool { return strings.HasPrefix(s, "ok") }) {
		t.Errorf("it is called ok: %q", found)
	}
	p.fails("findings", "doctor", "--profile", "Ben")
	p.fails("not_looked_at", "member", "remove", "Grace", "--yes", "--profile", "Ben") // goes on, and has nothing to do
	p.wants(p.findings(), "1 account not rotated since Grace")                         // who reads it sees it
}

// An unattended token carries folder keys: its end is a device's.
func TestUnattendedTokenEnds(t *testing.T) {
	p := newPeople(t)
	p.do("folder", "add", "Databases")
	p.do("agent", "token", "gw1", "--pool", "dc1", "--no-wait", "--out", filepath.Join(p.i.Dir, "gw1.token"))
	p.do("folder", "grant", "Databases", "dc1", "read", "--yes")
	p.do("agent", "token", "gw2", "--pool", "dc1", "--unattended", "--out", filepath.Join(p.i.Dir, "gw2.token"))
	version := func() (n int) {
		var list struct {
			Folders []struct {
				KeyVersion int `json:"key_version"`
			}
		}
		p.read(&list, "folder", "list")
		return list.Folders[0].KeyVersion
	}
	p.do("agent", "remove", "gw1", "--yes")
	if n := version(); n != 1 {
		t.Errorf("a token that opened nothing: the folder's key has version %d", n)
	}
	p.wants(p.findings(), "ok")
	p.do("agent", "remove", "gw2", "--yes", "--no-rekey")
	p.wants(p.findings(), "the key of the folder Databases is known to dc1 / gw2 (removed")
	p.do("agent", "remove", "gw2", "--yes") // goes on
	if n := version(); n != 2 {
		t.Errorf("the folder's key has version %d", n)
	}
	p.wants(p.findings(), fmt.Sprintf("ok %d", 1))
}
