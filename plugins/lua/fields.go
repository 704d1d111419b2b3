package main

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/yuin/gopher-lua/ast"
	"github.com/yuin/gopher-lua/parse"

	"github.com/rotunda-pam/rotunda/sdk/script"
)

// fields finds functions that a module does not have, and parameters that the manifest does
// not have, where a script names them plainly: by the name that its module was given, or as
// parameters.NAME. What it misses, the script's test meets.
func fields(text []byte, m *script.Manifest) (found []problem) {
	chunk, err := parse.Parse(bytes.NewReader(text), m.Name)
	if err != nil {
		return nil // compile has said it
	}
	l := &looker{means: map[string]string{}, times: map[string]int{}}
	l.walk(reflect.ValueOf(chunk))
	for _, a := range l.asked {
		name, ok := a.Key.(*ast.StringExpr)
		if !ok {
			continue
		}
		p := problem{Line: a.Line(), Source: lineOf(text, a.Line())}
		if p.Text, p.Hint = l.ofJob(a.Object, name.Value, m); p.Text != "" {
			found = append(found, p)
			continue
		}
		of := l.meaning(a.Object)
		if of == "" {
			continue
		}
		if of == "parameters" {
			if m.Parameter(name.Value) == nil {
				p.Text, p.Hint = fmt.Sprintf("the manifest has no parameter %s", name.Value), fmt.Sprintf("[parameters.%s] with type and about", name.Value)
				found = append(found, p)
			}
			continue
		}
		var names []string
		for _, f := range modules()[of].functions {
			names = append(names, f.name)
		}
		if len(names) > 0 && !slices.Contains(names, name.Value) {
			p.Text, p.Hint = fmt.Sprintf("the module %s has no function %s", of, name.Value), "it has "+strings.Join(names, ", ")
			found = append(found, p)
		}
	}
	return found
}

// sdkNames are what the table sdk has.
var sdkNames = []string{"accepted", "changed", "fail", "rejected", "unchanged", "undecided", "unknown"}

// ofJob looks at what is asked of sdk, and of the job, where it bears its usual name.
func (l *looker) ofJob(object ast.Expr, name string, m *script.Manifest) (text, hint string) {
	of, ok := object.(*ast.IdentExpr)
	switch {
	case !ok:
	case of.Value == "sdk" && l.times["sdk"] == 0 && !slices.Contains(sdkNames, name):
		return "sdk has no " + name, "it has " + strings.Join(sdkNames, ", ")
	case of.Value == "job" && m.Kind == script.AfterRotation && slices.Contains([]string{script.NeedAdmin, script.NeedSecret, script.NeedFormer}, name) && !slices.Contains(m.Needs, name):
		return "the manifest does not ask for " + name + ", so the job has none", fmt.Sprintf("needs = [… %q]", name)
	}
	return "", ""
}

// looker goes through a script's syntax.
type looker struct {
	means map[string]string // of a local: a module's name, or "parameters"
	times map[string]int    // how often a name is made: of two locals of a name nothing is said
	asked []*ast.AttrGetExpr
}

// meaning is what an expression is, as far as it is plain.
func (l *looker) meaning(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.IdentExpr:
		if l.times[e.Value] == 1 {
			return l.means[e.Value]
		}
	case *ast.AttrGetExpr:
		if key, ok := e.Key.(*ast.StringExpr); ok && key.Value == "parameters" {
			return "parameters"
		}
	}
	return ""
}

func (l *looker) local(names []string, values []ast.Expr) {
	for i, name := range names {
		l.times[name]++
		if i >= len(values) {
			continue
		}
		switch v := values[i].(type) {
		case *ast.FuncCallExpr:
			f, ok := v.Func.(*ast.IdentExpr)
			if ok && f.Value == "require" && len(v.Args) == 1 {
				if module, ok := v.Args[0].(*ast.StringExpr); ok {
					l.means[name] = module.Value
				}
			}
		case *ast.AttrGetExpr:
			l.means[name] = l.meaning(v)
		}
	}
}

// walk visits every node: the syntax is a tree of structs.
func (l *looker) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.Interface:
		l.walk(v.Elem())
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		switch n := v.Interface().(type) {
		case *ast.AttrGetExpr:
			l.asked = append(l.asked, n)
		case *ast.LocalAssignStmt:
			l.local(n.Names, n.Exprs)
		case *ast.FunctionExpr:
			l.local(n.ParList.Names, nil)
		case *ast.NumberForStmt:
			l.local([]string{n.Name}, nil)
		case *ast.GenericForStmt:
			l.local(n.Names, nil)
		case *ast.AssignStmt:
			for _, to := range n.Lhs {
				if name, ok := to.(*ast.IdentExpr); ok {
					l.times[name.Value]++
				}
			}
		}
		l.walk(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				l.walk(v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			l.walk(v.Index(i))
		}
	}
}
