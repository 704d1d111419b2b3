//go:build unix

package local

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"

	"github.com/rotunda-pam/rotunda/agent/policy"
)

// state is what of a file must be kept, or not.
type state struct {
	content  string
	mode     os.FileMode
	uid, gid uint32
}

func stateOf(t *testing.T, path string) state {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	return state{string(b), info.Mode(), st.Uid, st.Gid}
}

func TestReadFile(t *testing.T) {
	h := newHost(t)
	path := h.put("a.conf", strings.Repeat("x", 1<<10), 0o600)
	if a, out := h.read(path); a.Error != nil || len(out) != 1<<10 {
		t.Errorf("as much as is wanted: %d bytes, %+v", len(out), a.Error)
	}
	h.put("a.conf", strings.Repeat("x", 1<<10+1), 0o600)
	if a, out := h.read(path); refusal(a) != "invalid local.file" || out != "" {
		t.Errorf("a byte more: %d bytes, %q", len(out), refusal(a))
	}
	h.put("a.conf", "", 0o600)
	if a, out := h.read(path); a.Error != nil || out != "" {
		t.Errorf("nothing: %q, %+v", out, a.Error)
	}
}

func TestWriteFile(t *testing.T) {
	h := newHost(t)
	own := state{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
	is := func(content string, mode os.FileMode) state { return state{content, mode, own.uid, own.gid} }
	path, fresh := h.put("a.conf", "first", 0o640), h.path("new.conf")
	for _, c := range []struct {
		name, path, content string
		backup              bool
		mode                []uint32
		changed             bool
		want                state
		kept                string // what the backup holds; empty: there is none
	}{
		{"in a file's place", path, "second", false, nil, true, is("second", 0o640), ""},
		{"with a backup", path, "third", true, nil, true, is("third", 0o640), "second"},
		{"once more, which leaves the backup", path, "third", true, nil, false, is("third", 0o640), "second"},
		{"with another mode", path, "third", false, []uint32{0o600}, true, is("third", 0o600), "second"},
		{"with the mode that it has", path, "third", true, []uint32{0o600}, false, is("third", 0o600), "second"},
		{"nothing", path, "", true, nil, true, is("", 0o600), "third"},
		{"a longer one", path, strings.Repeat("x", pluginv1.MaxLocalBody), false, nil, true, is(strings.Repeat("x", pluginv1.MaxLocalBody), 0o600), "third"},
		{"a new file", fresh, "first", true, nil, true, is("first", 0o600), ""},
		{"once more", fresh, "first", false, nil, false, is("first", 0o600), ""},
	} {
		a := h.write(c.path, c.content, c.backup, c.mode...)
		if a.Error != nil || a.Changed != c.changed {
			t.Errorf("%s: changed %v, %+v", c.name, a.Changed, a.Error)
			continue
		}
		if got := stateOf(t, c.path); got != c.want {
			t.Errorf("%s: mode %v, owner %d:%d, %d bytes", c.name, got.mode, got.uid, got.gid, len(got.content))
		}
		if kept, err := os.ReadFile(c.path + ".bak"); string(kept) != c.kept || (err == nil) != (c.kept != "") {
			t.Errorf("%s: the backup holds %q, %v; want %q", c.name, kept, err, c.kept)
		}
	}
	if info, err := os.Stat(path + ".bak"); err != nil || info.Mode() != 0o600 {
		t.Errorf("the backup's mode: %v, %v", info.Mode(), err)
	}
	leftovers(t, h.dir)
}

// leftovers are an error: of what was written, only whole files remain.
func leftovers(t *testing.T, dir string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, partPrefix+"*"))
	if err != nil || len(all) > 0 {
		t.Errorf("left half written: %v, %v", all, err)
	}
}

// A file of another user stays his, and its backup, too.
func TestOwnerIsKept(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("left out: only root writes files of others")
	}
	h := newHost(t)
	path := h.put("a.conf", "old", 0o440)
	if err := os.Chown(path, 1234, 5678); err != nil {
		t.Fatal(err)
	}
	if a := h.write(path, "new", true); a.Error != nil {
		t.Fatal(a.Error)
	}
	if got, want := stateOf(t, path), (state{"new", 0o440, 1234, 5678}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got, want := stateOf(t, path+".bak"), (state{"old", 0o440, 1234, 5678}); got != want {
		t.Errorf("the backup: %+v, want %+v", got, want)
	}
}

