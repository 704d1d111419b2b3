package pluginhost

import (
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Whatever a plugin says of itself is refused, or keeps to the bounds that the agent
// relies on.
func FuzzDescription(f *testing.F) {
	for _, m := range []*pluginv1.Manifest{
		{},
		{
			Name: "rest", Version: "1.0.0", Kinds: []string{"password"}, Capabilities: []string{pluginv1.CapRotator, pluginv1.CapRetire, "grease.x"},
			Concurrency: 4, LoginTries: 2, OldLives: durationpb.New(time.Hour), Settle: durationpb.New(time.Second), MaxLen: 72, Forbid: "'\"",
			Overlap: []string{"password"}, ConfigSchema: []byte(`{"type":"object"}`),
		},
		{
			Name: "keys", Version: "1", Kinds: []string{"api_key"}, Overlap: []string{"api_key"}, Minted: []string{"api_key"},
			Capabilities: []string{pluginv1.CapRotator, pluginv1.CapRetire, pluginv1.CapMint},
		},
		{Name: "restart", Version: "1", Capabilities: []string{pluginv1.CapAfter, pluginv1.CapDependents}},
		{Name: "restart", Version: "1", Kinds: []string{"password"}, Capabilities: []string{pluginv1.CapAfter, pluginv1.CapReadback, pluginv1.CapProvision}},
		{Name: "x", Version: "1", Kinds: []string{"", "\x00"}, Capabilities: []string{pluginv1.CapRotator}, Concurrency: 1 << 31, Settle: &durationpb.Duration{Seconds: -1 << 62}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m pluginv1.Manifest
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		d, err := description(&m)
		if err != nil {
			return
		}
		switch {
		case !validName(d.Name), d.Version == "", len(d.Version) > 64, len(d.Kinds) > 16, len(d.Overlap) > len(d.Kinds):
			t.Errorf("named %+v", d)
		case len(d.Kinds) == 0 && (!d.Dependents && !d.After && !d.Generator && !d.Discoverer || d.Readback || d.Provision || len(d.Overlap)+len(d.Minted) > 0):
			t.Errorf("it rotates nothing, and %+v", d)
		case slices.Contains(m.GetCapabilities(), pluginv1.CapRotator) != (len(d.Kinds) > 0):
			t.Errorf("a rotator, or not: %+v", d)
		case d.Concurrency < 1 || d.Concurrency > maxConcurrency, d.LoginTries < 1 || d.LoginTries > maxLoginTries, d.MaxLen < 0:
			t.Errorf("counts %+v", d)
		case len(d.Minted) > len(d.Overlap):
			t.Errorf("minted %+v", d)
		case d.OldLives < 0, d.Settle < 0:
			t.Errorf("times %+v", d)
		case len(d.Schema) > 0 && !json.Valid(d.Schema):
			t.Errorf("schema %q", d.Schema)
		}
	})
}

// A plugin's error is one of the known classes with a code, or none of its own; what it
// answers is one of the three outcomes and verdicts, and unknown where it is anything else.
func FuzzAnswers(f *testing.F) {
	s, err := status.New(codes.Unknown, "text").WithDetails(&pluginv1.ErrorDetail{Class: "policy", Reason: "policy.history", NotSent: true})
	if err != nil {
		f.Fatal(err)
	}
	b, err := proto.Marshal(s.Proto())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, int32(1))
	f.Add([]byte{0xff, 0xff}, int32(2))
	f.Add([]byte{}, int32(77))
	known := map[sdk.Class]bool{"": true}
	for _, c := range classes {
		known[c] = true
	}
	f.Fuzz(func(t *testing.T, b []byte, n int32) {
		if o := outcome(pluginv1.Outcome(n)); (o == sdk.Changed) != (n == int32(pluginv1.Outcome_OUTCOME_CHANGED)) || o > sdk.Unchanged {
			t.Errorf("outcome %d is %v", n, o)
		}
		if v := verdict(pluginv1.Verdict(n)); (v == sdk.Accepted) != (n == int32(pluginv1.Verdict_VERDICT_ACCEPTED)) || (v == sdk.Rejected) != (n == int32(pluginv1.Verdict_VERDICT_REJECTED)) {
			t.Errorf("verdict %d is %v", n, v)
		}
		p := status.New(codes.Unknown, "").Proto()
		if proto.Unmarshal(b, p) != nil {
			return
		}
		d := detail(status.FromProto(p))
		if d == nil {
			return
		}
		if !known[class(d.Class)] {
			t.Errorf("class %q", class(d.Class))
		}
		c := code(d.Reason)
		for _, r := range c {
			if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' && r != '_' {
				t.Errorf("code %q", c)
			}
		}
		if len(c) > pluginv1.MaxReason {
			t.Errorf("code of %d bytes", len(c))
		}
	})
}

// What a script says for people is text of a bounded length, and neither it nor a code has a
// secret of the call.
func FuzzTold(f *testing.F) {
	const secret = "hunter2hunter2"
	for _, text := range []string{"done", strings.Repeat("x", pluginv1.MaxOutput-3) + secret, strings.Repeat("é", pluginv1.MaxOutput), "was." + secret} {
		f.Add(text)
	}
	p := &process{plugin: script("after x"), out: newOutput(slog.New(slog.DiscardHandler))}
	p.out.secrets.Add([]byte(secret))
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.ToValidUTF8(text, "?") // else the message is none
		if told := p.told(text); len(told) > pluginv1.MaxOutput || !utf8.ValidString(told) || strings.Contains(told, secret) {
			t.Errorf("of %q is told %q", text, told)
		}
		if c := p.code(text); strings.Contains(c, secret) || len(c) > pluginv1.MaxReason {
			t.Errorf("code %q", c)
		}
	})
}
