// Package imports holds the rules of which package may import which, as a test,
// each with its reason.
package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/rotunda-pam/rotunda/"

// rules: packages below from must not reach packages below to, directly or through
// others.
var rules = []struct{ from, to, reason string }{
	{"plugins/", "agent", "a plugin is a guest: it imports the SDK and nothing else of ours"},
	{"plugins/", "internal/", "a plugin is a guest: it imports the SDK and nothing else of ours"},
	{"plugins/", "client", "a plugin is a guest: it imports the SDK and nothing else of ours"},
	{"sdk", "internal/", "what a plugin author imports must not drag ours along"},
	{"sdk", "agent", "the SDK is the contract, the agent only one side of it"},
	{"agent", "vault/", "agent and vault share only proto and small packages under internal"},
	{"agent", "client", "the agent trusts no code of people's side, and the other way round"},
	{"agent", "router", "the agent knows the channel's frames, not the hub"},
	{"agent", "scheduler", "the server decides when, the agent whether"},
	{"agent", "internal/store", "the server's database is not the agent's business"},
	{"vault/", "agent", "agent and vault share only proto and small packages under internal"},
	{"vault/", "client", "the vault has no code of the side that holds keys"},
	{"router", "agent", "the router is a postman"},
	{"router", "client", "the router is a postman"},
	{"router", "vault/", "the hub carries; the vault keeps"},
	{"scheduler", "vault/", "the scheduler sees runs and schedules only"},
	{"client", "vault/", "people's side talks to a server that it does not believe"},
	{"client", "agent", "the agent trusts no code of people's side, and the other way round"},
	{"examples/", "agent", "what an example can do, a stranger's plugin must be able to do"},
	{"examples/", "internal/", "what an example can do, a stranger's plugin must be able to do"},
	{"conformance", "vault/", "the kit needs a plugin host, and nothing of a server"},
	{"internal/", "cmd/", "programs are at the top"},
	{"internal/seal", "internal/trust", "compositions of primitives know no messages"},
	{"internal/trust", "internal/store", "the rules of trust read what they are given"},
}

// foreign: our packages below from must not reach the module to.
var foreign = []struct{ from, to, reason string }{
	{"sdk", "github.com/jackc/pgx", "drivers live in their own plugin"},
	{"agent", "github.com/jackc/pgx", "drivers live in their own plugin"},
	{"sdk", "github.com/go-sql-driver", "drivers live in their own plugin"},
	{"agent", "github.com/go-sql-driver", "drivers live in their own plugin"},
	{"sdk", "github.com/microsoft/go-mssqldb", "drivers live in their own plugin"},
	{"agent", "github.com/microsoft/go-mssqldb", "drivers live in their own plugin"},
	{"sdk", "github.com/pkg/sftp", "drivers live in their own plugin"},
	{"agent", "github.com/pkg/sftp", "drivers live in their own plugin"},
	{"sdk", "github.com/aws", "drivers live in their own plugin"},
	{"agent", "github.com/aws", "drivers live in their own plugin"},
	{"agent", "modernc.org/sqlite", "the agent has a journal, no SQL database"},
	{"router", "filippo.io/age", "nothing on the server opens anything"},
	{"vault/", "filippo.io/age", "nothing on the server opens anything"},
}

type pkg struct {
	ImportPath string
	Dir        string
	Deps       []string
	GoFiles    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Deps,GoFiles", "./...")
	cmd.Dir = strings.TrimSpace(string(root))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.String())
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// below says whether a package of ours is name or lies below it.
func below(path, name string) bool {
	rel, ours := strings.CutPrefix(path, module)
	if !ours {
		return false
	}
	name = strings.TrimSuffix(name, "/")
	return rel == name || strings.HasPrefix(rel, name+"/")
}

func TestImportsPointOneWay(t *testing.T) {
	used := map[string]bool{}
	for _, p := range packages(t) {
		for _, r := range rules {
			if !below(p.ImportPath, r.from) {
				continue
			}
			used[r.from] = true
			for _, d := range p.Deps {
				if below(d, r.to) && !below(d, r.from) {
					t.Errorf("%s reaches %s: %s", p.ImportPath, d, r.reason)
				}
			}
		}
		for _, r := range foreign {
			if below(p.ImportPath, r.from) && slices.ContainsFunc(p.Deps, func(d string) bool { return d == r.to || strings.HasPrefix(d, r.to+"/") }) {
				t.Errorf("%s reaches %s: %s", p.ImportPath, r.to, r.reason)
			}
		}
	}
	for _, r := range rules {
		if !used[r.from] {
			t.Errorf("the rule about %q concerns no package: is it spelt right", r.from)
		}
	}
}

// opening are the functions that turn what people sealed into plaintext. The
// server's code must not even name them: it has no key to give them, and a change
// that brings one shows here.
var opening = map[string][]string{
	"seal":  {"OpenFrom", "OpenExt", "OpenEnrolBlob", "OpenCBC", "UnwrapKey", "Unlock", "SealKeyFrom", "OpenGCM", "OpenECIES"},
	"enrol": {"OpenBlob"},
	"trust": {"OpenFormerFolderKey", "OpenCommand", "OpenContent", "OpenRecord", "OpenFolderKey", "OpenReply", "OpenDetail", "OpenAuthority"},
}

func TestServerOpensNothing(t *testing.T) {
	server := []string{"vault", "router", "scheduler", "audit", "internal/store", "internal/bus", "cmd/rotunda-server"}
	files := 0
	for _, p := range packages(t) {
		if !slices.ContainsFunc(server, func(s string) bool { return below(p.ImportPath, s) }) {
			continue
		}
		for _, name := range p.GoFiles {
			files++
			path := filepath.Join(p.Dir, name)
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(opening[x.Name], sel.Sel.Name) {
					t.Errorf("%s names %s.%s: the server opens nothing", path, x.Name, sel.Sel.Name)
				}
				return true
			})
		}
	}
	if files < 20 {
		t.Fatalf("only %d files were looked at", files)
	}
}
