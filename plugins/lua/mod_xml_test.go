package main

import (
	"encoding/xml"
	"strings"
	"testing"
)

func TestXML(t *testing.T) {
	luaCases(t, []string{"xml", "secret", "text"}, []luaCase{
		{"prefixes, comments, CDATA", `local x = xml.decode('<?xml version="1.0"?><!-- c --><s:a xmlns:s="urn:x" s:k="v"><!-- d -->one<b/><![CDATA[<two>]]></s:a>') assert(x.name == "s:a" and x.attrs["s:k"] == "v" and x.text == "one<two>" and x.children[1].name == "b")`, ""},
		{"round and back", `local t = '<a k="1"><b>x</b><b>y</b></a>' assert(xml.encode(xml.decode(t)) == t)`, ""},
		{"a DOCTYPE", `local x, err = xml.decode('<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>') assert(x == nil and text.contains(err.text, "DOCTYPE"))`, ""},
		{"an entity that XML does not know", `assert(xml.decode('<a>&x;</a>') == nil)`, ""},
		{"elements that cross", `assert(xml.decode('<a><b></a></b>') == nil)`, ""},
		{"an end of another prefix", `assert(xml.decode('<x:a></y:a>') == nil)`, ""},
		{"an element that does not end", `assert(xml.decode('<a><b></b>') == nil)`, ""},
		{"two elements", `assert(xml.decode('<a/><b/>') == nil)`, ""},
		{"a text outside", `assert(xml.decode('<a/>x') == nil)`, ""},
		{"nothing", `assert(xml.decode('') == nil)`, ""},
		{"an attribute twice", `assert(xml.decode('<a k="1" k="2"/>') == nil)`, ""},
		{"another encoding", `assert(xml.decode('<?xml version="1.0" encoding="UTF-16"?><a/>') == nil)`, ""},
		{"deep", `local x, err = xml.decode(string.rep("<a>", 65) .. string.rep("</a>", 65)) assert(x == nil and text.contains(err.text, "deep"))`, ""},
		{"64 deep", `assert(xml.decode(string.rep("<a>", 64) .. string.rep("</a>", 64)))`, ""},
		{"many", `local x, err = xml.decode("<a>" .. string.rep("<b/>", 150000) .. "</a>") assert(x == nil and text.contains(err.text, "200000"))`, ""},
		{"long", `assert(xml.decode("<a>" .. string.rep("x", 4200000) .. "</a>") == nil)`, ""},
		{"many small texts", `assert(#xml.decode("<a>" .. string.rep("<![CDATA[0123456789]]>", 150000) .. "</a>").text == 1500000)`, ""},
		{"what is wrong is named by its line only", `local x, err = xml.decode("<a>\n<hunter2</a>") assert(x == nil and err.text == "the text is no XML that can be read: wrong in line 2")`, ""},
		{"a secret is refused", `xml.decode(secret.of("<a/>"))`, "got a secret"},
		{"a name that breaks out", `xml.encode({name = "a><b"})`, "no name"},
		{"an attribute that breaks out", `xml.encode({name = "a", attrs = {['k="" x'] = "1"}})`, "no name"},
		{"a placeholder", `xml.encode({name = "a", text = tostring(secret.of("pass"))})`, "placeholder"},
		{"a secret as a name", `xml.encode({name = secret.of("pass")})`, "no name"},
		{"a field that is not there", `xml.encode({name = "a", childen = {}})`, "nothing else"},
		{"characters that XML has not", `xml.encode({name = "a", text = "\1"})`, "cannot say"},
		{"a table that holds itself", `local e = {name = "a"} e.children = {e} xml.encode(e)`, "deep"},
		{"a small table that stands for a huge one", `local e = {name = "a", text = "x"} for _ = 1, 40 do e = {name = "a", children = {e, e}} end xml.encode(e)`, "more than"},
	})
	if got := shownSecret(t, []string{"xml", "secret"}, `return xml.encode({name = "a", attrs = {p = secret.of('"<&')}, text = 1})`); got != `<a p="&#34;&lt;&amp;">1</a>` {
		t.Errorf("with a secret it is %s", got)
	}
}

