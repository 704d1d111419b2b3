// Command aws is the plugin that rotates the access keys and the console passwords of IAM
// users, at AWS and at services that speak its protocol.
//
// An access key is made by the target: a user may have two, so the former one works
// until it is retired. A console password is the agent's; no program can log in with it,
// so what the service answers to its change is all the proof there is.
package main

import (
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// concurrency is how many requests are under way at most: IAM has room for few.
const concurrency = 4

// settle is how long a new key may be unknown to some of the service's machines, and an
// ended one known.
const settle = time.Minute

// Config are the settings of a resource.
type Config struct {
	Region string `json:"region" default:"us-east-1" doc:"region that requests are signed for; of AWS itself the partition's first: us-east-1, us-gov-west-1, cn-north-1"`
	Verify string `json:"verify" default:"iam" enum:"iam,sts,s3" doc:"what a key is tried with, at the resource's own address: iam (GetUser), sts (GetCallerIdentity), s3 (ListBuckets)"`
}

func plugin() sdk.Plugin {
	return sdk.Plugin{
		Manifest: sdk.Manifest{
			Name:        "aws",
			Version:     "1.0.0",
			Kinds:       []sdk.Kind{sdk.Password, sdk.APIKey},
			Overlap:     []sdk.Kind{sdk.APIKey},
			Minted:      []sdk.Kind{sdk.APIKey},
			NoLogin:     true, // passwords
			Concurrency: concurrency,
			Settle:      settle,
			MaxLen:      128,
			Config:      &Config{},
		},
		Rotator: rotator{},
	}
}

func main() { sdk.Serve(plugin()) }
