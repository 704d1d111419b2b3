package main

import (
	"encoding/base64"
	"errors"
	"strings"

	"github.com/rotunda-pam/rotunda/sdk"
)

var base64Module = module{
	about: "Base64, of texts and of secrets.",
	functions: []function{
		encodes("encode", "Writes bytes as base64, with padding.", `assert(base64.encode("a?~") == "YT9+" and type(base64.encode(secret.of("a"))) == "userdata")`, base64.StdEncoding.EncodeToString),
		encodes("encode_url", "Writes bytes as base64 for addresses (- and _), without padding.", `assert(base64.encode_url("a?~~") == "YT9-fg")`, base64.RawURLEncoding.EncodeToString),
		decodes("decode", "Reads base64, with padding or without, in lines or not. What is no base64 gives nil and an error.", `assert(base64.decode("YT9+fg==") == "a?~~" and base64.decode("YT9+\nfg") == "a?~~" and base64.decode("-") == nil)`, "base64", base64.RawStdEncoding.DecodeString),
		decodes("decode_url", "Reads base64 for addresses (- and _), with padding or without.", `assert(base64.decode_url("YT9-fg") == "a?~~")`, "base64", base64.RawURLEncoding.DecodeString),
	},
}

func encodes(name, about, example string, encode func([]byte) string) function {
	return function{
		name: name, takes: "bytes: string|secret", gives: "string|secret", about: about, example: example,
		do: func(a *args) int {
			b, isSecret := a.bytes(1)
			if len(b) > maxString/2 {
				a.bad(1, "it has more than %d bytes", maxString/2)
			}
			return a.give([]byte(encode(b)), isSecret)
		},
	}
}

func decodes(name, about, example, format string, decode func(string) ([]byte, error)) function {
	return function{
		name: name, takes: "text: string|secret", gives: "string|secret|nil, sdk.error?", about: about, example: example,
		do: func(a *args) int {
			b, isSecret := a.bytes(1)
			text := strings.TrimRight(strings.NewReplacer("\r", "", "\n", "").Replace(string(b)), "=")
			if format == "hex" {
				text = string(b)
			}
			out, err := decode(text)
			if err != nil {
				if isSecret { // that it is none tells something of it
					a.ask()
				}
				return a.fail(&sdk.Error{Class: sdk.ClassUnreachable, Reason: format + ".malformed", Err: errors.New("it is no " + format)})
			}
			return a.give(out, isSecret)
		},
	}
}
