package main

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/sdk"
)

// device is a switch with a command line such as many have. It echoes what is typed but at
// a prompt for a secret, and colours its prompt.
type device struct {
	at     sdk.Resource
	pins   []byte
	login  string // asked for on the line itself where it is telnet
	enable string

	mu       sync.Mutex
	accounts map[string]string
	lines    []string // that were typed
	saved    bool
}

func (d *device) talk(rw io.ReadWriter) {
	in := bufio.NewReader(rw)
	read := func() (string, bool) {
		var line []byte
		for {
			c, err := in.ReadByte()
			if err != nil {
				return "", false
			}
			if c == '\n' && len(line) == 0 { // after a carriage return
				continue
			}
			if c == '\r' || c == '\n' {
				return string(line), true
			}
			line = append(line, c)
		}
	}
	say := func(format string, v ...any) { fmt.Fprintf(rw, format, v...) }
	if d.login != "" {
		say("\r\nUser Access Verification\r\n\r\nUsername: ")
		name, _ := read()
		say("%s\r\nPassword: ", name)
		if secret, ok := read(); !ok || d.accounts[name] != secret {
			say("\r\n%% Login invalid\r\n")
			return
		}
	}
	prompt := "sw1>"
	for {
		say("\r\n\x1b[1m%s\x1b[0m ", prompt)
		line, ok := read()
		if !ok {
			return
		}
		say("%s\r\n", line)
		d.mu.Lock()
		d.lines = append(d.lines, line)
		d.mu.Unlock()
		words := strings.Fields(line)
		switch {
		case line == "enable":
			say("Password: ")
			if secret, _ := read(); secret != d.enable {
				say("\r\n%% Bad secrets\r\n")
				continue
			}
			prompt = "sw1#"
		case line == "configure terminal" && prompt == "sw1#":
			prompt = "sw1(config)#"
		case len(words) == 4 && words[0] == "username" && prompt == "sw1(config)#":
			d.mu.Lock()
			d.accounts[words[1]] = words[3]
			d.mu.Unlock()
			say("%% the secret of %s is now %s\r\n", words[1], words[3])
		case line == "end":
			prompt = "sw1#"
		case line == "write memory" && prompt == "sw1#":
			d.saved = true
			say("Building configuration...\r\n[OK]\r\n")
		case line == "flood":
			for {
				if _, err := rw.Write([]byte(strings.Repeat("x", 1000))); err != nil {
					return
				}
			}
		case line == "silence":
			_, _ = io.Copy(io.Discard, in)
			return
		case line == "exit":
			return
		default:
			say("%% Invalid input detected\r\n")
		}
	}
}

// serve answers every connection of a listener of its own.
func serve(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				answer(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// typed says whether the device was given that line.
func (d *device) typed(line string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Contains(d.lines, line)
}

func newDevice() *device {
	return &device{enable: "en4ble-secret", accounts: map[string]string{"admin": "adm1n-secret"}}
}

// overSSH serves the device by SSH. Without accounts it lets everybody in.
func (d *device) overSSH(t *testing.T) *device {
	t.Helper()
	return d.serveSSH(t, &ssh.ServerConfig{NoClientAuth: len(d.accounts) == 0, PasswordCallback: func(m ssh.ConnMetadata, secret []byte) (*ssh.Permissions, error) {
		if d.accounts[m.User()] != string(secret) {
			return nil, errors.New("no")
		}
		return nil, nil
	}})
}

// serveSSH serves the device by SSH to whom c lets in.
func (d *device) serveSSH(t *testing.T, c *ssh.ServerConfig) *device {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c.AddHostKey(signer)
	sum := sha256.Sum256(signer.PublicKey().Marshal())
	d.pins = sum[:]
	d.at.Address = serve(t, func(raw net.Conn) {
		conn, channels, requests, err := ssh.NewServerConn(raw, c)
		if err != nil {
			return
		}
		defer conn.Close()
		go ssh.DiscardRequests(requests)
		for n := range channels {
			ch, requests, err := n.Accept()
			if err != nil {
				return
			}
			for r := range requests {
				_ = r.Reply(r.Type == "pty-req" || r.Type == "shell", nil)
				if r.Type == "shell" {
					go ssh.DiscardRequests(requests)
					break
				}
			}
			d.talk(ch)
			ch.Close()
		}
	})
	return d
}
