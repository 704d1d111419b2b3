package main

import (
	"bytes"
	"strings"

	lua "github.com/yuin/gopher-lua"
	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/sdk"
)

// secret is what Lua has of a secret: a value without a length, an order or a text, that
// modules take. What is made of one is one.
type secret struct {
	sdk.Secret
	public []byte // of a key pair
	id     string
}

// placeholder is what a secret prints as. No module takes a text that holds it: a script
// that glues secrets together by .. would set the placeholder as a password.
const placeholder = "[secret]"

const secretMeta = "rotunda.secret"

// secretType is the metatable of secrets.
func (s *state) secretType() {
	L := s.L
	mt := L.NewTypeMetatable(secretMeta)
	methods := L.NewTable()
	L.SetFuncs(methods, map[string]lua.LGFunction{
		"reveal": s.reveal,
		"public": func(L *lua.LState) int {
			L.Push(lua.LString(checkSecret(L, 1).public))
			return 1
		},
		"id": func(L *lua.LState) int {
			L.Push(lua.LString(checkSecret(L, 1).id))
			return 1
		},
		"empty": func(L *lua.LState) int { // there may be none: an administrator without a password
			L.Push(lua.LBool(checkSecret(L, 1).Len() == 0))
			return 1
		},
	})
	concat := func(L *lua.LState) int {
		L.Push(lua.LString(L.ToStringMeta(L.Get(1)).String() + L.ToStringMeta(L.Get(2)).String()))
		return 1
	}
	L.SetFuncs(mt, map[string]lua.LGFunction{
		"__tostring": func(L *lua.LState) int {
			L.Push(lua.LString(placeholder))
			return 1
		},
		"__concat": concat,
	})
	mt.RawSetString("__index", methods)
	mt.RawSetString("__metatable", lua.LFalse)
}

// reveal gives the secret's text, where the manifest says why it must.
func (s *state) reveal(L *lua.LState) int {
	v := checkSecret(L, 1)
	if s.p.manifest.Reveals == "" {
		L.RaiseError("secret:reveal(): the manifest does not say why (reveals = \"…\"); hand the secret to a module instead")
	}
	L.Push(lua.LString(v.ExposeString()))
	return 1
}

// secret makes a secret for Lua, and takes it out of whatever leaves the script.
func (s *state) secret(v secret) *lua.LUserData {
	b := v.Expose()
	s.hidden.Add(b)
	clear(b)
	ud := s.L.NewUserData()
	ud.Value = &v
	ud.Metatable = s.L.GetTypeMetatable(secretMeta)
	return ud
}

// secretBytes is secret for what a module made.
func (s *state) secretBytes(b []byte) *lua.LUserData {
	return s.secret(secret{Secret: sdk.NewSecret(b)})
}

// credential is a credential for Lua: nil where there is none.
func (s *state) credential(c sdk.Credential) lua.LValue {
	if c.Secret.Len() == 0 && len(c.Public) == 0 {
		return lua.LNil
	}
	return s.secret(secret{Secret: c.Secret, public: publicHalf(c), id: c.ID})
}

// publicHalf is that of the private key itself where it can be read: what stands beside it
// in a record may be another key's, which a script would then remove from its target.
func publicHalf(c sdk.Credential) []byte {
	if c.Kind != sdk.SSHKey {
		return c.Public
	}
	text := c.Secret.Expose()
	defer clear(text)
	if signer, err := ssh.ParsePrivateKey(text); err == nil {
		return bytes.TrimSpace(ssh.MarshalAuthorizedKey(signer.PublicKey()))
	}
	return c.Public
}

func secretOf(v lua.LValue) (*secret, bool) {
	if ud, ok := v.(*lua.LUserData); ok {
		got, ok := ud.Value.(*secret)
		return got, ok
	}
	return nil, false
}

func checkSecret(L *lua.LState, n int) *secret {
	v, ok := secretOf(L.Get(n))
	if !ok {
		L.ArgError(n, "want a secret; call it as secret:method()")
	}
	return v
}

// ask counts a question whose answer tells something of a secret.
func (s *state) ask() {
	if s.questions++; s.questions > maxQuestions {
		s.L.RaiseError("more than %d questions about secrets in one call", maxQuestions)
	}
}

func holdsPlaceholder(text string) bool { return strings.Contains(text, placeholder) }
