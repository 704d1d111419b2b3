package main

import (
	"context"
	"path/filepath"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/version"
	"github.com/rotunda-pam/rotunda/sdk"
)

// openProfile opens (or prepares) the profile in use.
func (c *cli) openProfile() (*client.Profile, error) {
	name := c.profile
	if name == "" {
		name = c.p.getenv("ROTUNDA_PROFILE")
	}
	home := c.p.getenv("ROTUNDA_HOME")
	if home == "" {
		home = filepath.Join(c.p.home, "rotunda")
	}
	return client.OpenProfile(c.p.path(home), name)
}

// with runs do as the profile's device, signed in.
func (c *cli) with(ctx context.Context, do func(*client.Client) error) error {
	p, err := c.openProfile()
	if err != nil {
		return err
	}
	info, err := p.Info()
	if err != nil {
		return err
	}
	if !info.Exists {
		return failf(exitNotFound, "no_profile", "profile %s: no device is enrolled here", info.Name).
			withHint("`rotunda org init` makes an organisation, `rotunda join` enters one with a token")
	}
	cl, err := client.Open(ctx, p, client.Options{
		Passphrase: func(context.Context) (sdk.Secret, error) {
			pass, err := c.passphrase()
			if err != nil {
				return sdk.Secret{}, err
			}
			defer clear(pass)
			return sdk.NewSecret(pass), nil
		},
		Notice:        c.notice,
		ClientVersion: version.Version,
		Now:           c.p.now,
	})
	if err != nil {
		return err
	}
	err = do(cl)
	if _, told := asFailure(err); !told {
		err = cl.InNames(ctx, err)
	}
	if closeErr := cl.Close(); err == nil {
		err = closeErr
	}
	return err
}

// notice passes on what the library did or saw by itself.
func (c *cli) notice(n client.Notice) {
	if n.Alarm {
		c.warn("%s (%s)", n.Text, n.Code)
		return
	}
	c.note("notice: %s (%s)", n.Text, n.Code)
}
