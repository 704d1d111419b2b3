package installation

import (
	"context"
	"path/filepath"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Look asks the server as the command line does, by its library and with its device's
// profile, and leaves the chores to it. It is for what is asked again and again: a program
// for each question costs more than what it asks about.
func (i *Installation) Look(ctx context.Context, do func(*client.Client) error) error {
	c, err := i.Client(ctx)
	if err != nil {
		return err
	}
	err = do(c)
	c.Close()
	return err
}

// Client is the client of Look, for longer. The caller closes it.
func (i *Installation) Client(ctx context.Context) (*client.Client, error) {
	home := filepath.Join(i.Dir, "home")
	p, err := client.OpenProfile(home, "")
	if err != nil {
		return nil, err
	}
	p.KeepUnlocked(home)
	return client.Open(ctx, p, client.Options{
		Passphrase:    func(context.Context) (sdk.Secret, error) { return sdk.NewSecret([]byte(Passphrase)), nil },
		ClientVersion: "look", OnlyLook: true,
	})
}
