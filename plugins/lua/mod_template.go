package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"
)

var templateModule = module{
	about: "Puts values into a text, each written so that it stays one value.",
	functions: []function{{
		name: "render", takes: "text: string, values: table<string, string|secret|number|boolean>", gives: "string|secret",
		about: "Puts a value in place of each {{name}}, as it is, or through filters: {{name|json}} writes a quoted JSON text, {{name|url}} escapes it for a part of an address, " +
			"{{name|shell}} writes it in single quotes for a shell, {{name|ini}} refuses what would not stay in its line, {{name|xml}} escapes it, {{name|base64}} encodes it; {{name|base64|json}} does one after the other. " +
			"A name that has no value, a filter that is not there and a {{ without its end are errors. What is put in is not read again. Where a secret is put in, the whole is one.",
		example: `assert(template.render("p={{p|shell}} j={{p|json}}", {p = "it's"}) == [[p='it'\''s' j="it's"]]) assert(type(template.render("{{p}}", {p = secret.of("x")})) == "userdata")`,
		do:      renderTemplate,
	}},
}

func renderTemplate(a *args) int {
	values := a.table(2)
	parts, err := parseTemplate(a.text(1))
	if err != nil {
		a.bad(1, "%v", err)
	}
	var out []byte
	secrets := false
	for _, p := range parts {
		if p.name == "" {
			out = append(out, p.text...)
			continue
		}
		v := values.RawGetString(p.name)
		if b, ok := v.(lua.LBool); ok {
			v = lua.LString(b.String())
		}
		b, isSecret, why := eitherText(v)
		if why != "" {
			a.bad(2, "%s: %s", p.name, why)
		}
		secrets = secrets || isSecret
		for _, f := range p.filters {
			if b, err = templateFilters[f](b); err != nil {
				if isSecret { // that it is refused tells something of it
					a.ask()
				}
				a.bad(2, "%s|%s: %v", p.name, f, err)
			}
		}
		if out = append(out, b...); len(out) > maxString {
			a.wrong("the result has more than %d bytes", maxString)
		}
	}
	return a.give(out, secrets)
}

// templatePart is a text, or a name whose value goes through filters.
type templatePart struct {
	text    string
	name    string
	filters []string
}

var templateName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

const maxFilters = 4

func parseTemplate(text string) (parts []templatePart, err error) {
	for line := 1; ; {
		before, rest, ok := strings.Cut(text, "{{")
		if before != "" {
			parts = append(parts, templatePart{text: before})
		}
		if !ok {
			return parts, nil
		}
		line += strings.Count(before, "\n")
		inside, after, ok := strings.Cut(rest, "}}")
		if !ok || strings.Contains(inside, "\n") {
			return nil, fmt.Errorf("line %d: a {{ without its }}", line)
		}
		words := strings.Split(inside, "|")
		for i := range words {
			words[i] = strings.TrimSpace(words[i])
		}
		if !templateName.MatchString(words[0]) {
			return nil, fmt.Errorf("line %d: what stands between {{ and }} is no name", line)
		}
		if len(words) > 1+maxFilters {
			return nil, fmt.Errorf("line %d: more than %d filters", line, maxFilters)
		}
		for _, f := range words[1:] {
			if templateFilters[f] == nil {
				return nil, fmt.Errorf("line %d: there is no filter %q; there are base64, ini, json, shell, url, xml", line, f)
			}
		}
		if len(parts) > maxValues {
			return nil, fmt.Errorf("more than %d parts", maxValues)
		}
		parts = append(parts, templatePart{name: words[0], filters: words[1:]})
		text = after
	}
}

// templateFilters write a value so that it stays one where it is put.
var templateFilters = map[string]func([]byte) ([]byte, error){
	"base64": func(b []byte) ([]byte, error) { return []byte(base64.StdEncoding.EncodeToString(b)), nil },
	"ini":    iniValue,
	"json": func(b []byte) ([]byte, error) {
		if !utf8.Valid(b) {
			return nil, errors.New("it is no UTF-8")
		}
		return encodeJSON(string(b), false)
	},
	"shell": func(b []byte) ([]byte, error) {
		if bytes.IndexByte(b, 0) >= 0 {
			return nil, errors.New("a shell has no zero byte")
		}
		return []byte("'" + strings.ReplaceAll(string(b), "'", `'\''`) + "'"), nil
	},
	"url": func(b []byte) ([]byte, error) {
		return []byte(strings.ReplaceAll(url.QueryEscape(string(b)), "+", "%20")), nil
	},
	"xml": func(b []byte) ([]byte, error) { return escapeXML(string(b)) },
}
