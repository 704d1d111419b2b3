package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// The library's scripts are what check finds nothing wrong with, each has tests that hold,
// and a page.
func TestLibrary(t *testing.T) {
	var files []string
	for _, pattern := range []string{"../../scripts/*/*.lua", "../../examples/scripts/*/*.lua"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	scripts := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.lua") {
			continue
		}
		scripts++
		name := strings.TrimSuffix(filepath.Base(file), ".lua")
		t.Run(name, func(t *testing.T) {
			text, err := readScript(file)
			if err != nil {
				t.Fatal(err)
			}
			m, found := check(text)
			for _, p := range found {
				t.Errorf("%s:%d: %s (%s)", file, p.Line, p.Text, p.Hint)
			}
			if m != nil && m.Name != name {
				t.Errorf("%s calls itself %s", file, m.Name)
			}
			tests, err := os.ReadFile(strings.TrimSuffix(file, ".lua") + "_test.lua")
			if err != nil {
				t.Fatal(err)
			}
			got, err := testScript(text, name+"_test.lua", tests)
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range got {
				if !one.OK {
					t.Errorf("%s: %s", one.Name, one.Error)
				}
			}
			said, err := os.ReadFile(page(file, name))
			if err != nil || m == nil {
				t.Fatalf("it has no page: %v", err)
			}
			words := []string{m.About}
			for _, p := range m.Parameters {
				words = append(words, "`"+p.Name+"`")
			}
			for _, r := range m.Records {
				words = append(words, "`"+r.Name+"`")
			}
			for _, w := range words {
				if !strings.Contains(string(said), w) {
					t.Errorf("its page does not say: %s", w)
				}
			}
		})
	}
	if scripts == 0 {
		t.Fatal("no script was found")
	}
}

func page(file, name string) string {
	if strings.Contains(file, "examples") {
		return filepath.Join(filepath.Dir(file), "README.md")
	}
	return filepath.Join("../../docs/scripts/library", name+".md")
}

// fromLibrary loads a script of the library.
func fromLibrary(t *testing.T, name string) *bench {
	t.Helper()
	text, err := readScript(filepath.Join("../../scripts", name+".lua"))
	if err != nil {
		t.Fatal(err)
	}
	return benchOf(t, string(text))
}

// prove runs the conformance kit on a script of the library.
func prove(t *testing.T, name string, h conformance.Harness) {
	t.Helper()
	var err error
	if h.Script, err = readScript(filepath.Join("../../scripts", name+".lua")); err != nil {
		t.Fatal(err)
	}
	h.Binary, h.Name = conformance.Build(t, "."), script.Plugin
	conformance.Run(t, h)
}

// rotate changes a secret by a script's session, and gives what it and a login said.
func (b *bench) rotate(o sdk.OpenRequest, a sdk.ApplyRequest) (sdk.ApplyResponse, sdk.VerifyResponse) {
	b.t.Helper()
	o.Host = b.host
	s, err := rotator{b.p}.Open(b.t.Context(), o)
	if err != nil {
		b.t.Fatal(err)
	}
	defer s.Close()
	out, err := s.Apply(b.t.Context(), a)
	if err != nil {
		b.t.Fatal(err)
	}
	got, err := rotator{b.p}.Verify(b.t.Context(), sdk.VerifyRequest{Host: b.host, Resource: o.Resource, Account: a.Account, Credential: a.Candidate})
	if err != nil {
		b.t.Fatal(err)
	}
	return out, got
}
