package main

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

// with runs code with modules, its job's resource the device.
func (d *device) with(t *testing.T, modules []string, code string) (*bench, error) {
	t.Helper()
	b := newBench(t, append(modules, "secret", "text", "log"), "", code)
	b.allow, b.host.Pins[d.at.Address] = []string{d.at.Address}, d.pins
	_, err := b.run(func(s *state, job *lua.LTable) {
		job.RawSetString("admin", s.secretBytes([]byte("adm1n-secret")))
		job.RawSetString("enable", s.secretBytes([]byte("en4ble-secret")))
		job.RawSetString("new", s.secretBytes([]byte("n3w-secret")))
	}, d.at)
	return b, err
}

const shellOn = `local c = assert(ssh.connect{login = "admin", secret = job.admin})
	local d = assert(c:shell())
	`

// A network device's secret is changed as a person would, and shown nowhere.
func TestDialogueChangesASecret(t *testing.T) {
	d := newDevice().overSSH(t)
	b, err := d.with(t, []string{"ssh"}, shellOn+`
		assert(d:expect{"sw1> $"})
		assert(d:send("enable"))
		assert(d:expect{"Password: $"})
		assert(d:send(job.enable))
		local n = assert(d:expect{"> $", "# $"})
		assert(n == 2)
		assert(d:send("configure terminal"))
		assert(d:expect{"[(]config[)]# $"})
		assert(d:send(text.concat("username app secret ", job.new)))
		local n, m = assert(d:expect{"secret of (\\w+) is now (\\S+)"})
		assert(n == 1 and m[1] == "app", m[1])
		log.info("device: " .. m.before .. m.text .. m[2])
		assert(d:expect{"[(]config[)]# $"})
		assert(d:send("end"))
		assert(d:send("write memory"))
		assert(d:expect{"(?m)^\\[OK\\]$", timeout = 5})
		d:close()
		assert(not d:send("more"))`)
	if err != nil {
		t.Fatal(err)
	}
	if d.accounts["app"] != "n3w-secret" || !d.saved {
		t.Errorf("the device has %v, saved %v", d.accounts, d.saved)
	}
	if log := b.logged.String(); strings.Contains(log, "n3w") || strings.Contains(log, "en4ble") || !strings.Contains(log, "device: ") {
		t.Errorf("the log has %s", log)
	}
}

// What goes wrong is an error with a reason, and shows no secret.
func TestDialogueErrors(t *testing.T) {
	for name, c := range map[string]struct{ code, reason string }{
		"wrong secret":          {`d:send("enable") d:expect{"Password"} d:send(job.new) local n = d:expect{"#", "Bad secrets"} assert(n == 2) return`, ""},
		"silence":               {`d:send("silence") return d:expect{"never", timeout = 0.2}`, "dialogue.timeout"},
		"nothing that fits":     {`d:send(job.new) return d:expect{"never", timeout = 0.2}`, "dialogue.timeout"},
		"flood":                 {`d:send("flood") return d:expect{"never", timeout = 20}`, "dialogue.too_much"},
		"the device hangs up":   {`d:send("exit") return d:expect{"never", timeout = 20}`, "dialogue.closed"},
		"closed by the script":  {`d:close() return d:expect{"never", timeout = 20}`, "dialogue.closed"},
		"connection is closed":  {`c:close() return d:expect{"never", timeout = 20}`, "dialogue.closed"},
		"a name with a command": {`local ok, e = pcall(d.send, d, "user a\nreload") assert(not ok and e:find("control character"), e) return`, ""},
		"a secret with one":     {`local ok, e = pcall(d.send, d, secret.of("a\rreload")) assert(not ok and e:find("control character"), e) return`, ""},
		"a glued secret":        {`local ok, e = pcall(d.send, d, "user " .. job.new) assert(not ok and e:find("placeholder"), e) return`, ""},
		"too long":              {`local ok, e = pcall(d.send, d, string.rep("a", 1025)) assert(not ok and e:find("1024"), e) return`, ""},
		"no pattern":            {`local ok, e = pcall(d.expect, d, {"("}) assert(not ok and e:find("regular expression"), e) return`, ""},
		"a slow pattern":        {`local ok, e = pcall(d.expect, d, {"(?:a{900}b){2}"}) assert(not ok and e:find("regular expression"), e) return`, ""},
		"no patterns":           {`local ok, e = pcall(d.expect, d, {}) assert(not ok and e:find("1 to 16"), e) return`, ""},
		"another option":        {`local ok, e = pcall(d.expect, d, {"a", timout = 1}) assert(not ok and e:find("timout"), e) return`, ""},
		"no value":              {`local ok, e = pcall(d.send, "a") assert(not ok and e:find("value:send"), e) return`, ""},
		"a value of another":    {`local ok, e = pcall(d.send, c, "a") assert(not ok and e:find("value:send"), e) return`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice().overSSH(t)
			_, err := d.with(t, []string{"ssh"}, shellOn+`assert(d:expect{"sw1> $"})
			`+c.code)
			if c.reason == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			e := errorFrom(t, err)
			if e.Class != sdk.ClassUnreachable || e.Reason != c.reason || e.NotSent || strings.Contains(e.Error(), "n3w") {
				t.Errorf("%v, want the reason %s", e, c.reason)
			}
			if d.typed("reload") {
				t.Error("a name brought a command of its own")
			}
		})
	}
}

