package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk/script"
)

// problem is what is wrong with a script, for its author.
type problem struct {
	Line   int    `json:"line,omitempty"`
	Text   string `json:"text"`
	Source string `json:"source,omitempty"` // the line itself
	Hint   string `json:"hint,omitempty"`
}

// check looks a script over without running more than its top level.
func check(text []byte) (*script.Manifest, []problem) {
	m, err := script.Parse(text)
	if err != nil {
		return nil, []problem{located(text, err)}
	}
	code, err := compile(m.Name+".lua", text)
	if err != nil {
		return m, []problem{located(text, err)}
	}
	found := append(globals(text, m, code), fields(text, m)...)
	if len(found) == 0 {
		if _, err := load(text); err != nil {
			found = append(found, located(text, err))
		}
	}
	return m, found
}

// lineRE finds the line that an error names.
var lineRE = regexp.MustCompile(`(?:line[: ]+|:)(\d+)`)

// located takes the line out of an error's text.
func located(text []byte, err error) problem {
	p := problem{Text: err.Error()}
	if found := lineRE.FindStringSubmatch(p.Text); found != nil {
		p.Line, _ = strconv.Atoi(found[1])
		p.Source = lineOf(text, p.Line)
	}
	return p
}

func lineOf(text []byte, n int) string {
	lines := strings.Split(string(text), "\n")
	if n < 1 || n > len(lines) {
		return ""
	}
	return strings.TrimRight(lines[n-1], "\r")
}

// reaching are the modules that go to hosts.
var reaching = []string{"http", "kube", "ldap", "sql", "ssh", "telnet", "winrm"}

// known are the globals of every script.
var known = []string{
	"_G", "assert", "coroutine", "error", "getmetatable", "ipairs", "math", "next", "pairs", "pcall", "print", "rawequal",
	"rawget", "require", "sdk", "select", "setmetatable", "string", "table", "tonumber", "tostring", "type", "unpack",
}

// instead is what an author may have meant.
var instead = map[string]string{
	"io": "files of the agent's host are the module file's", "os": "the module time has the time, exec runs programs", "loadstring": "text is never run as code",
	"load": "text is never run as code", "dofile": "a script is one file", "debug": "it is not there", "xpcall": "use pcall", "rawset": "assign as usual",
	"setfenv": "it is not there", "getfenv": "it is not there", "collectgarbage": "it is not there",
}

// globals compares what a script uses with what there is, and with its manifest.
func globals(text []byte, m *script.Manifest, code *lua.FunctionProto) (found []problem) {
	var all []use
	uses(code, &all)
	var set []string
	for _, u := range all {
		if u.what == "set" {
			set = append(set, u.name)
		}
	}
	asked := map[string]bool{}
	for _, u := range all {
		p := problem{Line: u.line, Source: lineOf(text, u.line)}
		switch {
		case u.what == "get" && !slices.Contains(known, u.name) && !slices.Contains(set, u.name):
			p.Text, p.Hint = fmt.Sprintf("there is no global %s", u.name), instead[u.name]
			if slices.Contains(script.Modules, u.name) {
				p.Hint = fmt.Sprintf("local %s = require %q, and %q among the manifest's modules", u.name, u.name, u.name)
			}
		case u.what == "require" && !slices.Contains(m.Modules, u.name):
			p.Text, p.Hint = fmt.Sprintf("the module %s is not in the manifest", u.name), fmt.Sprintf("modules = [… %q]", u.name)
		case u.what == "reveal" && m.Reveals == "":
			p.Text, p.Hint = "reveal() is refused: the manifest does not say why it is needed", "hand the secret to a module, or say why: reveals = \"…\""
		}
		asked[u.what+" "+u.name] = true
		if p.Text != "" {
			found = append(found, p)
		}
	}
	for _, name := range m.Modules {
		if !asked["require "+name] {
			found = append(found, problem{Text: fmt.Sprintf("the manifest asks for the module %s, which the script does not require", name), Hint: "take it out: who approves the script should see no more than it needs"})
		}
	}
	for _, name := range reaching {
		if slices.Contains(m.Modules, name) && len(m.Hosts) == 0 {
			found = append(found, problem{Text: fmt.Sprintf("the module %s reaches nothing: the manifest names no hosts", name), Hint: `hosts = ["resource"], or "records.NAME", "parameters.NAME", "host:port"`})
		}
	}
	for name, key := range map[string]string{"exec": "programs", "file": "files"} {
		if list := map[string][]string{"exec": m.Programs, "file": m.Files}[name]; slices.Contains(m.Modules, name) && len(list) == 0 {
			found = append(found, problem{Text: fmt.Sprintf("the module %s does nothing: the manifest names no %s", name, key), Hint: key + ` = ["/whole/path"], or "parameters.NAME"`})
		}
	}
	if m.Kind == script.Generator {
		for _, name := range slices.Concat(reaching, []string{"exec", "file", "state"}) {
			if slices.Contains(m.Modules, name) {
				found = append(found, problem{Text: fmt.Sprintf("the module %s is of no use to a generator, which reaches nothing", name), Hint: "take it out"})
			}
		}
	}
	if m.Reveals != "" && !asked["reveal reveal"] {
		found = append(found, problem{Text: "the manifest says why secrets are revealed, and the script reveals none", Hint: "take reveals out"})
	}
	return found
}

// use is a global that code reads or sets, a module that it requires, a reveal.
type use struct {
	what string // get, set, require, reveal
	name string
	line int
}

// uses reads them from compiled code, where names of globals are constants.
func uses(f *lua.FunctionProto, all *[]use) {
	for pc, inst := range f.Code {
		line := 0
		if pc < len(f.DbgSourcePositions) {
			line = f.DbgSourcePositions[pc]
		}
		constant := func(n int) string {
			if n < 0 || n >= len(f.Constants) {
				return ""
			}
			return lua.LVAsString(f.Constants[n])
		}
		switch int(inst >> 26) {
		case lua.OP_GETGLOBAL:
			name := constant(int(inst & 0x3ffff))
			*all = append(*all, use{"get", name, line})
			if name == "require" && pc+1 < len(f.Code) && int(f.Code[pc+1]>>26) == lua.OP_LOADK {
				*all = append(*all, use{"require", constant(int(f.Code[pc+1] & 0x3ffff)), line})
			}
		case lua.OP_SETGLOBAL:
			*all = append(*all, use{"set", constant(int(inst & 0x3ffff)), line})
		case lua.OP_SELF, lua.OP_GETTABLE, lua.OP_GETTABLEKS:
			if c := int(inst>>9) & 0x1ff; c >= 256 && constant(c-256) == "reveal" {
				*all = append(*all, use{"reveal", "reveal", line})
			}
		}
	}
	for _, inner := range f.FunctionPrototypes {
		uses(inner, all)
	}
}
