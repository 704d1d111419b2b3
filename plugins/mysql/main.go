// Command mysql is the plugin that rotates the passwords of accounts of MySQL 8 and
// MariaDB. An account is a name and a host part, which is the account's scope: the same
// name at two hosts is two accounts. No scope is the host part "%".
//
// The server is sent the digest that it would have computed, so that neither its logs
// nor its list of processes learns a password. An account keeps its former password
// until it is retired: MySQL has a second place for it, MariaDB lets an account log in
// by one method or another.
package main

import "github.com/rotunda-pam/rotunda/sdk"

// concurrency is how many connections of the administrator there are at most.
const concurrency = 32

// Config are the settings of a MySQL or MariaDB resource.
type Config struct {
	Single bool `json:"single" doc:"replace a password at once, where the server cannot keep the former one beside it (MySQL before 8.0.14, MariaDB before 10.4), or is not to"`
	Clear  bool `json:"clear" doc:"give the server the password itself, which it then judges by its rules and which MariaDB writes to its general and binary log; else a digest, which it cannot judge"`
}

func plugin() sdk.Plugin {
	return sdk.Plugin{
		Manifest: sdk.Manifest{
			Name:        "mysql",
			Version:     "1.0.0",
			Kinds:       []sdk.Kind{sdk.Password},
			Overlap:     []sdk.Kind{sdk.Password},
			Self:        true,
			NoLogin:     true, // an account of another host than the agent's
			Readback:    true,
			Concurrency: concurrency,
			LoginTries:  2,
			MaxLen:      maxPassword,
			Forbid:      "\x00",
			Config:      &Config{},
		},
		Rotator: &rotator{},
	}
}

func main() { sdk.Serve(plugin()) }
