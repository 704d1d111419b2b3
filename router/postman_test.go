package router

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTheRouterIsAPostman: a program that owns the router must not find in it
// the means to open what it carries. So this package imports nothing that opens,
// and of the package with the keys it names only what a sign-in needs.
func TestTheRouterIsAPostman(t *testing.T) {
	const module = "github.com/rotunda-pam/rotunda/"
	imports := []string{
		module + "audit", module + "internal/bus", module + "internal/seal", module + "internal/socket",
		module + "internal/store", module + "internal/store/db",
		module + "proto/rotunda/channel/v1", module + "proto/rotunda/client/v1", module + "proto/rotunda/trust/v1",
		"google.golang.org/protobuf/encoding/protodelim", "google.golang.org/protobuf/proto",
		"crypto/rand", "crypto/tls",
	}
	sealed := []string{"ID", "IDFrom", "Digest", "DigestFrom", "ChannelExporter", "ChannelInput", "ParseDevicePub", "VerifyP256"}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		read++
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			ours := strings.Contains(path, ".") || strings.HasPrefix(path, "crypto")
			if ours && !slices.Contains(imports, path) {
				t.Errorf("%s imports %s: the router carries, and opens nothing", name, path)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "seal" && !slices.Contains(sealed, sel.Sel.Name) {
				t.Errorf("%s uses seal.%s: the router carries, and opens nothing", name, sel.Sel.Name)
			}
			return true
		})
	}
	if read == 0 {
		t.Fatal("no file was read")
	}
}