// A terminal's text is the same however it comes in pieces.
func TestTerminalText(t *testing.T) {
	for in, want := range map[string]string{
		"a\r\nb":                        "a\nb",
		"\x1b[1;31msw\x1b[0m#":          "sw#",
		"\x1b]0;title\x07a":             "a",
		"\x1b]0;ti\x1btle\x1b\\a":       "a",
		"\x1b(Ba\x1b=b\x1b\x1b[Kc":      "abc",
		"a\x00\x07\b\x7fb\t.":           "ab\t.",
		"\x1bPq...\x1b\\sw>":            "sw>",
		"pass\u00e9: ":                  "pass\u00e9: ",
		"cut \x1b[":                     "cut ",
		"\x1b[?25l\x1b[2J\x1b[H login:": " login:",
	} {
		var whole, pieces terminal
		if got := whole.add(nil, []byte(in)); string(got) != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
		var got []byte
		for i := range len(in) {
			got = pieces.add(got, []byte(in[i:i+1]))
		}
		if string(got) != want {
			t.Errorf("%q in pieces is %q, want %q", in, got, want)
		}
	}
}

func FuzzTerminal(f *testing.F) {
	f.Add([]byte("\x1b[1msw1\x1b[0m# \x1b]0;t\x07"), 3)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		var whole, pieces terminal
		want := whole.add(nil, b)
		at := min(max(cut, 0), len(b))
		got := pieces.add(pieces.add(nil, b[:at]), b[at:])
		if !bytes.Equal(got, want) || bytes.ContainsAny(got, "\x1b\r\x00\x07") {
			t.Errorf("%q is %q, in pieces %q", b, want, got)
		}
	})
}

// Telnet refuses whatever is offered, and what is left is text.
func TestTelnetNegotiation(t *testing.T) {
	for name, c := range map[string]struct{ in, text, refusals string }{
		"text":                   {"login: ", "login: ", ""},
		"an offer":               {"a\xff\xfb\x01b", "ab", "\xff\xfe\x01"},
		"a wish":                 {"a\xff\xfd\x18b", "ab", "\xff\xfc\x18"},
		"what is so already":     {"\xff\xfc\x01\xff\xfe\x03a", "a", ""},
		"a subnegotiation":       {"a\xff\xfa\x18\x01\xff\xff\xff\xf0b", "ab", ""},
		"a byte of 255":          {"a\xff\xffb", "a\xffb", ""},
		"a command":              {"a\xff\xf1b", "ab", ""},
		"an end without a start": {"a\xff\xf0b", "ab", ""},
	} {
		var whole, pieces telnetFilter
		text, refusals := whole.take([]byte(c.in))
		if string(text) != c.text || string(refusals) != c.refusals {
			t.Errorf("%s: %q and %q, want %q and %q", name, text, refusals, c.text, c.refusals)
		}
		var all, answers []byte
		for i := range len(c.in) {
			text, refusals := pieces.take([]byte(c.in[i : i+1]))
			all, answers = append(all, text...), append(answers, refusals...)
		}
		if string(all) != c.text || string(answers) != c.refusals {
			t.Errorf("%s in pieces: %q and %q", name, all, answers)
		}
	}
}

