package audit_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/audit"
)

// TestCatalogue holds the table to its own rules.
func TestCatalogue(t *testing.T) {
	code := regexp.MustCompile(`^[a-z]+([._][a-z]+)*$`)
	seen := make(map[string]bool)
	for _, k := range audit.Catalogue {
		if seen[k.Name] {
			t.Errorf("%s stands twice", k.Name)
		}
		seen[k.Name] = true
		if !code.MatchString(k.Name) || len(k.Name) > 64 {
			t.Errorf("%q is no event name", k.Name)
		}
		if !strings.HasSuffix(k.Meaning, ".") {
			t.Errorf("%s: meaning %q is no sentence", k.Name, k.Meaning)
		}
		for _, f := range k.Fields {
			if !regexp.MustCompile(`^[a-z0-9]+(_[a-z0-9]+)*$`).MatchString(f.Name) || f.Meaning == "" || strings.Contains(f.Meaning, "|") {
				t.Errorf("%s: field %q means %q", k.Name, f.Name, f.Meaning)
			}
		}
	}
	known := maps.Clone(seen)
	for name, value := range constants(t) {
		if !known[value] {
			t.Errorf("constant %s = %q is not in the catalogue", name, value)
		}
		delete(seen, value)
	}
	for name := range seen {
		t.Errorf("%s has no constant", name)
	}
}

// TestEveryEventInTheCodeIsCatalogued reads the module's source: each
// audit.Event literal names a constant of this package and gives documented
// fields only. A name that comes from outside is checked by AgentMayReport or
// ClientMayNote in the same function.
func TestEveryEventInTheCodeIsCatalogued(t *testing.T) {
	names := constants(t)
	kinds := make(map[string]audit.Kind)
	for _, k := range audit.Catalogue {
		kinds[k.Name] = k
	}
	found := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != ".." && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			ast.Inspect(decl, func(n ast.Node) bool {
				lit, ok := n.(*ast.CompositeLit)
				if !ok || !isSelector(lit.Type, "Event") {
					return true
				}
				found++
				at := files.Position(lit.Pos()).String()
				checkLiteral(t, at, lit, decl, names, kinds)
				return true
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found == 0 {
		t.Error("no event was found: the test looks in the wrong place")
	}
}

// TestEveryEventIsToldBySomebody: the catalogue promises nothing that nobody
// tells. The server names an event by its constant; agents and clients, who do
// not import this package, by its text.
func TestEveryEventIsToldBySomebody(t *testing.T) {
	untold, names := constants(t), map[string]string{}
	for name, value := range untold {
		names[strconv.Quote(value)] = name
	}
	told := regexp.MustCompile(`\baudit\.(\w+)|("[a-z_.]+")`)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "audit") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range told.FindAllSubmatch(source, -1) {
			delete(untold, string(m[1]))
			delete(untold, names[string(m[2])])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range untold {
		t.Errorf("nobody tells %s (%s)", value, name)
	}
}

func checkLiteral(t *testing.T, at string, lit *ast.CompositeLit, in ast.Decl, names map[string]string, kinds map[string]audit.Kind) {
	var kind audit.Kind
	known := false
	for _, e := range lit.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok || kv.Key.(*ast.Ident).Name != "Name" {
			continue
		}
		sel, constant := kv.Value.(*ast.SelectorExpr)
		if constant && isSelector(sel, sel.Sel.Name) {
			kind, known = kinds[names[sel.Sel.Name]]
			if !known {
				t.Errorf("%s: audit.%s is no event name", at, sel.Sel.Name)
			}
			continue
		}
		if _, literal := kv.Value.(*ast.BasicLit); literal {
			t.Errorf("%s: use the constant for the event's name", at)
		} else if !chosenOrChecked(in) {
			t.Errorf("%s: the event's name is neither a constant nor checked by AgentMayReport or ClientMayNote in this function", at)
		}
	}
	if !known {
		return
	}
	for _, e := range lit.Elts {
		kv := e.(*ast.KeyValueExpr)
		fields, ok := kv.Value.(*ast.CompositeLit)
		if !ok || kv.Key.(*ast.Ident).Name != "Fields" {
			continue
		}
		for _, f := range fields.Elts {
			key, ok := f.(*ast.KeyValueExpr).Key.(*ast.BasicLit)
			if !ok {
				continue // Write checks it when it runs
			}
			name, _ := strconv.Unquote(key.Value)
			documented := false
			for _, f := range kind.Fields {
				documented = documented || f.Name == name
			}
			if !documented {
				t.Errorf("%s: field %q of %s is not documented", at, name, kind.Name)
			}
		}
	}
}

// chosenOrChecked: the function holds a check of a name from outside, or
// chooses among constants.
func chosenOrChecked(in ast.Decl) bool {
	ok := false
	ast.Inspect(in, func(n ast.Node) bool {
		if sel, is := n.(*ast.SelectorExpr); is && isSelector(sel, sel.Sel.Name) && sel.Sel.Name != "Event" && sel.Sel.Name != "Write" && sel.Sel.Name != "Tell" {
			ok = true
		}
		return true
	})
	return ok
}

func isSelector(e ast.Expr, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && pkg.Name == "audit"
}

// constants reads the names from catalogue.go: constant to event name.
func constants(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "catalogue.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]string)
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			value := spec.(*ast.ValueSpec)
			if len(value.Values) != 1 {
				continue
			}
			lit, ok := value.Values[0].(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				continue
			}
			if name, err := strconv.Unquote(lit.Value); err == nil {
				names[value.Names[0].Name] = name
			}
		}
	}
	return names
}
