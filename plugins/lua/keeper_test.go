package main

import (
	"encoding/base64"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/agent/local"
	"github.com/rotunda-pam/rotunda/agent/policy"
	"github.com/rotunda-pam/rotunda/sdk"
)

// keeperProgram is a program as people wrote it for KeeperPAM: it reads a line, which is
// base64. This one keeps what it read in the file that is its argument.
const keeperProgram = `IFS= read -r params || exit 9; echo "for $1"; printf %s "$params" | base64 -d > "$0"; exit ${2:-0}`

// The input of KeeperPAM's post-rotation scripts, as its manual has it: who reads it the way
// that is written there finds what was meant for him.
func TestKeeperScripts(t *testing.T) {
	const secret, former = "n\"ew pä$$w'rd\\", "old one"
	load := func(t *testing.T, name string) *bench {
		text, err := os.ReadFile("../../scripts/after/" + name + ".lua")
		if err != nil {
			t.Fatal(err)
		}
		return benchOf(t, string(text))
	}
	// look runs the script with a program and compares what that got.
	look := func(t *testing.T, b *bench, r sdk.OpenRequest, program string) {
		got := filepath.Join(folder(t), "got")
		host, port, err := net.SplitHostPort(r.Resource.Address)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			status  string
			outcome sdk.Outcome
			reason  string
		}{{"0", sdk.Changed, ""}, {"3", sdk.Unchanged, "program.failed"}} {
			arguments := []string{"-c", keeperProgram, got, "app", c.status}
			r.Resource.Config, _ = json.Marshal(map[string]any{"program": program, "arguments": arguments, "user_uid": "Us_1"})
			a, err := b.runAfter(r, sdk.AfterRequest{Account: sdk.Account{Name: "app"}, Secret: password(secret), Former: password(former)})
			if err != nil || a.Outcome != c.outcome || a.Reason != c.reason {
				t.Fatalf("status %s: %+v, %v", c.status, a, err)
			}
			if !strings.HasPrefix(a.Output, "for app\n") || strings.Contains(a.Output, "ew p") {
				t.Errorf("its output: %q", a.Output)
			}
		}
		text, err := os.ReadFile(got)
		if err != nil {
			t.Fatal(err)
		}
		var input map[string]string
		if err := json.Unmarshal(text, &input); err != nil {
			t.Fatalf("%v: %d bytes", err, len(text))
		}
		list, err := base64.StdEncoding.DecodeString(input["records"])
		if err != nil {
			t.Fatal(err)
		}
		var records []map[string]any
		if err := json.Unmarshal(list, &records); err != nil {
			t.Fatal(err)
		}
		delete(input, "records")
		if want := map[string]string{
			"providerRecordUid": "provider", "resourceRecordUid": "resource", "userRecordUid": "Us_1",
			"newPassword": secret, "oldPassword": former, "user": "app",
		}; !reflect.DeepEqual(input, want) {
			t.Errorf("the input is not that: %d names", len(input))
		}
		if want := []map[string]any{
			{"uid": "provider", "title": "Rotunda"},
			{"uid": "resource", "title": r.Resource.Address, "pamHostname": map[string]any{"hostName": host, "port": port}},
			{"uid": "Us_1", "title": "app", "login": "app", "password": secret},
		}; !reflect.DeepEqual(records, want) {
			t.Errorf("the records are not those: %d of them", len(records))
		}
	}

	t.Run("on the agent's host", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			t.Skip("left out: agents on Windows do nothing on their hosts")
		}
		b := load(t, "keeper-script-local")
		p, err := policy.Parse(`scripts.programs = ["/bin/sh"]`)
		if err != nil {
			t.Fatal(err)
		}
		values, err := b.p.manifest.Values(json.RawMessage(`{"program": "/bin/sh"}`))
		if err != nil {
			t.Fatal(err)
		}
		b.host.Dialer = agentsHost{b, local.Handler(p, nil)(b.p.manifest, values, putAway{}, nil)}
		r := sdk.OpenRequest{Resource: sdk.Resource{Address: "db1.example:5432"}}
		look(t, b, r, "/bin/sh")

		// What the statement does not say, or the host does not allow, is not run.
		for program, reason := range map[string]string{"/bin/bash": "local.manifest", "sh": "local.program"} {
			r.Resource.Config, _ = json.Marshal(map[string]string{"program": program})
			if a, err := b.runAfter(r, sdk.AfterRequest{Secret: password(secret)}); err != nil || a.Outcome == sdk.Changed || a.Reason != reason {
				t.Errorf("%s: %+v, %v; want %s", program, a, err, reason)
			}
		}
	})
	t.Run("by SSH", func(t *testing.T) {
		h := newMachine(t)
		b := load(t, "keeper-script")
		b.allow, b.host.Pins[h.Address] = []string{h.Address}, h.pins
		look(t, b, sdk.OpenRequest{
			Resource: sdk.Resource{Address: net.JoinHostPort(h.Host, strconv.Itoa(h.Port))},
			AdminAs:  sdk.Account{Name: h.Admin}, Admin: sdk.Credential{Kind: sdk.SSHKey, Secret: h.AdminKey, Public: h.AdminPub},
		}, "/bin/sh")
	})
}
