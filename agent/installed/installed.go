// Package installed keeps which releases of plugins are in an agent's plugin folder, from
// whom, and which of each is chosen. It lets nothing start: that is the log's to say, by
// the hash of the file.
//
// The folder has the files, called NAME@SHA256, side by side, and installed.json, which
// says of each name who its publisher is and which version is in use. Files that were put
// there by hand are in the folder alone.
package installed

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rotunda-pam/rotunda/internal/durable"
	"github.com/rotunda-pam/rotunda/internal/exitcode"
	"github.com/rotunda-pam/rotunda/internal/release"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

// Index is the name of the file that says what is installed.
const Index = "installed.json"

// newPrefix is how files are called until they are whole.
const newPrefix = ".new-"

var syncFolder = durable.Folder // tests have it fail

// Plugin is what is installed under one name.
type Plugin struct {
	Publisher release.Publisher `json:"publisher"` // whose word is taken on later versions
	Current   string            `json:"current"`   // version
	Versions  []Version         `json:"versions"`
}

// Version is an installed release.
type Version struct {
	Version   string            `json:"version"`
	SHA256    seal.Digest       `json:"sha256"`
	Publisher release.Publisher `json:"publisher,omitzero"` // who signed it
	Published time.Time         `json:"published"`
	Installed time.Time         `json:"installed"`
	Left      bool              `json:"left,omitempty"` // somebody went back from it, and did not choose it again
}

// Plugins is the whole of the index, by name.
type Plugins map[string]*Plugin

// Is reports whether a name in the folder is this package's own, and no plugin's.
func Is(name string) bool { return name == Index || strings.HasPrefix(name, newPrefix) }

// Read gives what is installed in a folder; none where there is no index.
func Read(dir string) (Plugins, error) {
	b, err := os.ReadFile(filepath.Join(dir, Index))
	if errors.Is(err, fs.ErrNotExist) {
		return Plugins{}, nil
	}
	if err != nil {
		return nil, exitcode.With(exitcode.Usage, err)
	}
	all := Plugins{}
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, refuse(exitcode.Usage, "%s is damaged (%w): take it from a backup, or remove it and install anew", filepath.Join(dir, Index), err)
	}
	for name, p := range all {
		if p == nil || p.spelled(p.Current) < 0 {
			return nil, refuse(exitcode.Usage, "%s is damaged (%s has no version in use): take it from a backup, or remove it and install anew", filepath.Join(dir, Index), name)
		}
		for i, v := range p.Versions {
			if v.Publisher == (release.Publisher{}) { // written before each version had its own
				p.Versions[i].Publisher = p.Publisher
			}
		}
	}
	return all, nil
}

// Missing are the names whose versions have lost their files, with those versions.
func (all Plugins) Missing(dir string) map[string][]Version {
	out := map[string][]Version{}
	for name, p := range all {
		for _, v := range p.Versions {
			if _, err := os.Lstat(filepath.Join(dir, FileName(name, v.SHA256))); errors.Is(err, fs.ErrNotExist) {
				out[name] = append(out[name], v)
			}
		}
	}
	return out
}

// find gives the place of a version, however it is spelled: 1.2 is 1.2.0.
func (p *Plugin) find(version string) int {
	if i := p.spelled(version); i >= 0 {
		return i
	}
	return slices.IndexFunc(p.Versions, func(v Version) bool { return release.Compare(v.Version, version) == 0 })
}

func (p *Plugin) spelled(version string) int {
	return slices.IndexFunc(p.Versions, func(v Version) bool { return v.Version == version })
}

// InUse is the version that is chosen.
func (p *Plugin) InUse() Version { return p.Versions[p.spelled(p.Current)] }

// Left reports whether somebody went back from a file. Where the one in use may not start,
// it does not start in its place.
func (p *Plugin) Left(sum seal.Digest) bool {
	return p.InUse().SHA256 != sum && slices.ContainsFunc(p.Versions, func(v Version) bool { return v.Left && v.SHA256 == sum })
}

// choose makes a version the one in use. Whoever goes back leaves all that are newer.
func (p *Plugin) choose(i int) {
	to := p.Versions[i].Version
	if p.Current != "" && release.Compare(to, p.Current) < 0 {
		for n, v := range p.Versions {
			p.Versions[n].Left = v.Left || release.Compare(v.Version, to) > 0
		}
	}
	p.Versions[i].Left, p.Current = false, to
}

// Options of Install.
type Options struct {
	Publisher release.Publisher // who signs, by the operator's word; zero: whom the index names
	Upgrade   bool              // of what is installed already
	Older     bool              // also by a version that is older
	BuiltIn   []string          // names that the agent's own plugins have
	Now       time.Time
}

