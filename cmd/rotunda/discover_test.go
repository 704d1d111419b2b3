package main

import (
	"iter"
	"slices"
	"testing"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// An account has the records of its login on that resource that agents go by; a scope parts
// them where both have one.
func TestFoundAccounts(t *testing.T) {
	here, there := client.Ref{Folder: seal.NewID(), Record: seal.NewID()}, client.Ref{Folder: seal.NewID(), Record: seal.NewID()}
	record := func(title, login, scope string, resource client.Ref, edit func(*client.Record)) *client.Record {
		r := &client.Record{Title: title, State: client.InUse, Statement: &trustv1.Statement{Subject: &trustv1.Statement_Account{
			Account: &trustv1.Account{Login: login, Scope: scope, Resource: resource.Proto()},
		}}}
		if edit != nil {
			edit(r)
		}
		return r
	}
	state := func(s client.ValueState) func(*client.Record) { return func(r *client.Record) { r.State = s } }
	list := []*client.Record{
		record("app of shop", "app", "shop", here, nil),
		record("elsewhere", "backdoor", "", there, nil),
		record("not linked", "backdoor", "", here, state(client.NotLinked)),
		record("broken", "backdoor", "", here, state(client.Broken)),
		record("rolled back", "backdoor", "", here, state(client.RolledBack)),
		record("without right", "backdoor", "", here, func(r *client.Record) { r.Unlinked = []trust.Reference{{As: "resource"}} }),
		record("no statement", "backdoor", "", here, func(r *client.Record) { r.Statement = nil }),
		record("at one host", "maria", "web1", here, nil),
		record("at any host", "carla", "", here, state(client.Unattested)),
	}
	records := iter.Seq2[*client.Record, error](func(yield func(*client.Record, error) bool) {
		for _, r := range list {
			if !yield(r, nil) {
				return
			}
		}
	})
	found := []sdk.Finding{{Login: "maria", Scope: "web2"}, {Login: "maria", Scope: "web1"}, {Login: "carla", Scope: "%"}, {Login: "backdoor"}, {Login: "app"}, {Login: "App"}}
	views, err := foundAccounts(found, here, records)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range views {
		line := v.Login + " " + v.Scope + ":"
		for _, r := range v.Records {
			line += " " + r.Title
		}
		got = append(got, line)
	}
	want := []string{"App :", "app : app of shop", "backdoor :", "carla %: at any host", "maria web1: at one host", "maria web2:"}
	if !slices.Equal(got, want) {
		t.Errorf("it lists\n%q\nwant\n%q", got, want)
	}
}
