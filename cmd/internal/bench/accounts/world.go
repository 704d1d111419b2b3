package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// world is a whole installation of the built programs, with the benchmark's plugin and
// targets, and one more device of the person's, by which accounts are made in bulk.
type world struct {
	*installation.Installation
	home    string
	agents  []*installation.Agent
	targets []*target

	me        *enrol.Identity
	conn      *enrol.Conn
	signedIn  time.Time
	folder    seal.ID
	folderKey seal.Key
	version   uint32 // of the folder's key
	pool      seal.ID
	resources []trust.Ref
}

// newWorld starts it with so many resources, each on a target of its own.
func newWorld(ctx context.Context, o options, resources, concurrency int) (w *world, err error) {
	w = &world{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
			w = nil
		}
	}()
	if w.home, err = os.MkdirTemp("", "rotunda-bench-"); err != nil {
		return w, err
	}
	bin, sum, err := withPlugin(ctx, o.bin, w.home)
	if err != nil {
		return w, err
	}
	if w.Installation, err = installation.Start(ctx, installation.Options{Bin: bin, Dir: filepath.Join(w.home, "i")}); err != nil {
		return w, err
	}
	if _, err := w.CLI(ctx, nil, "plugin", "approve", filepath.Join(bin, "plugins", "bench@"+sum), "--name", "bench", "--version", "1.0.0", "--yes"); err != nil {
		return w, err
	}
	if err := w.addAgent(ctx); err != nil {
		return w, err
	}
	if err := w.AddFolder(ctx); err != nil {
		return w, err
	}
	if err := w.enrol(ctx); err != nil {
		return w, err
	}
	return w, w.addResources(ctx, resources, concurrency)
}

func (w *world) close() error {
	if w.conn != nil {
		w.conn.Close()
	}
	if w.Installation != nil {
		w.Installation.Close()
	}
	for _, t := range w.targets {
		t.close()
	}
	return os.RemoveAll(w.home)
}

