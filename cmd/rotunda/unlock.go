package main

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/span"
	"github.com/rotunda-pam/rotunda/sdk"
)

func (c *cli) unlockCmd() *cobra.Command {
	var keep time.Duration
	cmd := c.leaf("unlock", "keep this device's store open for a time", func(context.Context, []string) error {
		if err := unlockTime("--for", keep); err != nil {
			return err
		}
		p, err := c.openProfile()
		if err != nil {
			return err
		}
		pass, err := c.passphrase()
		if err != nil {
			return err
		}
		defer clear(pass)
		if err := p.Unlock(sdk.NewSecret(pass), keep); err != nil {
			return err
		}
		// Opened anew: this process alone would be open without an end.
		if p, err = c.openProfile(); err != nil {
			return err
		}
		info, err := p.Info()
		if err != nil {
			return err
		}
		v := struct {
			Profile string `json:"profile"`
			Until   string `json:"unlocked_until"`
		}{info.Name, stamp(info.UnlockedUntil)}
		return c.emit(v, func(w io.Writer) { pairs(w, "open until", c.when(info.UnlockedUntil)) })
	})
	cmd.Flags().DurationVar(&keep, "for", 15*time.Minute, "how long, at most 12h")
	return cmd
}

func unlockTime(flag string, keep time.Duration) error {
	if keep < time.Second || keep > client.MaxUnlock {
		return usagef("%s is %v: it is at most %v, and at least a second", flag, keep, client.MaxUnlock)
	}
	return nil
}

// unlockFor is the flag of commands that make a device: whoever goes on with it need not
// give the passphrase again at once.
type unlockFor struct {
	cmd  *cobra.Command
	keep time.Duration
}

func (u *unlockFor) flag(cmd *cobra.Command) {
	u.cmd = cmd
	cmd.Flags().DurationVar(&u.keep, "unlock-for", 0, "leave the new device's store open, as unlock does, for a time of at most 12h (default: it is locked)")
}

func (u *unlockFor) given() bool { return u.cmd.Flags().Changed("unlock-for") }

// check is made before the device is.
func (u *unlockFor) check() error {
	if !u.given() {
		return nil
	}
	return unlockTime("--unlock-for", u.keep)
}

// leave leaves the store open. The device is made by then: that it stays locked is told,
// and is no failure.
func (u *unlockFor) leave(c *cli, p *client.Profile) {
	if !u.given() {
		return
	}
	if err := p.KeepOpen(u.keep); err != nil {
		c.warn("the new device's store stays locked: %v", err)
		return
	}
	c.note("the device's store is open for %s: `rotunda lock` ends that", span.Text(u.keep))
}

func (c *cli) lockCmd() *cobra.Command {
	return c.leaf("lock", "lock this device's store now", func(context.Context, []string) error {
		p, err := c.openProfile()
		if err != nil {
			return err
		}
		if err := p.Lock(); err != nil {
			return err
		}
		return c.done("locked")
	})
}

// done is the result of a command that has nothing to show but that it did it.
func (c *cli) done(what string) error {
	return c.emit(map[string]string{"done": what}, func(io.Writer) { c.note("%s", what) })
}
