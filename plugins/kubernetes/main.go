// Command kubernetes is the plugin that rotates the tokens of service accounts, and that
// writes other accounts' secrets into Secrets and rolls the workloads that use them.
//
// A token is made by the target. It is bound to a Secret of its own, which holds nothing:
// when that is deleted, the token has ended. The Secret's name is the token's ID.
package main

import (
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// settle is how long an API server may know an ended token: it remembers whom it has
// known for ten seconds.
const settle = 15 * time.Second

// Config are the settings of a resource.
type Config struct {
	Hours int `json:"token_hours" default:"8760" doc:"How long a new token is asked to live, in hours: rotate it more often. A server may give less (--service-account-max-token-expiration), and none lives less than ten minutes."`
}

func plugin() sdk.Plugin {
	return sdk.Plugin{
		Manifest: sdk.Manifest{
			Name:        "kubernetes",
			Version:     "1.0.0",
			Kinds:       []sdk.Kind{sdk.Token},
			Overlap:     []sdk.Kind{sdk.Token},
			Minted:      []sdk.Kind{sdk.Token},
			Concurrency: 16,
			Settle:      settle,
			Config:      &Config{},
			Dependents:  true,
			Dependent:   &secretConfig{},
		},
		Rotator:    rotator{},
		Dependents: secrets{},
	}
}

func main() { sdk.Serve(plugin()) }