func refuse(code exitcode.Code, format string, args ...any) error {
	return exitcode.With(code, fmt.Errorf(format, args...))
}

// Install takes over the file for this platform of a signed release, and makes it the
// version in use. Where it fails nothing has changed, unless the index was written and only
// its folder could not be synced: then the new version is in use, and its file stays. It
// gives the version that was in use before, empty for a first one.
func Install(dir, manifest string, o Options) (release.Release, release.File, string, error) {
	fail := func(err error) (release.Release, release.File, string, error) {
		return release.Release{}, release.File{}, "", err
	}
	r, by, err := release.OpenFile(manifest)
	if errors.Is(err, release.ErrSignature) {
		return fail(refuse(exitcode.Denied, "%w; nothing was changed", err))
	}
	if err != nil {
		return fail(err)
	}
	file, err := r.For(runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return fail(err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	all, err := Read(dir)
	if err != nil {
		return fail(err)
	}
	old := all[r.Name]
	if err := admissible(r, by, file, old, o); err != nil {
		return fail(err)
	}
	sweep(dir)
	path := filepath.Join(dir, FileName(r.Name, file.SHA256))
	taken, err := take(filepath.Join(filepath.Dir(manifest), file.Name), file, path)
	if err != nil {
		if taken {
			err = errors.Join(err, os.Remove(path))
		}
		return fail(err)
	}
	before := ""
	if old == nil {
		old = &Plugin{}
		all[r.Name] = old
	} else {
		before = old.Current
	}
	i := old.find(r.Version)
	if i < 0 {
		i = len(old.Versions)
		old.Versions = append(old.Versions, Version{Version: r.Version, SHA256: file.SHA256, Published: r.Published, Installed: o.Now.UTC().Truncate(time.Second)})
	}
	old.Publisher, old.Versions[i].Publisher = by, by
	old.choose(i)
	if err := all.write(dir); err != nil {
		if taken && !names(dir, r.Name, file.SHA256) {
			err = errors.Join(err, os.Remove(path))
		}
		return fail(err)
	}
	return r, file, before, nil
}

// names reports whether the index, as it stands in the folder, may have a file of a plugin.
func names(dir, name string, sum seal.Digest) bool {
	all, err := Read(dir)
	p := all[name]
	return err != nil || p != nil && slices.ContainsFunc(p.Versions, func(v Version) bool { return v.SHA256 == sum })
}

// admissible holds a release against what is installed and what the operator said.
func admissible(r release.Release, by release.Publisher, file release.File, old *Plugin, o Options) error {
	none := release.Publisher{}
	switch {
	case slices.Contains(o.BuiltIn, r.Name):
		return refuse(exitcode.Conflict, "%s came with this agent: a plugin of another publisher has another name", r.Name)
	case old == nil && o.Upgrade:
		return refuse(exitcode.NotFound, "%s is not installed: `rotunda-agent plugin install` does it the first time", r.Name)
	case old == nil && o.Publisher == none:
		return refuse(exitcode.Denied, "whose word to take on %s has to be said the first time: it is signed by %s; compare that key with the publisher's own word for it, and give it with --publisher", r.Name, by)
	case old != nil && !o.Upgrade:
		return refuse(exitcode.Conflict, "%s is installed, version %s: `rotunda-agent plugin upgrade` goes on from there", r.Name, old.Current)
	}
	want := o.Publisher
	if want == none {
		want = old.Publisher
	}
	if by != want {
		return refuse(exitcode.Denied, "%s %s is signed by %s, and not by %s: another publisher's, or he has a new key; in that case, and if he says so elsewhere, give it with --publisher", r.Name, r.Version, by, want)
	}
	if old == nil {
		return nil
	}
	if i := old.find(r.Version); i >= 0 && old.Versions[i].SHA256 != file.SHA256 {
		return refuse(exitcode.Denied, "%s %s is installed with another checksum (%s): a publisher gives a change a version of its own", r.Name, r.Version, old.Versions[i].SHA256)
	}
	if release.Compare(r.Version, old.Current) < 0 && !o.Older {
		return refuse(exitcode.Conflict, "%s %s is older than %s, which is in use: `rotunda-agent plugin rollback` goes back to one that is installed; --older installs it all the same", r.Name, r.Version, old.Current)
	}
	return nil
}

// Rollback makes another installed version the one in use: to, or the next older one, if it
// is of the same publisher. It gives what was in use before, and what is now.
func Rollback(dir, name, to string) (before, now Version, err error) {
	unlock, err := lock(dir)
	if err != nil {
		return before, now, err
	}
	defer unlock()
	all, err := Read(dir)
	if err != nil {
		return before, now, err
	}
	p := all[name]
	if p == nil {
		return before, now, refuse(exitcode.NotFound, "%s is not installed: `rotunda-agent plugin list` tells what is", name)
	}
	before = p.InUse()
	asked := to != ""
	if !asked {
		for _, v := range p.Versions {
			if release.Compare(v.Version, p.Current) < 0 && (to == "" || release.Compare(v.Version, to) > 0) {
				to = v.Version
			}
		}
		if to == "" {
			return before, now, refuse(exitcode.NotFound, "no version of %s is installed that is older than %s, which is in use", name, p.Current)
		}
	}
	i := p.find(to)
	if i < 0 {
		return before, now, refuse(exitcode.NotFound, "%s %s is not installed: `rotunda-agent plugin list` tells what is", name, to)
	}
	now = p.Versions[i]
	if now.Publisher != p.Publisher && !asked {
		return before, now, refuse(exitcode.Denied, "%s %s is signed by %s, and not by %s, whose word is taken now: --to %s goes back to it all the same; nothing was changed", name, to, now.Publisher, p.Publisher, to)
	}
	file := FileName(name, now.SHA256)
	if err := Check(filepath.Join(dir, file), now.SHA256); err != nil {
		code := exitcode.Denied
		if errors.Is(err, fs.ErrNotExist) {
			code = exitcode.NotFound
		}
		return before, now, refuse(code, "%s %s cannot be used again: %s: %w; nothing was changed", name, to, file, err)
	}
	p.choose(i)
	return before, now, all.write(dir)
}

// FileName is what a plugin's file is called in the folder.
func FileName(name string, sum seal.Digest) string {
	suffix := ""
	if runtime.GOOS == "windows" {
		suffix = ".exe"
	}
	return name + "@" + sum.String() + suffix
}

// ErrHash: a file is not the one that its name says.
var ErrHash = errors.New("the file has another hash")

// Check holds a file of the folder against its hash. Agents start none that is a link, nor
// one that is larger than a release's may be.
func Check(path string, want seal.Digest) error {
	if info, err := os.Lstat(path); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, release.MaxFile+1)); err != nil {
		return err
	}
	if seal.Digest(h.Sum(nil)) != want {
		return ErrHash
	}
	return nil
}

