// Command ad is the plugin that rotates the passwords of Active Directory users.
//
// An account is named by its DN, by its UPN (name@domain) or by its sAMAccountName, with
// or without DOMAIN\ before it. The administrator resets passwords (unicodePwd), for
// which the right to do so in an organisational unit is enough; an account without an
// administrator changes its own. In a unit of their own it makes users that live for a while.
package main

import (
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// concurrency is how many connections of the administrator there are at most.
const concurrency = 32

// Config are the settings of an Active Directory resource.
type Config struct {
	StartTLS bool   `json:"starttls" doc:"ask for TLS on a connection that begins in clear (port 389), in place of TLS from the first byte (port 636)"`
	Accounts string `json:"accounts" doc:"DN of the organisational unit in which accounts for a time are made; no other account is removed"`
}

func plugin() sdk.Plugin {
	return sdk.Plugin{
		Manifest: sdk.Manifest{
			Name:        "ad",
			Version:     "1.0.0",
			Kinds:       []sdk.Kind{sdk.Password},
			Self:        true,
			Concurrency: concurrency,
			LoginTries:  2,
			// For an hour the former password opens logins over the network, too, so that those
			// who have not heard yet are not locked out.
			OldLives: time.Hour,
			// Within a site a change is everywhere after 15 s to the first partner and 3 s to
			// each further one. Between sites it takes longer, and there a controller asks the
			// one that knows (the PDC emulator) before it refuses.
			Settle:    time.Minute,
			MaxLen:    127, // what Windows' own dialogues take
			Forbid:    "\x00",
			Provision: true,
			Config:    &Config{},
		},
		Rotator: &rotator{}, Provision: provisioner{},
	}
}

func main() { sdk.Serve(plugin()) }
