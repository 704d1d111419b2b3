package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Kept inputs run in every go test, and are read by people: few, and small.
const (
	maxKept = 24
	maxSize = 4 << 10
	maxSeen = 200 // of the cache, that are tried: each is a process of its own
)

// input is one file of a corpus, and what it reaches.
type input struct {
	name    string
	content []byte
	reaches map[string]bool
	found   bool // it failed once: it stays, whatever it reaches
}

// regressions are named by people; the engine names inputs by 16 hexadecimal digits.
var byEngine = regexp.MustCompile(`^[0-9a-f]{16}$`)

// renew replaces the committed inputs of a target by those, of them and of the cache,
// that together reach what all of them reach beyond the seeds in the test.
func (t *target) renew(ctx context.Context, cache string) error {
	folder := filepath.Join(t.dir, "testdata", "fuzz", t.name)
	if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // part of the source
		return err
	}
	inputs := map[string]*input{}
	for _, from := range []string{folder, cache} {
		entries, err := os.ReadDir(from)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			content, err := os.ReadFile(filepath.Join(from, e.Name()))
			if err != nil {
				return err
			}
			in := &input{name: e.Name(), content: content, found: !byEngine.MatchString(e.Name())}
			if inputs[in.name] == nil && (len(content) <= maxSize && len(inputs) < maxSeen || in.found) {
				inputs[in.name] = in
			}
		}
	}
	reached, err := t.reach(ctx, "seed#.*")
	if err != nil {
		return err
	}
	for _, in := range inputs {
		path := filepath.Join(folder, in.name)
		if err := os.WriteFile(path, in.content, 0o644); err != nil { //nolint:gosec // part of the source
			return err
		}
		if in.reaches, err = t.reach(ctx, regexp.QuoteMeta(in.name)); err != nil {
			return err
		}
	}
	kept := choose(reached, inputs)
	for name := range inputs {
		if !slices.Contains(kept, name) {
			if err := os.Remove(filepath.Join(folder, name)); err != nil {
				return err
			}
		}
	}
	_ = os.Remove(folder) // where nothing is left in it
	fmt.Printf("%s %s: keeps %d of %d inputs\n", t.dir, t.name, len(kept), len(inputs))
	return nil
}

// choose takes the input that adds most, the smaller of two, until none adds anything.
func choose(reached map[string]bool, inputs map[string]*input) (kept []string) {
	take := func(in *input) {
		kept = append(kept, in.name)
		for block := range in.reaches {
			reached[block] = true
		}
	}
	var rest []*input
	for _, in := range inputs {
		if in.found {
			take(in)
		} else {
			rest = append(rest, in)
		}
	}
	slices.SortFunc(rest, func(a, b *input) int {
		if d := len(a.content) - len(b.content); d != 0 {
			return d
		}
		return strings.Compare(a.name, b.name)
	})
	for len(kept) < maxKept {
		var best *input
		most := 0
		for _, in := range rest {
			adds := 0
			for block := range in.reaches {
				if !reached[block] {
					adds++
				}
			}
			if adds > most {
				best, most = in, adds
			}
		}
		if best == nil {
			break
		}
		take(best)
	}
	return kept
}

// reach runs inputs of a target and gives the blocks of our code that they reach.
func (t *target) reach(ctx context.Context, inputs string) (map[string]bool, error) {
	profile := t.binary + ".cover"
	cmd := exec.CommandContext(ctx, t.binary, "-test.run=^"+t.name+"$/^"+inputs+"$", "-test.coverprofile="+profile)
	cmd.Dir = t.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("input %s: %w\n%s", inputs, err, out)
	}
	text, err := os.ReadFile(profile)
	if err != nil {
		return nil, err
	}
	blocks := map[string]bool{}
	for line := range bytes.Lines(text) {
		if block, hits, ok := bytes.Cut(bytes.TrimSpace(line), []byte(" ")); ok && !bytes.HasSuffix(hits, []byte(" 0")) {
			blocks[string(block)] = true
		}
	}
	return blocks, nil
}
