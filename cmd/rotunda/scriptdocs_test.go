package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk/script"
)

// The library's pages have what "script docs" prints of their scripts: the words, what each
// asks for, its parameters and further records, in that order in each list. What stands
// around it is their authors'.
func TestLibraryPages(t *testing.T) {
	files, err := filepath.Glob("../../scripts/*/*.lua")
	if err != nil {
		t.Fatal(err)
	}
	pages := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.lua") {
			continue
		}
		pages++
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		m, err := script.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".lua") + ".md"
		b, err := os.ReadFile("../../docs/scripts/library/" + name)
		if err != nil {
			t.Fatal(err)
		}
		// Pages mark in sentences what a manifest cannot.
		plain := strings.NewReplacer("`", "", "\r", "").Replace
		said := plain(string(b))
		wanted, _, _ := strings.Cut(plain(scriptPage(m, filepath.Base(file))), "\n## Use\n")
		for _, section := range strings.Split(wanted, "\n## ")[1:] {
			heading, body, _ := strings.Cut(section, "\n")
			_, there, _ := strings.Cut(said, "\n## "+heading+"\n")
			there, _, _ = strings.Cut(there, "\n## ")
			if !strings.HasPrefix(there, strings.TrimRight(body, "\n")+"\n") {
				t.Errorf("%s, %s: has\n%s\nwant, by `rotunda script docs %s`,\n%s", name, heading, there, file, body)
			}
		}
	}
	if pages == 0 {
		t.Fatal("no script was found")
	}
}

// A page is whole for each kind of script, and its example names what must be given.
func TestScriptPage(t *testing.T) {
	const head = "name = \"acme\"\nversion = \"1\"\nabout = \"Does it.\"\n"
	for _, row := range []struct {
		manifest string
		want     []string
	}{
		{head + "kind = \"rotator\"\n[rotator]\nkinds = [\"password\"]\n", []string{
			"# acme\n\nDoes it.\n\nThe file is [`acme.lua`](acme.lua), its test beside it.\n",
			"\nrotunda resource edit RESOURCE --rotator acme\nrotunda rotate ACCOUNT\n",
			"\n## What was proven\n\n**Nothing yet.**\n",
		}},
		{
			head + "kind = \"after_rotation\"\nreveals = \"A library wants it.\"\nhosts = [\"records.box\"]\n[parameters]\n" +
				"unit = {type = \"string\", about = \"A | B.\", required = true}\nhow = {type = \"enum\", about = \"How.\", values = [\"a\", \"b|c\"], default = \"a\"}\n" +
				"list = {type = \"strings\", about = \"L.\", default = [\"x\", \"y\"]}\nnone = {type = \"string\", about = \"N.\", default = \"\"}\n" +
				"off = {type = \"boolean\", about = \"O.\", default = false}\n[records.box]\nas = \"resource\"\nabout = \"The box.\"\n",
			[]string{
				"\n- the address, and the administrator's login and secret, of a further resource, box: The box.\n- to see secrets in clear: A library wants it.\n- to connect to the record box\n",
				"\n| `unit` | string | required | A \\| B. |\n| `how` | `a`, `b\\|c` | `a` | How. |\n| `list` | strings | `x`, `y` | L. |\n| `none` | string | empty | N. |\n| `off` | boolean | `false` | O. |\n",
				"\n| `box` | resource | The box. |\n",
				"\nrotunda record edit ACCOUNT --script acme,record.box=TITLE,param.unit=UNIT\n",
			},
		},
		{head + "kind = \"discoverer\"\nhosts = [\"resource\"]\n", []string{"\n- the login and the secret of the resource's administrator, to find out what accounts there are\n", "\nrotunda resource edit RESOURCE --discoverer acme\nrotunda resource discover RESOURCE\n"}},
		{head + "kind = \"generator\"\n", []string{"\n- to make the new secret of each account that uses it\n", "\nrotunda record edit ACCOUNT --generator acme\nrotunda rotate ACCOUNT\n"}},
		{
			head + "kind = \"dependents\"\n[parameters]\nport = {type = \"integer\", about = \"P.\", required = true}\npaths = {type = \"strings\", about = \"P.\", required = true}\n",
			[]string{"\n[{\"resource\": \"RESOURCE\", \"script\": \"acme\", \"config\": {\"port\": PORT, \"paths\": [\"PATHS\"]}}]\nEND\nrotunda record edit ACCOUNT --dependents-file follows.json\n"},
		},
	} {
		m, err := script.Parse([]byte("--[[ rotunda\n" + row.manifest + "]]\n"))
		if err != nil {
			t.Fatal(err)
		}
		page := scriptPage(m, "acme.lua")
		for _, want := range row.want {
			if !strings.Contains(page, want) {
				t.Errorf("%s\nhas not\n%s", page, want)
			}
		}
	}
}
