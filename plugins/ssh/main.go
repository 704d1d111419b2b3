// Command ssh rotates passwords and keys of Unix accounts over SSH. The administrator
// is root, or may become root by sudo; an account that rotates itself can replace its
// own key, and change its own password by passwd, without either.
//
// Names, passwords and keys go to the target by standard input, never in a command
// line: what runs there is the fixed text of script.go. A host key that the resource
// does not pin is refused before anything is sent.
//
// sshd answers the right secret exactly as a wrong one when the account is locked,
// expired or not allowed in. So a refused login is rejected only where an administrator
// who is logged in, and root, finds that the target's own files store another password (asked
// of unix_chkpwd), or that the key is not in the account's ~/.ssh/authorized_keys, where
// this plugin puts keys, or that there can be no such account. Without him it is undecided,
// not_judged: of an account that rotates itself the agent then tries the secret of before.
//
// What uses a secret may have it from a file on the target: files.go writes those.
package main

import "github.com/rotunda-pam/rotunda/sdk"

func main() {
	sdk.Serve(sdk.Plugin{
		Manifest: sdk.Manifest{
			Name: "ssh", Version: "1.0.0",
			Kinds:       []sdk.Kind{sdk.Password, sdk.SSHKey},
			Overlap:     []sdk.Kind{sdk.SSHKey}, // a password has no Retire
			Self:        true,
			NoLogin:     true,
			Concurrency: concurrency,
			Provision:   true,
			Dependents:  true,
			Dependent:   &fileConfig{},
		},
		Rotator: &rotator{}, Dependents: files{}, Provision: provisioner{},
	})
}
