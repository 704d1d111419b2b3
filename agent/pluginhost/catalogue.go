package pluginhost

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/rotunda-pam/rotunda/agent/installed"
	"github.com/rotunda-pam/rotunda/internal/release"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

// Catalogue finds plugin binaries by name and hash. The folder's files are called
// NAME@SHA256, so that an upgrade adds one and pulls none from under a running agent.
type Catalogue struct {
	dir     string
	builtin map[Plugin]bool
	logged  func(Plugin) bool
}

const maxPlugins = 1024 // files of the folder that are looked at

// NewCatalogue reads dir at each use. builtin lists the hashes that the agent was
// built with, as NAME@SHA256; logged tells whether the organisation's log allows
// another now, and may be nil.
func NewCatalogue(dir string, builtin []string, logged func(Plugin) bool) (*Catalogue, error) {
	c := &Catalogue{dir: dir, builtin: map[Plugin]bool{}, logged: logged}
	for _, b := range builtin {
		p, err := ParsePlugin(b)
		if err != nil {
			return nil, err
		}
		c.builtin[p] = true
	}
	return c, nil
}

// ParsePlugin reads NAME@SHA256, the hash in lower-case hexadecimal.
func ParsePlugin(s string) (Plugin, error) {
	name, sum, ok := strings.Cut(s, "@")
	b, err := hex.DecodeString(sum)
	if !ok || err != nil || len(b) != sha256.Size || sum != strings.ToLower(sum) || !validName(name) {
		return Plugin{}, fmt.Errorf("plugin %q: want NAME@SHA256", s)
	}
	return Plugin{Name: name, SHA256: [32]byte(b)}, nil
}

func validName(s string) bool {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z'
		if !letter && (i == 0 || (r < '0' || r > '9') && r != '-' && r != '_') {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// String is NAME@SHA256.
func (p Plugin) String() string { return p.Name + "@" + hex.EncodeToString(p.SHA256[:]) }

// Find gives the plugin of that name which may run: a built-in one before those of
// the log, of these the one that is installed as the version in use, else the one whose
// file is youngest, of those that nobody went back from. None is an *Error, plugin_unknown.
func (c *Catalogue) Find(name string) (Plugin, error) {
	err := fmt.Errorf("%s has none that may run", c.dir)
	for _, p := range c.candidates() {
		if p.Name != name {
			continue
		}
		if !p.left {
			return p.Plugin, nil
		}
		err = fmt.Errorf("%s has none that may run but what was gone back from: `rotunda-agent plugin rollback %s --to VERSION` chooses one again", c.dir, name)
	}
	if _, damaged := installed.Read(c.dir); damaged != nil {
		err = damaged
	}
	return Plugin{}, &Error{Reason: PluginUnknown, Plugin: name, NotSent: true, Err: err}
}

// List gives every plugin that may run now, by name, the preferred first. Where it is not
// to be read which versions are in use, those that came with the agent are all.
func (c *Catalogue) List() []Plugin {
	all := c.candidates()
	out := make([]Plugin, len(all))
	for i, f := range all {
		out[i] = f.Plugin
	}
	return out
}

// candidate is a plugin that may run now.
type candidate struct {
	Plugin
	builtin bool
	inUse   bool // the version in use
	left    bool // one that somebody went back from
	time    int64
}

func (c *Catalogue) candidates() []candidate {
	chosen, damaged := installed.Read(c.dir)
	dir, err := os.Open(c.dir)
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }()
	files, err := dir.ReadDir(maxPlugins)
	if err != nil {
		return nil
	}
	var all []candidate
	for _, f := range files {
		p, err := ParsePlugin(strings.TrimSuffix(f.Name(), exe))
		if err != nil || !f.Type().IsRegular() || !c.allows(p) {
			continue
		}
		one := candidate{Plugin: p, builtin: c.builtin[p]}
		if damaged != nil && !one.builtin {
			continue
		}
		if i := chosen[p.Name]; i != nil {
			one.inUse, one.left = i.InUse().SHA256 == seal.Digest(p.SHA256), !one.builtin && i.Left(seal.Digest(p.SHA256))
		}
		if i, err := f.Info(); err == nil {
			one.time = i.ModTime().UnixNano()
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), first(a.builtin, b.builtin), first(a.inUse, b.inUse), first(b.left, a.left), cmp.Compare(b.time, a.time))
	})
	return all
}

// BuiltIn reports whether a plugin came with this agent.
func (c *Catalogue) BuiltIn(p Plugin) bool { return c.builtin[p] }

// first orders what is before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// File is a file of the plugin folder, as doctor sees it.
type File struct {
	Name    string
	Plugin  Plugin
	BuiltIn bool
	Err     error // why no agent starts it, whatever the log says
}

// Look reads every file of the folder and holds it against its name.
func (c *Catalogue) Look() ([]File, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, err
	}
	var all []File
	for _, e := range entries[:min(len(entries), maxPlugins)] {
		if installed.Is(e.Name()) {
			continue
		}
		f := File{Name: e.Name()}
		if f.Plugin, f.Err = ParsePlugin(strings.TrimSuffix(e.Name(), exe)); f.Err == nil && !e.Type().IsRegular() {
			f.Err = errors.New("not a regular file")
		}
		if f.Err == nil {
			f.BuiltIn, f.Err = c.builtin[f.Plugin], installed.Check(filepath.Join(c.dir, e.Name()), seal.Digest(f.Plugin.SHA256))
		}
		all = append(all, f)
	}
	return all, nil
}

func (c *Catalogue) allows(p Plugin) bool {
	p = p.binaryOnly()
	return c.builtin[p] || c.logged != nil && c.logged(p)
}

var exe = map[bool]string{true: ".exe"}[runtime.GOOS == "windows"]

// copyTo makes a private copy at path, hashing what it copies: the bytes that were
// checked are the bytes that run, whatever happens to the file in between.
func (c *Catalogue) copyTo(p Plugin, path string) error {
	if !c.allows(p) {
		return errors.New("its hash is neither built in nor in the log")
	}
	src, err := os.Open(filepath.Join(c.dir, installed.FileName(p.Name, seal.Digest(p.SHA256))))
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	tmp := path + ".new"
	_ = os.Remove(tmp)
	sum, err := writeCopy(tmp, src)
	if err == nil && sum != p.SHA256 {
		err = installed.ErrHash
	}
	if err == nil {
		err = os.Chmod(tmp, 0o555)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}

// writeCopy writes what src gives to a new program file, and hashes it. Nothing is
// forked meanwhile: a child has the file open for writing, too, until its own program
// begins, and as long as somebody has, nobody can run it (golang.org/issue/22315).
func writeCopy(path string, src io.Reader) ([32]byte, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	dst, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return [32]byte{}, err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(dst, sum), io.LimitReader(src, release.MaxFile))
	return [32]byte(sum.Sum(nil)), errors.Join(err, dst.Close())
}
