//go:build unix

package policy_test

import (
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/agent/policy"
)

func TestScripts(t *testing.T) {
	const text = `[scripts]
programs = ["/usr/bin/systemctl"]
files = ["/etc/app/*.conf", "/etc/one", "/srv/?/[a-c].ini"]
`
	for _, c := range []struct {
		name, text string
		program    string
		file       string
		allowed    bool
	}{
		{"a program that is named", text, "/usr/bin/systemctl", "", true},
		{"another", text, "/usr/bin/systemctl2", "", false},
		{"one whose path has dots", text, "/usr/bin/../bin/systemctl", "", false},
		{"one by its name alone", text, "systemctl", "", false},
		{"a file of a pattern", text, "", "/etc/app/a.conf", true},
		{"a file that is named", text, "", "/etc/one", true},
		{"a file of single characters", text, "", "/srv/x/b.ini", true},
		{"a character that is not in the brackets", text, "", "/srv/x/d.ini", false},
		{"a star does not go into folders", text, "", "/etc/app/sub/a.conf", false},
		{"nor out of them", text, "", "/etc/app/../shadow.conf", false},
		{"nor is a folder the file in it", text, "", "/etc/app", false},
		{"a relative path", text, "", "etc/app/a.conf", false},
		{"a path with a slash at its end", text, "", "/etc/one/", false},
		{"a path with two", text, "", "//etc/one", false},
		{"a path with a NUL", text, "", "/etc/app/a\x00.conf", false},
		{"no file: no program", "", "/usr/bin/systemctl", "", false},
		{"no file: no file", "", "", "/etc/one", false},
		{"an empty list", "scripts.files = []", "", "/etc/one", false},
	} {
		p, err := policy.Parse(c.text)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		key := "scripts.programs"
		if c.file != "" {
			err, key = p.File(c.file), "scripts.files"
		} else {
			err = p.Program(c.program)
		}
		if (err == nil) != c.allowed || err != nil && !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestBrokenListsOfScripts(t *testing.T) {
	for _, text := range []string{
		`scripts.programs = ["systemctl"]`,
		`scripts.programs = ["/usr/bin/*"]`, // which of them is run is not for a script to say
		`scripts.programs = ["/usr/../bin/sh"]`,
		`scripts.programs = ["/"]`,
		`scripts.files = ["/etc/../x"]`,
		`scripts.files = ["etc/*"]`,
		`scripts.files = ["/etc/[a"]`,
		`scripts.files = "/etc/app"`,
		`scripts.file = ["/etc/app"]`,
		"[scripts]\nfiles = []\nFiles = [\"/etc/*\"]",
	} {
		if _, err := policy.Parse(text); err == nil {
			t.Errorf("%s: accepted", text)
		}
	}
}