// An access list stays with the file: its mode alone would give the group what the list
// gives to somebody else.
func TestAccessListIsKept(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("left out: access lists of this system are not kept")
	}
	h := newHost(t)
	path := h.put("a.conf", "old", 0o600)
	list := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, 6, 1<<32 - 1}, {0x02, 4, 1234}, {0x04, 0, 1<<32 - 1}, {0x10, 4, 1<<32 - 1}, {0x20, 0, 1<<32 - 1}} {
		list = binary.LittleEndian.AppendUint16(list, e.tag)
		list = binary.LittleEndian.AppendUint16(list, e.perm)
		list = binary.LittleEndian.AppendUint32(list, e.id)
	}
	if err := setxattr(path, list); err != nil {
		t.Skipf("left out: this file system has no access lists (%v)", err)
	}
	if a := h.write(path, "new", true); a.Error != nil {
		t.Fatal(a.Error)
	}
	for _, file := range []string{path, path + ".bak"} {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := accessList(f)
		_ = f.Close()
		if err != nil || !bytes.Equal(got, list) {
			t.Errorf("%s has the list %x, %v; want %x", filepath.Base(file), got, err, list)
		}
	}
}

// Files and ways to them that are not what they seem are refused, to readers and writers,
// and nothing behind them is touched.
func TestFilesThatAreNotTaken(t *testing.T) {
	const outside = "somebody else's"
	root := os.Geteuid() == 0
	for _, c := range []struct {
		name  string
		path  string
		make  func(h *host, outside string) error
		read  string
		write string // empty: as read
	}{
		{"a link", "a.conf", func(h *host, o string) error { return os.Symlink(o, h.path("a.conf")) }, "permission local.link", ""},
		{"a link to nothing", "a.conf", func(h *host, o string) error { return os.Symlink(o+".absent", h.path("a.conf")) }, "permission local.link", ""},
		{"a folder that is a link", "link/a.conf", func(h *host, o string) error { return os.Symlink(filepath.Dir(o), h.path("link")) }, "permission local.link", ""},
		{"a second name of a file", "a.conf", func(h *host, o string) error { return os.Link(o, h.path("a.conf")) }, "permission local.link", ""},
		{"a folder", "a.conf", func(h *host, _ string) error { return os.Mkdir(h.path("a.conf"), 0o755) }, "invalid local.file", ""},
		{"a pipe", "a.conf", func(h *host, _ string) error { return unix.Mkfifo(h.path("a.conf"), 0o600) }, "invalid local.file", ""},
		{"no file", "a.conf", func(*host, string) error { return nil }, "not_found local.file", "none"},
		{"no folder", "sub/a.conf", func(*host, string) error { return nil }, "not_found local.file", ""},
		{"a folder that is a file", "sub/a.conf", func(h *host, _ string) error { return os.WriteFile(h.path("sub"), nil, 0o600) }, "internal local.file", ""},
		{"a folder that a group can change", "sub/a.conf", func(h *host, _ string) error {
			h.put("sub/a.conf", outside, 0o600)
			return os.Chmod(h.path("sub"), 0o775)
		}, "permission local.file", ""},
		{"a folder such as /tmp", "sub/a.conf", func(h *host, _ string) error {
			h.put("sub/a.conf", outside, 0o600)
			return os.Chmod(h.path("sub"), 0o777|os.ModeSticky)
		}, "permission local.file", ""},
		{"a folder above that others can change", "sub/a.conf", func(h *host, _ string) error {
			h.put("sub/a.conf", outside, 0o600)
			return os.Chmod(h.dir, 0o777)
		}, "permission local.file", ""},
		{"root's file in a folder of another's", "sub/a.conf", func(h *host, _ string) error {
			h.put("sub/a.conf", outside, 0o600)
			return os.Chown(h.path("sub"), 1234, 1234)
		}, "permission local.file", ""},
		{"a new file in a folder of another's", "sub/a.conf", func(h *host, _ string) error {
			if err := os.Mkdir(h.path("sub"), 0o755); err != nil {
				return err
			}
			return os.Chown(h.path("sub"), 1234, 1234)
		}, "not_found local.file", "permission local.file"},
		{"another's file in a folder of a third's", "sub/a.conf", func(h *host, _ string) error {
			if err := os.Chown(h.put("sub/a.conf", outside, 0o600), 1235, 1235); err != nil {
				return err
			}
			return os.Chown(h.path("sub"), 1234, 1234)
		}, "permission local.file", ""},
		{"another's file in his own folder", "sub/a.conf", func(h *host, _ string) error {
			if err := os.Chown(h.put("sub/a.conf", outside, 0o600), 1234, 1234); err != nil {
				return err
			}
			return os.Chown(h.path("sub"), 1234, 1234)
		}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Contains(c.name, "another's") && !root {
				t.Skip("left out: only root makes files of others")
			}
			h := newHost(t)
			away := filepath.Join(t.TempDir(), "a.conf")
			if err := os.WriteFile(away, []byte(outside), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := c.make(h, away); err != nil {
				t.Fatal(err)
			}
			a, out := h.read(h.path(c.path))
			if refusal(a) != c.read || c.read != "" && out != "" {
				t.Errorf("read: %q with %d bytes, want %q", refusal(a), len(out), c.read)
			}
			want := c.write
			if want == "" {
				want = c.read
			}
			a = h.write(h.path(c.path), "new", true)
			if got := refusal(a); got != strings.TrimPrefix(want, "none") || got != "" && !a.Error.NotSent {
				t.Errorf("write: %q, want %q, and nothing begun: %+v", got, want, a.Error)
			}
			if got, err := os.ReadFile(away); err != nil || string(got) != outside {
				t.Errorf("the file outside holds %q, %v", got, err)
			}
			if all, _ := filepath.Glob(filepath.Join(filepath.Dir(away), "*")); len(all) != 1 {
				t.Errorf("beside the file outside is now %v", all)
			}
		})
	}
}

