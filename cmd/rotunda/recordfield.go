package main

import (
	"fmt"
	"slices"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/terminal"
)

// secretField reports whether a field's value is shown only with --reveal. What
// is not known is held for a secret.
func secretField(field string) bool {
	switch field {
	case "", "login", "url", "notes", "public_key", "key_id":
		return false
	}
	return true
}

// mayPrint refuses to print a secret alone whose state says that it is not to be used: a
// script takes the value, and sees no state beside it. What nobody has attested is printed
// with a warning.
func (c *cli) mayPrint(r *client.Record, evenIf string) error {
	state, reason := r.ValueState()
	is := stateText(string(state), reason)
	if r.State == client.NotLinked {
		c.warn("%s is %s: agents do not use it", r.Title, stateText(string(r.State), r.Reason))
	}
	switch word := stateWord(string(state)); {
	case !slices.Contains(refusedStates, word):
		if state == client.Unconfirmed || state == client.Unattested {
			c.warn("%s is %s: nobody whose word counts has signed for its value", r.Title, is)
		}
		return nil
	case word == evenIf:
		c.warn("%s is %s: its value is not to be used", r.Title, is)
		return nil
	default:
		hint := fmt.Sprintf("`--even-if %s` prints it all the same", word)
		if do := client.Hint(reason); do != "" {
			hint = do + "\n" + hint
		}
		return failf(exitDenied, orWord(reason, word), "%s is %s: its value is not printed", r.Title, is).withHint("%s", hint)
	}
}

// showField prints one value and nothing else.
func (c *cli) showField(r *client.Record, field string) error {
	var value []byte
	switch field {
	case "login":
		value = []byte(r.Login())
	case "url":
		value = []byte(r.URL())
	case "notes":
		value = []byte(r.Notes())
	case "public_key":
		value = []byte(r.PublicKey())
	case "key_id":
		value = []byte(r.KeyID())
	default:
		s, ok := r.Secret()
		if field != "secret" {
			s, ok = r.Field(field)
		}
		if !ok {
			return failf(exitNotFound, "no_field", "%s has no field %q", r.Title, field)
		}
		value = s.Expose()
	}
	defer clear(value)
	return c.showValue(value)
}

// showValue prints one value and nothing else: into a pipe or a file byte by byte.
func (c *cli) showValue(value []byte) error {
	switch {
	case c.json:
		return c.emit(map[string]string{"value": string(value)}, nil)
	case !c.p.stdoutTerminal:
		_, err := c.p.stdout.Write(value)
		return err
	}
	shown := terminal.Shown(string(value))
	if shown != string(value) {
		c.warn(escapedMeans)
	}
	_, err := fmt.Fprintln(c.p.stdout, shown)
	return err
}

// escapedMeans is said beside a value that is not shown as it is.
const escapedMeans = `it holds control characters, which are written here as in JSON (\n, \u001b): --json, or --field into a pipe or a file, gives it as it is`

// warnEscaped says so where one of these is no plain line.
func (c *cli) warnEscaped(secrets ...string) {
	if slices.ContainsFunc(secrets, func(s string) bool { return terminal.Escaped(s) != s }) {
		c.warn(escapedMeans)
	}
}
