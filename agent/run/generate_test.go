package run

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

func (f *fakeTarget) Generate(_ context.Context, _ pluginhost.Plugin, j pluginhost.Job, a sdk.Account) (sdk.Secret, error) {
	made, err := f.makes(j, a)
	return sdk.NewSecret([]byte(made)), err
}

// A script makes the new secret, with nothing but its parameters in hand; what it gives is
// staged, set and proven as any other.
func TestGenerator(t *testing.T) {
	w := newWorld(t, false)
	u := w.script("pin", script.Generator, `reveals = "It counts digits"`, "[parameters.n]", `type = "integer"`, `about = "x"`, "required = true")
	u.Parameters = []byte(`{"n":8}`)
	w.use(func(a *trustv1.Account) { a.Generator = u }, w.script("after", script.AfterRotation))
	w.target.makes = func(j pluginhost.Job, a sdk.Account) (string, error) {
		if string(j.Resource.Config) != `{"n":8}` || a.Name != "app" || j.Resource.Address != "" || len(j.Allow)+len(j.Pins)+len(j.Extra) != 0 || j.Local != nil || j.Admin.Secret.Len() != 0 {
			t.Errorf("the script is given more than its parameters, or less: %s, %v", j.Resource.Config, j.Allow)
		}
		if w.target.opens != 0 {
			t.Error("the target was reached before")
		}
		return "1234-5678", nil
	}
	out, err := w.rotate()
	current, _ := w.secret(w.account)
	if err != nil || out.Credential != done || current != "1234-5678" || !w.opens() {
		t.Fatalf("%+v, %v", out, err)
	}
	result, _ := w.detail()
	if !slices.ContainsFunc(result.ScriptSha256, func(sum []byte) bool { return bytes.Equal(sum, u.Sha256) }) {
		t.Errorf("the result names %x", result.ScriptSha256)
	}
	if len(w.told) != 1 || w.told[0].Name != "script.reveals" {
		t.Errorf("events %+v", w.told)
	}
}

// What a script may not give, and one that may not make secrets here: nothing is reached,
// and the secret stays.
func TestGeneratorsThatAreRefused(t *testing.T) {
	gives := func(made string, err error) func(pluginhost.Job, sdk.Account) (string, error) {
		return func(pluginhost.Job, sdk.Account) (string, error) { return made, err }
	}
	for name, c := range map[string]struct {
		kind     script.Kind
		manifest sdk.Manifest
		makes    func(pluginhost.Job, sdk.Account) (string, error)
		edit     func(*world, *trustv1.ScriptUse)
		reason   string
	}{
		"a short one":                    {makes: gives("1234567", nil), reason: "generator.short"},
		"one that is too long":           {manifest: sdk.Manifest{MaxLen: 8}, makes: gives("123456789", nil), reason: "generator.long"},
		"a forbidden character":          {manifest: sdk.Manifest{Forbid: "'"}, makes: gives("1234567'", nil), reason: "generator.characters"},
		"a line break":                   {makes: gives("1234567\n", nil), reason: "generator.characters"},
		"what is no text":                {makes: gives("1234567\xff", nil), reason: "generator.characters"},
		"the one that is in use":         {makes: gives("old-secret", nil), reason: "generator.same"},
		"an error of the script":         {makes: gives("", &sdk.Error{Class: sdk.ClassInternal, Reason: "script.error", NotSent: true}), reason: "script.error"},
		"a script of another kind":       {kind: script.AfterRotation, reason: "script.kind"},
		"another file than was approved": {edit: func(_ *world, u *trustv1.ScriptUse) { u.Sha256 = make([]byte, 32) }, reason: string(trust.ScriptChanged)},
		"parameters that it has not":     {edit: func(_ *world, u *trustv1.ScriptUse) { u.Parameters = []byte(`{"x":1}`) }, reason: "parameters"},
		"secrets that the target makes":  {manifest: sdk.Manifest{Minted: []sdk.Kind{sdk.Password}}, makes: gives("12345678", nil), reason: "generator.kind"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, false)
			w.target.manifest, w.target.makes = c.manifest, c.makes
			u := w.script("pin", orElse(c.kind, script.Generator))
			if c.edit != nil {
				c.edit(w, u)
			}
			w.use(func(a *trustv1.Account) { a.Generator = u })
			s := w.accountStatement("app", nil)
			s.GetAccount().Generator = u
			w.put(w.account, "pamUser", []byte("old-secret"), s)
			out, err := w.rotate()
			if err != nil || out.Credential == done || out.Reason != c.reason {
				t.Fatalf("%+v, %v; want %s", out, err, c.reason)
			}
			if current, staged := w.secret(w.account); current != "old-secret" || staged != "" || w.target.opens != 0 {
				t.Errorf("the target was reached %d times, and the vault has another secret: %t", w.target.opens, current != "old-secret" || staged != "")
			}
			for _, said := range []string{fmt.Sprintf("%+v", out), fmt.Sprint(w.told)} {
				if strings.Contains(said, "1234567") || strings.Contains(said, "old-secret") {
					t.Error("a secret is told")
				}
			}
		})
	}
}

// Who let the script in must have the right to.
func TestGeneratorOfASignerWithoutRights(t *testing.T) {
	w := newWorld(t, false)
	u := w.script("pin", script.Generator)
	w.target.makes = func(pluginhost.Job, sdk.Account) (string, error) { return "12345678", nil }
	w.signedByBob(trust.AllRoles &^ trust.Admin &^ trust.ApproveScript)
	w.use(func(a *trustv1.Account) { a.Generator = u })
	if out, err := w.rotate(); err != nil || out.Reason != string(trust.NotLinked) || w.target.opens != 0 {
		t.Errorf("%+v, %v", out, err)
	}
}
