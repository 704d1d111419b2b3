// Command postgres is the plugin that rotates the passwords of PostgreSQL roles.
//
// The new password never reaches the server: it is sent the SCRAM-SHA-256 verifier
// that it would have computed, so that its statement log and whoever reads it learn
// nothing. One administrator session serves all roles of a server.
package main

import "github.com/rotunda-pam/rotunda/sdk"

// concurrency is how many changes one server can be given at once, and so how many
// connections of the administrator there are at most. How many it is given is its
// owner's word, in the resource.
const concurrency = 64

// Config are the settings of a PostgreSQL resource.
type Config struct {
	Database string `json:"database" default:"postgres" doc:"database to log in to, for the administrator and for accounts without one of their own (scope)"`
}

func plugin() sdk.Plugin {
	return sdk.Plugin{
		Manifest: sdk.Manifest{
			Name:        "postgres",
			Version:     "1.0.0",
			Kinds:       []sdk.Kind{sdk.Password},
			Self:        true,
			NoLogin:     true,
			Readback:    true,
			Concurrency: concurrency,
			LoginTries:  2,
			MaxLen:      1024,
			Forbid:      "\x00",
			Provision:   true,
			Config:      &Config{},
		},
		Rotator: &rotator{}, Provision: provisioner{},
	}
}

func main() { sdk.Serve(plugin()) }
