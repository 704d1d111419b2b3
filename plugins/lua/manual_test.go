package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the manual of modules and the annotations anew")

// The manual and the annotations say what the tables say.
func TestManualIsCurrent(t *testing.T) {
	for file, word := range map[string]string{
		filepath.Join("..", "..", "docs", "scripts", "modules.md"):      "manual",
		filepath.Join("..", "..", "examples", "scripts", "rotunda.lua"): "annotations",
	} {
		var out, errs bytes.Buffer
		if code := byHand([]string{word}, nil, &out, &errs); code != 0 {
			t.Fatalf("lua %s ended with %d: %s", word, code, errs.String())
		}
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		kept, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(kept, out.Bytes()) {
			t.Errorf("%s is not what lua %s says: go test ./plugins/lua -run TestManualIsCurrent -update (%v)", file, word, err)
		}
	}
}

// The annotations are Lua, and name every function.
func TestAnnotationsAreLua(t *testing.T) {
	var out bytes.Buffer
	annotations(&out)
	if _, err := compile("rotunda.lua", out.Bytes()); err != nil {
		t.Error(err)
	}
	for name, m := range modules() {
		for _, f := range m.functions {
			if !strings.Contains(out.String(), "function "+name+"_module."+f.name+"(") {
				t.Errorf("%s.%s is not in them", name, f.name)
			}
		}
	}
	if got := untold(out.String()); len(got) > 0 {
		t.Errorf("types that are used and not said: %v", got)
	}
}

func TestAtCommas(t *testing.T) {
	for text, want := range map[string][]string{
		"":     nil,
		"a: b": {"a: b"},
		"entry: {user: string, host?: string}, t: table<string, any>, f: fun(a: x, b: y): z": {"entry: {user: string, host?: string}", "t: table<string, any>", "f: fun(a: x, b: y): z"},
		"any|nil, sdk.error?": {"any|nil", "sdk.error?"},
	} {
		if got := atCommas(text); !slices.Equal(got, want) {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}