func FuzzTelnet(f *testing.F) {
	f.Add([]byte("\xff\xfb\x01login: \xff\xfa\x18\x01\xff\xf0"), 2)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		var whole, pieces telnetFilter
		want, answer := whole.take(bytes.Clone(b))
		at := min(max(cut, 0), len(b))
		one, first := pieces.take(bytes.Clone(b[:at]))
		two, second := pieces.take(bytes.Clone(b[at:]))
		if !bytes.Equal(want, append(one, two...)) || !bytes.Equal(answer, append(first, second...)) {
			t.Errorf("%q is other text in pieces", b)
		}
		if len(answer) > 3*maxOffers {
			t.Errorf("%d bytes of refusals", len(answer))
		}
	})
}

func (d *device) overTelnet(t *testing.T, greeting string) *device {
	d.login = "yes"
	d.at.TLS.Mode = sdk.TLSOff
	d.at.Address = serve(t, func(c net.Conn) {
		_, _ = c.Write([]byte(greeting))
		answer := make([]byte, 6)
		if greeting != "" {
			if _, err := c.Read(answer); err != nil || string(answer) != "\xff\xfe\x01\xff\xfc\x18" {
				t.Errorf("the offers were answered by %q", answer)
			}
		}
		d.talk(c)
	})
	return d
}

// A device that has only telnet is logged in to.
func TestTelnet(t *testing.T) {
	d := newDevice().overTelnet(t, "\xff\xfb\x01\xff\xfd\x18")
	const login = `local d = assert(telnet.connect())
		assert(d:expect{"Username: $"})
		assert(d:send("admin"))
		assert(d:expect{"Password: $"})
		assert(d:send(%s))
		local n = assert(d:expect{"> $", "Login invalid"})
		assert(n == %s)`
	for secret, n := range map[string]string{"job.admin": "1", "job.new": "2"} {
		if _, err := d.with(t, []string{"telnet"}, fmt.Sprintf(login, secret, n)); err != nil {
			t.Error(err)
		}
	}
}

// Telnet goes in clear only where the statement says so, and stops where nobody else does.
func TestTelnetRefused(t *testing.T) {
	reached := make(chan []byte, 10)
	address := serve(t, func(c net.Conn) {
		b := make([]byte, 1)
		n, _ := c.Read(b)
		reached <- b[:n]
	})
	d := &device{at: sdk.Resource{Address: address}}
	_, err := d.with(t, []string{"telnet"}, `return telnet.connect()`)
	if e := errorFrom(t, err); e.Class != sdk.ClassUnreachable || !e.NotSent {
		t.Errorf("without TLS: %v", e)
	}
	if b := <-reached; !bytes.Equal(b, []byte{22}) { // a handshake of TLS
		t.Errorf("it was sent %q", b)
	}

	flood := &device{at: sdk.Resource{Address: serve(t, func(c net.Conn) {
		for {
			if _, err := c.Write(bytes.Repeat([]byte("\xff\xfb\x01"), 50)); err != nil {
				return
			}
		}
	}), TLS: sdk.TLS{Mode: sdk.TLSOff}}}
	_, err = flood.with(t, []string{"telnet"}, `local d = assert(telnet.connect()) return d:expect{"a"}`)
	if e := errorFrom(t, err); e.Reason != "dialogue.closed" {
		t.Errorf("endless offers: %v", e)
	}
}

// The values that functions give are described as the functions are.
func TestObjectsAreDescribed(t *testing.T) {
	for name, m := range modules() {
		for _, o := range m.objects {
			if o.about == "" {
				t.Errorf("%s: %s says nothing of itself", name, o.name)
			}
			for _, f := range o.functions {
				if !strings.HasSuffix(f.about, ".") {
					t.Errorf("%s: %s:%s says of itself %q: want sentences", name, o.name, f.name, f.about)
				}
			}
		}
	}
}
