package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

func (c *cli) scriptDocsCmd() *cobra.Command {
	cmd := c.leaf("docs FILE", "print the page of a script in Markdown, as far as its manifest says it", func(_ context.Context, args []string) error {
		file := args[0]
		text, err := c.scriptText(file)
		if err != nil {
			return err
		}
		m, err := script.Parse(text)
		if bad := (*script.Error)(nil); errors.As(err, &bad) {
			return failf(exitFindings, "script_problems", "%s:%d: %s", file, bad.Line, strings.TrimSpace(bad.Key+" "+bad.Text)).withHint("%s", orWord(bad.Hint, "`rotunda script check "+file+"`"))
		}
		if err != nil {
			return err
		}
		page := scriptPage(m, filepath.Base(file))
		return c.emit(map[string]any{"file": file, "script": viewManifest(m, seal.Hash(text)), "page": page}, func(w io.Writer) {
			fmt.Fprint(w, page)
		})
	})
	return help(cmd, `The page is one as the library's are (docs/scripts/library): what the script does, what it
asks for, its parameters and further records, and an example of its use. What only its
author knows (what it needs on the target, what it was tried on) is left to be written.`, `rotunda script docs restart-unit.lua >restart-unit.md`)
}

// scriptPage is the page of a script in Markdown.
func scriptPage(m *script.Manifest, file string) string {
	v := viewManifest(m, seal.Digest{})
	var w strings.Builder
	fmt.Fprintf(&w, "# %s\n\n%s\n\nThe file is [`%s`](%[3]s), its test beside it.\n", v.Name, v.About, file)
	for n, a := range v.Asks {
		if n == 0 {
			fmt.Fprint(&w, "\n## What it asks for\n\n")
		}
		fmt.Fprintf(&w, "- %s\n", askText(a))
	}
	for n, p := range v.Parameters {
		if n == 0 {
			fmt.Fprint(&w, "\n## Parameters\n\n| parameter | type | default | meaning |\n|---|---|---|---|\n")
		}
		fmt.Fprintf(&w, "| `%s` | %s | %s | %s |\n", p.Name, p.pageType(), p.pageDefault(), cell(p.About))
	}
	for n, r := range v.Records {
		if n == 0 {
			fmt.Fprint(&w, "\n## Further records\n\n| record | as | what it is |\n|---|---|---|\n")
		}
		fmt.Fprintf(&w, "| `%s` | %s | %s |\n", r.Name, r.As, cell(r.About))
	}
	fmt.Fprintf(&w, "\n## Use\n\n```sh\n%s```\n", v.exampleOfUse(file))
	fmt.Fprint(&w, "\n## What was proven\n\n**Nothing yet.**\n")
	return w.String()
}

// cell is a text in a table's cell, where a bar would end it.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

func (p parameterView) pageType() string {
	if len(p.Values) == 0 {
		return p.Type
	}
	return "`" + cell(strings.Join(p.Values, "`, `")) + "`"
}

func (p parameterView) pageDefault() string {
	text := ""
	switch v := p.Default.(type) {
	case []string:
		text = strings.Join(v, "`, `")
	case nil:
	default:
		text = fmt.Sprint(v)
	}
	switch {
	case p.Required:
		return "required"
	case text == "":
		return "empty"
	}
	return "`" + cell(text) + "`"
}

// exampleOfUse is how a script is kept and used, with what must be given in capitals.
func (v *manifestView) exampleOfUse(file string) string {
	add := "rotunda script add " + file + " --folder FOLDER\n"
	use := v.Name
	for _, r := range v.Records {
		use += ",record." + r.Name + "=TITLE"
	}
	config := []string{}
	for _, p := range v.Parameters {
		if p.Required {
			use += ",param." + p.Name + "=" + strings.ToUpper(p.Name)
			config = append(config, fmt.Sprintf("%q: %s", p.Name, p.exampleValue()))
		}
	}
	switch script.Kind(v.Kind) {
	case script.Rotator:
		return add + "rotunda resource edit RESOURCE --rotator " + use + "\nrotunda rotate ACCOUNT\n"
	case script.Discoverer:
		return add + "rotunda resource edit RESOURCE --discoverer " + use + "\nrotunda resource discover RESOURCE\n"
	case script.Generator:
		return add + "rotunda record edit ACCOUNT --generator " + use + "\nrotunda rotate ACCOUNT\n"
	case script.Dependents:
		return add + "cat >follows.json <<'END'\n" +
			fmt.Sprintf("[{\"resource\": \"RESOURCE\", \"script\": %q, \"config\": {%s}}]\n", v.Name, strings.Join(config, ", ")) +
			"END\nrotunda record edit ACCOUNT --dependents-file follows.json\n"
	}
	return add + "rotunda record edit ACCOUNT --script " + use + "\nrotunda script run ACCOUNT\n"
}

// exampleValue is one in JSON.
func (p parameterView) exampleValue() string {
	name := strings.ToUpper(p.Name)
	switch script.Type(p.Type) {
	case script.Integer, script.Boolean:
		return name
	case script.Strings:
		return fmt.Sprintf("[%q]", name)
	}
	return fmt.Sprintf("%q", name)
}
