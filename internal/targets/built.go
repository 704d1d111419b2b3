package targets

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// recipe is how a server is built of which Debian has no package: from its module, within
// a small module whose go.mod and go.sum are recipes/NAME.mod and NAME.sum. So it is the
// same everywhere, every byte of it is checked, and nothing of it comes into ours.
type recipe struct {
	from fs.FS  // has those files
	name string // of them, and of the program
	pkg  string // what is built
	// Files that the module lacks of which pkg is a part, by their path in it.
	module string
	files  map[string]string
}

//go:embed recipes
var recipes embed.FS

var built = map[Server]recipe{
	FerretDB: {
		from: recipes, name: "ferretdb", pkg: "github.com/FerretDB/FerretDB/cmd/ferretdb",
		module: "github.com/FerretDB/FerretDB", files: map[string]string{"build/version/version.txt": "v1.24.2\n"}, // without, it refuses to start
	},
	SeaweedFS:  {from: recipes, name: "seaweedfs", pkg: "github.com/seaweedfs/seaweedfs/weed"},
	Kubernetes: {from: recipes, name: "kube-apiserver", pkg: "k8s.io/kubernetes/cmd/kube-apiserver"},
}

// parts are what a server is built of.
func (r recipe) parts() (mod, sum []byte, err error) {
	if mod, err = fs.ReadFile(r.from, "recipes/"+r.name+".mod"); err != nil {
		return nil, nil, fmt.Errorf("read how %s is built: %w", r.name, err)
	}
	if sum, err = fs.ReadFile(r.from, "recipes/"+r.name+".sum"); err != nil {
		return nil, nil, fmt.Errorf("read how %s is built: %w", r.name, err)
	}
	return mod, sum, nil
}

// program is where the server is kept once it is built, for every later run on this
// machine; of other parts another server is built.
func (r recipe) program() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find where built servers are kept: %w", err)
	}
	mod, sum, err := r.parts()
	if err != nil {
		return "", err
	}
	all, err := json.Marshal([]any{string(mod), string(sum), r.pkg, r.module, r.files})
	if err != nil {
		return "", fmt.Errorf("name the build of %s: %w", r.name, err)
	}
	key := sha256.Sum256(all)
	return filepath.Join(cache, "rotunda-test-servers", r.name+"-"+hex.EncodeToString(key[:8]), r.name), nil
}

// unused is how long a build of other parts is kept after its last use: another checkout
// may need it.
const unused = 7 * 24 * time.Hour

// build builds the server, unless it is there. One is built at a time on this machine: the
// others wait, and mostly find what they need. It appears in its place when it is whole, so
// that a build may end at any moment.
func (r recipe) build(ctx context.Context, log func(string)) error {
	program, err := r.program()
	if err != nil {
		return err
	}
	place := filepath.Dir(program)
	if exists(program) {
		now := time.Now()
		_ = os.Chtimes(place, now, now) // for tidy
		return nil
	}
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("%w: %s is built from its source: %w", ErrUnavailable, r.name, err)
	}
	kept := filepath.Dir(place)
	if err := os.MkdirAll(kept, 0o700); err != nil {
		return fmt.Errorf("make the folder of built servers: %w", err)
	}
	unlock, err := lockFile(filepath.Join(kept, "lock"), true)
	if err != nil {
		return err
	}
	defer unlock()
	if exists(program) {
		return nil // somebody built it while we waited
	}
	if err := r.tidy(kept); err != nil {
		return err
	}
	log("building " + r.name + " from its source, once on this machine: this takes minutes")
	// A name of its own: what a killed build started may still be at work in its folder.
	half, err := os.MkdirTemp(kept, "half-")
	if err != nil {
		return fmt.Errorf("build %s: %w", r.name, err)
	}
	defer os.RemoveAll(half)
	if err := r.make(ctx, half); err != nil {
		return fmt.Errorf("build %s: %w", r.name, err)
	}
	if err := os.Rename(filepath.Join(half, "out"), place); err != nil {
		return fmt.Errorf("build %s: %w", r.name, err)
	}
	return nil
}

// tidy removes what killed builds left, and builds of the server that nobody will need.
func (r recipe) tidy(kept string) error {
	old, err := os.ReadDir(kept)
	if err != nil {
		return fmt.Errorf("look through built servers: %w", err)
	}
	for _, o := range old {
		info, err := o.Info()
		if err != nil || !o.IsDir() {
			continue
		}
		if strings.HasPrefix(o.Name(), "half-") || strings.HasPrefix(o.Name(), r.name+"-") && time.Since(info.ModTime()) > unused {
			if err := os.RemoveAll(filepath.Join(kept, o.Name())); err != nil {
				return fmt.Errorf("remove a former build: %w", err)
			}
		}
	}
	return nil
}

// make builds the server in dir, below out.
func (r recipe) make(ctx context.Context, dir string) error {
	mod, sum, err := r.parts()
	if err != nil {
		return err
	}
	for name, b := range map[string][]byte{"go.mod": mod, "go.sum": sum} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	if len(r.files) > 0 {
		if err := r.patch(ctx, dir); err != nil {
			return err
		}
	}
	_, err = runGo(ctx, dir, "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join("out", r.name), r.pkg)
	return err
}

// patch has the module taken from a copy that has the files.
func (r recipe) patch(ctx context.Context, dir string) error {
	out, err := runGo(ctx, dir, "mod", "download", "-json", r.module) // checked against go.sum
	if err != nil {
		return err
	}
	var got struct{ Dir string }
	if err := json.Unmarshal(out, &got); err != nil {
		return fmt.Errorf("find the source of %s: %w", r.module, err)
	}
	src := filepath.Join(dir, "src")
	if err := os.CopyFS(src, os.DirFS(got.Dir)); err != nil {
		return fmt.Errorf("copy the source of %s: %w", r.module, err)
	}
	for name, text := range r.files {
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	_, err = runGo(ctx, dir, "mod", "edit", "-replace="+r.module+"=./src")
	return err
}

// runGo runs the go command, after everything else on this machine, and gives what it
// printed.
func runGo(ctx context.Context, dir string, args ...string) ([]byte, error) {
	argv := append([]string{"go"}, args...)
	if nice, err := exec.LookPath("nice"); err == nil {
		argv = append([]string{nice, "-n", "19"}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	// Whatever is set for our own builds: this one takes what its go.sum names, or nothing.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			return nil, fmt.Errorf("go %s: %w: %s", args[0], err, tail(failed.Stderr, 2000))
		}
		return nil, fmt.Errorf("go %s: %w", args[0], err)
	}
	return out, nil
}
