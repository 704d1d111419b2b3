package client

import (
	"testing"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Which two accounts have the same secret at the target.
func TestSameLogin(t *testing.T) {
	folder := seal.NewID()
	machine, directory := Ref{Folder: folder, Record: seal.NewID()}, Ref{Folder: folder, Record: seal.NewID()}
	at := func(r Ref, login, kind, scope string) *trustv1.Account {
		return &trustv1.Account{Resource: r.Proto(), Login: login, SecretKind: kind, Scope: scope}
	}
	const keyA, keyB = "ssh-ed25519 AAAA", "ssh-ed25519 BBBB"
	for _, row := range []struct {
		name      string
		a         *trustv1.Account
		publicA   string
		b         *trustv1.Account
		publicB   string
		sameLogin bool
	}{
		{"the same", at(machine, "app", SecretPassword, ""), "", at(machine, "app", SecretPassword, ""), "", true},
		{"a kind that is not said is a password", at(machine, "app", "", ""), "", at(machine, "app", SecretPassword, ""), "", true},
		{"another login", at(machine, "app", "", ""), "", at(machine, "App", "", ""), "", false},
		{"another resource", at(machine, "app", "", ""), "", at(directory, "app", "", ""), "", false},
		{"a password and a token", at(machine, "app", "", ""), "", at(machine, "app", SecretToken, ""), "", false},
		{"a password and a key", at(machine, "app", "", ""), "", at(machine, "app", SecretSSHKey, ""), keyA, false},
		{"the same key, by another comment", at(machine, "app", SecretSSHKey, ""), keyA, at(machine, "app", SecretSSHKey, ""), keyA + " ada@laptop", true},
		{"two keys", at(machine, "app", SecretSSHKey, ""), keyA, at(machine, "app", SecretSSHKey, ""), keyB, false},
		{"two keys that are not there yet", at(machine, "app", SecretSSHKey, ""), "", at(machine, "app", SecretSSHKey, ""), "", false},
		{"two databases of one target", at(machine, "app", "", "orders"), "", at(machine, "app", "", "stock"), "", true},
		{"two places of a directory", at(directory, "app", "", "ou=a"), "", at(directory, "app", "", "ou=b"), "", false},
		{"one place of a directory", at(directory, "app", "", "ou=a"), "", at(directory, "app", "", "ou=a"), "", true},
		{"no login", at(machine, "", SecretToken, ""), "", at(machine, "", SecretToken, ""), "", false},
	} {
		taken := &taken{logins: map[loginKey]string{}, directories: map[Ref]bool{directory: true}}
		if key, ok := taken.loginKey(row.a, row.publicA); ok {
			taken.logins[key] = "the first"
		}
		err := taken.login(row.b, row.publicB)
		if got := ReasonOf(err) == "same_login"; got != row.sameLogin || (err != nil) != row.sameLogin {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}