// withPlugin is a folder of the built programs, and of the benchmark's plugin beside theirs.
func withPlugin(ctx context.Context, programs, home string) (bin, sum string, err error) {
	if err := os.Chmod(home, 0o711); err != nil { // plugins run as users of their own
		return "", "", err
	}
	bin = filepath.Join(home, "bin")
	if err := os.MkdirAll(filepath.Join(bin, "plugins"), 0o755); err != nil {
		return "", "", err
	}
	for _, name := range []string{"rotunda", "rotunda-server", "rotunda-agent"} {
		if err := os.Symlink(filepath.Join(programs, name), filepath.Join(bin, name)); err != nil {
			return "", "", err
		}
	}
	path := filepath.Join(bin, "plugins", "bench")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", path, "github.com/rotunda-pam/rotunda/cmd/internal/bench/accounts/plugin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("build the benchmark's plugin: %w: %s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	digest := sha256.Sum256(b)
	sum = hex.EncodeToString(digest[:])
	return bin, sum, os.Rename(path, path+"@"+sum)
}

func (w *world) addAgent(ctx context.Context) error {
	a, err := w.AddAgent(ctx, "gw"+strconv.Itoa(len(w.agents)+1), installation.Pool)
	if err == nil {
		w.agents = append(w.agents, a)
	}
	return err
}

// addResources makes targets, their resources and their administrators' accounts.
func (w *world) addResources(ctx context.Context, n, concurrency int) error {
	var ops []*clientv1.WriteOp
	for i := range n {
		t, err := newTarget()
		if err != nil {
			return err
		}
		w.targets = append(w.targets, t)
		title := "target-" + strconv.Itoa(i)
		resource := trust.Ref{Folder: w.folder, Record: seal.NewID()}
		by := account{trust.Ref{Folder: w.folder, Record: seal.NewID()}, resource, title + "-admin"}
		of, err := w.newAccount(by, admin, sdk.NewSecret([]byte(adminSecret)), nil)
		if err != nil {
			return err
		}
		ops = append(ops, of...)
		if of, err = w.newResource(resource, title, t.port(), concurrency, by.ref); err != nil {
			return err
		}
		ops = append(ops, of...)
		w.resources = append(w.resources, resource)
	}
	return w.write(ctx, ops)
}

// enrol makes this process a device of the person's.
func (w *world) enrol(ctx context.Context) error {
	file := filepath.Join(w.home, "token")
	if _, err := w.CLI(ctx, nil, "device", "add", "bench", "--unattended", "--out", file); err != nil {
		return err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	token, err := enrol.ParseToken(sdk.NewSecret(b))
	if err != nil {
		return err
	}
	w.me, err = enrol.Join(ctx, enrol.JoinOptions{Token: token, Want: trustv1.EntryKind_ENTRY_KIND_DEVICE, Version: "bench"})
	if err != nil {
		return err
	}
	if w.conn, err = enrol.Dial(w.me.Server, w.me.CAPin, "bench"); err != nil {
		return err
	}
	if err := w.signIn(ctx); err != nil {
		return err
	}
	folders, err := w.conn.ListFolders(ctx, connect.NewRequest(&clientv1.ListFoldersRequest{}))
	if err != nil {
		return err
	}
	if len(folders.Msg.Folders) != 1 {
		return fmt.Errorf("%d folders, want the one of the accounts", len(folders.Msg.Folders))
	}
	f := folders.Msg.Folders[0]
	w.folder, w.version = seal.ID(f.FolderUid), f.KeyVersion
	if w.folderKey, err = trust.OpenFolderKey(w.me.Log, w.me.Entry, w.me.Keys.Seal, w.folder, f.KeyVersion, f.SealedKey); err != nil {
		return err
	}
	for _, e := range w.me.Log.Entries(trustv1.EntryKind_ENTRY_KIND_POOL) {
		w.pool = e.ID
	}
	return nil
}

// signIn begins a session, which ends by itself after a while and with the server.
func (w *world) signIn(ctx context.Context) error {
	_, err := w.conn.StartSession(ctx, enrol.Signer{OrgID: w.me.OrgID, EntryID: w.me.Entry, Key: w.me.Keys.Sign})
	w.signedIn = time.Now()
	return err
}

// restart stops and starts server and agents, and says how long each took to be ready.
func (w *world) restart(ctx context.Context) (server, agent time.Duration, err error) {
	for _, a := range w.agents {
		a.Stop()
	}
	w.Server.Stop()
	began := time.Now()
	if err := w.StartServer(ctx); err != nil {
		return 0, 0, err
	}
	server = time.Since(began)
	for _, a := range w.agents {
		began := time.Now()
		if err := a.Launch(); err != nil {
			return 0, 0, err
		}
		if err := waitHealthy(ctx, a); err != nil {
			return 0, 0, err
		}
		agent = max(agent, time.Since(began))
	}
	return server, agent, w.signIn(ctx)
}

// waitHealthy waits until the router has let the agent in and its log is good: from then
// on it takes commands.
func waitHealthy(ctx context.Context, a *installation.Agent) error {
	for {
		if ok, _, _ := a.Health(ctx); ok {
			return nil
		}
		select {
		case <-a.Done():
			return fmt.Errorf("agent %s ended: %s", a.Name, a.Tail())
		case <-ctx.Done():
			return fmt.Errorf("agent %s is not ready: %w: %s", a.Name, context.Cause(ctx), a.Tail())
		case <-time.After(5 * time.Millisecond): // an HTTP endpoint gives no signal
		}
	}
}

// command runs the command line and says how long it took.
func (w *world) command(ctx context.Context, args ...string) (time.Duration, error) {
	began := time.Now()
	_, err := w.CLI(ctx, nil, args...)
	return time.Since(began), err
}

// freshDevice joins as a new device of the person's, in a home of its own, and lists a
// page of records.
func (w *world) freshDevice(ctx context.Context, name string) (join, first time.Duration, err error) {
	home := filepath.Join(w.home, name)
	if err := os.MkdirAll(home, 0o700); err != nil {
		return 0, 0, err
	}
	token := filepath.Join(home, "token")
	if _, err := w.CLI(ctx, nil, "device", "add", name, "--unattended", "--out", token); err != nil {
		return 0, 0, err
	}
	run := func(args ...string) (time.Duration, error) {
		cmd := exec.CommandContext(ctx, filepath.Join(w.Bin, "rotunda"), args...)
		cmd.Env = append(os.Environ(), "ROTUNDA_HOME="+home, "XDG_RUNTIME_DIR="+home, "ROTUNDA_PASSPHRASE_FILE="+filepath.Join(w.Dir, "passphrase"))
		began := time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("rotunda %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return time.Since(began), err
	}
	if join, err = run("join", token); err != nil {
		return 0, 0, err
	}
	first, err = run("record", "list", "--folder", installation.Folder)
	return join, first, err
}
