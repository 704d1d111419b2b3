package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgpassfile"
)

func TestPutINI(t *testing.T) {
	const file = "; ours\ntop = 1\n\n[db]\n; the password\npassword = old ; or a part of it\nuser=u\n\n[other]\npassword: x\n"
	for _, c := range []struct{ name, text, section, key, value, want string }{
		{"a key of a section", file, "db", "password", "new", strings.Replace(file, "old ; or a part of it", "new", 1)},
		{"the same key of another", file, "other", "password", "new", strings.Replace(file, ": x", ": new", 1)},
		{"before the first section", file, "", "top", "2", strings.Replace(file, "top = 1", "top = 2", 1)},
		{"added before the first section", "[a]\nk=1\n", "", "top", "2", "top = 2\n[a]\nk=1\n"},
		{"added as its neighbours are written", file, "db", "port", "5432", strings.Replace(file, "user=u\n", "user=u\nport=5432\n", 1)},
		{"added to a section without keys", "[a]\n\n[b]\n", "a", "k", "v", "[a]\nk = v\n\n[b]\n"},
		{"a section that is not there", "[a]\nk=1", "b", "k", "v", "[a]\nk=1\n[b]\nk = v\n"},
		{"an empty text", "", "b", "k", "v", "[b]\nk = v\n"},
		{"ends of lines stay", "[a]\r\nk=1\r\n", "a", "j", "v", "[a]\r\nk=1\r\nj=v\r\n"},
		{"no end of the last line stays", "[a]\r\nk=1", "a", "k", "v", "[a]\r\nk=v"},
		{"keys that stand in", "[a]\n\tk = 1\n\tl = 2\n", "a", "k", "v", "[a]\n\tk = v\n\tl = 2\n"},
		{"an empty value before", "[a]\nk =\nl = 1\n", "a", "k", "v", "[a]\nk =v\nl = 1\n"},
		{"a per cent in the neighbours", "[a]\nk%s = 1\n", "a", "l", "100%d", "[a]\nk%s = 1\nl = 100%d\n"},
		{"a key in two parts of one section", "[a]\nk=1\n[b]\n[a]\nk=2\n", "a", "k", "v", "! text.ambiguous"},
		{"a value that goes on", "[a]\nk=1\n  2\n", "a", "k", "v", "! text.not_a_value"},
		{"a value that goes on after a backslash", "[a]\nk=1\\\n2\n", "a", "k", "v", "! text.not_a_value"},
		{"a key that is a section", "", "a", "[k", "v", "! text.key"},
		{"a key with a line in it", "", "a", "k\n[b]", "v", "! text.key"},
		{"a section with a line in it", "", "a]\n[b", "k", "v", "! text.key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := putINI([]byte(c.text), c.section, c.key, []byte(c.value))
			compareEdit(t, got, err, c.want)
		})
	}
}

