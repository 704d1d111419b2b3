// Package record reads and changes the JSON inside a record: the secrets-manager
// record format (type, title, fields, custom), in which the value of a field is
// always an array. What this package does not know it keeps as it was, so that
// an agent that sets a password loses nothing that another client wrote.
package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// ScriptText is the type of the field that holds a script's file.
const ScriptText = "text"

// MaxSize bounds a record's JSON.
const MaxSize = 1 << 20

// Record is one record's JSON, opened.
type Record struct {
	top    map[string]json.RawMessage
	fields []map[string]json.RawMessage
	custom []map[string]json.RawMessage
}

// KeyPair is the value of a keyPair field.
type KeyPair struct {
	PublicKey  string `json:"publicKey"`
	PrivateKey string `json:"privateKey"`
}

// Host is the value of a pamHostname field; the format spells the port as text.
type Host struct {
	HostName string `json:"hostName"`
	Port     string `json:"port"`
}

// New makes an empty record of a type, e.g. pamUser.
func New(kind, title string) *Record {
	r := &Record{top: map[string]json.RawMessage{}}
	r.setTop("type", kind)
	r.setTop("title", title)
	return r
}

// Parse reads a record's JSON.
func Parse(data []byte) (*Record, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("record: %d bytes of JSON, at most %d are read", len(data), MaxSize)
	}
	r := &Record{}
	if err := json.Unmarshal(data, &r.top); err != nil {
		// The decoder's own error can quote the input, which holds secrets.
		return nil, errors.New("record: not a JSON object")
	}
	if r.top == nil {
		return nil, errors.New("record: not a JSON object")
	}
	var err error
	if r.fields, err = list(r.top["fields"]); err != nil {
		return nil, err
	}
	if r.custom, err = list(r.top["custom"]); err != nil {
		return nil, err
	}
	return r, nil
}

func list(raw json.RawMessage) ([]map[string]json.RawMessage, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var l []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &l); err != nil {
		return nil, errors.New("record: fields are not a list of objects")
	}
	for _, f := range l {
		if f == nil {
			return nil, errors.New("record: a field is null")
		}
	}
	return l, nil
}

// JSON encodes the record. Both lists are present even when empty, since some
// of the format's readers insist on them.
func (r *Record) JSON() ([]byte, error) {
	out := make(map[string]json.RawMessage, len(r.top)+2)
	for k, v := range r.top {
		out[k] = v
	}
	for name, l := range map[string][]map[string]json.RawMessage{"fields": r.fields, "custom": r.custom} {
		if l == nil {
			l = []map[string]json.RawMessage{}
		}
		raw, err := encode(l)
		if err != nil {
			return nil, err
		}
		out[name] = raw
	}
	return encode(out)
}

// Type is the record's type, e.g. pamUser.
func (r *Record) Type() string { return text(r.top["type"]) }

// Title is the name that people gave the record.
func (r *Record) Title() string { return text(r.top["title"]) }

// SetTitle names the record.
func (r *Record) SetTitle(s string) { r.setTop("title", s) }

// Notes is the record's free text.
func (r *Record) Notes() string { return text(r.top["notes"]) }

// SetNotes sets the record's free text.
func (r *Record) SetNotes(s string) { r.setTop("notes", s) }

// Text is the first value of the first field of a type, if it is a string.
// Its bytes may be a secret: callers wrap them.
func (r *Record) Text(fieldType string) ([]byte, bool) {
	v, ok := r.first(fieldType)
	if !ok {
		return nil, false
	}
	var s string
	if json.Unmarshal(v, &s) != nil {
		return nil, false
	}
	return []byte(s), true
}

// SetText sets the first value of the first field of a type, which is made when
// it is not there. JSON holds text only: a value that is not UTF-8 is refused,
// since it would come back as another.
func (r *Record) SetText(fieldType string, value []byte) error {
	return r.setFirst(fieldType, string(value))
}

