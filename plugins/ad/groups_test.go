package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"
)

// groupLists are by what they say; nil: no list of groups.
var groupLists = map[string][]string{
	"":                                       {},
	" , ,":                                   {},
	"readers":                                {"readers"},
	"readers, Domain Users ,writers":         {"readers", "Domain Users", "writers"},
	"CN=a,OU=b,DC=x,DC=y":                    {"CN=a,OU=b,DC=x,DC=y"},
	"cn=a, ou=b, dc=x":                       {"cn=a,ou=b,dc=x"},
	"one,CN=a,DC=x,DC=y,two":                 {"one", "CN=a,DC=x,DC=y", "two"},
	"CN=a,DC=x,DC=y,CN=b,DC=x,DC=y":          {"CN=a,DC=x,DC=y", "CN=b,DC=x,DC=y"},
	`CN=a\,b,DC=x,c`:                         {`CN=a\,b,DC=x`, "c"},
	`CN=a\\,DC=x`:                            {`CN=a\\,DC=x`},
	`CN=a\2cDC=q,DC=x`:                       {`CN=a\2cDC=q,DC=x`},
	`CN=*\29\28cn=\2a,DC=x`:                  {`CN=*\29\28cn=\2a,DC=x`},
	"it's (all)":                             {"it's (all)"},
	"DC=x,DC=y":                              nil,
	"readers,DC=x,,DC=y":                     nil,
	"CN=a":                                   nil,
	"CN=a,readers":                           nil,
	"CN=a,OU=b,CN=c,DC=x,readers,OU=nowhere": nil,
	`EXAMPLE\readers`:                        nil,
	"*":                                      nil,
	"readers)(cn=*":                          nil,
	"a=":                                     nil,
	`CN=a,DC=x\`:                             nil,
	"read\x00ers":                            nil,
	"\xff":                                   nil,
}

func TestGroupNames(t *testing.T) {
	for list, want := range groupLists {
		got, ok := groupNames(list)
		if ok != (want != nil) || ok && !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v, want %q", list, got, ok, want)
		}
	}
}

// Each name is a DN or a sAMAccountName, and a list of them says the same again.
func FuzzGroupNames(f *testing.F) {
	for list := range groupLists {
		f.Add(list)
	}
	f.Fuzz(func(t *testing.T, list string) {
		names, ok := groupNames(list)
		if !ok {
			return
		}
		for _, name := range names {
			if !isDN(name) && !isSAM(name) {
				t.Errorf("%q: %q", list, name)
			}
		}
		if again, ok := groupNames(strings.Join(names, ",")); !ok || !slices.Equal(again, names) {
			t.Errorf("%q: %q, and again %q, %v", list, names, again, ok)
		}
	})
}

func TestMemberships(t *testing.T) {
	has, wanted := []string{"CN=A,DC=x", "CN=b,DC=x"}, []string{"CN=B,DC=x", "CN=c,DC=x"}
	var got []string
	for _, r := range memberships("CN=me,DC=x", has, wanted) {
		m := r.Changes[0]
		if len(r.Changes) != 1 || m.Modification.Type != "member" || !slices.Equal(m.Modification.Vals, []string{"CN=me,DC=x"}) {
			t.Errorf("%s: %+v", r.DN, r.Changes)
		}
		got = append(got, map[uint]string{ldap.AddAttribute: "join ", ldap.DeleteAttribute: "leave "}[m.Operation]+r.DN)
	}
	if want := []string{"leave CN=A,DC=x", "join CN=c,DC=x"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// newNames are of users that are to be made; empty: none is called so.
var newNames = map[string]string{
	"guest7":                "guest7",
	`EXAMPLE\guest7`:        "guest7",
	"o'brien (jr)":          "o'brien (jr)",
	"jürgen #1":             "jürgen #1",
	"#guest":                "#guest",
	"exactly-20-charactrs":  "exactly-20-charactrs",
	"exactly-21-characters": "",
	"ten-of-two\U0001D11E\U0001D11E\U0001D11E\U0001D11E\U0001D11E":           "ten-of-two\U0001D11E\U0001D11E\U0001D11E\U0001D11E\U0001D11E",
	"ten-of-two\U0001D11E\U0001D11E\U0001D11E\U0001D11E\U0001D11E\U0001D11E": "",
	"":                      "",
	`OTHER\guest7`:          "",
	`EXAMPLE\`:              "",
	"guest@example.com":     "",
	"guest$":                "",
	"guest.":                "",
	" guest":                "",
	"guest ":                "",
	"*":                     "",
	"a,b":                   "",
	"CN=a,DC=x":             "",
	"guest\n":               "",
	"gu\u200best":           "",
	"gu\u202eest":           "",
	"gu\x00est":             "",
	"\xff":                  "",
	"x)(sAMAccountName=abc": "",
}

func TestNewSAM(t *testing.T) {
	for name, want := range newNames {
		got, ok := example.newSAM(name)
		if ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q, %v, want %q", name, got, ok, want)
		}
	}
}

// A name that a user may get is one that it is found by, and one part of a DN.
func FuzzNewSAM(f *testing.F) {
	for name := range newNames {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		sam, ok := example.newSAM(name)
		if !ok {
			return
		}
		if q, ok := example.query(name); !ok || !q.is(ldap.NewEntry("CN=x", map[string][]string{"sAMAccountName": {sam}})) {
			t.Errorf("%q: made as %q, and not found", name, sam)
		}
		dn, err := ldap.ParseDN("CN=" + ldap.EscapeDN(sam) + ",OU=guests,DC=x")
		if err != nil || len(dn.RDNs) != 3 || len(dn.RDNs[0].Attributes) != 1 || dn.RDNs[0].Attributes[0].Value != sam {
			t.Errorf("%q: %q, %+v, %v", name, sam, dn, err)
		}
	})
}
