// Package release is what a publisher of plugins signs: which files are a version of his
// plugin. The signature proves where a file comes from, no more: whether agents may start
// it is the organisation's log alone to say.
package release

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// Release is a version of a plugin.
type Release struct {
	Name      string    `json:"name"`
	Version   string    `json:"version"`
	Published time.Time `json:"published"`
	Files     []File    `json:"files"`
}

// File is the program for one platform; it lies beside the manifest.
type File struct {
	OS     string      `json:"os"`
	Arch   string      `json:"arch"`
	Name   string      `json:"file"`
	Size   int64       `json:"size"`
	SHA256 seal.Digest `json:"sha256"`
}

// Publisher is the public key that a publisher is known by.
type Publisher [ed25519.PublicKeySize]byte

const publisherPrefix = "ed25519:"

// String is how people copy a publisher's key.
func (p Publisher) String() string {
	return publisherPrefix + base64.RawURLEncoding.EncodeToString(p[:])
}

// MarshalText implements encoding.TextMarshaler.
func (p Publisher) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Publisher) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePublisher(string(b))
	return err
}

// ParsePublisher reads what String wrote.
func ParsePublisher(s string) (Publisher, error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(s), publisherPrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if !ok || err != nil || seal.CheckSignPub(b) != nil {
		return Publisher{}, fmt.Errorf("%q is no publisher's key: want %s and 43 letters, digits, - and _", s, publisherPrefix)
	}
	return Publisher(b), nil
}

// PublisherOf is the public half of a key.
func PublisherOf(key ed25519.PrivateKey) Publisher {
	return Publisher(key.Public().(ed25519.PublicKey))
}

// signed is a manifest as it is written. What was signed are the bytes of Release.
type signed struct {
	Release   json.RawMessage `json:"release"`
	Publisher Publisher       `json:"publisher"`
	Signature []byte          `json:"signature"`
}

// The reasons for which a manifest is not believed.
var (
	ErrManifest  = errors.New("not a signed manifest of a plugin")
	ErrSignature = errors.New("the signature does not fit: the manifest was changed after it was signed")
)

// MaxManifest bounds a manifest, in bytes.
const MaxManifest = 1 << 20

// MaxFile bounds a program, in bytes: agents start none that is larger. The largest of
// ours has some 20 MB.
const MaxFile = 512 << 20

// Sign writes a manifest.
func Sign(r Release, key ed25519.PrivateKey) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	out, err := json.Marshal(signed{body, PublisherOf(key), seal.SignRelease(key, body)})
	return append(out, '\n'), err
}

// Open reads a manifest and checks its signature against the key that it names: it tells
// who signed, and the caller whether he is to be believed.
func Open(manifest []byte) (Release, Publisher, error) {
	var s signed
	if err := strict(manifest, &s); err != nil {
		return Release{}, Publisher{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if len(s.Release) == 0 || s.Publisher == (Publisher{}) {
		return Release{}, Publisher{}, fmt.Errorf("%w: it names no release or no publisher", ErrManifest)
	}
	if !seal.VerifyRelease(s.Publisher[:], s.Release, s.Signature) {
		return Release{}, Publisher{}, ErrSignature
	}
	var r Release
	if err := strict(s.Release, &r); err != nil {
		return Release{}, Publisher{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	return r, s.Publisher, r.check()
}

func strict(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something stands behind its end")
	}
	return nil
}

// ErrNotRegular: a folder, a pipe or the like is where a file should be.
var ErrNotRegular = errors.New("not a regular file")

// OpenRegular opens a file to read it, and waits for nobody: what is no regular file is
// refused.
func OpenRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|noWait, 0)
	if errors.Is(err, syscall.ENXIO) { // a socket
		return nil, fmt.Errorf("%s: %w", path, ErrNotRegular)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", path, ErrNotRegular)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// OpenFile reads a manifest from a file.
func OpenFile(path string) (Release, Publisher, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return Release{}, Publisher{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxManifest+1))
	if err == nil && len(b) > MaxManifest {
		err = ErrManifest
	}
	if err != nil {
		return Release{}, Publisher{}, fmt.Errorf("read %s: %w", path, err)
	}
	r, p, err := Open(b)
	if err != nil {
		return Release{}, Publisher{}, fmt.Errorf("%s: %w", path, err)
	}
	return r, p, nil
}

var (
	nameRE    = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`) // the SDK's rule, with 63 bytes at most
	versionRE = regexp.MustCompile(`^(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){0,3}(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`)
	fileRE    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+-]*$`)
)

func (r Release) check() error {
	switch {
	case !nameRE.MatchString(r.Name) || len(r.Name) > 63:
		return fmt.Errorf("%q cannot be a plugin's name: it begins with a letter and has a-z, 0-9, - and _, 63 at most", r.Name)
	case !versionRE.MatchString(r.Version) || len(r.Version) > 64:
		return fmt.Errorf("%q is no version such as 1.2.0 or 2.0.0-rc.1", r.Version)
	case len(r.Files) == 0 || len(r.Files) > 32:
		return fmt.Errorf("%s %s has %d files: want one for each platform, 32 at most", r.Name, r.Version, len(r.Files))
	}
	for i, f := range r.Files {
		switch {
		case !fileRE.MatchString(f.Name) || len(f.Name) > 200 || f.Size <= 0 || f.OS == "" || f.Arch == "":
			return fmt.Errorf("%s %s: %q for %s/%s, %d bytes, is no program", r.Name, r.Version, f.Name, f.OS, f.Arch, f.Size)
		case f.Size > MaxFile:
			return fmt.Errorf("%s %s: %q for %s/%s has %d bytes: an agent starts no program of more than %d", r.Name, r.Version, f.Name, f.OS, f.Arch, f.Size, MaxFile)
		case slices.ContainsFunc(r.Files[:i], func(o File) bool { return o.OS == f.OS && o.Arch == f.Arch }):
			return fmt.Errorf("%s %s has two files for %s/%s", r.Name, r.Version, f.OS, f.Arch)
		}
	}
	return nil
}

// For is the file of a platform.
func (r Release) For(system, arch string) (File, error) {
	var all []string
	for _, f := range r.Files {
		if f.OS == system && f.Arch == arch {
			return f, nil
		}
		all = append(all, f.OS+"/"+f.Arch)
	}
	return File{}, fmt.Errorf("%s %s has no file for %s/%s, only for %s", r.Name, r.Version, system, arch, strings.Join(all, ", "))
}
