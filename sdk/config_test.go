package sdk_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk"
)

type config struct {
	Database string            `json:"database" doc:"Database to log in to." default:"postgres"`
	Method   string            `json:"method" doc:"How." default:"scram" enum:"scram,md5"`
	Port     int               `json:"port" doc:"Port." default:"22"`
	Strict   bool              `json:"strict" doc:"Whether." default:"true"`
	Realm    string            `json:"realm" doc:"Realm." required:"true"`
	Labels   map[string]string `json:"labels" doc:"Labels."`
	Hosts    []string          `json:"hosts" doc:"Hosts."`
}

func TestDecodeConfig(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want config
		err  string
	}{
		"defaults":    {in: `{"realm":"r"}`, want: config{Database: "postgres", Method: "scram", Port: 22, Strict: true, Realm: "r"}},
		"zero values": {in: `{"realm":"r","database":"","port":0,"strict":false}`, want: config{Method: "scram", Realm: "r"}},
		"missing":     {in: ``, err: `"realm" is missing`},
		"unknown":     {in: `{"realm":"r","colour":1}`, err: `unknown field "colour"`},
		"spelling":    {in: `{"realm":"r","Method":"plain"}`, err: `unknown field "Method"`},
		"enum":        {in: `{"realm":"r","method":"plain"}`, err: `must be one of scram, md5`},
		"type":        {in: `{"realm":"r","port":"x"}`, err: `port`},
		"not JSON":    {in: `{"realm":`, err: `JSON`},
		"not object":  {in: `[]`, err: `array`},
		"more":        {in: `{"realm":"r"} {}`, err: `after`},
	} {
		t.Run(name, func(t *testing.T) {
			var got config
			err := sdk.DecodeConfig(sdk.Resource{Config: json.RawMessage(c.in)}, &got)
			e := (*sdk.Error)(nil)
			switch {
			case c.err == "" && err != nil:
				t.Error(err)
			case c.err != "" && (!errors.As(err, &e) || e.Class != sdk.ClassInvalid || e.Reason != "config" || !e.NotSent || !strings.Contains(err.Error(), c.err)):
				t.Errorf("%v, want %q", err, c.err)
			case c.err == "" && (got.Database != c.want.Database || got.Method != c.want.Method || got.Port != c.want.Port || got.Strict != c.want.Strict || got.Realm != c.want.Realm):
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
	var notStruct int
	if sdk.DecodeConfig(sdk.Resource{}, &notStruct) == nil || sdk.DecodeConfig(sdk.Resource{}, config{}) == nil {
		t.Error("decoded into something that is not a pointer to a struct")
	}
}

func TestConfigSchema(t *testing.T) {
	b, err := sdk.ConfigSchema(&config{})
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Properties map[string]struct {
			Type, Description string
			Default           any
			Enum              []string
		}
		Required             []string
		AdditionalProperties *bool
	}
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Properties) != 7 || len(s.Required) != 1 || s.Required[0] != "realm" || s.AdditionalProperties == nil || *s.AdditionalProperties {
		t.Errorf("schema: %s", b)
	}
	if m := s.Properties["method"]; m.Type != "string" || m.Default != "scram" || len(m.Enum) != 2 || m.Description != "How." {
		t.Errorf("method: %+v", m)
	}
	doc, err := sdk.ConfigDoc(&config{})
	if err != nil || !strings.Contains(doc, "| `realm` | string | required | Realm. |") || !strings.Contains(doc, "| `port` | integer | 22 | Port. |") {
		t.Errorf("doc: %s, %v", doc, err)
	}
	for name, bad := range map[string]any{
		"not a pointer": config{},
		"no doc": &struct {
			A string `json:"a"`
		}{},
		"no name": &struct {
			A string `doc:"x"`
		}{},
		"function": &struct {
			A func() `json:"a" doc:"x"`
		}{},
		"a secret": &struct {
			A sdk.Secret `json:"a" doc:"x"`
		}{},
		"default of another type": &struct {
			A int `json:"a" doc:"x" default:"y"`
		}{},
		"default outside enum": &struct {
			A string `json:"a" doc:"x" default:"y" enum:"z"`
		}{},
		"enum of numbers": &struct {
			A int `json:"a" doc:"x" enum:"1"`
		}{},
	} {
		if _, err := sdk.ConfigSchema(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if b, err := sdk.ConfigSchema(nil); b != nil || err != nil {
		t.Errorf("nil: %s, %v", b, err)
	}
}

// FuzzDecodeConfig: whatever a statement gives a plugin as its settings. What is taken
// keeps to its tags, and written anew it is taken as the same.
func FuzzDecodeConfig(f *testing.F) {
	for _, in := range []string{`{"realm":"r"}`, `{"realm":"r","method":"md5","port":1,"labels":{"a":"b"},"hosts":["h"]}`, `{"Realm":"r","realm":"s"}`, `[]`, ``, `{"realm":"r"} {}`, `{"realm":"r","method":"md5","METHOD":"plain"}`} {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var got config
		if err := sdk.DecodeConfig(sdk.Resource{Config: raw}, &got); err != nil {
			if e, ok := errors.AsType[*sdk.Error](err); !ok || e.Class != sdk.ClassInvalid || !e.NotSent {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		if got.Method != "scram" && got.Method != "md5" {
			t.Fatalf("%q: method %q", raw, got.Method)
		}
		out, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		var again config
		if err := sdk.DecodeConfig(sdk.Resource{Config: out}, &again); err != nil {
			t.Fatalf("%s, written anew: %v", out, err)
		}
		if twice, err := json.Marshal(again); err != nil || string(twice) != string(out) {
			t.Fatalf("%s, written anew, is %s", out, twice)
		}
	})
}
