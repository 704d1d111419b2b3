package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"unicode"

	"github.com/spf13/cobra"
)

// scaffold are the files of a new plugin.
//
//go:embed scaffold
var scaffold embed.FS

const productModule = "github.com/rotunda-pam/rotunda"

func (c *cli) pluginNewCmd() *cobra.Command {
	var dir, module, clone string
	cmd := c.leaf("new NAME", "write a plugin that builds and passes the conformance kit at once", func(_ context.Context, args []string) error {
		name := args[0]
		if !pluginNameRE.MatchString(name) {
			return usagef("%q cannot be a plugin's name: it begins with a letter and has a-z, 0-9, - and _, 63 at most", name)
		}
		if slices.Contains(shipped, name) {
			return usagef("%s comes with every agent, which installs no other plugin of that name: choose another", name)
		}
		if clone == "" {
			return usagef("name the folder of a clone of Rotunda with --rotunda: the plugin is built against it")
		}
		dir, module := c.p.path(orElse(dir, name)), orElse(module, "example.net/"+name)
		files, err := c.scaffolded(name, module, c.p.path(clone))
		if err != nil {
			return err
		}
		if err := writeNew(dir, files); err != nil {
			return err
		}
		names := make([]string, 0, len(files))
		for f := range files {
			names = append(names, f)
		}
		slices.Sort(names)
		return c.emit(map[string]any{"dir": dir, "module": module, "files": names}, func(w io.Writer) {
			pairs(w, "written", dir, "files", strings.Join(names, " "), "next", "cd "+dir+" && rotunda plugin test")
		})
	})
	cmd.Flags().StringVar(&dir, "dir", "", "folder to write into: new, or empty (default NAME)")
	cmd.Flags().StringVar(&module, "module", "", "path of the Go module (default example.net/NAME)")
	cmd.Flags().StringVar(&clone, "rotunda", "", "folder of a clone of Rotunda to build against")
	return cmd
}

// pluginNameRE is the SDK's rule.
var pluginNameRE = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// scaffolded are the files of a new plugin, by name.
func (c *cli) scaffolded(name, module, clone string) (map[string][]byte, error) {
	out, err := against(module, clone)
	if err != nil {
		return nil, err
	}
	templates, err := fs.Glob(scaffold, "scaffold/*.tmpl")
	if err != nil {
		return nil, err
	}
	for _, file := range templates {
		target := strings.TrimSuffix(filepath.Base(file), ".tmpl")
		if target == "gitignore" {
			target = ".gitignore"
		}
		if out[target], err = filled(file, name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// filled is a file of the scaffold with the name in it.
func filled(file, name string) ([]byte, error) {
	t, err := template.ParseFS(scaffold, file)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]string{"Name": name})
	return b.Bytes(), err
}

// against are the files of a new Go module that is built against a clone.
func against(module, clone string) (map[string][]byte, error) {
	if why := notAModule(module); why != "" {
		return nil, usagef("%q cannot be the path of a Go module: %s", module, why).withHint("give another with --module, such as example.net/acme")
	}
	if strings.ContainsFunc(clone, unicode.IsControl) || filepath.Separator != '\\' && strings.Contains(clone, `\`) {
		return nil, usagef("the Go tools take no folder of this path: %q", clone)
	}
	mod, err := os.ReadFile(filepath.Join(clone, "go.mod"))
	if err != nil || !bytes.HasPrefix(mod, []byte("module "+productModule+"\n")) {
		return nil, failf(exitNotFound, "not_a_clone", "%s is no clone of Rotunda: it has no go.mod of %s", clone, productModule).
			withHint("git clone https://%s, and give its folder", productModule)
	}
	sum, err := os.ReadFile(filepath.Join(clone, "go.sum"))
	if err != nil {
		return nil, fmt.Errorf("read the clone's go.sum: %w", err)
	}
	for _, needed := range append(requireRE.FindAllStringSubmatch(string(mod), -1), []string{"", productModule}) {
		path, _, _ := strings.Cut(needed[1], " ")
		if module == path || strings.HasPrefix(module, path+"/") {
			return nil, usagef("the path %s is taken: it is of %s, which the plugin is built with", module, path).withHint("give another with --module, such as example.net/acme")
		}
	}
	return map[string][]byte{"go.mod": goMod(mod, module, clone), "go.sum": sum}, nil
}

var (
	elementRE = regexp.MustCompile(`^[A-Za-z0-9_.~+-]*[A-Za-z0-9_~+-]$`)
	windowsRE = regexp.MustCompile(`(?i)^(con|prn|aux|nul|com[1-9]|lpt[1-9]|[^.]*~[0-9]+)(\.|$)`) // names of devices, and short names
)

// notAModule says why the Go tools take no module of this path; empty where they do.
func notAModule(path string) string {
	elements := strings.Split(path, "/")
	switch {
	case strings.HasPrefix(path, "-"):
		return "it begins with -"
	case !strings.Contains(elements[0], "."):
		return "its first part wants a dot, as in a domain: those without one are Go's own"
	}
	for _, e := range elements {
		switch {
		case !elementRE.MatchString(e):
			return fmt.Sprintf("each part between its slashes has letters, digits and _ - . ~ +, and does not end in a dot, which %q is not", e)
		case windowsRE.MatchString(e):
			return fmt.Sprintf("%q is no name for a folder on Windows", e)
		}
	}
	return ""
}

// plainRE is a path that stands in go.mod as it is.
var plainRE = regexp.MustCompile(`^[A-Za-z0-9_.:~@+=/\\-]+$`)

// goModPath is a path as go.mod has it.
func goModPath(path string) string {
	if plainRE.MatchString(path) && !strings.Contains(path, "//") { // which begins a comment
		return path
	}
	return strconv.Quote(path)
}

var goRE = regexp.MustCompile(`(?m)^go (\S+)$`)

var requireRE = regexp.MustCompile(`(?m)^\t(\S+ v\S+)( // indirect)?$`)

// goMod is the new module's: it needs what the clone needs, so that it builds without
// looking anything up.
func goMod(product []byte, module, clone string) []byte {
	var b bytes.Buffer
	version := "1.26.0"
	if m := goRE.FindSubmatch(product); m != nil { // an older one, be it 1.26 for 1.26.0, the Go tools want mended
		version = string(m[1])
	}
	fmt.Fprintf(&b, "module %s\n\ngo %s\n\nrequire %s v0.0.0\n\nreplace %s => %s\n\nrequire (\n", module, version, productModule, productModule, goModPath(clone))
	for _, m := range requireRE.FindAllSubmatch(product, -1) {
		fmt.Fprintf(&b, "\t%s // indirect\n", m[1])
	}
	b.WriteString(")\n")
	return b.Bytes()
}

// writeNew writes files into a folder that has none.
func writeNew(dir string, files map[string][]byte) error {
	switch there, err := os.ReadDir(dir); {
	case err == nil && len(there) > 0:
		return failf(exitConflict, "file_exists", "%s is not empty, and nothing in it is overwritten", dir).withHint("choose another folder with --dir")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return failf(exitUsage, "file_unwritable", "cannot write into %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return failf(exitUsage, "file_unwritable", "cannot make %s: %w", dir, err)
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return failf(exitUsage, "file_unwritable", "cannot write %s: %w", name, err)
		}
	}
	return nil
}
