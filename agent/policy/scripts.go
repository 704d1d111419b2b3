package policy

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// What of the agent's host scripts may use: nothing, unless the file names it.

// scripts reads the programs, each by its whole path, and the patterns of files.
func scripts(programs, files []string) ([]string, []string, error) {
	for _, p := range programs {
		if !whole(p) || strings.ContainsAny(p, `*?[`) {
			return nil, nil, fmt.Errorf("scripts.programs: %q: name each program by its whole path, without . and .. and without patterns", p)
		}
	}
	for _, f := range files {
		if !whole(f) {
			return nil, nil, fmt.Errorf("scripts.files: %q: write a whole path, without . and ..; * and ? stand for what is within one name", f)
		}
		if _, err := filepath.Match(f, "/"); err != nil {
			return nil, nil, fmt.Errorf("scripts.files: %q is no pattern: * is any part of a name, ? one character, [a-c] one of these", f)
		}
	}
	return slices.Clone(programs), slices.Clone(files), nil
}

// whole says whether a path is absolute and leads to one place, by its text.
func whole(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path && filepath.Dir(path) != path && !strings.ContainsRune(path, 0)
}

// Program is nil where scripts may run a program of this host; else it says what to change.
func (p *Policy) Program(path string) error {
	if whole(path) && slices.Contains(p.programs, path) {
		return nil
	}
	return fmt.Errorf("the local policy does not let scripts run %s: it is not in scripts.programs of %s", path, p.where())
}

// File is nil where scripts may read and write a file of this host.
func (p *Policy) File(path string) error {
	if whole(path) && slices.ContainsFunc(p.files, func(pattern string) bool {
		ok, err := filepath.Match(pattern, path)
		return err == nil && ok
	}) {
		return nil
	}
	return fmt.Errorf("the local policy does not open %s to scripts: no pattern of scripts.files of %s is like it", path, p.where())
}

// Programs are all that scripts may run.
func (p *Policy) Programs() []string { return slices.Clone(p.programs) }
