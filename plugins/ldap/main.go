// Command ldap is the plugin that rotates the passwords of accounts in LDAP directories:
// OpenLDAP, 389 Directory Server and others that follow RFC 4511. Active Directory has
// a plugin of its own.
//
// An account is named by its DN. The server is asked to change the password by the
// operation that is meant for it (RFC 3062), where it has that, so that it is stored as
// the server's own rules say; else by a modification of userPassword.
package main

import (
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// concurrency is how many connections of the administrator there are at most.
const concurrency = 32

// Config are the settings of an LDAP resource.
type Config struct {
	StartTLS bool   `json:"starttls" doc:"ask for TLS on a connection that begins in clear (port 389), in place of TLS from the first byte (port 636)"`
	Replicas bool   `json:"replicas" doc:"the address leads to one of several servers that replicate, or to one that passes changes on: a password that is refused proves nothing until a minute after the change"`
	Method   string `json:"method" default:"auto" enum:"auto,exop,modify" doc:"how to set a password: by the password modify operation, by modifying userPassword, or by what the server says it has"`
}

func plugin() sdk.Plugin {
	return sdk.Plugin{
		Manifest: sdk.Manifest{
			Name:        "ldap",
			Version:     "1.0.0",
			Kinds:       []sdk.Kind{sdk.Password},
			Self:        true,
			Concurrency: concurrency,
			LoginTries:  2,
			// Servers that follow another (OpenLDAP's syncrepl, 389 DS) hear within seconds
			// where the line between them is up.
			Settle:   time.Minute,
			SettleIf: "replicas",
			MaxLen:   1024,
			Config:   &Config{},
		},
		Rotator: &rotator{},
	}
}

func main() { sdk.Serve(plugin()) }