// KeyPair is the keyPair field.
func (r *Record) KeyPair() (KeyPair, bool) {
	var k KeyPair
	v, ok := r.first("keyPair")
	if !ok || json.Unmarshal(v, &k) != nil {
		return KeyPair{}, false
	}
	return k, true
}

// SetKeyPair sets the keyPair field.
func (r *Record) SetKeyPair(k KeyPair) error { return r.setFirst("keyPair", k) }

// Labels of the text fields that hold what is public about a secret that its target made.
const (
	KeyID      = "Key ID"
	PublicPart = "Public part"
)

// Labelled is the first value of the text field of a label.
func (r *Record) Labelled(label string) string {
	f := r.labelled(label)
	if f == nil {
		return ""
	}
	var values []string
	if json.Unmarshal(f["value"], &values) != nil || len(values) == 0 {
		return ""
	}
	return values[0]
}

// SetLabelled sets it. The field is made among the record's own ones when it is not there,
// where people's clients show it with its label; one that is not there is not emptied.
func (r *Record) SetLabelled(label, value string) error {
	f := r.labelled(label)
	if f == nil && value == "" {
		return nil
	}
	raw, err := encode([]string{value})
	if err != nil {
		return err
	}
	if !utf8.ValidString(value) {
		return errors.New("record: the value is not valid UTF-8 text")
	}
	if f == nil {
		f = map[string]json.RawMessage{}
		f["type"], _ = encode("text")
		f["label"], _ = encode(label)
		r.custom = append(r.custom, f)
	}
	f["value"] = raw
	return nil
}

func (r *Record) labelled(label string) map[string]json.RawMessage {
	for _, l := range [][]map[string]json.RawMessage{r.fields, r.custom} {
		for _, f := range l {
			if text(f["type"]) == "text" && text(f["label"]) == label {
				return f
			}
		}
	}
	return nil
}

// Host is the pamHostname field.
func (r *Record) Host() (Host, bool) {
	var h Host
	v, ok := r.first("pamHostname")
	if !ok || json.Unmarshal(v, &h) != nil {
		return Host{}, false
	}
	return h, true
}

// SetHost sets the pamHostname field.
func (r *Record) SetHost(h Host) error { return r.setFirst("pamHostname", h) }

func (r *Record) find(fieldType string) map[string]json.RawMessage {
	for _, l := range [][]map[string]json.RawMessage{r.fields, r.custom} {
		for _, f := range l {
			if text(f["type"]) == fieldType {
				return f
			}
		}
	}
	return nil
}

func (r *Record) first(fieldType string) (json.RawMessage, bool) {
	f := r.find(fieldType)
	if f == nil {
		return nil, false
	}
	var values []json.RawMessage
	if json.Unmarshal(f["value"], &values) != nil || len(values) == 0 {
		return nil, false
	}
	return values[0], true
}

func (r *Record) setFirst(fieldType string, value any) error {
	raw, err := encode(value)
	if err != nil {
		return err
	}
	f := r.find(fieldType)
	if f == nil {
		f = map[string]json.RawMessage{}
		f["type"], _ = encode(fieldType)
		r.fields = append(r.fields, f)
	}
	var values []json.RawMessage
	_ = json.Unmarshal(f["value"], &values) // a broken list is replaced
	if len(values) == 0 {
		values = []json.RawMessage{nil}
	}
	values[0] = raw
	f["value"], err = encode(values)
	return err
}

func (r *Record) setTop(name, value string) { r.top[name], _ = encode(value) }

func text(raw json.RawMessage) string {
	var s string
	_ = json.Unmarshal(raw, &s) // not a string: empty
	return s
}

// encode is json.Marshal without the escaping of <, > and &, which would make
// a stored password look other than it is to a person's eye.
func encode(v any) (json.RawMessage, error) {
	if s, ok := v.(string); ok && !utf8.ValidString(s) {
		return nil, errors.New("record: the value is not valid UTF-8 text")
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, errors.New("record: a value cannot be encoded")
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
