package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/sftp"
	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

// filePath is an argument that names one file on the host.
func (a *args) filePath(n int) string {
	p := a.text(n)
	if !path.IsAbs(p) || path.Clean(p) != p || strings.ContainsAny(p, "\x00\n\r") || len(p) > 4096 {
		a.bad(n, "want a whole path of a file, without . and ..")
	}
	return p
}

// sftp is the connection's SFTP client. Where ctx ends, the connection ends: the library's
// calls take no context.
func (c *sshConn) sftp() (*sftp.Client, error) {
	if c.files != nil {
		return c.files, nil
	}
	var err error
	c.files, err = sftp.NewClient(c.client)
	return c.files, err
}

// withFiles calls f with the SFTP client.
func (a *args) withFiles(limit time.Duration, f func(*sftp.Client) *sdk.Error) *sdk.Error {
	c := a.self.(*sshConn)
	ctx, cancel := a.within(limit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.client.Close() })
	defer stop()
	client, err := c.sftp()
	if err != nil {
		return unreached(ctx, err)
	}
	failed := f(client)
	if failed != nil && ctx.Err() != nil {
		failed.Class, failed.Reason = sdk.ClassUnreachable, "deadline"
	}
	return failed
}

// fileError classes an error of SFTP.
func fileError(name string, err error) *sdk.Error {
	e := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "sftp", Err: fmt.Errorf("%s: %w", name, err)}
	var status *sftp.StatusError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Class, e.Reason = sdk.ClassNotFound, "sftp.missing"
	case errors.Is(err, fs.ErrPermission):
		e.Class, e.Reason = sdk.ClassPermission, "sftp.permission"
	case errors.As(err, &status):
		e.Class, e.Reason = sdk.ClassConflict, "sftp.refused"
	}
	return e
}

func sftpGet(a *args) int {
	name, o := a.filePath(1), a.options(2, "max", "timeout", "secret")
	limit, hide := o.answer()
	var content []byte
	failed := a.withFiles(o.seconds("timeout", time.Minute), func(c *sftp.Client) *sdk.Error {
		if failed := regular(c, name, c.Stat); failed != nil {
			return failed
		}
		f, err := c.Open(name)
		if err != nil {
			return fileError(name, err)
		}
		defer f.Close()
		if content, err = io.ReadAll(io.LimitReader(f, int64(limit)+1)); err != nil {
			return fileError(name, err)
		}
		if len(content) > limit {
			return &sdk.Error{Class: sdk.ClassUnsupported, Reason: "sftp.too_large", Err: fmt.Errorf("%s has more than %d bytes: raise max", name, limit)}
		}
		return nil
	})
	if failed != nil {
		failed.NotSent = true
		return a.fail(failed)
	}
	return a.give(content, hide)
}

// regular says whether a file is one: a pipe would never end.
func regular(c *sftp.Client, name string, stat func(string) (os.FileInfo, error)) *sdk.Error {
	info, err := stat(name)
	if err != nil {
		return fileError(name, err)
	}
	if !info.Mode().IsRegular() {
		return &sdk.Error{Class: sdk.ClassConflict, Reason: "sftp.kind", Err: fmt.Errorf("%s is no regular file", name)}
	}
	return nil
}

func sftpStat(a *args) int {
	name, o := a.filePath(1), a.options(2, "timeout")
	t := a.L.NewTable()
	failed := a.withFiles(o.seconds("timeout", time.Minute), func(c *sftp.Client) *sdk.Error {
		info, err := c.Lstat(name)
		if err != nil {
			return fileError(name, err)
		}
		kind := "other"
		switch {
		case info.Mode().IsRegular():
			kind = "file"
		case info.IsDir():
			kind = "directory"
		case info.Mode()&fs.ModeSymlink != 0:
			kind = "link"
		}
		t.RawSetString("kind", lua.LString(kind))
		t.RawSetString("size", lua.LNumber(info.Size()))
		t.RawSetString("modified", lua.LNumber(info.ModTime().Unix()))
		if s, ok := info.Sys().(*sftp.FileStat); ok {
			t.RawSetString("mode", lua.LString(fmt.Sprintf("%04o", s.Mode&0o7777)))
			t.RawSetString("uid", lua.LNumber(s.UID))
			t.RawSetString("gid", lua.LNumber(s.GID))
		}
		return nil
	})
	if failed != nil {
		failed.NotSent = true
		return a.fail(failed)
	}
	return a.push(t)
}

