package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

// maxXML is the longest XML text that is read.
const maxXML = 4 << 20

var xmlModule = module{
	about: "Reads and writes XML: elements with attributes, texts and children. There are no entities but the five of XML and characters by number, and no DOCTYPE.",
	functions: []function{
		{
			name: "decode", takes: "text: string", gives: "{name: string, attrs: table<string, string>, text: string, children: table[]}|nil, sdk.error?",
			about: "Reads a text of one element: at most 4 MiB, 200,000 elements and attributes, 64 deep. Names are as they are written, with their prefix; text is what stands in the element itself, put together, without white space at its ends. " +
				"Comments are left out. A DOCTYPE is an error, and so is an entity that XML does not know.",
			example: `local x = xml.decode('<a k="1"><b>t &amp; u</b></a>') assert(x.name == "a" and x.attrs.k == "1" and x.children[1].text == "t & u")`,
			do: func(a *args) int {
				e, err := decodeXML([]byte(a.text(1)))
				if err != nil {
					return a.fail(malformed("XML", false, err))
				}
				return a.push(a.element(e))
			},
		},
		{
			name: "encode", takes: "element: {name: string, attrs?: table, text?: string|secret|number, children?: table[]}", gives: "string|secret",
			about:   "Writes an element, attributes in order, its text before its children. Where a secret is in it, so is the whole. A name that XML has not, and a text with characters that it cannot say, is an error.",
			example: `assert(xml.encode({name = "a", attrs = {k = "<1>"}, children = {{name = "b", text = "t & u"}}}) == '<a k="&lt;1&gt;"><b>t &amp; u</b></a>')`,
			do: func(a *args) int {
				w := &xmlWriting{reading: reading{values: maxValues, bytes: maxString}}
				if err := w.element(a.table(1), 0); err != nil {
					a.bad(1, "%v", err)
				}
				return a.give(w.out.Bytes(), w.secrets)
			},
		},
	},
}

// element is one of XML's.
type element struct {
	name     string
	attrs    [][2]string
	text     []byte
	children []*element
}

func (s *state) element(e *element) *lua.LTable {
	t, attrs, children := s.L.NewTable(), s.L.NewTable(), s.L.NewTable()
	for _, a := range e.attrs {
		attrs.RawSetString(a[0], lua.LString(a[1]))
	}
	for _, c := range e.children {
		children.Append(s.element(c))
	}
	t.RawSetString("name", lua.LString(e.name))
	t.RawSetString("attrs", attrs)
	t.RawSetString("text", lua.LString(e.text))
	t.RawSetString("children", children)
	return t
}

func decodeXML(text []byte) (*element, error) {
	var open []*element
	var root *element
	err := walkXML(text, false, func(tok xml.Token, _ span) error {
		switch tok := tok.(type) {
		case xml.StartElement:
			e := &element{name: rawName(tok.Name)}
			for _, a := range tok.Attr {
				e.attrs = append(e.attrs, [2]string{rawName(a.Name), a.Value})
			}
			if len(open) == 0 {
				root = e
			} else {
				in := open[len(open)-1]
				in.children = append(in.children, e)
			}
			open = append(open, e)
		case xml.EndElement:
			e := open[len(open)-1]
			e.text = bytes.TrimSpace(e.text)
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				e := open[len(open)-1]
				e.text = append(e.text, tok...)
			}
		}
		return nil
	})
	return root, err
}

// walkXML reads a text of one element and says each token with its place. Elements are
// closed as they were opened, and counted.
func walkXML(text []byte, doctype bool, each func(xml.Token, span) error) error {
	if len(text) > maxXML {
		return fmt.Errorf("it has more than %d bytes", maxXML)
	}
	d := xml.NewDecoder(bytes.NewReader(text))
	var open []string
	roots, left := 0, maxValues
	for {
		from := int(d.InputOffset())
		tok, err := d.RawToken()
		if err == io.EOF {
			break
		}
		if err != nil {
			line, _ := d.InputPos()
			return fmt.Errorf("wrong in line %d", line)
		}
		if left--; left < 0 {
			return fmt.Errorf("more than %d parts", maxValues)
		}
		switch tok := tok.(type) {
		case xml.Directive:
			if !doctype || len(open) > 0 || roots > 0 || bytes.ContainsRune(tok, '[') {
				return errors.New("it has a DOCTYPE, which is not read")
			}
		case xml.StartElement:
			if len(open) == 0 {
				roots++
			}
			seen := map[xml.Name]bool{}
			for _, a := range tok.Attr {
				if seen[a.Name] {
					return errors.New("an attribute comes twice in one element")
				}
				seen[a.Name] = true
			}
			if left -= len(tok.Attr); left < 0 {
				return fmt.Errorf("more than %d parts", maxValues)
			}
			open = append(open, rawName(tok.Name))
			if len(open) > maxDepth || roots > 1 {
				return fmt.Errorf("nested more than %d deep, or more than one element", maxDepth)
			}
		case xml.EndElement:
			if len(open) == 0 || open[len(open)-1] != rawName(tok.Name) {
				return errors.New("an element ends that did not begin")
			}
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) == 0 && len(bytes.TrimSpace(bytes.TrimPrefix(tok, []byte("\ufeff")))) > 0 {
				return errors.New("a text outside its element")
			}
		}
		if err := each(tok, span{from, int(d.InputOffset())}); err != nil {
			return err
		}
	}
	if roots != 1 || len(open) > 0 {
		return errors.New("it has no element, or one that does not end")
	}
	return nil
}

