package main

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

func TestScriptSpec(t *testing.T) {
	for text, want := range map[string]scriptSpec{
		"restart":                           {name: "restart"},
		"Scripts/restart,order=7":           {name: "Scripts/restart", order: 7},
		`r,param.a=x=y,"param.b=1,2"`:       {name: "r", params: [][2]string{{"a", "x=y"}, {"b", "1,2"}}},
		`"a, b",record.r=Net/core,param.c=`: {name: "a, b", params: [][2]string{{"c", ""}}, records: map[string]string{"r": "Net/core"}},
	} {
		if want.records == nil {
			want.records = map[string]string{}
		}
		got, err := parseScriptSpec("--script", text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for text, says := range map[string]string{
		"r,order=x":               "no number",
		"r,order=-1":              "no number",
		"r,unit=x":                `"unit=x" is not order=N`,
		"r,param.=x":              "is not order=N",
		"r,param.unit":            "is not order=N",
		"r,record.a=x,record.a=y": "named twice",
		`r,"param.a=x`:            "double quotes",
		"r,param.a=x\ns":          "double quotes",
		"":                        "double quotes",
	} {
		if got, err := parseScriptSpec("--script", text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %+v, %v, want %q", text, got, err, says)
		}
	}
	// Who takes a comma for a list's is told how a list is given.
	_, err := parseScriptSpec("--script", "r,param.argv=systemctl,reload")
	if hint := classify(err).hint; !strings.Contains(hint, "param.P=A,param.P=B") || !strings.Contains(hint, `'NAME,"param.P=A,B"'`) {
		t.Errorf("the hint is %q", hint)
	}
}

// Parameters become what the manifest says that they are.
func TestScriptParameters(t *testing.T) {
	m, err := script.Parse([]byte(`--[[ rotunda
name = "r"
version = "1"
kind = "after_rotation"
about = "R."
[parameters]
unit = {type = "string", about = "U.", required = true}
n = {type = "integer", about = "N.", default = 1}
hard = {type = "boolean", about = "H.", default = false}
list = {type = "strings", about = "L.", default = []}
]]`))
	if err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]string{
		"r,param.unit=1": `{"unit":"1"}`,
		"r,param.unit=a,param.n=-3,param.hard=true":   `{"hard":true,"n":-3,"unit":"a"}`,
		"r,param.unit=a,param.list=x,param.list=true": `{"list":["x","true"],"unit":"a"}`,
		"r":                             "wants the parameter unit",
		"r,param.unit=a,param.unit=b":   "given twice",
		"r,param.unit=a,param.n=three":  "want an integer",
		"r,param.unit=a,param.hard=yes": "true or false",
		"r,param.unit=a,param.lists=x":  `did you mean "list"`,
	} {
		s, err := parseScriptSpec("--script", spec)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.parameters(m)
		if json.Valid([]byte(want)) && (err != nil || string(got) != want) {
			t.Errorf("%s: %s, %v; want %s", spec, got, err, want)
		}
		if !json.Valid([]byte(want)) && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %s, %v; want %q", spec, got, err, want)
		}
	}
}

// What an update adds to what a script asks for is not hidden by what it leaves out.
func TestAsksDiffer(t *testing.T) {
	ssh, admin := script.Ask{What: "the module ssh"}, script.Ask{What: "to see secrets in clear", Why: "A."}
	other := script.Ask{What: "to see secrets in clear", Why: "B."}
	if got := without([]script.Ask{ssh, other}, []script.Ask{ssh, admin}); !reflect.DeepEqual(got, []script.Ask{other}) {
		t.Errorf("%v", got)
	}
}

// Where a script goes stands in the question, and none of what leads it there looks like
// something else.
func TestReachIsSaid(t *testing.T) {
	account := client.ScriptRecord{Record: script.Record{Name: "api", As: script.AsAccount}, Title: `robot", db1:22`, Address: "api:443"}
	for want, reach := range map[string]client.ScriptReach{
		"": {},
		"connects to db1:22, evil.example.org:443":                                     {Hosts: []string{"db1:22", "evil.example.org:443"}},
		"connects to its resource, hook:443":                                           {Resource: true, Hosts: []string{"hook:443"}},
		`runs "/bin/sh", "/bin/a b" on the agent's host`:                               {Programs: []string{"/bin/sh", "/bin/a b"}},
		`reads and writes "/etc/\u202ea" on the agent's host`:                          {Files: []string{"/etc/\u202ea"}},
		`gets login and secret of "robot\", db1:22", api:443, as api`:                  {Records: []client.ScriptRecord{account}},
		`connects to a:1; gets login and secret of "robot\", db1:22", api:443, as api`: {Hosts: []string{"a:1"}, Records: []client.ScriptRecord{account}},
	} {
		if got := reachText(reach); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// Who approves a file sees what it has that the approved one had not, or that this cannot be
// shown.
func TestSinceApproved(t *testing.T) {
	text := func(host string) []byte {
		return []byte("--[[ rotunda\nname = \"r\"\nversion = \"1\"\nkind = \"after_rotation\"\nabout = \"R.\"\nhosts = [\"" + host + "\"]\n]]\n")
	}
	m, err := script.Parse(text("evil.example.org:443"))
	if err != nil {
		t.Fatal(err)
	}
	s := &client.Script{Record: &client.Record{Title: "restart"}, Manifest: m, Text: text("evil.example.org:443")}
	for name, row := range map[string]struct {
		was  []byte
		says []string
	}{
		"in the history":     {text("good.example.org:443"), []string{"asks for MORE: to connect to evil.example.org:443", "asks no more for: to connect to good.example.org:443", `-hosts = ["good.example.org:443"]`, `+hosts = ["evil.example.org:443"]`}},
		"not in the history": {nil, []string{"no difference can be shown: --show shows the whole new one"}},
		"of another version": {[]byte("--[[ rotunda\nname = 1\n]]\n"), []string{"-name = 1"}},
	} {
		got := strings.Join(formerly(s, seal.Hash(row.was), row.was, "app"), "\n")
		for _, want := range append(row.says, "approved in app, sha256 "+seal.Hash(row.was).String()) {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %s\nwant %s", name, got, want)
			}
		}
	}
}