// Somebody who swaps the file, or its folder, for links all the time gets nothing outside read
// or written: what is answered or written is a file that was in the folder. A file that is
// being replaced has lost that name in the kernel's count of its names before the name shows
// the new one, so that for a moment a second name passes for an only one: it is the owner, who
// is not that of the folder, by which another's file is known then.
func TestSwappedFile(t *testing.T) {
	const outside = "somebody else's"
	for _, c := range []struct {
		name, path string
		swap       func(h *host, away string, n int)
	}{
		{"the file for a link", "a.conf", func(h *host, away string, n int) {
			if n%2 == 0 {
				_ = os.Symlink(away, h.path("next"))
			} else {
				_ = os.WriteFile(h.path("next"), []byte("inside"), 0o600)
			}
			_ = os.Rename(h.path("next"), h.path("a.conf"))
		}},
		{"the file for another's second name", "sub/a.conf", func(h *host, away string, n int) {
			if n == 0 {
				h.put("sub/a.conf", "inside", 0o600)
				_ = os.Chown(h.path("sub"), 1234, 1234)
			}
			next := h.path("sub/next")
			if n%2 == 0 {
				_ = os.Link(away, next)
			} else {
				_ = os.WriteFile(next, []byte("inside"), 0o600)
				_ = os.Chown(next, 1234, 1234)
			}
			_ = os.Rename(next, h.path("sub/a.conf"))
			_ = os.Remove(next)
		}},
		{"the folder for a link", "sub/a.conf", func(h *host, away string, n int) {
			if n == 0 {
				h.put("one/a.conf", "inside", 0o600)
				_ = os.Symlink(filepath.Dir(away), h.path("two"))
			}
			from := h.path([]string{"one", "two"}[n%2])
			_ = os.Rename(from, h.path("sub"))
			_ = os.Rename(h.path("sub"), from)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Contains(c.name, "another's") && os.Geteuid() != 0 {
				t.Skip("left out: only root makes files of others")
			}
			h := newHost(t)
			away := filepath.Join(t.TempDir(), "a.conf")
			if err := os.WriteFile(away, []byte(outside), 0o600); err != nil {
				t.Fatal(err)
			}
			c.swap(h, away, 0)
			c.swap(h, away, 1)
			stop := make(chan struct{})
			var swapping sync.WaitGroup
			swapping.Go(func() {
				for n := 2; ; n++ {
					select {
					case <-stop:
						return
					default:
						c.swap(h, away, n)
					}
				}
			})
			stopped := sync.OnceFunc(func() { close(stop); swapping.Wait() })
			defer stopped()
			done, refused := 0, 0
			for n := 0; n < 20000 && (n < 500 || done == 0 || refused == 0); n++ {
				a, out := h.read(h.path(c.path))
				switch {
				case strings.Contains(out, outside):
					t.Fatal("what is outside was read")
				case a.Error != nil:
					refused++
				default:
					done++
				}
				if n%8 == 0 {
					if a := h.write(h.path(c.path), "written", n%16 == 0); a.Error == nil {
						done++
					} else {
						refused++
					}
				}
				if got, err := os.ReadFile(away); err != nil || string(got) != outside {
					t.Fatalf("the file outside holds %q, %v", got, err)
				}
			}
			for range 5000 { // without the connection, so that the swap falls between any two steps
				if b, err := readFile(h.path(c.path), 1<<10); err == nil && string(b) == outside {
					t.Fatal("what is outside was read")
				}
			}
			stopped()
			if all, _ := filepath.Glob(filepath.Join(filepath.Dir(away), "*")); len(all) != 1 {
				t.Errorf("beside the file outside is now %v", all)
			}
			t.Logf("done %d times, refused %d times", done, refused)
			if done == 0 || refused == 0 {
				t.Error("nothing was swapped")
			}
		})
	}
}

