package main

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/rotunda-pam/rotunda/sdk"
)

// delayed is a client of a server of files: before is called with each request while that is
// under way.
func delayed(t *testing.T, before func(kind byte, request string)) *sftp.Client {
	t.Helper()
	near, far := net.Pipe()
	in, out := io.Pipe()
	server, err := sftp.NewServer(struct {
		io.Reader
		io.WriteCloser
	}{in, far})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve() }()
	go func() {
		defer out.Close()
		for {
			var size [4]byte
			if _, err := io.ReadFull(far, size[:]); err != nil {
				return
			}
			request := make([]byte, binary.BigEndian.Uint32(size[:]))
			if _, err := io.ReadFull(far, request); err != nil {
				return
			}
			before(request[0], string(request[1:]))
			if _, err := out.Write(append(size[:], request...)); err != nil {
				return
			}
		}
	}()
	c, err := sftp.NewClientPipe(near, near)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return c
}

const (
	sftpOpen     = 3
	sftpRemove   = 13
	sftpExtended = 200
)

// renames says whether a request puts a file in the place of the one of that name.
func renames(kind byte, request, name string) bool {
	return kind == sftpExtended && strings.HasSuffix(request, name)
}

// Who loses his lock while he compares or renames changes nothing, and the one who took it
// over loses nothing.
func TestLockTakenOver(t *testing.T) {
	at := func(t *testing.T) (name string, age func()) {
		name = filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, []byte("0"), 0o600); err != nil {
			t.Fatal(err)
		}
		return name, func() {
			long := time.Now().Add(-time.Hour)
			if err := os.Chtimes(name+lockSuffix, long, long); err != nil {
				t.Error(err)
			}
		}
	}
	put := func(c *sftp.Client, name, content string) *sdk.Error {
		return replaceFile(c, name, []byte(content), []byte("0"), -1)
	}
	check := func(t *testing.T, name string, loser, winner *sdk.Error) {
		t.Helper()
		if loser == nil || loser.Reason != "sftp.locked" || !loser.NotSent {
			t.Errorf("who lost the lock: %v", loser)
		}
		if winner != nil {
			t.Errorf("who took it over: %v", winner)
		}
		if now, err := os.ReadFile(name); err != nil || string(now) != "winner" {
			t.Errorf("the file has %q, %v", now, err)
		}
		if all, err := os.ReadDir(filepath.Dir(name)); err != nil || len(all) != 1 {
			t.Errorf("left behind: %v, %v", all, err)
		}
	}
	nothing := func(byte, string) {}

	t.Run("while the rename hangs", func(t *testing.T) {
		name, age := at(t)
		var winner *sdk.Error
		loser := put(delayed(t, func(kind byte, request string) {
			if renames(kind, request, name) {
				age()
				winner = put(delayed(t, nothing), name, "winner")
			}
		}), name, "loser")
		check(t, name, loser, winner)
	})

	t.Run("before it is read back", func(t *testing.T) {
		name, age := at(t)
		var winner *sdk.Error
		opened := 0
		loser := put(delayed(t, func(kind byte, request string) {
			if kind != sftpOpen || !strings.Contains(request, name) {
				return
			}
			if opened++; opened == 3 { // after the lock is made and the file is compared
				age()
				winner = put(delayed(t, nothing), name, "winner")
			}
		}), name, "loser")
		check(t, name, loser, winner)
	})

	// Who takes a lock over may be another login than made it.
	t.Run("read by all", func(t *testing.T) {
		name, _ := at(t)
		opened := 0
		var mode os.FileMode
		failed := put(delayed(t, func(kind byte, request string) {
			switch {
			case kind == sftpOpen && strings.Contains(request, name):
				if opened++; opened == 2 {
					if info, err := os.Stat(name + lockSuffix); err == nil {
						mode = info.Mode().Perm()
					}
				}
			case opened == 1 && mode == 0: // as a host with the umask 077 has made it
				mode = 0o600
				if err := os.Chmod(name+lockSuffix, mode); err != nil {
					t.Error(err)
				}
			}
		}), name, "winner")
		if failed != nil || mode != 0o644 {
			t.Errorf("%v, mode %o", failed, mode)
		}
	})

	// Both see the same old lock; the second removes it after the first has made his.
	t.Run("by two at the same time", func(t *testing.T) {
		name, age := at(t)
		if err := os.WriteFile(name+lockSuffix, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		age()
		var loser *sdk.Error
		lost, renaming, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
		first := true
		winner := put(delayed(t, func(kind byte, request string) {
			if away := kind == sftpRemove || kind == sftpExtended; !first || !away || !strings.Contains(request, lockSuffix) {
				return
			}
			first = false
			c := delayed(t, func(kind byte, request string) {
				if renames(kind, request, name) {
					close(renaming)
					<-ended
				}
			})
			go func() {
				defer close(lost)
				loser = put(c, name, "loser")
			}()
			<-renaming
		}), name, "winner")
		close(ended)
		<-lost
		check(t, name, loser, winner)
	})
}
