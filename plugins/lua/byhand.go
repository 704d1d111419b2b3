package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// byHandTime is the most that a check, or all tests, may take.
const byHandTime = time.Minute

// byHand is what the program does when an author's tool starts it, with JSON as its answer:
//
//	lua check FILE     what is wrong with a script, and what it asks for
//	lua test FILE…     runs scripts' tests, each NAME_test.lua for NAME.lua
//	lua dry FILE       calls a script with the job on standard input, and reaches nothing
//	lua manual         what the modules are, as a page (no JSON)
//	lua annotations    the same for editors (no JSON)
//
// It ends with 0 when nothing is wrong, with 1 when something is, with 2 when it cannot be
// said.
func byHand(argv []string, in io.Reader, out, errs io.Writer) int {
	if len(argv) == 1 && argv[0] == "manual" {
		manual(out)
		return 0
	}
	if len(argv) == 1 && argv[0] == "annotations" {
		annotations(out)
		return 0
	}
	if len(argv) < 2 {
		fmt.Fprintln(errs, "this is a rotunda plugin: the agent starts it; by hand: check FILE, test FILE…, dry FILE, manual, annotations")
		return 2
	}
	// Lua looks at no deadline within a pattern. The agent would end such a process.
	deaf := time.AfterFunc(byHandTime, func() {
		fmt.Fprintf(errs, "%s: a script did not come to its end within %s, at its top level or in a test: the agent would have ended it\n", argv[1], byHandTime)
		os.Exit(2)
	})
	defer deaf.Stop()
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	var answer any
	wrong, err := false, error(nil)
	switch argv[0] {
	case "check":
		answer, wrong, err = checkFile(argv[1])
	case "dry":
		answer, wrong, err = dryFile(argv[1], in)
	case "test":
		answer, wrong, err = testFiles(argv[1:])
	default:
		err = fmt.Errorf("there is no %s: check FILE, test FILE…, dry FILE, manual, annotations", argv[0])
	}
	if err == nil {
		err = e.Encode(answer)
	}
	switch {
	case err != nil:
		fmt.Fprintln(errs, err)
		return 2
	case wrong:
		return 1
	}
	return 0
}

// checked is the answer of check.
type checked struct {
	File     string       `json:"file"`
	Name     string       `json:"name,omitempty"`
	Version  string       `json:"version,omitempty"`
	Kind     string       `json:"kind,omitempty"`
	Asks     []script.Ask `json:"asks,omitempty"`
	Problems []problem    `json:"problems"`
}

func checkFile(file string) (any, bool, error) {
	text, err := readScript(file)
	if err != nil {
		return nil, false, err
	}
	m, found := check(text)
	c := checked{File: file, Problems: found}
	if c.Problems == nil {
		c.Problems = []problem{}
	}
	if m != nil {
		c.Name, c.Version, c.Kind, c.Asks = m.Name, m.Version, string(m.Kind), m.Asks()
	}
	return c, len(found) > 0, nil
}

// tested is the answer of test for one script.
type tested struct {
	File  string          `json:"file"`
	Tests []outcomeOfTest `json:"tests"`
	Error string          `json:"error,omitempty"`
}

func testFiles(files []string) (any, bool, error) {
	all, wrong := []tested{}, false
	for _, file := range files {
		file = strings.TrimSuffix(file, "_test.lua")
		file = strings.TrimSuffix(file, ".lua") + ".lua"
		t := tested{File: file}
		text, err := readScript(file)
		if err != nil {
			return nil, false, err
		}
		beside := strings.TrimSuffix(file, ".lua") + "_test.lua"
		tests, err := os.ReadFile(beside)
		if errors.Is(err, os.ErrNotExist) {
			return nil, false, fmt.Errorf("%s has no test: write %s", file, beside)
		}
		if err == nil {
			t.Tests, err = testScript(text, filepath.Base(beside), tests)
		}
		if err != nil {
			t.Error, wrong = err.Error(), true
		}
		for _, one := range t.Tests {
			wrong = wrong || !one.OK
		}
		all = append(all, t)
	}
	return all, wrong, nil
}

func readScript(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, script.MaxText+1))
	if err == nil && len(text) > script.MaxText {
		err = fmt.Errorf("%s has more than %d bytes", file, script.MaxText)
	}
	return text, err
}

// noDialer is the way out of a script under test: there is none.
type noDialer struct{}

func (noDialer) DialContext(_ context.Context, _, address string) (net.Conn, error) {
	return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "test", NotSent: true, Err: fmt.Errorf("a test reaches nothing, and %s least: mock the module", address)}
}

func asJSON(v map[string]any) json.RawMessage {
	if v == nil {
		v = map[string]any{}
	}
	b, _ := json.Marshal(v) // of what JSON can say
	return b
}
