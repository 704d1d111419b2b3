package main

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

var telnetModule = module{
	about: "Speaks with devices that have nothing but telnet.",
	functions: []function{
		{
			name: "connect", takes: "options?: table", gives: "dialogue|nil, sdk.error?",
			about: "Opens a conversation. The options: address (the resource's), timeout in seconds (30). It goes in clear only to a resource or record whose statement says TLS off: else it begins with TLS. " +
				"Nobody proves himself in clear: whoever is on the way reads and answers all of it.",
			example: `local d = assert(telnet.connect{address = job.resource.address, timeout = 10})
assert(d:expect{"login: "})`,
			do: telnetConnect,
		},
	},
	objects: []object{dialogueObject},
}

func telnetConnect(a *args) int {
	o := a.options(1, "address", "timeout")
	at := o.address()
	ctx, cancel := a.within(o.seconds("timeout", 30*time.Second))
	defer cancel()
	secure, err := sdk.TLSConfig(a.host, at)
	if err != nil {
		return a.fail(asError(err, sdk.ClassInvalid, "address"))
	}
	conn, err := a.reach(ctx, at.Address)
	if err != nil {
		return a.fail(unreached(ctx, err))
	}
	if secure != nil {
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		t := tls.Client(conn, secure)
		err := t.HandshakeContext(ctx)
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			_ = conn.Close()
			return a.fail(unreached(ctx, err))
		}
		conn = t
	}
	line := &telnetLine{Conn: conn}
	end := func() { _ = conn.Close() }
	d := newDialogue(line, line, end, end, "\r\n")
	a.later(d.close)
	return a.push(dialogueObject.of(a.state, d))
}
