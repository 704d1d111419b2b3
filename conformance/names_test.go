package conformance

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/conformance/obligation"
)

// names are the kit's tests.
func names() (all []string) {
	for _, one := range new(kit).tests() {
		all = append(all, one.name)
	}
	return all
}

// named are the tests that a text names, in brackets.
func named(text string) (all []string) {
	for _, m := range regexp.MustCompile(`\(([A-Z][a-z]+[A-Za-z]+)\)`).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// The SDK names the test that proves a sentence: each is there, and every sentence with
// "must" on an interface, or on a verb of one, names one.
func TestNamesInTheSDK(t *testing.T) {
	files, err := filepath.Glob("../sdk/*.go")
	if err != nil {
		t.Fatal(err)
	}
	all, interfaces, musts := 0, 0, 0
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range file.Comments {
			for _, name := range named(c.Text()) {
				all++
				if !slices.Contains(names(), name) {
					t.Errorf("%s names the test %s, and the kit has none", f, name)
				}
			}
		}
		for what, text := range saidOf(file) {
			interfaces++
			for _, s := range demands(text) {
				musts++
				if len(named(s)) == 0 {
					t.Errorf("%s: %s: no test is named beside %q", f, what, s)
				}
			}
		}
	}
	t.Logf("%d names, %d sentences with \"must\" in %d comments", all, musts, interfaces)
	if all < 20 || musts < 15 || interfaces < 25 {
		t.Error("that is too little to be all of the SDK")
	}
}

// saidOf are the comments of a file's interfaces and of their methods, above them and
// beside them.
func saidOf(file *ast.File) map[string]string {
	all := map[string]string{}
	for _, d := range file.Decls {
		group, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range group.Specs {
			one, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			i, ok := one.Type.(*ast.InterfaceType)
			if !ok {
				continue
			}
			all[one.Name.Name] = group.Doc.Text() + "\n" + one.Doc.Text() + "\n" + one.Comment.Text()
			for _, m := range i.Methods.List {
				for _, name := range m.Names {
					all[one.Name.Name+"."+name.Name] = m.Doc.Text() + "\n" + m.Comment.Text()
				}
			}
		}
	}
	return all
}

// demands are the sentences of a text that say "must".
func demands(text string) (all []string) {
	for _, s := range regexp.MustCompile(`[.!?]\s|\n\s*\n`).Split(text, -1) {
		if regexp.MustCompile(`(?i)\bmust\b`).MatchString(s) {
			all = append(all, strings.Join(strings.Fields(s), " "))
		}
	}
	return all
}

// A comment that demands and names no test is found, wherever it stands.
func TestDemands(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "", `package p

// One must be (FirstChange). It
// must do. It may do.
//
// All of it
// must be, too
type One interface {
	// Do must be done (ApplyTwice), and must not fail.
	Do()
	Undo() // must be done, too
	Close()
}

type (
	// Two must be.
	Two interface{}
	// Three must be, and is no interface.
	Three struct{}
)
`, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for what, text := range saidOf(file) {
		for _, s := range demands(text) {
			if len(named(s)) == 0 {
				got[what] = append(got[what], s)
			}
		}
	}
	want := map[string][]string{"One": {"It must do", "All of it must be, too"}, "One.Undo": {"must be done, too"}, "Two": {"Two must be"}}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%q, want %q", got, want)
	}
}

// What the tests ask stands in the manual, word for word and in the kit's order.
func TestObligations(t *testing.T) {
	text, err := os.ReadFile("../docs/plugins/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows strings.Builder
	var listed []string
	for _, o := range obligation.All {
		fmt.Fprintf(&rows, "| `%s` | %s |\n", o.Test, o.Asks)
		listed = append(listed, o.Test)
	}
	if !slices.Equal(listed, names()) {
		t.Errorf("obligations of %v\nthe kit has %v", listed, names())
	}
	if !bytes.Contains(text, []byte("\n|---|---|\n"+rows.String()+"\n")) {
		t.Errorf("docs/plugins/reference.md does not have this table:\n%s", &rows)
	}
}
