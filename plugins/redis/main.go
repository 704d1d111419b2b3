// Command redis is the plugin that rotates the passwords of Redis and Valkey ACL users.
//
// A user may have several passwords at once, so the former one works until it is
// retired. The server is sent the SHA-256 digest that it would have computed, so that
// neither its monitor nor its slow log learns a password. What is changed is saved, since
// it would be lost with the next restart otherwise: a server that can save nothing is
// refused.
package main

import "github.com/rotunda-pam/rotunda/sdk"

// concurrency is how many connections of the administrator there are at most.
const concurrency = 16

// Config are the settings of a Redis resource.
type Config struct {
	Unsaved bool `json:"unsaved" doc:"rotate although the server keeps no users over a restart, as services do that keep them elsewhere"`
}

func plugin() sdk.Plugin {
	return sdk.Plugin{
		Manifest: sdk.Manifest{
			Name:        "redis",
			Version:     "1.0.0",
			Kinds:       []sdk.Kind{sdk.Password},
			Overlap:     []sdk.Kind{sdk.Password},
			Readback:    true,
			Concurrency: concurrency,
			MaxLen:      512,
			Config:      &Config{},
		},
		Rotator: &rotator{},
	}
}

func main() { sdk.Serve(plugin()) }