// Whenever the agent dies, the file is the old one or the new one, and so is the backup; what
// it leaves half written is removed by a later agent, and nothing younger is.
func TestDiesInTheMiddle(t *testing.T) {
	one, two := strings.Repeat("1", 1<<20), strings.Repeat("2", 1<<20)
	if path := os.Getenv("ROTUNDA_LOCAL_WRITES"); path != "" {
		for n := 0; ; n++ {
			if _, err := writeFile(path, []byte([]string{two, one}[n%2]), nil, true); err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				_, _ = os.Stdout.WriteString("begun\n")
			}
		}
	}
	h := newHost(t)
	path := h.put("a.conf", one, 0o640)
	for n := range 20 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestDiesInTheMiddle$")
		cmd.Env = append(os.Environ(), "ROTUNDA_LOCAL_WRITES="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(n*317) * time.Microsecond) // anywhere in what it does
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for _, file := range []string{path, path + ".bak"} {
			if got := stateOf(t, file); got.content != one && got.content != two || got.mode != 0o640 {
				t.Fatalf("%s holds %d bytes of mode %v, neither the old file nor the new one", file, len(got.content), got.mode)
			}
		}
	}
	old, young, other := h.path(partPrefix+strings.Repeat("0", 32)), h.path(partPrefix+strings.Repeat("1", 32)), h.path(partPrefix+"own")
	for _, file := range []string{old, young, other} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * partLives)
	for _, file := range []string{old, other} {
		if err := os.Chtimes(file, past, past); err != nil {
			t.Fatal(err)
		}
	}
	if a := h.write(path, "three", false); a.Error != nil {
		t.Fatal(a.Error)
	}
	all, _ := filepath.Glob(h.path(partPrefix + "*"))
	if slices.Contains(all, old) || !slices.Contains(all, young) || !slices.Contains(all, other) {
		t.Errorf("left: %v; want that without the old one", all)
	}
}

// A run that has ended writes nothing any more.
func TestEndedRunWritesNothing(t *testing.T) {
	h := newHost(t)
	path := h.put("a.conf", "old", 0o600)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Server.write(ctx, pluginv1.LocalWrite{Path: path}, []byte("new")); err == nil {
		t.Error("it wrote")
	}
	if got := stateOf(t, path); got.content != "old" {
		t.Errorf("the file holds %q", got.content)
	}
}

// A backup is a file of its own: where the local policy does not name it nothing is written.
func TestBackupOfOneList(t *testing.T) {
	h := newHost(t)
	p, err := policy.Parse(fmt.Sprintf("[scripts]\nfiles = [%q]\n", h.dir+"/*.conf"))
	if err != nil {
		t.Fatal(err)
	}
	h.Policy = p
	path, own := h.put("a.conf", "old", 0o640), h.put("a.conf.bak", "the administrator's own", 0o600)
	a := h.write(path, "new", true)
	if a.Error == nil || a.Error.Reason != Policy {
		t.Errorf("%+v", a)
	}
	for file, want := range map[string]string{path: "old", own: "the administrator's own"} {
		if b, err := os.ReadFile(file); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v; want %q", file, b, err, want)
		}
	}
}