func sftpPut(a *args) int {
	name, o := a.filePath(1), a.options(3, "mode", "timeout", "was")
	content, _ := a.bytes(2)
	defer clear(content)
	was, _ := o.bytes("was")
	defer clear(was)
	if was == nil && o.has("was") { // of a file that was empty
		was = []byte{}
	}
	mode := int64(-1)
	if o.has("mode") {
		n, err := strconv.ParseUint(o.text("mode", ""), 8, 12)
		if err != nil || n > 0o777 {
			a.bad(3, "mode: want one such as \"0640\"")
		}
		mode = int64(n)
	}
	failed := a.withFiles(o.seconds("timeout", time.Minute), func(c *sftp.Client) *sdk.Error {
		return replaceFile(c, name, content, was, mode)
	})
	if failed != nil {
		return a.fail(failed)
	}
	return a.push(lua.LTrue)
}

const (
	posixRename  = "posix-rename@openssh.com"
	besidePrefix = ".rotunda-"
)

// besideName is the name of a file that replaceFile writes beside another.
var besideName = regexp.MustCompile(`^\.rotunda-[A-Z2-7]{26}$`)

// replaceFile writes a file beside the one of that name and puts it in its place, where that
// still has what was in it, unless was is nil. Until then nothing is changed, and the error
// says so.
func replaceFile(c *sftp.Client, name string, content, was []byte, mode int64) *sdk.Error {
	as := func(f *sdk.Error) *sdk.Error {
		f.NotSent = true
		return f
	}
	if _, ok := c.HasExtension(posixRename); !ok {
		return as(&sdk.Error{Class: sdk.ClassUnsupported, Reason: "sftp.rename", Err: errors.New("the server cannot replace a file in one step")})
	}
	var owner *sftp.FileStat
	info, err := c.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && was != nil:
		return as(fileChanged(name))
	case errors.Is(err, fs.ErrNotExist):
		if mode < 0 {
			mode = 0o600
		}
	case err != nil:
		return as(fileError(name, err))
	case !info.Mode().IsRegular():
		return as(&sdk.Error{Class: sdk.ClassConflict, Reason: "sftp.kind", Err: fmt.Errorf("%s is no regular file: name the file itself", name)})
	default:
		owner, _ = info.Sys().(*sftp.FileStat)
		if mode < 0 {
			mode = int64(info.Mode().Perm())
		}
	}
	beside := path.Join(path.Dir(name), besidePrefix+rand.Text())
	if err := writeBeside(c, beside, content, owner, fs.FileMode(mode)); err != nil {
		_ = c.Remove(beside)
		return as(fileError(name, err))
	}
	if was != nil {
		lock := name + lockSuffix
		since, failed := lockFile(c, lock, beside)
		if failed == nil {
			defer func() {
				if time.Since(since) < lockHeld/2 && holds(c, lock, beside) == nil { // later it may be another's
					_ = c.Remove(lock)
				}
			}()
			failed = stillHas(c, name, was)
		}
		if failed == nil {
			failed = holds(c, lock, beside)
		}
		if failed != nil {
			_ = c.Remove(beside)
			return as(failed)
		}
	}
	err = c.PosixRename(beside, name)
	if was != nil && errors.Is(err, fs.ErrNotExist) { // whoever took the lock over has removed it
		return as(fileLocked(name+lockSuffix, errors.New("another one has taken it over")))
	} else if err != nil {
		_ = c.Remove(beside)
		return fileError(name, err)
	}
	return nil
}

// Those who replace a file only where it is as they read it take turns by a lock beside it, in
// which stands the name of the file that its holder is about to put in place. It is held for the
// few answers that it takes to compare and to rename. An older one was left by somebody who has
// ended, or whose rename hangs: who takes it over removes his file first, so that it comes to
// nothing.
const (
	lockSuffix = ".rotunda-lock"
	lockHeld   = 10 * time.Second
	lockWaited = 15 * time.Second
)

