package main

import (
	"maps"
	"net"
	"strconv"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

// places are the resource and the further records, each with the identity that its own
// statement says.
func places(host sdk.Host, resource sdk.Resource, records []sdk.Record) (sdk.Host, []sdk.Resource) {
	list := []sdk.Resource{resource}
	pins := maps.Clone(host.Pins)
	if pins == nil {
		pins = map[string][]byte{}
	}
	for _, r := range records {
		list = append(list, r.Resource)
		maps.Copy(pins, r.Pins)
	}
	host.Pins = pins
	return host, list
}

// job is what a function of the script gets: as much as its manifest asks for.
func (s *state) job(resource sdk.Resource, acc sdk.Account) (*lua.LTable, error) {
	t := s.L.NewTable()
	values, err := s.p.manifest.Values(resource.Config)
	if err != nil {
		return nil, err
	}
	s.values = values
	t.RawSetString("parameters", s.parameters(values))
	t.RawSetString("resource", s.where(resource))
	t.RawSetString("account", s.account(acc))
	return t, nil
}

func (s *state) account(a sdk.Account) *lua.LTable {
	t := s.L.NewTable()
	t.RawSetString("login", lua.LString(a.Name))
	t.RawSetString("scope", lua.LString(a.Scope))
	if other := a.Attrs[sdk.PairAttr]; other != "" {
		t.RawSetString("pair", lua.LString(other))
	}
	return t
}

// where is an address with its parts.
func (s *state) where(r sdk.Resource) *lua.LTable {
	t := s.L.NewTable()
	t.RawSetString("address", lua.LString(r.Address))
	t.RawSetString("tls", lua.LString(r.TLS.Mode))
	t.RawSetString("server_name", lua.LString(r.TLS.ServerName))
	if host, port, err := net.SplitHostPort(r.Address); err == nil {
		t.RawSetString("host", lua.LString(host))
		if n, err := strconv.Atoi(port); err == nil {
			t.RawSetString("port", lua.LNumber(n))
		}
	}
	return t
}

// login is a name with its secret; nil where there is neither.
func (s *state) login(a sdk.Account, c sdk.Credential) lua.LValue {
	if a.Name == "" && c.Secret.Len() == 0 {
		return lua.LNil
	}
	t := s.account(a)
	t.RawSetString("secret", s.credential(c))
	return t
}

// logins adds the administrator and the further secrets of the resource.
func (s *state) logins(job *lua.LTable, r sdk.OpenRequest) {
	job.RawSetString("admin", s.login(r.AdminAs, r.Admin))
	job.RawSetString("self", lua.LBool(r.Self))
	extras := s.L.NewTable()
	for name, c := range r.Extra {
		extras.RawSetString(name, s.credential(c))
	}
	job.RawSetString("extras", extras)
}

// records adds further records, by the names that the manifest gives them.
func (s *state) records(job *lua.LTable, list []sdk.Record) {
	t := s.L.NewTable()
	for n, want := range s.p.manifest.Records {
		if n >= len(list) {
			break
		}
		one := s.where(list[n].Resource)
		one.RawSetString("login", lua.LString(list[n].Account.Name))
		one.RawSetString("scope", lua.LString(list[n].Account.Scope))
		one.RawSetString("secret", s.credential(list[n].Secret))
		t.RawSetString(want.Name, one)
	}
	job.RawSetString("records", t)
}

func (s *state) run(job *lua.LTable, id string, at time.Time) {
	t := s.L.NewTable()
	t.RawSetString("id", lua.LString(id))
	t.RawSetString("time", lua.LNumber(float64(at.UnixMilli())/1e3))
	job.RawSetString("run", t)
}

// plain makes Lua's value of what JSON or TOML can say.
func (s *state) plain(v any) lua.LValue {
	switch v := v.(type) {
	case nil:
		return lua.LNil
	case bool:
		return lua.LBool(v)
	case string:
		return lua.LString(v)
	case int:
		return lua.LNumber(v)
	case int64:
		return lua.LNumber(v)
	case float64:
		return lua.LNumber(v)
	case []string:
		t := s.L.NewTable()
		for _, one := range v {
			t.Append(lua.LString(one))
		}
		return t
	case []any:
		t := s.L.NewTable()
		for n, one := range v {
			t.RawSetInt(n+1, s.plain(one))
		}
		return t
	case map[string]any:
		t := s.L.NewTable()
		for name, one := range v {
			t.RawSetString(name, s.plain(one))
		}
		return t
	}
	return lua.LNil
}
