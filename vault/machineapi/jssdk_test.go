package machineapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/vault/machineapi"
)

// jsSDK gives the folder that holds the JavaScript SDK, installed by npm from
// the lock file once for every version of it.
func jsSDK(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("node is not installed: the JavaScript SDK was not run")
	}
	lock, err := os.ReadFile("testdata/js/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "rotunda-test", "js-"+seal.Hash(lock).String()[:16])
	modules := filepath.Join(dir, "node_modules")
	if _, err := os.Stat(modules); err == nil {
		return modules
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), "installing-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(fresh)
	for _, name := range []string{"package.json", "package-lock.json"} {
		b, err := os.ReadFile(filepath.Join("testdata/js", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(fresh, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = fresh
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("install the JavaScript SDK: %v\n%s", err, out)
	}
	// Another test process may have been faster.
	if err := os.Rename(fresh, dir); err != nil {
		if _, there := os.Stat(modules); there != nil {
			t.Fatal(err)
		}
	}
	return modules
}

// judge runs the script and makes a subtest of each of its checks. A process
// that does not end by itself (a connection that is kept open) is a failure.
func judge(t *testing.T, modules, run string, given map[string]any, wantChecks int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "testdata/js/judge.cjs", run)
	cmd.Env = append(os.Environ(), "NODE_PATH="+modules, "NODE_EXTRA_CA_CERTS="+caFile, "JUDGE="+encode(t, given))
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Error("the client's process did not end")
	} else if err != nil {
		t.Errorf("%v\n%s", err, complaints.String())
	}
	checks := 0
	for line := range strings.Lines(out.String()) {
		var c struct{ Name, Error string }
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatalf("unexpected output %q", line)
		}
		checks++
		t.Run(c.Name, func(t *testing.T) {
			if c.Error != "" {
				t.Error(c.Error)
			}
		})
	}
	if checks != wantChecks {
		t.Errorf("%d checks, want %d\n%s", checks, wantChecks, complaints.String())
	}
}

func (s *server) given() map[string]any {
	managed := s.addRecord(s.edit, login("managed"))
	s.addStatement(managed)
	return map[string]any{
		"host": "localhost:" + s.port(), "serverPublicKey": ksm.URL(serverPoint()), "serverPublicKeyId": strconv.Itoa(serverKeyID),
		"record": s.addRecord(s.edit, login("1")).uid, "fixed": s.addRecord(s.read, login("fixed")).uid, "managed": managed.uid,
		"editFolder": s.edit, "readFolder": s.read,
		"configuration": s.configuration(s.prebound("js"), "localhost:"+s.port()),
		"token":         s.token(),
	}
}

func TestJavaScriptSDK(t *testing.T) {
	modules := jsSDK(t)
	for run, checks := range map[string]int{"configuration": 11, "token": 5, "lost": 1, "key": 3} {
		t.Run(run, func(t *testing.T) {
			s := newServer(t)
			s.addRecord(s.hidden, login("hidden"))
			given := s.given()
			other, err := seal.GenerateDeviceKey()
			s.must(err)
			point, err := seal.DevicePub(other)
			s.must(err)
			given["otherKey"] = ksm.URL(point)
			judge(t, modules, run, given, checks)
		})
	}
	t.Run("throttle", func(t *testing.T) {
		s := newServer(t, func(c *machineapi.Config) { c.Rate, c.Burst = 1, 3 })
		judge(t, modules, "throttle", s.given(), 1)
	})
}

// TestLockFileNamesNoRegistry: whoever installs uses the registry that is set up
// on his machine.
func TestLockFileNamesNoRegistry(t *testing.T) {
	lock, err := os.ReadFile("testdata/js/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(lock, []byte("http")) || bytes.Contains(lock, []byte("resolved")) {
		t.Error("the lock file names where packages came from; install with npm's option omit-lockfile-registry-resolved")
	}
	if !bytes.Contains(lock, []byte(fmt.Sprintf("%q", "17.5.0"))) {
		t.Error("the lock file pins another version of the SDK than 17.5.0")
	}
}
