package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk"
)

// generate runs a script of kind generator with the body of its function.
func generate(t *testing.T, body, parameters string) (*bench, sdk.Secret, error) {
	t.Helper()
	b := benchOf(t, `--[[ rotunda
name = "pin"
version = "1"
kind = "generator"
about = "Makes PINs."
modules = ["log", "secret", "text"]
[parameters.n]
type = "integer"
about = "How many."
default = 4
]]
local log, secret, text = require "log", require "secret", require "text"
function generate(job)
`+body+"\nend\n")
	made, err := b.p.plugin().Generator.Generate(t.Context(), sdk.OpenRequest{Host: b.host, Resource: sdk.Resource{Address: "db1:5432", Config: json.RawMessage(parameters)}}, sdk.Account{Name: "ann"})
	return b, made, err
}

func TestGenerate(t *testing.T) {
	b, made, err := generate(t, `local pin = text.concat(job.account.login, "-", secret.random(job.parameters.n, "01")) log.info("made " .. tostring(pin)) return pin`, `{"n": 9}`)
	if text := made.ExposeString(); err != nil || !strings.HasPrefix(text, "ann-") || len(text) != 13 || strings.Trim(text[4:], "01") != "" {
		t.Errorf("a secret of %d bytes, %v", made.Len(), err)
	}
	if !strings.Contains(b.logged.String(), "made [secret]") {
		t.Errorf("the log: %s", b.logged)
	}
	if _, _, err := generate(t, `assert(job.resource.address == "" and not job.admin and not job.secret and not job.records) return secret.random(8)`, ""); err != nil {
		t.Error(err)
	}
}

func TestGenerateRefuses(t *testing.T) {
	for name, body := range map[string]string{
		"a text": `return "12345678"`, "nothing": ``, "an empty secret": `return secret.of("")`, "an answer of another kind": `return sdk.changed`,
	} {
		if _, made, err := generate(t, body, ""); err == nil || errorFrom(t, err).Reason != "script.generate" || made.Len() != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, row := range map[string][3]string{
		"an error":                   {`error("out of digits")`, "", "script.error"},
		"parameters that it has not": {`return secret.random(8)`, `{"m": 1}`, "parameters"},
		"a failure of its own":       {`sdk.fail{class = "policy", reason = "no.more"}`, "", "no.more"},
	} {
		if _, _, err := generate(t, row[0], row[1]); err == nil || errorFrom(t, err).Reason != row[2] {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := load([]byte("--[[ rotunda\nname = \"pin\"\nversion = \"1\"\nkind = \"generator\"\nabout = \"Makes PINs.\"\n]]\nfunction make() end\n")); err == nil || !strings.Contains(err.Error(), "function generate") {
		t.Errorf("a script without its function: %v", err)
	}
}
