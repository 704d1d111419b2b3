package pluginv1_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

// local is a frame as it stands on the wire.
func local(head, body string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(head)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(append(b, head...), body...)
}

func TestLocal(t *testing.T) {
	mode := uint32(0o640)
	for _, c := range []struct {
		r    pluginv1.LocalRequest
		body string
	}{
		{pluginv1.LocalRequest{Exec: &pluginv1.LocalExec{Program: "/bin/true", Args: []string{"a", "\n"}, Timeout: 1500}}, "in\x00put"},
		{pluginv1.LocalRequest{Read: &pluginv1.LocalRead{Path: "/etc/app.conf", Max: 1 << 10}}, ""},
		{pluginv1.LocalRequest{Write: &pluginv1.LocalWrite{Path: "/etc/app.conf", Mode: &mode, Backup: true}}, strings.Repeat("x", pluginv1.MaxLocalBody)},
	} {
		var b bytes.Buffer
		if err := pluginv1.WriteLocal(&b, c.r, []byte(c.body)); err != nil {
			t.Fatal(err)
		}
		b.WriteString("rest")
		var got pluginv1.LocalRequest
		body, err := pluginv1.ReadLocal(&b, &got)
		if err != nil || !reflect.DeepEqual(got, c.r) || string(body) != c.body || b.String() != "rest" {
			t.Errorf("%+v came back as %+v with %d bytes, %v; left: %q", c.r, got, len(body), err, b.String())
		}
	}
	for name, c := range map[string]struct {
		frame []byte
		want  error
	}{
		"a head that is too long": {binary.BigEndian.AppendUint64(nil, (pluginv1.MaxLocalHead+1)<<32), pluginv1.ErrLocal},
		"a body that is too long": {binary.BigEndian.AppendUint64(nil, pluginv1.MaxLocalBody+1), pluginv1.ErrLocal},
		"an unknown name":         {local(`{"read":{"path":"/a","follow":true}}`, ""), pluginv1.ErrLocal},
		"no JSON":                 {local("x", ""), pluginv1.ErrLocal},
		"two heads":               {local(`{} {}`, ""), pluginv1.ErrLocal},
		"an end in the head":      {local(`{"read":{}}`, "")[:12], io.ErrUnexpectedEOF},
		"an end in the body":      {local(`{}`, "abc")[:12], io.ErrUnexpectedEOF},
		"an end before it":        {nil, io.EOF},
	} {
		if _, err := pluginv1.ReadLocal(bytes.NewReader(c.frame), new(pluginv1.LocalRequest)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if err := pluginv1.WriteLocal(io.Discard, pluginv1.LocalRequest{}, make([]byte, pluginv1.MaxLocalBody+1)); !errors.Is(err, pluginv1.ErrLocal) {
		t.Errorf("a body that is too long was written: %v", err)
	}
}

// What is read can be written, and is read as the same.
func FuzzReadLocal(f *testing.F) {
	f.Add(local(`{"exec":{"program":"/bin/true","args":["a"],"timeout":1000}}`, "stdin"))
	f.Add(local(`{"write":{"path":"/a","mode":416,"backup":true}}`, "content"))
	f.Add(local(`{"read":{"path":"/a","max":1}}`, ""))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again pluginv1.LocalRequest
		body, err := pluginv1.ReadLocal(bytes.NewReader(b), &r)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := pluginv1.WriteLocal(&out, r, body); err != nil {
			return // its head is longer written than it was
		}
		same, err := pluginv1.ReadLocal(&out, &again)
		if err != nil || !reflect.DeepEqual(r, again) || !bytes.Equal(body, same) || out.Len() != 0 {
			t.Errorf("%+v came back as %+v, %v", r, again, err)
		}
	})
}
