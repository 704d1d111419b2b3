package pluginv1_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

func TestDialRequest(t *testing.T) {
	for _, r := range []pluginv1.DialRequest{
		{Network: "tcp", Address: "db.example:5432"},
		{Network: "tcp6", Address: "[::1]:1", Timeout: 1500 * time.Millisecond},
		{Network: "tcp", Address: strings.Repeat("a", 300), Timeout: time.Duration(1<<32-1) * time.Millisecond},
	} {
		b, err := pluginv1.AppendDialRequest(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		in := bytes.NewReader(append(b, "the target's bytes"...))
		got, err := pluginv1.ReadDialRequest(in)
		if err != nil || got != r {
			t.Errorf("%+v came back as %+v, %v", r, got, err)
		}
		if in.Len() != len("the target's bytes") {
			t.Errorf("%d bytes left after the frame", in.Len())
		}
	}
	for name, b := range map[string]string{
		"version":      "\x02\x03\x00\x01\x00\x00\x00\x00tcpx",
		"no network":   "\x01\x00\x00\x01\x00\x00\x00\x00x",
		"long network": "\x01\x09\x00\x01\x00\x00\x00\x00ninebytesx",
		"no address":   "\x01\x03\x00\x00\x00\x00\x00\x00tcp",
		"long address": "\x01\x03\x01\x2d\x00\x00\x00\x00tcp" + strings.Repeat("x", 301),
	} {
		if _, err := pluginv1.ReadDialRequest(strings.NewReader(b)); !errors.Is(err, pluginv1.ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := pluginv1.AppendDialRequest(nil, pluginv1.DialRequest{Network: "tcp", Address: strings.Repeat("a", 301)}); err == nil {
		t.Error("an address of 301 bytes was written")
	}
	// A timeout that is too short for the unit is still one.
	b, _ := pluginv1.AppendDialRequest(nil, pluginv1.DialRequest{Network: "tcp", Address: "a:1", Timeout: 1})
	if got, _ := pluginv1.ReadDialRequest(bytes.NewReader(b)); got.Timeout != time.Millisecond {
		t.Errorf("timeout %v", got.Timeout)
	}
}

func FuzzReadDialRequest(f *testing.F) {
	f.Add([]byte("\x01\x03\x00\x03\x00\x00\x00\x00tcpa:1"))
	f.Add([]byte("\x01\x08\x01\x2c"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		r, err := pluginv1.ReadDialRequest(in)
		if err != nil {
			return
		}
		again, err := pluginv1.AppendDialRequest(nil, r)
		if err != nil || !bytes.Equal(again, b[:len(b)-in.Len()]) {
			t.Errorf("%+v: written as %x, %v", r, again, err)
		}
	})
}

func FuzzReadDialReply(f *testing.F) {
	f.Add([]byte("\x00\x0b127.0.0.1:1"))
	f.Add([]byte("\x05\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		s, text, err := pluginv1.ReadDialReply(in)
		if err != nil {
			return
		}
		if got := pluginv1.AppendDialReply(nil, s, text); !bytes.Equal(got, b[:len(b)-in.Len()]) {
			t.Errorf("%v %q: written as %x", s, text, got)
		}
		if s.Reason() == "dial.protocol" != (s == pluginv1.DialOK) {
			t.Errorf("status %d has no reason", s)
		}
	})
}