func fileLocked(lock string, err error) *sdk.Error {
	return &sdk.Error{Class: sdk.ClassConflict, Reason: "sftp.locked", Err: fmt.Errorf("%s: %w", lock, err)}
}

func fileChanged(name string) *sdk.Error {
	return &sdk.Error{Class: sdk.ClassConflict, Reason: "sftp.changed", Err: fmt.Errorf("%s is not as it was read: somebody else has changed it", name)}
}

// lockFile makes the lock, and says since when it is held at the earliest. A lock's age is by the
// host's clock, which has just written beside, and by the time that was waited since.
func lockFile(c *sftp.Client, lock, beside string) (since time.Time, _ *sdk.Error) {
	here, err := c.Lstat(beside)
	if err != nil {
		return since, fileError(lock, err)
	}
	began := time.Now()
	for {
		since = time.Now()
		f, err := c.OpenFile(lock, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		if err == nil {
			_, err = f.Write([]byte(path.Base(beside)))
			if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil { // who takes it over reads it
				_ = c.Remove(lock)
				return since, fileError(lock, err)
			}
			return since, nil
		}
		// That it is there is, to SFTP, a failure like others.
		held, missing := c.Lstat(lock)
		switch failed := fileError(lock, err); {
		case failed.Reason != "sftp.refused":
			return since, failed
		case time.Since(began) > lockWaited:
			return since, fileLocked(lock, err)
		case errors.Is(missing, fs.ErrNotExist): // it was there a moment ago
		case missing != nil:
			return since, fileError(lock, missing)
		case here.ModTime().Sub(held.ModTime())+time.Since(began) > lockHeld:
			if takeOver(c, lock) == nil {
				continue
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// holds says whether a lock is the one of who writes beside.
func holds(c *sftp.Client, lock, beside string) *sdk.Error {
	failed := stillHas(c, lock, []byte(path.Base(beside)))
	if failed != nil && failed.Reason == "sftp.changed" {
		return fileLocked(lock, errors.New("another one has taken it over"))
	}
	return failed
}

// takeOver removes a lock that is too old. Of two who do so at the same time the second may find
// the first one's new lock there: he is kept from renaming, too.
func takeOver(c *sftp.Client, lock string) error {
	if err := disarm(c, lock); err != nil {
		return err
	}
	away := path.Join(path.Dir(lock), besidePrefix+rand.Text())
	if err := c.PosixRename(lock, away); err != nil {
		return err
	}
	return errors.Join(disarm(c, away), c.Remove(away))
}

// disarm removes the file that a lock's holder is about to put in place.
func disarm(c *sftp.Client, lock string) error {
	f, err := c.Open(lock)
	if err != nil {
		return err
	}
	defer f.Close()
	name, err := io.ReadAll(io.LimitReader(f, 100))
	if err != nil || !besideName.Match(name) { // nobody wrote his yet
		return err
	}
	if err := c.Remove(path.Join(path.Dir(lock), string(name))); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// stillHas says whether a file's content is what it was.
func stillHas(c *sftp.Client, name string, was []byte) *sdk.Error {
	f, err := c.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fileChanged(name)
	} else if err != nil {
		return fileError(name, err)
	}
	defer f.Close()
	now, err := io.ReadAll(io.LimitReader(f, int64(len(was))+1))
	defer clear(now)
	if err != nil {
		return fileError(name, err)
	}
	if !bytes.Equal(now, was) {
		return fileChanged(name)
	}
	return nil
}

// writeBeside makes the file for nobody else's eyes before anything is in it.
func writeBeside(c *sftp.Client, beside string, content []byte, owner *sftp.FileStat, mode fs.FileMode) error {
	f, err := c.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	if owner != nil {
		if mine, err := f.Stat(); err != nil {
			return err
		} else if s, ok := mine.Sys().(*sftp.FileStat); !ok || s.UID != owner.UID || s.GID != owner.GID {
			if err := f.Chown(int(owner.UID), int(owner.GID)); err != nil {
				return err
			}
		}
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, ok := c.HasExtension("fsync@openssh.com"); ok {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return f.Close()
}
