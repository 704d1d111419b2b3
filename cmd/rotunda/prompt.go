package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/rotunda-pam/rotunda/internal/terminal"
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

// maxLine bounds what a person types at a prompt, as terminals do.
const maxLine = 4096

// promptSecret asks on the terminal, without echo.
func (c *cli) promptSecret(prompt string) ([]byte, error) {
	// Before the prompt: what is typed as soon as it shows is not echoed either.
	restore, err := c.p.hideInput()
	if err != nil {
		return nil, failf(exitInternal, "terminal", "cannot turn off the terminal's echo: %w", err)
	}
	defer restore()
	line, err := c.readLine(prompt)
	if err == nil {
		fmt.Fprintln(c.p.stderr) // the person's own was not echoed
	}
	return line, err
}

// promptLine asks on the terminal for something that is no secret.
func (c *cli) promptLine(prompt string) (string, error) {
	line, err := c.readLine(prompt)
	return strings.TrimSpace(string(line)), err
}

// readLine reads a byte at a time, so that what follows the line is left for the next
// reader.
func (c *cli) readLine(prompt string) ([]byte, error) {
	fmt.Fprint(c.p.stderr, terminal.Line(prompt))
	line, err := unlessStopped(c, func() ([]byte, error) {
		line, one := make([]byte, 0, maxLine), make([]byte, 1) // a secret that outgrew it would leave copies
		for {
			n, err := c.p.stdin.Read(one)
			if n == 1 && one[0] != '\n' {
				if len(line) == maxLine {
					return nil, usagef("what was entered is longer than %d bytes", maxLine)
				}
				line = append(line, one[0])
			}
			switch {
			case n == 1 && one[0] == '\n', err != nil && len(line) > 0:
				return bytes.TrimSuffix(line, []byte("\r")), nil
			case err != nil:
				return nil, failf(exitDeclined, "not_entered", "nothing was entered: %w", err)
			}
		}
	})
	if err != nil {
		fmt.Fprintln(c.p.stderr)
	}
	return line, err
}

// unlessStopped reads what a person or another program has yet to write. No read of a
// terminal or a pipe can be ended from here: at a signal its reader is left behind, and
// ends with the program, which a signal ends.
func unlessStopped[T any](c *cli, read func() (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		v, err := read()
		answered <- answer{v, err}
	}()
	select {
	case a := <-answered:
		return a.v, a.err
	case <-c.stopped:
		var none T
		return none, errInterrupted
	}
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
		err = failf(exitDeclined, "not_confirmed", "nothing was changed")
	}
	return err
}

// willAsk says whether confirm asks somebody.
func (c *cli) willAsk() bool { return !c.yes && c.p.stdinTerminal }

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
		if b, err = c.readStdin(); err == nil {
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
