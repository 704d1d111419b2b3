package sdk_test

import (
	"bytes"
	"encoding"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"text/template"

	"github.com/rotunda-pam/rotunda/sdk"
)

const canary = "canary-in-the-s3cret"

// Every way of printing that Go offers, for every place where a Secret can stand.
func TestSecretNeverPrints(t *testing.T) {
	s := sdk.NewSecret([]byte(canary))
	type hidden struct{ s sdk.Secret }
	type pointer struct{ S *sdk.Secret }
	places := map[string]any{
		"secret": s, "pointer": &s, "slice": []sdk.Secret{s}, "map": map[string]sdk.Secret{"k": s},
		"unexported field": hidden{s}, "pointer to it": &hidden{s}, "pointer field": pointer{&s},
		"credential":   sdk.Credential{Kind: sdk.Password, Secret: s},
		"credentials":  map[string]sdk.Credential{"x": {Secret: s}},
		"apply":        sdk.ApplyRequest{Candidate: sdk.Credential{Secret: s}},
		"open":         &sdk.OpenRequest{Admin: sdk.Credential{Secret: s}},
		"error":        fmt.Errorf("with %v and %s", s, s),
		"joined error": errors.Join(errors.New("x"), fmt.Errorf("%+v", hidden{s})),
		"sdk error":    &sdk.Error{Class: sdk.ClassPolicy, Reason: "x", Err: fmt.Errorf("%q", s)},
	}
	check := func(t *testing.T, how, text string) {
		t.Helper()
		for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprint([]byte(canary)), strings.Trim(fmt.Sprint([]byte(canary)), "[]")} {
			if strings.Contains(strings.ToLower(text), form) {
				t.Errorf("%s prints the secret: %s", how, text)
			}
		}
	}
	for name, v := range places {
		t.Run(name, func(t *testing.T) {
			for _, verb := range "vsdxXqtTpbcoUeEfFgGw" {
				for _, flag := range []string{"", "+", "#", "-10", "010", " ", ".3"} {
					f := "%" + flag + string(verb)
					check(t, f, fmt.Sprintf(f, v))
				}
			}
			check(t, "Println", fmt.Sprintln(v))
			var out bytes.Buffer
			for _, h := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
				slog.New(h).Info("x", "v", v, slog.Group("g", "v", v))
			}
			b, _ := json.Marshal(v)
			out.Write(b)
			b, _ = xml.Marshal(v)
			out.Write(b)
			_ = gob.NewEncoder(&out).Encode(v)
			_ = template.Must(template.New("").Parse("{{.}} {{printf \"%s\" .}}")).Execute(&out, v)
			check(t, "an encoder", out.String())
		})
	}
	if got := fmt.Sprintf("%s %v %d", s, &s, s); got != "[secret] [secret] [secret]" {
		t.Errorf("prints as %q", got)
	}
	for _, e := range []error{
		func() error { _, err := json.Marshal(s); return err }(),
		func() error { _, err := encoding.TextMarshaler(s).MarshalText(); return err }(),
		func() error { _, err := encoding.BinaryMarshaler(s).MarshalBinary(); return err }(),
	} {
		if e == nil {
			t.Error("a secret was encoded")
		}
	}
	func() { // a panic prints its value
		defer func() { check(t, "panic", fmt.Sprint(recover())) }()
		panic(s)
	}()
}

func TestSecret(t *testing.T) {
	in := []byte(canary)
	s := sdk.NewSecret(in)
	clear(in)
	if s.ExposeString() != canary || s.Len() != len(canary) {
		t.Fatal("the secret shares the caller's bytes")
	}
	out := s.Expose()
	clear(out)
	if s.ExposeString() != canary {
		t.Error("Expose gives away the secret's own bytes")
	}
	same := s
	if !s.Equal(sdk.NewSecret([]byte(canary))) || s.Equal(sdk.NewSecret([]byte("x"))) || s.Equal(sdk.Secret{}) {
		t.Error("Equal")
	}
	s.Wipe()
	if bytes.Contains(same.Expose(), []byte("canary")) {
		t.Error("a copy survives Wipe")
	}
	var zero sdk.Secret
	zero.Wipe()
	if zero.Len() != 0 || len(zero.Expose()) != 0 || zero.ExposeString() != "" || fmt.Sprint(zero) != "[secret]" {
		t.Error("the zero secret")
	}
}
