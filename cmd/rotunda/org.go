package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/version"
	"github.com/rotunda-pam/rotunda/sdk"
)

func (c *cli) orgCmd() *cobra.Command {
	cmd := c.group("org", "make an organisation, or come back into one with the recovery kit", "")
	cmd.AddCommand(c.orgInitCmd(), c.orgRecoverCmd(), c.orgShowCmd(), c.orgEndRecoveryCmd())
	return cmd
}

// caFlags say by which authority the server is known.
type caFlags struct{ pin, file string }

func (f *caFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.pin, "ca-pin", "", "SHA-256 of the key of the server's authority, in `HEX`, as the server prints it")
	cmd.Flags().StringVar(&f.file, "ca-file", "", "`FILE` with the certificate of the server's authority (PEM)")
}

// digest gives the pin; zero means the system's authorities.
func (f *caFlags) digest(c *cli) (seal.Digest, error) {
	switch {
	case f.pin != "" && f.file != "":
		return seal.Digest{}, usagef("--ca-pin and --ca-file exclude each other")
	case f.pin != "":
		d, err := seal.ParseDigest(f.pin)
		if err != nil {
			return seal.Digest{}, usagef("--ca-pin: %w", err)
		}
		return d, nil
	case f.file == "":
		return seal.Digest{}, nil
	}
	b, err := c.p.readFile(f.file)
	if err != nil {
		return seal.Digest{}, err
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return seal.Digest{}, usagef("--ca-file %s: it must hold exactly one PEM certificate", f.file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return seal.Digest{}, usagef("--ca-file %s: %w", f.file, err)
	}
	return seal.Digest(sha256.Sum256(cert.RawSubjectPublicKeyInfo)), nil
}

// deviceName is the name of this device where none is given.
func deviceName(name string) string {
	if name != "" {
		return name
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		return "first device"
	}
	return host
}

func (c *cli) orgInitCmd() *cobra.Command {
	var o client.InitOptions
	var ca caFlags
	var setup, kitPass secretSource
	var kit, device string
	var open unlockFor
	cmd := c.leaf("init", "make an organisation on a new server", func(ctx context.Context, _ []string) error {
		if o.Server == "" || o.Member == "" || kit == "" {
			return usagef("org init wants --server, --name and --kit").withHint("`rotunda org init --help` shows an example")
		}
		if len(o.KitRecipients) > 0 && kitPass.file != "" {
			return usagef("the kit is for keys or for a passphrase: give --kit-recipient or --kit-passphrase-file")
		}
		err := open.check()
		if err != nil {
			return err
		}
		if o.CAPin, err = ca.digest(c); err != nil {
			return err
		}
		p, err := c.openProfile()
		if err != nil {
			return err
		}
		// The kit's file is made before anything else: an organisation whose kit
		// could not be written would have no root.
		kitFile, err := c.p.reserve(kit)
		if err != nil {
			return err
		}
		defer kitFile.drop()
		setup.hint = "give --setup-code-file FILE or --setup-code-stdin; `rotunda-server setup-code` prints it"
		if o.SetupCode, err = c.secretInput(setup, "the server's setup code: "); err != nil {
			return err
		}
		pass, err := c.newPassphrase("device", c.passphraseFrom(), "--passphrase-file")
		if err != nil {
			return err
		}
		defer clear(pass)
		o.Passphrase = sdk.NewSecret(pass)
		if len(o.KitRecipients) == 0 {
			phrase, err := c.newPassphrase("recovery kit", kitPass.file, "--kit-passphrase-file")
			if err != nil {
				return err
			}
			defer clear(phrase)
			o.KitPassphrase = sdk.NewSecret(phrase)
		}
		o.Device, o.ClientVersion, o.Now = deviceName(device), version.Version, c.p.now
		c.note("making the organisation on %s", o.Server)
		o.KeepKit = func(k client.Kit) error { return kitFile.keep(k.File) }
		made, err := p.InitOrganisation(ctx, o)
		if err != nil {
			kitFile.kept = kitFile.kept && client.ReasonOf(err) == "no_answer" // else it is a kit of nothing
			return unenrolled(err, o.Server)
		}
		open.leave(c, p)
		info, err := p.Info()
		if err != nil {
			return err
		}
		c.p.keepPipe()
		return c.kitOut(orgView{info.OrgID.String(), info.OrgID.Fingerprint(), info.Server, info.Name, kit}, made.Paper)
	})
	f := cmd.Flags()
	f.StringVar(&o.Server, "server", "", "`HOST:PORT` of the server")
	ca.flags(cmd)
	f.StringVar(&o.Member, "name", "", "your name, as others will see it")
	f.StringVar(&device, "device", "", "name of this device (default: this host's name)")
	f.StringVar(&kit, "kit", "", "`FILE` for the recovery kit; it must not exist")
	f.StringVar(&kitPass.file, "kit-passphrase-file", "", "`FILE` with the passphrase of the recovery kit")
	f.StringArrayVar(&o.KitRecipients, "kit-recipient", nil, "age public `KEY` whose owner can open the kit, in place of a passphrase; may be repeated")
	f.BoolVar(&setup.stdin, "setup-code-stdin", false, "read the server's setup code from standard input")
	f.StringVar(&setup.file, "setup-code-file", "", "`FILE` with the server's setup code")
	open.flag(cmd)
	f.Uint32Var(&o.MaxAgeDays, "max-age-days", 0, "days that agents work without hearing from an administrator (0: 180)")
	return help(cmd, `Makes the organisation's keys on this device, stores the first two changes of its
log on the server, and makes this device the first administrator's.

The root key goes into the recovery kit and nowhere else: a file (--kit) under a
passphrase, or for keys of age's that lie elsewhere (--kit-recipient), and a paper
form that is printed once (not with --json or --quiet). Without the kit a lost last
device means a lost organisation.

Compare the fingerprint that is printed with what others see when they join.`,
		`rotunda org init --server vault.example.net:8443 --ca-file ca.pem --name "Ada Byron" --kit kit.age`)
}

// kitOut prints what org init made, and the paper form of the kit for those who did not
// ask for less.
func (c *cli) kitOut(v orgView, paper sdk.Secret) error {
	err := c.emit(v, func(w io.Writer) {
		if !c.quiet {
			form := paper.Expose()
			defer clear(form)
			fmt.Fprintln(w, "Print what stands between the lines and lock it away: it is the organisation's")
			fmt.Fprintln(w, "recovery kit in clear. Nothing on this machine keeps it.")
			fmt.Fprintln(w, "----------------------------------------------------------------------------")
			_, _ = w.Write(form)
			fmt.Fprintln(w, "\n----------------------------------------------------------------------------")
		}
		pairs(w, "organisation", v.Fingerprint, "server", v.Server, "profile", v.Profile, "recovery kit", v.Kit)
	})
	if err != nil && !c.json && !c.quiet {
		return failf(exitInternal, "output_lost", "the organisation is made and its recovery kit is in %s, but the paper form could not be written: %w", v.Kit, err).
			withHint("it is not printed again: the file and its passphrase are the only way back after a lost device; keep copies of both")
	}
	return err
}

// orgView is an organisation as this profile knows it.
type orgView struct {
	OrgID       string `json:"org_id"`
	Fingerprint string `json:"fingerprint"`
	Server      string `json:"server"`
	Profile     string `json:"profile"`
	Kit         string `json:"kit,omitempty"`
}

func (c *cli) orgShowCmd() *cobra.Command {
	return c.leaf("show", "show which organisation and server this profile belongs to", func(ctx context.Context, _ []string) error {
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
		v := struct {
			orgView
			Entry    string `json:"device_id"`
			Unlocked bool   `json:"unlocked"`
			Until    string `json:"unlocked_until,omitempty"`
			Dir      string `json:"dir"`
			Since    string `json:"recovering_since,omitempty"`
		}{orgView{info.OrgID.String(), info.OrgID.Fingerprint(), info.Server, info.Name, ""}, info.Entry.String(), info.Unlocked, stamp(info.UnlockedUntil), info.Dir, ""}
		if info.Unlocked {
			v.Since = c.recoveringSince(ctx)
		}
		return c.emit(v, func(w io.Writer) {
			state := "locked"
			if info.Unlocked {
				state = "open until " + c.when(info.UnlockedUntil)
			}
			pairs(w, "organisation", v.Fingerprint, "server", v.Server, "profile", v.Profile, "folder", v.Dir, "device", v.Entry, "store", state, "recovering since", local(v.Since))
		})
	})
}

func (c *cli) orgRecoverCmd() *cobra.Command {
	var o client.RecoverOptions
	var ca caFlags
	var kit, device, org, kitPass, kitIdentity string
	var paper secretSource
	var lost []string
	var open unlockFor
	cmd := c.leaf("recover", "make this device an administrator's again, with the recovery kit", func(ctx context.Context, _ []string) error {
		if o.Server == "" || o.Member == "" || (kit == "") == !paper.given() {
			return usagef("org recover wants --server, --name, and one of --kit, --paper-file and --paper-stdin")
		}
		err := open.check()
		if err != nil {
			return err
		}
		if o.CAPin, err = ca.digest(c); err != nil {
			return err
		}
		if org != "" {
			if o.OrgID, err = seal.ParseDigest(org); err != nil {
				return usagef("--org: %w", err)
			}
			if o.OrgID.IsZero() {
				return usagef("--org: no organisation has an id of zeros")
			}
		}
		for _, text := range lost {
			id, err := seal.ParseID(text)
			if err != nil {
				return usagef("--remove-device %q: %w", text, err)
			}
			o.RemoveDevices = append(o.RemoveDevices, id)
		}
		p, err := c.openProfile()
		if err != nil {
			return err
		}
		if kit != "" {
			if o.Kit, err = c.p.readFile(kit); err != nil {
				return err
			}
			if err := c.kitOpener(&o, kit, kitPass, kitIdentity); err != nil {
				return err
			}
		} else if o.Paper, err = c.secretInput(paper, ""); err != nil {
			return err
		}
		pass, err := c.newPassphrase("device", c.passphraseFrom(), "--passphrase-file")
		if err != nil {
			return err
		}
		defer clear(pass)
		o.Passphrase, o.Device, o.ClientVersion = sdk.NewSecret(pass), deviceName(device), version.Version
		did, err := p.Recover(ctx, o)
		if err != nil && did.EndedRecovery {
			c.warn("the server's recovery has ended all the same")
		}
		if err != nil {
			return unenrolled(err, o.Server)
		}
		if did.NewMember {
			c.warn("nobody was called %q: a new member of that name was made, and is an administrator", o.Member)
		}
		if o.EndRecovery && !did.EndedRecovery {
			c.warn("the server does not recover: there was nothing to end")
		}
		for i, name := range did.Removed {
			c.warn("the device %s was removed: `rotunda device remove %s` gives what it could read new keys and new secrets", name, o.RemoveDevices[i])
		}
		open.leave(c, p)
		info, err := p.Info()
		if err != nil {
			return err
		}
		return c.emit(orgView{info.OrgID.String(), info.OrgID.Fingerprint(), info.Server, info.Name, ""}, func(w io.Writer) {
			pairs(w, "organisation", info.OrgID.Fingerprint(), "server", info.Server, "profile", info.Name)
		})
	})
	f := cmd.Flags()
	f.StringVar(&o.Server, "server", "", "`HOST:PORT` of the server")
	ca.flags(cmd)
	f.StringVar(&org, "org", "", "organisation's id in `HEX`, as printed on the kit (default: the kit's own)")
	f.StringVar(&kit, "kit", "", "recovery kit's `FILE`")
	f.StringVar(&kitPass, "kit-passphrase-file", "", "`FILE` with the passphrase of the recovery kit")
	f.StringVar(&kitIdentity, "kit-identity", "", "age identity `FILE`, for a kit that was made with --kit-recipient")
	f.StringVar(&paper.file, "paper-file", "", "`FILE` with the text of the paper form")
	f.BoolVar(&paper.stdin, "paper-stdin", false, "read the text of the paper form from standard input")
	f.StringVar(&o.Member, "name", "", "member to give the device to; made when there is none of that name")
	f.StringVar(&device, "device", "", "name of this device (default: this host's name)")
	open.flag(cmd)
	f.StringArrayVar(&lost, "remove-device", nil, "`ID` of a lost device to remove in the same change; may be repeated")
	f.BoolVar(&o.EndRecovery, "end-recovery", false, "where the server was restored from a backup, let its log grow again, too: for when no administrator is left who can (org end-recovery)")
	return help(cmd, "", `rotunda org recover --server vault.example.net:8443 --ca-file ca.pem --kit kit.age --name "Ada Byron"`)
}

// kitOpener reads what opens the kit: a key or a passphrase, as it was made.
func (c *cli) kitOpener(o *client.RecoverOptions, file, passphrase, identity string) error {
	needsKey, isKit := client.KitNeedsKey(o.Kit)
	switch {
	case !isKit:
		return usagef("%s is no recovery kit", file).withHint("give the file that `rotunda org init --kit` wrote; what was typed from the paper form is for --paper-file")
	case identity != "":
		key, err := c.secretFile(identity)
		if err != nil {
			return err
		}
		defer clear(key)
		if len(key) == 0 {
			return usagef("%s has no identity in it", identity)
		}
		o.KitIdentity = sdk.NewSecret(key)
		return nil
	case needsKey:
		return usagef("this kit was made for a key").withHint("give --kit-identity FILE, the age identity of one whom `rotunda org init --kit-recipient` named")
	}
	phrase, err := c.kitPassphrase(passphrase)
	if err != nil {
		return err
	}
	defer clear(phrase)
	o.KitPassphrase = sdk.NewSecret(phrase)
	return nil
}

// kitPassphrase gives the passphrase of an existing recovery kit.
func (c *cli) kitPassphrase(file string) ([]byte, error) {
	if file != "" {
		return c.secretFile(file)
	}
	if !c.p.stdinTerminal {
		return nil, failf(exitLocked, "no_passphrase", "no passphrase for the recovery kit, and standard input is no terminal").
			withHint("give --kit-passphrase-file FILE")
	}
	return c.promptSecret("passphrase of the recovery kit: ")
}
