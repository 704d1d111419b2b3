package main

import (
	"fmt"

	"github.com/rotunda-pam/rotunda/sdk"
)

// textEdits are the functions of the module text that set one value of a configuration
// file's text. What they cannot do without doubt they do not do: nil and an error.
var textEdits = []function{
	{
		name: "put_json", takes: "text: string|secret, path: string|(string|integer)[], value: any", gives: "string|secret|nil, sdk.error?",
		about:   "Sets one value of a JSON text by its path (as json.at has it) and leaves every other byte as it is. A field that is not there is added last to its object.",
		example: `assert(text.put_json('{ "db": {"user": "u", "password": "old"} }', "db.password", "new") == '{ "db": {"user": "u", "password": "new"} }')`,
		do: func(a *args) int {
			b, isSecret := a.bytes(1)
			path := a.path(2)
			v, secrets := a.value(3)
			written, err := encodeJSON(v, false)
			if err != nil {
				a.bad(3, "it cannot be written")
			}
			out, err := putJSON(b, path, written)
			return a.edited(out, err, isSecret, secrets)
		},
	},
	{
		name: "put_yaml", takes: "text: string|secret, path: string|(string|integer)[], value: string|secret|number|boolean", gives: "string|secret|nil, sdk.error?",
		about: "Sets one value of a YAML text by its path. Where it stands in one line, every other byte stays; otherwise the text is written anew, with its order and its comments. " +
			"A field that is not there is added last to its mapping. Either way the result is read again and compared. What an anchor or an alias shares is not changed.",
		example: `assert(text.put_yaml("db:\n  password: old # of the database\n", "db.password", "new: 1") == 'db:\n  password: "new: 1" # of the database\n')`,
		do: func(a *args) int {
			b, isSecret := a.bytes(1)
			path := a.path(2)
			v, secrets := a.value(3)
			switch v.(type) {
			case string, bool, int64, float64:
			default:
				a.bad(3, "want a text, a secret, a number or a boolean")
			}
			out, err := putYAML(b, path, v)
			return a.edited(out, err, isSecret, secrets)
		},
	},
	{
		name: "put_xml", takes: "text: string|secret, path: string|(string|integer)[], value: string|secret|number", gives: "string|secret|nil, sdk.error?",
		about: "Sets the text of one element, or one attribute, and leaves every other byte as it is. The path has the elements' names from the root on, each with its number after it where there are more of the name, and @name last for an attribute: \"Context.Resource.2.@password\"; " +
			"as a list it can pick by an attribute: {\"Context\", \"Resource[name=jdbc/db]\", \"@password\"}. An attribute that is not there is added; an element is not.",
		example: `assert(text.put_xml('<c><r name="a" password="old"/><r name="b"/></c>', {"c", "r[name=a]", "@password"}, "<new>") == '<c><r name="a" password="&lt;new&gt;"/><r name="b"/></c>')`,
		do: func(a *args) int {
			b, isSecret := a.bytes(1)
			path := a.path(2)
			v, secrets := a.bytes(3)
			out, err := putXML(b, path, string(v))
			return a.edited(out, err, isSecret, secrets)
		},
	},
	{
		name: "put_ini", takes: `text: string|secret, section: string, key: string, value: string|secret|number, options?: {quote?: "none"|"double"}`, gives: "string|secret|nil, sdk.error?",
		about: "Sets one key of a section of an INI text (\"\": before the first section); other lines stay as they are, what stood behind the old value in its line goes. A key or a section that is not there is added. " +
			"Without quotes a value that readers would cut off or take for a comment is an error; which quotes are understood is the program's own rule.",
		example: `assert(text.put_ini("[db]\n; ours\npassword=old\n", "db", "password", "new") == "[db]\n; ours\npassword=new\n")`,
		do: func(a *args) int {
			b, isSecret := a.bytes(1)
			section, key := a.text(2), a.text(3)
			v, secrets := a.bytes(4)
			write := iniValue
			switch a.options(5, "quote").text("quote", "none") {
			case "none":
			case "double":
				write = quoteINI
			default:
				a.bad(5, "quote: want none or double")
			}
			written, err := write(v)
			if err != nil {
				return a.edited(nil, unsaid(err.Error()), isSecret, secrets)
			}
			out, err := putINI(b, section, key, written)
			return a.edited(out, err, isSecret, secrets)
		},
	},
	{
		name: "put_mycnf", takes: "text: string|secret, section: string, key: string, value: string|secret|number", gives: "string|secret|nil, sdk.error?",
		about:   "Sets one option of an option file of MySQL or MariaDB, in the quotes and with the escapes that those read.",
		example: `assert(text.put_mycnf("[client]\npassword=old\n", "client", "password", [[a"#\b]]) == "[client]\npassword=\"a\\\"#\\\\b\"\n")`,
		do: func(a *args) int {
			b, isSecret := a.bytes(1)
			section, key := a.text(2), a.text(3)
			v, secrets := a.bytes(4)
			written, err := quoteMyCnf(v)
			if err != nil {
				return a.edited(nil, unsaid(err.Error()), isSecret, secrets)
			}
			out, err := putINI(b, section, key, written)
			return a.edited(out, err, isSecret, secrets)
		},
	},
	{
		name: "put_env", takes: `text: string|secret, key: string, value: string|secret|number, options?: {quote?: "auto"|"single"|"double"|"none"}`, gives: "string|secret|nil, sdk.error?",
		about: "Sets one variable of a text of NAME=value lines, with or without export; other lines stay as they are. A variable that is not there is added last. " +
			"The value stands as it is where every reader takes it so, else in single quotes, else (it has one) in double quotes with backslashes; docker's --env-file knows no quotes and wants none.",
		example: `assert(text.put_env("A=1\nexport PASSWORD=old\n", "PASSWORD", "a b") == "A=1\nexport PASSWORD='a b'\n")`,
		do: func(a *args) int {
			b, isSecret := a.bytes(1)
			key := a.text(2)
			v, secrets := a.bytes(3)
			quote := a.options(4, "quote").text("quote", "auto")
			if quote != "auto" && quote != "single" && quote != "double" && quote != "none" {
				a.bad(4, "quote: want auto, single, double or none")
			}
			written, err := envValue(v, quote)
			if err != nil {
				return a.edited(nil, unsaid(err.Error()), isSecret, secrets)
			}
			out, err := putEnv(b, key, written)
			return a.edited(out, err, isSecret, secrets)
		},
	},
	{
		name: "put_pgpass", takes: "text: string|secret, entry: {user: string, host?: string, port?: string|integer, database?: string}, password: string|secret", gives: "string|secret|nil, sdk.error?",
		about:   "Sets the password of one entry of a .pgpass file; what is not said of it is *. An entry that is not there is added, before the first that would hide it; one that is hidden is moved there.",
		example: `assert(text.put_pgpass("# ours\n*:*:*:app:old\n", {user = "app"}, "n:w") == "# ours\n*:*:*:app:n\\:w\n")`,
		do: func(a *args) int {
			b, isSecret := a.bytes(1)
			o := a.options(2, "host", "port", "database", "user")
			password, secrets := a.bytes(3)
			if !o.has("user") {
				a.bad(2, "user: want the login")
			}
			out, err := putPgpass(b, pgEntry{o.text("host", "*"), o.text("port", "*"), o.text("database", "*"), o.text("user", "*")}, password)
			return a.edited(out, err, isSecret, secrets)
		},
	},
}

// edited gives a text with a value set in it: a secret where the text or the value is one.
func (a *args) edited(out []byte, err error, isSecret, secrets bool) int {
	if err == nil {
		return a.give(out, isSecret || secrets)
	}
	e := asError(err, sdk.ClassInternal, "text.edit")
	if isSecret || secrets { // that it failed tells something of it
		a.ask()
	}
	if isSecret {
		e = &sdk.Error{Class: e.Class, Reason: e.Reason, Err: fmt.Errorf("%s: the secret text cannot be edited so", a.name)}
	}
	return a.fail(e)
}