// rawName is a name as it is written: the decoder's raw tokens have the prefix apart.
func rawName(n xml.Name) string {
	if n.Space != "" {
		return n.Space + ":" + n.Local
	}
	return n.Local
}

var xmlName = regexp.MustCompile(`^[\p{L}_][\p{L}\p{N}_.-]*(:[\p{L}_][\p{L}\p{N}_.-]*)?$`)

// xmlWriting writes elements that a script made.
type xmlWriting struct {
	reading
	out bytes.Buffer
}

func (w *xmlWriting) element(t *lua.LTable, depth int) error {
	if depth >= maxDepth {
		return fmt.Errorf("it is nested more than %d deep, or holds itself", maxDepth)
	}
	names, ok := sortedKeys(t)
	for _, n := range names {
		ok = ok && (n == "name" || n == "attrs" || n == "text" || n == "children")
	}
	if !ok {
		return errors.New("an element is a table of name, attrs, text and children, and nothing else")
	}
	name, err := w.name(t.RawGetString("name"))
	if err != nil {
		return err
	}
	w.out.WriteString("<" + name)
	if attrs := t.RawGetString("attrs"); attrs != lua.LNil {
		if err := w.attrs(attrs); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	w.out.WriteString(">")
	if text := t.RawGetString("text"); text != lua.LNil {
		if err := w.text(text); err != nil {
			return fmt.Errorf("%s: text: %w", name, err)
		}
	}
	if v := t.RawGetString("children"); v != lua.LNil {
		children, ok := v.(*lua.LTable)
		if !ok {
			return fmt.Errorf("%s: children is no list", name)
		}
		for n := 1; n <= children.Len(); n++ {
			c, ok := children.RawGetInt(n).(*lua.LTable)
			if !ok {
				return fmt.Errorf("%s: child %d is no table", name, n)
			}
			if err := w.element(c, depth+1); err != nil {
				return err
			}
		}
	}
	w.out.WriteString("</" + name + ">")
	return nil
}

func (w *xmlWriting) name(v lua.LValue) (string, error) {
	name, ok := v.(lua.LString)
	if !ok || len(name) > 256 || !xmlName.MatchString(string(name)) {
		return "", errors.New("an element or an attribute has no name that XML knows")
	}
	return string(name), nil
}

func (w *xmlWriting) attrs(v lua.LValue) error {
	t, ok := v.(*lua.LTable)
	if !ok {
		return errors.New("attrs is no table")
	}
	names, ok := sortedKeys(t)
	if !ok {
		return errors.New("attrs has a name that is no text")
	}
	for _, n := range names {
		name, err := w.name(lua.LString(n))
		if err != nil {
			return err
		}
		w.out.WriteString(" " + name + `="`)
		if err := w.text(t.RawGetString(n)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		w.out.WriteString(`"`)
	}
	return nil
}

func (w *xmlWriting) text(v lua.LValue) error {
	if _, ok := v.(*lua.LTable); ok {
		return errors.New("want a text, got a table")
	}
	one, err := w.value(v, 0)
	if err != nil {
		return err
	}
	escaped, err := escapeXML(fmt.Sprint(one))
	w.out.Write(escaped)
	return err
}

// escapeXML writes a text for an element or an attribute.
func escapeXML(text string) ([]byte, error) {
	var b bytes.Buffer
	if err := xml.EscapeText(&b, []byte(text)); err != nil {
		return nil, err
	}
	if strings.Count(b.String(), "\ufffd") != strings.Count(text, "\ufffd") {
		return nil, errors.New("it has characters that XML cannot say")
	}
	return b.Bytes(), nil
}