func TestINIValues(t *testing.T) {
	for value, ok := range map[string]bool{
		"plain": true, "a#b;c": true, `a"b`: true, "": true, "a = b": true,
		" a": false, "a ": false, "#a": false, ";a": false, `"a"`: false, "'a": false, "a #b": false, "a\t;b": false, "a\nb": false, "a\rb": false, "a\x00": false, `a\`: false,
	} {
		if _, err := iniValue([]byte(value)); (err == nil) != ok {
			t.Errorf("%q: %v", value, err)
		}
	}
}

// hardPasswords are what a generator may make, and worse.
var hardPasswords = []string{"plain", "a b", `it's`, `say "x"`, `back\slash`, `end\`, "$HOME", "`id`", "$(id)", "a#b", "#a", "a #b", `'"`, `\'\"$` + "`", "a;b", "!x", "%s", "äöü", "a=b", " lead", "trail ", "a,b", "~", "*", `\n`, "a|b&c"}

// A shell reads from an env file what was put there.
func TestEnvForAShell(t *testing.T) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("left out: there is no sh")
	}
	for _, quote := range []string{"auto", "double"} {
		for _, p := range hardPasswords {
			written, err := envValue([]byte(p), quote)
			if err != nil {
				t.Fatal(err)
			}
			text, err := putEnv([]byte("A=1\nexport PASSWORD='old'\n"), "PASSWORD", written)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "env")
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), shell, "-c", `. "$0"; printf %s "$PASSWORD"`, file).CombinedOutput()
			if err != nil || string(out) != p {
				t.Errorf("%s: %q is written %q and read as %q: %v", quote, p, written, out, err)
			}
		}
	}
}

// The client's own reader of option files reads what was put there.
func TestMyCnfForItsReader(t *testing.T) {
	program, err := exec.LookPath("my_print_defaults")
	if err != nil {
		t.Skip("left out: there is no my_print_defaults")
	}
	for _, p := range append(hardPasswords, "a\tb") {
		written, err := quoteMyCnf([]byte(p))
		if err != nil {
			t.Fatal(err)
		}
		text, err := putINI([]byte("[client]\npassword = old\n[mysqld]\npassword=x\n"), "client", "password", written)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "my.cnf")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), program, "--defaults-file="+file, "client").CombinedOutput()
		if strings.Contains(string(out), "=*****") { // MySQL's own shows it only when asked to
			out, err = exec.CommandContext(t.Context(), program, "--defaults-file="+file, "--show", "client").CombinedOutput()
		}
		if got := strings.TrimSuffix(string(out), "\n"); err != nil || got != "--password="+p {
			t.Errorf("%q is written %q and read as %q: %v", p, written, got, err)
		}
	}
}

func TestPutEnv(t *testing.T) {
	for _, c := range []struct{ name, text, key, value, want string }{
		{"comments and order stay", "# ours\nB=2\n\nA=old # x\nC=3\n", "A", "new", "# ours\nB=2\n\nA=new\nC=3\n"},
		{"export stays", "  export A='old'\n", "A", "new", "  export A=new\n"},
		{"added last", "A=1", "B", "2", "A=1\nB=2\n"},
		{"one in a comment is none", "#A=1\n", "A", "2", "#A=1\nA=2\n"},
		{"a longer name is another", "AA=1\n", "A", "2", "AA=1\nA=2\n"},
		{"twice", "A=1\nA=2\n", "A", "3", "! text.ambiguous"},
		{"a value of two lines", "A='1\n2'\n", "A", "3", "! text.not_a_value"},
		{"a value that goes on", "A=1\\\n2\n", "A", "3", "! text.not_a_value"},
		{"a name that is none", "", "A B", "3", "! text.key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := putEnv([]byte(c.text), c.key, []byte(c.value))
			compareEdit(t, got, err, c.want)
		})
	}
}

func TestPutPgpass(t *testing.T) {
	for _, c := range []struct {
		name, text string
		entry      pgEntry
		password   string
		want       string
	}{
		{"an entry", "# ours\nh:5432:db:u:old\n*:*:*:u:x\n", pgEntry{"h", "5432", "db", "u"}, `n:w\`, "# ours\nh:5432:db:u:n\\:w\\\\\n*:*:*:u:x\n"},
		{"an entry of stars", "*:*:*:u:x", pgEntry{"*", "*", "*", "u"}, "new", "*:*:*:u:new"},
		{"before what would hide it", "a:*:*:u:x\n*:*:*:u:y\n", pgEntry{"h", "*", "db", "u"}, "p", "a:*:*:u:x\nh:*:db:u:p\n*:*:*:u:y\n"},
		{"out from behind what hides it", "a:*:*:u:x\n*:*:*:u:y\nb:1:d:u:z\nh:*:db:u:old", pgEntry{"h", "*", "db", "u"}, "p", "a:*:*:u:x\nh:*:db:u:p\n*:*:*:u:y\nb:1:d:u:z\n"},
		{"at the end", "a:*:*:u:x", pgEntry{"h", "*", "db", "u"}, "p", "a:*:*:u:x\nh:*:db:u:p\n"},
		{"a name with a colon", `::1:5432:d:u:x` + "\n", pgEntry{"::1", "5432", "d", "u"}, "p", "::1:5432:d:u:x\n\\:\\:1:5432:d:u:p\n"},
		{"the same name escaped", `\:\:1:5432:d:u:x` + "\n", pgEntry{"::1", "5432", "d", "u"}, "p", "\\:\\:1:5432:d:u:p\n"},
		{"twice", "h:1:d:u:x\nh:1:d:u:y\n", pgEntry{"h", "1", "d", "u"}, "p", "! text.ambiguous"},
		{"a comment that looks like one", "#h:1:d:u:x\n", pgEntry{"h", "1", "d", "u"}, "p", "#h:1:d:u:x\nh:1:d:u:p\n"},
		{"a password of two lines", "", pgEntry{"h", "1", "d", "u"}, "p\n*:*:*:*:q", "! text.value"},
		{"a name of two lines", "", pgEntry{"h\nx", "1", "d", "u"}, "p", "! text.key"},
		{"no name", "", pgEntry{"h", "1", "d", ""}, "p", "! text.key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := putPgpass([]byte(c.text), c.entry, []byte(c.password))
			compareEdit(t, got, err, c.want)
		})
	}
}

// A reader of password files finds what was put there, whatever else is in the file.
func FuzzPutPgpass(f *testing.F) {
	f.Add([]byte("# ours\n*:*:*:u:x\nh:5432:db:u:old\n"), "h", "u", `p:\`)
	f.Add([]byte("h:*:*:\\*:x\n"), "*", "*", "p")
	f.Add([]byte("*:*:*:*:\nh:5432:db:u:"), "h", "u", "p")
	f.Fuzz(func(t *testing.T, text []byte, host, user, password string) {
		out, err := putPgpass(text, pgEntry{host, "5432", "db", user}, []byte(password))
		if err != nil || host == "*" || user == "*" || bytes.ContainsAny(text, "\r\x00\\") || bytes.Contains(text, []byte(" ")) || len(text) > 1000 {
			return
		}
		// This reader trims lines and knows escapes less well: names that it reads otherwise are left out.
		if strings.ContainsAny(host+user+password, " \t\v\f\u0085\u00a0\\:\r\x1f") || strings.ContainsRune(string(text), '\ufffd') || strings.ContainsAny(string(text), "\t\v\f\u0085\u00a0") {
			return
		}
		file, err := pgpassfile.ParsePassfile(bytes.NewReader(out))
		if err != nil {
			return
		}
		if got := file.FindPassword(host, "5432", "db", user); got != password {
			t.Fatalf("%q became %q, where the password of %q at %q is %q; want %q", text, out, user, host, got, password)
		}
	})
}

// What is put into lines is found there by the same rules, the rest stays.
func FuzzPutLines(f *testing.F) {
	f.Add([]byte("; c\n[a]\nk = 1 ; x\n\n[b]\nk=2\n"), "a", "k", "v")
	f.Add([]byte("A=1\nexport B='x y'\r\nC=\"\n\""), "", "B", "it's")
	f.Add([]byte("[a]\r\nk:\n\tv\n"), "a", "l", "#")
	f.Fuzz(func(t *testing.T, text []byte, section, key, value string) {
		if written, err := envValue([]byte(value), "auto"); err == nil {
			if out, err := putEnv(text, key, written); err == nil {
				again, err := putEnv(out, key, written)
				if err != nil || !bytes.Equal(again, out) {
					t.Fatalf("%q became %q and then %q: %v", text, out, again, err)
				}
				sameLines(t, text, out, 1)
			}
		}
		written, err := iniValue([]byte(value))
		if err != nil {
			return
		}
		if out, err := putINI(text, section, key, written); err == nil {
			again, err := putINI(out, section, key, written)
			if err != nil || !bytes.Equal(again, out) {
				t.Fatalf("%q became %q and then %q: %v", text, out, again, err)
			}
			sameLines(t, text, out, 2)
		}
	})
}

// sameLines holds that at most so many lines were changed or added.
func sameLines(t *testing.T, before, after []byte, most int) {
	t.Helper()
	count := map[string]int{}
	for _, l := range linesOf(after) {
		count[strings.TrimRight(l.text, "\r")]++ // a last line's lone \r becomes a part of its end
	}
	lost := 0
	for _, l := range linesOf(before) {
		was := strings.TrimRight(l.text, "\r")
		if count[was]--; count[was] < 0 {
			lost++
		}
	}
	if added := len(linesOf(after)) - len(linesOf(before)); lost > 1 || added < 0 || added+lost > most {
		t.Fatalf("%q became %q", before, after)
	}
}

func TestTextEditsInLua(t *testing.T) {
	luaCases(t, []string{"text", "secret"}, []luaCase{
		{"a value that INI cannot say", `local v, err = text.put_ini("", "a", "k", secret.of("x\ny")) assert(v == nil and err.class == "policy" and err.reason == "text.value")`, ""},
		{"with quotes", `assert(text.put_ini("", "a", "k", ' x"', {quote = "double"}) == '[a]\nk = " x\\""\n')`, ""},
		{"quotes that are not there", `text.put_ini("", "a", "k", "v", {quote = "single"})`, "none or double"},
		{"env without quotes", `assert(text.put_env("", "K", "a b", {quote = "none"}) == "K=a b\n")`, ""},
		{"a secret as a key", `text.put_env("", secret.of("K"), "v")`, "got a secret"},
		{"a placeholder as a value", `text.put_env("", "K", "x" .. secret.of("pass"))`, "placeholder"},
		{"a placeholder in the text", `text.put_env("A=" .. secret.of("pass"), "K", "x")`, "placeholder"},
		{"a table into YAML", `text.put_yaml("a: 1", "a", {})`, "want a text"},
		{"a secret text tells nothing", `local v, err = text.put_json(secret.of('{"a": hunter2'), "a", 1) assert(v == nil and err.reason == "text.unreadable" and not text.contains(err.text, "byte"))`, ""},
		{"pgpass without a user", `text.put_pgpass("", {host = "h"}, "p")`, "want the login"},
		{"pgpass with what it does not know", `text.put_pgpass("", {user = "u", hots = "h"}, "p")`, "no option hots"},
	})
	if got := shownSecret(t, []string{"text", "secret"}, `return text.put_env("A=1\n", "P", secret.of("s3cr3t"))`); got != "A=1\nP=s3cr3t\n" {
		t.Errorf("with a secret it is %q", got)
	}
	if got := shownSecret(t, []string{"text", "secret"}, `return text.put_yaml(secret.of("a: old\n"), "a", 1)`); got != "a: 1\n" {
		t.Errorf("in a secret it is %q", got)
	}
}
