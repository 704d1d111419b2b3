package targets

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An original is made once, for all who begin with it, and anew for another recipe, or
// where it is old; what could not be made whole is no original.
func TestOriginal(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	made, fails := 0, false
	of := func(recipe string) original {
		return original{"server", recipe, func(_ context.Context, dir string) error {
			made++
			if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
				return err
			}
			if fails {
				return errors.New("half done")
			}
			return errors.Join(os.WriteFile(filepath.Join(dir, "data", "file"), []byte(recipe), 0o600), os.WriteFile(filepath.Join(dir, secretsFile), []byte("secret of "+recipe), 0o600))
		}}
	}
	var last string
	for _, c := range []struct {
		what, recipe string
		before       func() error
		makes        int
		fails        bool
	}{
		{what: "the first", recipe: "a", makes: 1},
		{what: "a copy", recipe: "a"},
		{what: "one that fails", recipe: "b", makes: 1, fails: true},
		{what: "after it", recipe: "b", makes: 1},
		{what: "a copy of that", recipe: "b"},
		{what: "the former recipe", recipe: "a", makes: 1},
		{what: "an old one", recipe: "a", makes: 1, before: func() error {
			old := time.Now().Add(-keptFor - time.Hour)
			return os.Chtimes(last, old, old)
		}},
		{what: "what is new again", recipe: "a"},
		{what: "a folder made under another umask", recipe: "a", before: func() error {
			return os.Chmod(filepath.Dir(last), 0o700)
		}},
	} {
		if c.before != nil {
			if err := c.before(); err != nil {
				t.Fatal(err)
			}
		}
		before := made
		fails = c.fails
		to := filepath.Join(t.TempDir(), "data")
		secrets, err := of(c.recipe).copyTo(t.Context(), "data", to)
		if (err != nil) != c.fails || made-before != c.makes {
			t.Fatalf("%s: %v, made %d times", c.what, err, made-before)
		}
		if c.fails {
			continue
		}
		if string(secrets) != "secret of "+c.recipe {
			t.Errorf("%s: secrets %q", c.what, secrets)
		}
		if b, err := os.ReadFile(filepath.Join(to, "file")); err != nil || string(b) != c.recipe {
			t.Errorf("%s: %q, %v", c.what, b, err)
		}
		// What a server writes is its own.
		if err := os.WriteFile(filepath.Join(to, "file"), []byte("written"), 0o600); err != nil {
			t.Fatal(err)
		}
		kept, err := filepath.Glob(filepath.Join(os.TempDir(), "rotunda-targets-*"+keptBeside, "*"))
		if err != nil || len(kept) != 1 {
			t.Fatalf("%s: kept are %v, %v", c.what, kept, err)
		}
		last = kept[0]
		if i, err := os.Stat(filepath.Dir(last)); err != nil || i.Mode().Perm() != 0o711 {
			t.Errorf("%s: the folder of all: %v, %v", c.what, i.Mode(), err)
		}
		// Its data may belong to the user of a server, who must not reach it.
		if i, err := os.Stat(last); err != nil || i.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", c.what, i.Mode(), err)
		}
	}
}

// A file in the folder of a server's user is never written through what he put there.
func TestWriteNewFollowsNothing(t *testing.T) {
	dir := t.TempDir()
	other, link := filepath.Join(dir, "other"), filepath.Join(dir, "server.key")
	if err := errors.Join(os.WriteFile(other, []byte("untouched"), 0o600), os.Symlink(other, link)); err != nil {
		t.Fatal(err)
	}
	if err := writeNew(link, []byte("key"), nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("through a link: %v", err)
	}
	if b, err := os.ReadFile(other); err != nil || string(b) != "untouched" {
		t.Errorf("%q, %v", b, err)
	}
	file := filepath.Join(dir, "server.crt")
	if err := writeNew(file, []byte("certificate"), nil); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "certificate" {
		t.Errorf("%q, %v", b, err)
	}
}