func TestPutXML(t *testing.T) {
	const tomcat = "<?xml version='1.0'?>\n<!-- ours -->\n<Context>\n  <Resource name=\"jdbc/a\"\n            password='old' url=\"x>y\"/>\n  <Resource name=\"jdbc/b\" password = \"old2\" ></Resource>\n  <Empty />\n  <Text>t &amp; u</Text>\n</Context>\n"
	for _, c := range []struct {
		name, text string
		path       []string
		value      string
		want       string
	}{
		{"an attribute by another", tomcat, []string{"Context", "Resource[name=jdbc/a]", "@password"}, `n'"<`, strings.Replace(tomcat, "'old'", "'n&#39;&#34;&lt;'", 1)},
		{"an attribute by number", tomcat, []string{"Context", "Resource", "2", "@password"}, "new", strings.Replace(tomcat, "old2", "new", 1)},
		{"an attribute that is not there", tomcat, []string{"Context", "Empty", "@k"}, "v", strings.Replace(tomcat, "<Empty />", `<Empty k="v" />`, 1)},
		{"an attribute that is not there, in an open tag", tomcat, []string{"Context", "@k"}, "v", strings.Replace(tomcat, "<Context>", `<Context k="v">`, 1)},
		{"a text", tomcat, []string{"Context", "Text"}, "<new>", strings.Replace(tomcat, "t &amp; u", "&lt;new&gt;", 1)},
		{"a text of an empty element", tomcat, []string{"Context", "Empty"}, "x", strings.Replace(tomcat, "<Empty />", "<Empty>x</Empty>", 1)},
		{"a DOCTYPE is passed by", "<!DOCTYPE web-app PUBLIC \"a\" \"b\">\n<a><b>1</b></a>", []string{"a", "b"}, "2", "<!DOCTYPE web-app PUBLIC \"a\" \"b\">\n<a><b>2</b></a>"},
		{"which of two", tomcat, []string{"Context", "Resource", "@password"}, "x", "! text.ambiguous"},
		{"a third of two", tomcat, []string{"Context", "Resource", "3", "@password"}, "x", "! path.not_found"},
		{"an element that is not there", tomcat, []string{"Context", "Nothing"}, "x", "! path.not_found"},
		{"a text with elements in it", tomcat, []string{"Context"}, "x", "! text.not_a_value"},
		{"a text with a comment in it", "<a>x<!-- y --></a>", []string{"a"}, "x", "! text.not_a_value"},
		{"a value that XML cannot say", tomcat, []string{"Context", "Text"}, "\x01", "! text.value"},
		{"an attribute that is no name", tomcat, []string{"Context", "@a b"}, "x", "! path.wrong"},
		{"entities of its own", "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", []string{"a"}, "x", "! text.unreadable"},
		{"no XML", "<a>", []string{"a"}, "x", "! text.unreadable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, err := parsePath(c.path)
			if err != nil {
				t.Fatal(err)
			}
			got, err := putXML([]byte(c.text), path, c.value)
			compareEdit(t, got, err, c.want)
		})
	}
}

// What is edited is still read, and has the value where it was asked for.
func FuzzPutXML(f *testing.F) {
	for _, p := range []string{"a/b", "a/b/@k", "a/b/2/@k", "a/b[k=1]"} {
		f.Add([]byte(`<a><b k="1">x</b><!-- c --><b  k = '>' z="/>"/></a>`), p, `n"<`)
	}
	f.Add([]byte("<a k='1'/>"), "a/@j", "]]>")
	f.Fuzz(func(t *testing.T, text []byte, at, value string) {
		path, err := parsePath(strings.Split(at, "/"))
		if err != nil {
			return
		}
		out, err := putXML(text, path, value)
		if err != nil {
			return
		}
		if err := walkXML(out, true, func(tok xml.Token, _ span) error { return nil }); err != nil {
			t.Fatalf("%q became %q: %v", text, out, err)
		}
		steps, attr, _ := xmlPath(path)
		p, err := findXML(out, steps)
		got := string(p.text)
		if attr != "" {
			got, _ = attrOf(p.start, attr)
		}
		if err != nil || p.matches != 1 || got != value {
			t.Fatalf("%q became %q, which says %q: %v", text, out, got, err)
		}
	})
}
