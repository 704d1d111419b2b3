package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/rotunda-pam/rotunda/sdk"
)

// xmlStep picks an element among those of one parent: by its name and, where there are
// more, by its place among those of that name or by an attribute.
type xmlStep struct {
	name        string
	place       int // 0: it is the only one
	attr, value string
}

var xmlPick = regexp.MustCompile(`^([^\[\]]+)\[([^\[\]=]+)=(.*)\]$`)

// xmlPath reads a path's parts as elements, and as an attribute where the last is @name.
func xmlPath(path []part) (steps []xmlStep, attr string, err error) {
	bad := errors.New("want the names of elements from the root on, each with its number after it where there are more, and @name last for an attribute: \"Context.Resource.2.@password\"")
	for n, p := range path {
		switch name, isAttr := strings.CutPrefix(p.name, "@"); {
		case isAttr && n == len(path)-1 && n > 0 && xmlName.MatchString(name):
			attr = name
		case p.index > 0 && len(steps) > 0 && steps[len(steps)-1].place == 0:
			steps[len(steps)-1].place = p.index
		case p.index > 0 || isAttr:
			return nil, "", bad
		default:
			s := xmlStep{name: p.name}
			if m := xmlPick.FindStringSubmatch(p.name); m != nil {
				s = xmlStep{name: m[1], attr: m[2], value: m[3]}
			}
			steps = append(steps, s)
		}
	}
	if len(steps) == 0 {
		return nil, "", bad
	}
	return steps, attr, nil
}

func (s xmlStep) matches(e xml.StartElement) bool {
	if rawName(e.Name) != s.name {
		return false
	}
	if s.attr == "" {
		return true
	}
	got, ok := attrOf(e, s.attr)
	return ok && got == s.value
}

func attrOf(e xml.StartElement, name string) (string, bool) {
	for _, a := range e.Attr {
		if rawName(a.Name) == name {
			return a.Value, true
		}
	}
	return "", false
}

// xmlPlace is the element that a path names.
type xmlPlace struct {
	start   xml.StartElement
	tag     span // its first tag
	end     int  // where its last tag begins
	text    []byte
	mixed   bool // there is more in it than a text
	matches int
}

func findXML(text []byte, steps []xmlStep) (p xmlPlace, err error) {
	depth, on := 0, 0 // on: how many of the open elements are those of the path
	counts := make([]int, len(steps))
	inside := false
	err = walkXML(text, true, func(tok xml.Token, at span) error {
		switch tok := tok.(type) {
		case xml.StartElement:
			p.mixed = p.mixed || inside
			if depth == on && on < len(steps) && steps[on].matches(tok) {
				if counts[on]++; steps[on].place == 0 || steps[on].place == counts[on] {
					if on++; on < len(steps) {
						counts[on] = 0
					} else {
						p.start, p.tag, p.text, p.mixed, inside = tok.Copy(), at, nil, false, true
						p.matches++
					}
				}
			}
			depth++
		case xml.EndElement:
			if depth--; on > depth {
				if on == len(steps) {
					p.end, inside = at.from, false
				}
				on = depth
			}
		case xml.CharData:
			if inside {
				p.text = append(p.text, tok...)
			}
		default:
			p.mixed = p.mixed || inside
		}
		return nil
	})
	return p, err
}

// putXML sets the text of one element or one attribute and leaves every other byte as it
// is. An attribute that is not there is added to its element.
func putXML(text []byte, path []part, value string) ([]byte, error) {
	steps, attr, err := xmlPath(path)
	if err != nil {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "path.wrong", Err: err}
	}
	p, err := findXML(text, steps)
	switch {
	case err != nil:
		return nil, unreadable("XML", err)
	case p.matches == 0:
		return nil, noSuch(path)
	case p.matches > 1:
		return nil, &sdk.Error{Class: sdk.ClassConflict, Reason: "text.ambiguous", Err: fmt.Errorf("%d elements are at %s: say which by its number", p.matches, pathText(path))}
	case attr == "" && p.mixed:
		return nil, &sdk.Error{Class: sdk.ClassConflict, Reason: "text.not_a_value", Err: fmt.Errorf("%s has more in it than a text", pathText(path))}
	}
	written, err := escapeXML(value)
	if err != nil {
		return nil, unsayable("XML")
	}
	var out []byte
	if attr != "" {
		out = p.putAttr(text, attr, written)
	} else {
		out = p.putText(text, written)
	}
	// What was made is read again and must say what it was made for.
	after, err := findXML(out, steps)
	got := string(after.text)
	if attr != "" {
		got, _ = attrOf(after.start, attr)
	}
	if err != nil || after.matches != 1 || got != value {
		return nil, unsayable("XML")
	}
	return out, nil
}

func (p xmlPlace) putText(text, written []byte) []byte {
	tag := text[p.tag.from:p.tag.to]
	if !bytes.HasSuffix(tag, []byte("/>")) {
		return replaced(text, span{p.tag.to, p.end}, written)
	}
	open := bytes.TrimRight(bytes.TrimSuffix(tag, []byte("/>")), " \t\r\n")
	return replaced(text, p.tag, fmt.Appendf(nil, "%s>%s</%s>", open, written, rawName(p.start.Name)))
}

func (p xmlPlace) putAttr(text []byte, name string, written []byte) []byte {
	tag := text[p.tag.from:p.tag.to]
	i := 1 + len(rawName(p.start.Name))
	for i < len(tag) {
		for i < len(tag) && strings.IndexByte(" \t\r\n", tag[i]) >= 0 {
			i++
		}
		from := i
		for i < len(tag) && strings.IndexByte(" \t\r\n=/>", tag[i]) < 0 {
			i++
		}
		is := string(tag[from:i])
		for i < len(tag) && strings.IndexByte(" \t\r\n=", tag[i]) >= 0 {
			i++
		}
		if i == len(tag) || is == "" || tag[i] != '"' && tag[i] != '\'' {
			break
		}
		to := bytes.IndexByte(tag[i+1:], tag[i])
		if to < 0 {
			break
		}
		to += i + 1
		if is == name {
			return replaced(text, span{p.tag.from + i + 1, p.tag.from + to}, written)
		}
		i = to + 1
	}
	end := len(bytes.TrimRight(bytes.TrimSuffix(bytes.TrimSuffix(tag, []byte(">")), []byte("/")), " \t\r\n"))
	at := p.tag.from + end
	return replaced(text, span{at, at}, fmt.Appendf(nil, ` %s="%s"`, name, written))
}