// take copies a file under its final name, if it is the one that was signed, and reports
// whether it is there and was not before, also beside an error.
func take(src string, want release.File, dst string) (bool, error) {
	there, absent := os.Lstat(dst)
	if absent == nil && (there.Mode() == 0o755 || runtime.GOOS == "windows") && Check(dst, want.SHA256) == nil {
		return false, nil
	}
	in, err := release.OpenRegular(src)
	if err != nil {
		return false, fmt.Errorf("the release's file has to lie beside its manifest: %w", err)
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(dst), newPrefix+"*")
	if err != nil {
		return false, fmt.Errorf("write into the plugin folder: %w", err)
	}
	defer os.Remove(out.Name()) // not there any more where all went well
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), io.LimitReader(in, want.Size+1))
	if err == nil && (n != want.Size || seal.Digest(h.Sum(nil)) != want.SHA256) {
		err = refuse(exitcode.Denied, "%s is not the file that was signed: its checksum is another; nothing was changed", src)
	}
	if err == nil {
		err = errors.Join(out.Chmod(0o755), out.Sync())
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return false, unwritten(dst, err)
	}
	if err := os.Rename(out.Name(), dst); err != nil {
		return false, err
	}
	return absent != nil, syncFolder(filepath.Dir(dst))
}

func unwritten(path string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%s: %w: make room; nothing was changed", filepath.Dir(path), err)
	}
	return err
}

// write replaces the index, whole or not at all. That it is replaced and may not outlast a
// power cut is an error, too.
func (all Plugins) write(dir string) error {
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	out, err := os.CreateTemp(dir, newPrefix+"*")
	if err != nil {
		return unwritten(filepath.Join(dir, Index), err)
	}
	defer os.Remove(out.Name())
	_, err = out.Write(append(b, '\n'))
	if err := errors.Join(err, out.Chmod(0o644), out.Sync(), out.Close()); err != nil {
		return unwritten(filepath.Join(dir, Index), err)
	}
	if err := os.Rename(out.Name(), filepath.Join(dir, Index)); err != nil {
		return err
	}
	if err := syncFolder(dir); err != nil {
		return fmt.Errorf("%s was changed, and the change may not outlast a power cut: %w", filepath.Join(dir, Index), err)
	}
	return nil
}

// sweep removes what a command left that was killed. The lock is held.
func sweep(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, newPrefix+"*"))
	for _, f := range left {
		_ = os.Remove(f)
	}
}
