package main

import (
	_ "embed"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// annotationsHead is what the modules' tables do not say: secrets, answers, the job.
//
//go:embed annotations.lua
var annotationsHead string

// manual writes docs/scripts/modules.md from the modules' tables.
func manual(w io.Writer) {
	all := modules()
	names := slices.Sorted(maps.Keys(all))
	fmt.Fprint(w, `# Modules of scripts

This page is generated from the tables of the modules (`+"`lua manual`"+`); `+"`lua annotations`"+` makes
[annotations for editors](../../examples/scripts/rotunda.lua) of the same. A module is there for a script whose manifest names it; then
`+"`require`"+` gives it.

- A function that takes a secret gives a secret of what it makes of one. One whose parameter is a text refuses secrets, and every function but those of log refuses a text that holds
  `+"`[secret]`"+`: what a secret becomes by `+"`..`"+`.
- What goes wrong outside (a target's answer, a file's text) is given as nil and an `+"`sdk.error`"+` with class, reason, not_sent and text.
  What is wrong with the call itself is raised as an error of the script's, with its line.
- A call may ask 32 questions about secrets, such as whether two are equal, since each answer tells something of one.
- No function makes more than 16 MiB.

`)
	for _, name := range names {
		fmt.Fprintf(w, "- [%s](#%s): %s\n", name, name, markdownText.Replace(all[name].about))
	}
	told := map[string]bool{}
	for _, name := range names {
		m := all[name]
		fmt.Fprintf(w, "\n## %s\n\n%s\n", name, markdownText.Replace(m.about))
		for _, f := range m.functions {
			f.manual(w, name+".")
		}
		for _, o := range m.objects {
			if told[o.name] {
				continue
			}
			told[o.name] = true
			fmt.Fprintf(w, "\n### Values of the kind %s\n\n%s Its functions are called with a colon.\n", o.name, markdownText.Replace(o.about))
			for _, f := range o.functions {
				f.manual(w, o.name+":")
			}
		}
	}
}

func (f function) manual(w io.Writer, of string) {
	fmt.Fprintf(w, "\n### %s%s\n\n", of, f.name)
	gives := f.gives
	if gives == "" {
		gives = "nothing"
	}
	fmt.Fprintf(w, "`%s%s(%s)` gives `%s`\n\n%s\n", of, f.name, f.takes, gives, markdownText.Replace(f.about))
	if f.example != "" {
		fmt.Fprintf(w, "\n```lua\n%s\n```\n", f.example)
	}
}

// markdownText keeps signs of the descriptions from being read as Markdown's.
var markdownText = strings.NewReplacer("*", `\*`, "_", `\_`, "<", `\<`, "[", `\[`, "|", `\|`)

// annotations writes examples/scripts/rotunda.lua: what the Lua language server reads.
func annotations(w io.Writer) {
	var b strings.Builder
	b.WriteString(annotationsHead)
	all := modules()
	names := slices.Sorted(maps.Keys(all))
	written := map[string]bool{}
	for _, name := range names {
		m := all[name]
		fmt.Fprintf(&b, "\n---%s\n---@class rotunda.%s\nlocal %s_module = {}\n", m.about, name, name)
		for _, f := range m.functions {
			f.annotation(&b, name+"_module.")
		}
		for _, o := range m.objects {
			if written[o.name] {
				continue
			}
			written[o.name] = true
			local := strings.ReplaceAll(o.name, ".", "_") + "_value"
			fmt.Fprintf(&b, "\n---%s\n---@class %s: userdata\nlocal %s = {}\n", o.about, o.name, local)
			for _, f := range o.functions {
				f.annotation(&b, local+":")
			}
		}
	}
	b.WriteString("\n---A module that the manifest names.\n")
	for _, name := range names {
		fmt.Fprintf(&b, "---@overload fun(name: %q): rotunda.%s\n", name, name)
	}
	b.WriteString("---@param name string\n---@return table\nfunction require(name) end\n")
	// Tables of options are told in the functions' words; for editors they are tables.
	for _, name := range untold(b.String()) {
		fmt.Fprintf(&b, "\n---@alias %s table\n", name)
	}
	_, _ = io.WriteString(w, b.String())
}

func (f function) annotation(w io.Writer, of string) {
	fmt.Fprintf(w, "\n---%s\n", f.about)
	var names []string
	for _, p := range atCommas(f.takes) {
		name, kind, _ := strings.Cut(p, ":")
		fmt.Fprintf(w, "---@param %s %s\n", name, strings.TrimSpace(kind))
		names = append(names, strings.TrimSuffix(name, "?"))
	}
	for _, g := range atCommas(f.gives) {
		fmt.Fprintf(w, "---@return %s\n", g)
	}
	fmt.Fprintf(w, "function %s%s(%s) end\n", of, f.name, strings.Join(names, ", "))
}

// atCommas cuts a list of parameters or of types at the commas that are its own.
func atCommas(text string) (parts []string) {
	depth, from := 0, 0
	for i, c := range text {
		switch c {
		case '(', '{', '<', '[':
			depth++
		case ')', '}', '>', ']':
			depth--
		case ',':
			if depth == 0 {
				parts, from = append(parts, strings.TrimSpace(text[from:i])), i+1
			}
		}
	}
	if last := strings.TrimSpace(text[from:]); last != "" {
		parts = append(parts, last)
	}
	return parts
}

var (
	typeLines = regexp.MustCompile(`(?m)^---@(?:param \S+|return|field \S+) (.*)$`)
	typeNames = regexp.MustCompile(`\b[a-z]+\.[a-z]+\b`)
	typeDefs  = regexp.MustCompile(`(?m)^---@(?:class|alias) ([a-z.]+)`)
)

// untold are the named types that annotations use and do not say.
func untold(text string) []string {
	told, used := map[string]bool{}, map[string]bool{}
	for _, m := range typeDefs.FindAllStringSubmatch(text, -1) {
		told[m[1]] = true
	}
	for _, m := range typeLines.FindAllStringSubmatch(text, -1) {
		kind, _, _ := strings.Cut(m[1], " ")
		if strings.Contains(m[0], "---@return") || strings.Contains(m[0], "---@param") {
			kind = m[1]
		}
		for _, name := range typeNames.FindAllString(kind, -1) {
			if !told[name] {
				used[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(used))
}
