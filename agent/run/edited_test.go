package run

import (
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Copies that differ from the statement are told of once for each content; a copy
// that is missing says nothing.
func TestEditedIsToldOnce(t *testing.T) {
	w := newWorld(t, false)
	login := func(s string) *record.Record {
		r := record.New("pamUser", "title")
		must(t, r.SetText("login", []byte(s)))
		return r
	}
	host := func(h record.Host) *record.Record {
		r := record.New("pamDatabase", "title")
		must(t, r.SetHost(h))
		return r
	}
	account, resource := w.accountStatement("app", nil), &trustv1.Statement{Subject: &trustv1.Statement_Resource{
		Resource: &trustv1.Resource{Host: "db.test", Port: 5432},
	}}
	for name, c := range map[string]struct {
		json *record.Record
		says *trustv1.Statement
		what string
	}{
		"same login":    {login("app"), account, ""},
		"another login": {login("root"), account, "login"},
		"no login":      {record.New("pamUser", "title"), account, ""},
		"same host":     {host(record.Host{HostName: "db.test", Port: "5432"}), resource, ""},
		"another host":  {host(record.Host{HostName: "evil.test", Port: "5432"}), resource, "host"},
		"all":           {host(record.Host{HostName: "evil.test", Port: "22"}), resource, "host,port"},
		"no host":       {record.New("pamDatabase", "title"), resource, ""},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := c.json.JSON()
			must(t, err)
			r := &servedRecord{Record: &trust.Record{
				Content: trust.Content{Ref: w.ref(), Data: data, DataDigest: seal.Hash(data)}, Statement: &trust.Statement{Statement: c.says},
			}}
			w.told = nil
			w.engine.tellEdited(r)
			w.engine.tellEdited(r)
			var told []string
			for _, f := range w.told {
				told = append(told, f.Fields["what"])
			}
			if got := strings.Join(told, " "); got != c.what {
				t.Errorf("told of %q, want %q", got, c.what)
			}
		})
	}
}
