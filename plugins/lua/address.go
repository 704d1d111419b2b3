package main

import (
	"errors"
	"net"
	"strconv"
	"strings"

	"github.com/rotunda-pam/rotunda/sdk"
)

// spelt is the one spelling of host:port; empty where the text is none.
func spelt(address string) string {
	host, port, err := net.SplitHostPort(address)
	n, wrong := strconv.ParseUint(port, 10, 16)
	if err != nil || wrong != nil || host == "" || n == 0 {
		return ""
	}
	if ip := net.ParseIP(host); ip != nil {
		host = ip.String()
	}
	return net.JoinHostPort(strings.ToLower(strings.TrimSuffix(host, ".")), strconv.FormatUint(n, 10))
}

// address reads the option of that name: where to connect to, the script's resource where
// it is left out.
func (o options) address() sdk.Resource {
	if !o.has("address") {
		if len(o.a.places) == 0 || o.a.places[0].Address == "" {
			o.a.bad(o.n, "address: there is no resource to take it from")
		}
		return o.a.places[0]
	}
	given := o.text("address", "")
	if spelt(given) == "" {
		o.a.bad(o.n, "address: want host:port, got %q", given)
	}
	return o.a.place(given)
}

// login reads the options login and secret.
func (o options) login() (name string, of secret) {
	name = o.text("login", "")
	if v, ok := secretOf(o.get("secret")); ok {
		return name, *v
	}
	if o.has("secret") {
		b, _ := o.bytes("secret")
		return name, secret{Secret: sdk.NewSecret(b)}
	}
	return name, secret{}
}

// maxHidden bounds an answer that is a secret: it is looked for, in many forms, in whatever
// leaves the script.
const maxHidden = 256 << 10

// answer reads the options max and secret: how many bytes are taken, and as what.
func (o options) answer() (limit int, hide bool) {
	if o.bool("secret") {
		return o.integer("max", 64<<10, 1, maxHidden), true
	}
	return o.integer("max", 1<<20, 1, maxString), false
}

var errClosed = errors.New("it was closed")
