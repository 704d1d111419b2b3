package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/rotunda-pam/rotunda/sdk"
)

// minPassphrase is the shortest passphrase, in bytes, that a new device store
// or recovery kit is locked with.
const minPassphrase = 10

// passphrase gives the passphrase of the device store: from a file, else by
// one prompt on a terminal.
func (c *cli) passphrase() ([]byte, error) {
	if file := c.passphraseFrom(); file != "" {
		return c.secretFile(file)
	}
	if !c.p.stdinTerminal {
		return nil, failf(exitLocked, "locked", "the device store is locked and standard input is no terminal").
			withHint("run `rotunda unlock` first, or give --passphrase-file FILE")
	}
	return c.promptSecret("passphrase of this device: ")
}

// newPassphrase gives a passphrase for something that does not exist yet. A
// prompt asks twice.
func (c *cli) newPassphrase(what, file, flag string) ([]byte, error) {
	var pass []byte
	var err error
	switch {
	case file != "":
		pass, err = c.secretFile(file)
	case !c.p.stdinTerminal:
		return nil, failf(exitLocked, "no_passphrase", "no passphrase for the %s, and standard input is no terminal", what).
			withHint("give %s FILE", flag)
	default:
		pass, err = c.promptTwice(what)
	}
	if err != nil {
		return nil, err
	}
	if len(pass) < minPassphrase {
		clear(pass)
		return nil, failf(exitUsage, "passphrase_short", "the passphrase of the %s has fewer than %d bytes", what, minPassphrase)
	}
	return pass, nil
}

func (c *cli) promptTwice(what string) ([]byte, error) {
	pass, err := c.promptSecret("new passphrase for the " + what + ": ")
	if err != nil {
		return nil, err
	}
	again, err := c.promptSecret("the same again: ")
	if err != nil {
		return nil, err
	}
	defer clear(again)
	if !bytes.Equal(pass, again) {
		clear(pass)
		return nil, failf(exitUsage, "passphrase_differs", "the two passphrases differ")
	}
	return pass, nil
}

// passphraseFrom names the file that holds the device store's passphrase.
func (c *cli) passphraseFrom() string {
	if c.passphraseFile != "" {
		return c.passphraseFile
	}
	return c.p.getenv("ROTUNDA_PASSPHRASE_FILE")
}

// secretFile reads a secret from a file; one line end at its end is no part
// of it. A file that others can read is used, but not silently.
func (c *cli) secretFile(name string) ([]byte, error) {
	if c.p.goos != "windows" {
		info, err := os.Stat(c.p.path(name))
		if err == nil && info.Mode().Type() == fs.FileMode(0) && info.Mode().Perm()&0o077 != 0 {
			c.warn("%s can be read by others: chmod 600 %s", name, name)
		}
	}
	b, err := c.p.readFile(name)
	if err != nil {
		return nil, err
	}
	return trimLineEnd(b), nil
}

func trimLineEnd(b []byte) []byte {
	b = bytes.TrimSuffix(b, []byte("\n"))
	return bytes.TrimSuffix(b, []byte("\r"))
}

// promptSecret asks on the terminal, without echo.
func (c *cli) promptSecret(prompt string) ([]byte, error) {
	fmt.Fprint(c.p.stderr, prompt)
	b, err := c.p.readPassword()
	fmt.Fprintln(c.p.stderr)
	if err != nil {
		return nil, failf(exitInterrupted, "interrupted", "nothing was entered: %w", err)
	}
	return b, nil
}

// promptLine asks on the terminal for something that is no secret. It reads a
// byte at a time, so that what follows the line is left for the next reader.
func (c *cli) promptLine(prompt string) (string, error) {
	fmt.Fprint(c.p.stderr, prompt)
	var line []byte
	one := make([]byte, 1)
	for len(line) < 4096 {
		n, err := c.p.stdin.Read(one)
		if n == 1 {
			if one[0] == '\n' {
				break
			}
			line = append(line, one[0])
		}
		if err != nil {
			if len(line) == 0 {
				return "", failf(exitInterrupted, "interrupted", "nothing was entered: %w", err)
			}
			break
		}
	}
	return strings.TrimSpace(string(line)), nil
}

// confirm asks before something that cannot be taken back. --yes answers it.
func (c *cli) confirm(question string) error {
	if c.yes {
		return nil
	}
	if !c.p.stdinTerminal {
		return failf(exitUsage, "not_confirmed", "%s: nobody can be asked", question).
			withHint("give --yes if that is what you want")
	}
	yes, err := c.ask(question)
	if err == nil && !yes {
		err = failf(exitInterrupted, "not_confirmed", "nothing was changed")
	}
	return err
}

// ask asks on the terminal, whatever --yes says.
func (c *cli) ask(question string) (bool, error) {
	answer, err := c.promptLine(question + "? [y/N] ")
	a := strings.ToLower(answer)
	return a == "y" || a == "yes", err
}

// secretSource says where a command takes a secret from. There is no flag
// that carries the secret itself: arguments are seen by every process of the
// machine and stay in the shell's history.
type secretSource struct {
	stdin bool
	file  string
	hint  string // how to give it without a terminal; empty: as a record's secret
}

// given reports whether a flag names a source.
func (s secretSource) given() bool { return s.stdin || s.file != "" }

// secretInput reads a secret from standard input, a file or a prompt.
func (c *cli) secretInput(s secretSource, prompt string) (sdk.Secret, error) {
	var b []byte
	var err error
	switch {
	case s.stdin && s.file != "":
		return sdk.Secret{}, usagef("a secret comes from standard input or from a file, not from both")
	case s.stdin:
		if b, err = c.p.readStdin(); err == nil {
			b = trimLineEnd(b)
		}
	case s.file != "":
		b, err = c.secretFile(s.file)
	case !c.p.stdinTerminal:
		return sdk.Secret{}, usagef("no secret was given and standard input is no terminal").
			withHint("%s", orWord(s.hint, "give --password-stdin or --password-file FILE"))
	default:
		b, err = c.promptSecret(prompt)
	}
	if err != nil {
		return sdk.Secret{}, err
	}
	if len(b) == 0 {
		return sdk.Secret{}, failf(exitUsage, "secret_empty", "the secret is empty")
	}
	return sdk.NewSecret(b), nil
}
