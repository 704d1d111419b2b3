package main

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// The modules of this host are those that a manifest can name.
func TestModulesAreThose(t *testing.T) {
	have := slices.Sorted(maps.Keys(modules()))
	want := slices.Sorted(slices.Values(script.Modules))
	if !slices.Equal(have, want) {
		t.Errorf("modules are\n%v\nand package script names\n%v", have, want)
	}
}

// Every function is described, and does what its example says: what reaches something tells
// it, in a dry run, and gets an answer that is made up.
func TestExamples(t *testing.T) {
	all := modules()
	told := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		m := all[name]
		if m.about == "" {
			t.Errorf("%s says nothing of itself", name)
		}
		for _, f := range m.functions {
			tryExample(t, name+"."+f.name, f)
		}
		for _, o := range m.objects {
			for _, f := range o.functions {
				if called := o.name + ":" + f.name; !told[called] {
					told[called] = true
					tryExample(t, called, f)
				}
			}
		}
	}
}

// nowhere are functions of modules that reach something which reach nothing themselves.
var nowhere = []string{
	"http.path", "ssh.quote", "ssh.connection:close", "dialogue:close", "sql.connection:close", "sql.connection:quote_identifier",
	"ldap.escape_filter", "ldap.escape_dn", "ldap.ad_password", "ldap.connection:close",
}

func tryExample(t *testing.T, called string, f function) {
	t.Run(called, func(t *testing.T) {
		if f.about == "" || !strings.HasSuffix(f.about, ".") {
			t.Errorf("it says of itself %q: want sentences", f.about)
		}
		if f.example == "" {
			t.Fatal("it has no example")
		}
		var using []string
		for _, one := range script.Modules {
			if strings.Contains(f.example, one+".") {
				using = append(using, one)
			}
		}
		const at = "target.example:443"
		asks := "needs = [\"admin\", \"secret\"]\nhosts = [\"resource\"]\n"
		if slices.Contains(using, "exec") {
			asks += "programs = [\"/usr/bin/systemctl\"]\n"
		}
		if slices.Contains(using, "file") {
			asks += "files = [\"/etc/app.conf\"]\n"
		}
		b := newBench(t, using, asks, f.example)
		b.p.dry = &dryRun{allow: []string{at}, answer: (*args).pretended, manifest: b.p.manifest}
		_, err := b.run(func(s *state, job *lua.LTable) {
			login := s.account(sdk.Account{Name: "admin"})
			login.RawSetString("secret", s.credential(password("admin-secret")))
			job.RawSetString("admin", login)
			job.RawSetString("secret", s.credential(password("n3w-secret")))
			job.RawSetString("account", s.account(sdk.Account{Name: "app"}))
			job.RawSetString("resource", s.where(sdk.Resource{Address: at}))
			s.run(job, "run-1", time.Unix(0, 0))
		}, sdk.Resource{Address: at, TLS: sdk.TLS{Mode: sdk.TLSSystem}})
		if err != nil {
			t.Errorf("%s\n%v", f.example, err)
		}
		module, _, _ := strings.Cut(called, ".")
		module, _, _ = strings.Cut(module, ":")
		reaches := slices.Contains(append([]string{"dialogue", "exec", "file", "state"}, reaching...), module) && !slices.Contains(nowhere, called)
		tells := slices.ContainsFunc(b.p.dry.does, func(d dryStep) bool {
			return strings.HasPrefix(d.Call, called+"(") || strings.HasPrefix(d.Call, called+"{")
		})
		if reaches && !tells {
			t.Errorf("%s\ndoes not call it: %+v", f.example, b.p.dry.does)
		}
	})
}
