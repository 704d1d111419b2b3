// Command mongodb is the plugin that rotates the passwords of MongoDB's SCRAM users. A user
// is of the database that it was made in, which is the account's scope; no scope is the
// database admin.
//
// A user has one password, which ends with the change. The server is sent the password
// itself, since it takes no SCRAM credentials over; it writes none to its logs.
package main

import "github.com/rotunda-pam/rotunda/sdk"

// concurrency is how many connections of the administrator there are at most.
const concurrency = 16

// Config are the settings of a MongoDB resource: there are none.
type Config struct{}

func plugin() sdk.Plugin {
	return sdk.Plugin{
		Manifest: sdk.Manifest{
			Name:        "mongodb",
			Version:     "1.0.0",
			Kinds:       []sdk.Kind{sdk.Password},
			Self:        true,
			NoLogin:     true, // a user that may not come from the agent's address
			Readback:    true,
			Concurrency: concurrency,
			LoginTries:  2,
			MaxLen:      maxPassword,
			Config:      &Config{},
		},
		Rotator: &rotator{},
	}
}

func main() { sdk.Serve(plugin()) }
