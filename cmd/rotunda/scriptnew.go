package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/sdk/script"
)

// scriptKinds are the kinds of script, as a flag's or an argument's values.
func scriptKinds() (out []string) {
	for _, k := range script.Kinds {
		out = append(out, string(k))
	}
	return out
}

func (c *cli) scriptNewCmd() *cobra.Command {
	var dir, clone string
	var file bool
	cmd := c.leaf("new KIND NAME", "write a script with its test, which pass at once", func(_ context.Context, args []string) error {
		kind, name := args[0], args[1]
		if file && kind != string(script.AfterRotation) {
			return usagef("--file is for a script of kind %s", script.AfterRotation)
		}
		if clone != "" && kind != string(script.Rotator) {
			return usagef("--rotunda is for a script of kind %s: the conformance kit asks what changes secrets", script.Rotator)
		}
		files, err := newScript(kind, name, file)
		if err == nil && clone != "" {
			files, err = withKit(files, name, c.p.path(clone))
		}
		if err != nil {
			return err
		}
		var names []string
		for _, f := range files {
			if err := c.writeFresh(filepath.Join(dir, f.name), f.text); err != nil {
				return err
			}
			names = append(names, filepath.Join(dir, f.name))
		}
		return c.emit(map[string]any{"kind": kind, "files": names}, func(w io.Writer) {
			kit, with := "", ""
			if clone != "" {
				kit, with = filepath.Dir(names[2]), " --kit"
			}
			pairs(w, "script", names[0], "test", names[1], "kit", kit, "next", "rotunda script check "+names[0]+" && rotunda script test "+names[0]+with)
		})
	})
	cmd.Flags().StringVar(&dir, "dir", "", "folder to write into (default: this one)")
	cmd.Flags().BoolVar(&file, "file", false, "after_rotation: one that edits a file on a host, instead of one that restarts a unit")
	cmd.Flags().StringVar(&clone, "rotunda", "", "rotator: `FOLDER` of a clone of Rotunda, against which the conformance kit is built: writes NAME_kit, a Go module that runs it")
	return help(cmd, `KIND is after_rotation (it runs when an account has its new secret), rotator (it changes
the secret itself), dependents (it gives the new secret to who uses it), generator (it
makes the new secret), or discoverer (it finds the accounts that a target has). NAME is
a-z, 0-9 and -. What is written is a whole script of that kind: change it into yours.`, `rotunda script new after_rotation restart-unit
rotunda script new after_rotation app-pgpass --file
rotunda script new rotator acme-router --dir scripts
rotunda script new rotator users --rotunda ~/rotunda`)
}

// written is a file to be written.
type written struct {
	name string
	text []byte
}

// newScript is a script of a kind, and its test; file: of those that run after a rotation
// one that edits a file.
func newScript(kind, name string, file bool) ([]written, error) {
	if !slices.Contains(scriptKinds(), kind) {
		return nil, usagef("%q is no kind of script: it is %s", kind, orList(scriptKinds()))
	}
	from := kind
	if file {
		from += "_file"
	}
	var out []written
	for _, of := range []string{".lua", "_test.lua"} {
		text, err := filled("scaffold/script/"+from+of+".tmpl", name)
		if err != nil {
			return nil, err
		}
		out = append(out, written{name + of, text})
	}
	if _, err := script.Parse(out[0].text); err != nil {
		return nil, usagef("%q cannot be a script's name: it has a-z, 0-9 and -, begins with a letter, and has 63 at most", name)
	}
	return out, nil
}

// kitBeside is the folder of the Go module that runs the conformance kit on a script.
func kitBeside(file string) string { return strings.TrimSuffix(file, ".lua") + "_kit" }

// withKit adds it: its test starts a service in memory that the script fits.
func withKit(files []written, name, clone string) ([]written, error) {
	kit, err := against("example.net/"+name+"_kit", clone)
	if err == nil {
		kit["kit_test.go"], err = filled("scaffold/script/kit_test.go.tmpl", name)
	}
	for _, file := range slices.Sorted(maps.Keys(kit)) {
		files = append(files, written{filepath.Join(kitBeside(name), file), kit[file]})
	}
	return files, err
}

// writeFresh writes a file that is not there yet.
func (c *cli) writeFresh(name string, text []byte) error {
	path := c.p.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return failf(exitUsage, "file_unwritable", "cannot make the folder of %s: %w", name, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	switch {
	case errors.Is(err, fs.ErrExist):
		return failf(exitConflict, "file_exists", "%s exists and is not overwritten", name).withHint("choose another name, or another folder with --dir")
	case err != nil:
		return failf(exitUsage, "file_unwritable", "cannot write %s: %w", name, err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return failf(exitUsage, "file_unwritable", "cannot write %s: %w", name, err)
	}
	return nil
}
