package main

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/version"
	"github.com/rotunda-pam/rotunda/sdk"
)

func (c *cli) joinCmd() *cobra.Command {
	var open unlockFor
	cmd := c.leaf("join [TOKENFILE]", "enter an organisation with a token, as a new device", func(ctx context.Context, args []string) error {
		token := secretSource{hint: "`rotunda join FILE` reads the token from a file, `rotunda join -` from standard input"}
		if len(args) == 1 {
			if strings.HasPrefix(args[0], enrol.Prefix) {
				return usagef("join takes the token from a prompt, a file or standard input, not from the command line").
					withHint("arguments are seen by every process of this machine and stay in the shell's history: withdraw that token if others use this machine\nrun `rotunda join` and paste it, or `rotunda join FILE`, or `rotunda join -` to read standard input")
			}
			token.stdin = args[0] == "-"
			if !token.stdin {
				token.file = args[0]
			}
		}
		if err := open.check(); err != nil {
			return err
		}
		p, err := c.openProfile()
		if err != nil {
			return err
		}
		text, err := c.secretInput(token, "token (rot1.…@host:port): ")
		if err != nil {
			return err
		}
		parsed, err := enrol.ParseToken(text)
		if err != nil {
			return usagef("%w", err).withHint("copy it again from where it was made, or have a new one made: `rotunda device add`, `rotunda member add`")
		}
		pass, err := c.newPassphrase("device", c.passphraseFrom(), "--passphrase-file")
		if err != nil {
			return err
		}
		defer clear(pass)
		err = p.Join(ctx, client.JoinOptions{Token: text, Passphrase: sdk.NewSecret(pass), ClientVersion: version.Version})
		if err != nil {
			return unenrolled(err, parsed.Server)
		}
		c.note("joined: the person who made the token can see this device now")
		open.leave(c, p)
		info, err := p.Info()
		if err != nil {
			return err
		}
		return c.emit(orgView{info.OrgID.String(), info.OrgID.Fingerprint(), info.Server, info.Name, ""}, func(w io.Writer) {
			pairs(w, "organisation", info.OrgID.Fingerprint(), "server", info.Server, "profile", info.Name, "device", info.Entry.String())
		})
	})
	open.flag(cmd)
	return help(cmd, `Makes this device's keys and puts them into the organisation's log in place of the
token, which is used up by it. TOKENFILE holds the token; "-" is standard input;
without it the token is asked for. A token is a secret and is not taken from the
command line.

Compare the organisation's fingerprint with the one that the maker of the token sees.`,
		`rotunda join
rotunda join token.txt --passphrase-file pass.txt`)
}
