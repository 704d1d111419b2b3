package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/internal/release"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

func (c *cli) pluginKeygenCmd() *cobra.Command {
	var passphrase string
	cmd := c.leaf("keygen FILE", "make the key that you sign your plugins with", func(_ context.Context, args []string) error {
		file, err := c.p.reserve(args[0])
		if err != nil {
			return err
		}
		defer file.drop()
		pass, err := c.newPassphrase("publisher's key", passphrase, "--key-passphrase-file")
		if err != nil {
			return err
		}
		defer clear(pass)
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		defer clear(key)
		if err := file.keep(release.StoreKey(key, pass)); err != nil {
			return err
		}
		publisher := release.PublisherOf(key).String()
		return c.emit(map[string]string{"publisher": publisher, "file": args[0]}, func(w io.Writer) {
			pairs(w, "publisher", publisher, "key", args[0])
			c.note("publish the first line where your users find it without your files; keep the key, and a copy of it")
		})
	})
	cmd.Flags().StringVar(&passphrase, "key-passphrase-file", "", "`FILE` with the passphrase to lock the key with")
	return help(cmd, `Agents that have installed a plugin of yours take later versions only by the same key.`,
		`rotunda plugin keygen publisher.key`)
}

func (c *cli) pluginSignCmd() *cobra.Command {
	var keyFile, passphrase, out string
	var r release.Release
	cmd := c.leaf("sign FILE...", "sign the files of a version of your plugin, for agents to install", func(_ context.Context, args []string) error {
		if keyFile == "" || r.Name == "" || r.Version == "" {
			return usagef("plugin sign wants --key, --name and --version")
		}
		r.Published, r.Files = c.p.now().UTC(), nil
		for _, name := range args {
			f, err := c.releaseFile(name)
			if err != nil {
				return err
			}
			r.Files = append(r.Files, f)
		}
		if out == "" {
			out = filepath.Join(filepath.Dir(args[0]), r.Name+"-"+r.Version+".json")
		}
		for _, name := range args {
			if filepath.Dir(c.p.path(name)) != filepath.Dir(c.p.path(out)) {
				return usagef("%s is in another folder than %s: a manifest lies beside its files", name, out)
			}
		}
		file, err := c.p.reserve(out)
		if err != nil {
			return err
		}
		defer file.drop()
		key, err := c.publisherKey(keyFile, passphrase)
		if err != nil {
			return err
		}
		defer clear(key)
		manifest, err := release.Sign(r, key)
		if err != nil {
			return usagef("%w", err)
		}
		if err := errors.Join(file.keep(manifest), os.Chmod(c.p.path(out), 0o644)); err != nil {
			return err
		}
		if slices.Contains(shipped, r.Name) {
			c.warn("%s comes with every agent, which installs no other plugin of that name: give it another", r.Name)
		}
		publisher := release.PublisherOf(key).String()
		return c.emit(map[string]any{"manifest": out, "publisher": publisher, "release": r}, func(w io.Writer) {
			rows := []string{"manifest", out, "publisher", publisher}
			for _, f := range r.Files {
				rows = append(rows, f.OS+"/"+f.Arch, f.SHA256.String())
			}
			pairs(w, rows...)
		})
	})
	f := cmd.Flags()
	f.StringVar(&keyFile, "key", "", "`FILE` with your key (plugin keygen)")
	f.StringVar(&passphrase, "key-passphrase-file", "", "`FILE` with the passphrase of the key")
	f.StringVar(&r.Name, "name", "", "the plugin's name, as its manifest has it")
	f.StringVar(&r.Version, "version", "", "its version, such as 1.2.0")
	f.StringVar(&out, "out", "", "manifest to write (default NAME-VERSION.json beside the first file)")
	return help(cmd, `Each file is the program for one platform; which one is read from the file. What you
hand out is the manifest and, beside it, the files. The signature says that they are
yours. Whether agents may start them is for each organisation to say ("plugin approve").`,
		`rotunda plugin sign acme-linux-amd64 acme-linux-arm64 --key publisher.key --name acme --version 1.2.0`)
}

// releaseFile describes a program.
func (c *cli) releaseFile(name string) (release.File, error) {
	sum, err := c.hashFile(name)
	if err != nil {
		return release.File{}, err
	}
	info, err := os.Stat(c.p.path(name))
	if err != nil {
		return release.File{}, fmt.Errorf("read %s: %w", name, err)
	}
	f := release.File{Name: filepath.Base(name), Size: info.Size(), SHA256: sum}
	built, err := buildinfo.ReadFile(c.p.path(name))
	if err != nil {
		return f, usagef("%s is no program that Go has built: %w", name, err)
	}
	for _, s := range built.Settings {
		switch s.Key {
		case "GOOS":
			f.OS = s.Value
		case "GOARCH":
			f.Arch = s.Value
		}
	}
	return f, nil
}

func (c *cli) publisherKey(file, passphrase string) (ed25519.PrivateKey, error) {
	content, err := c.p.readFile(file)
	if err != nil {
		return nil, err
	}
	defer clear(content)
	key, err := release.LoadKey(content, func() ([]byte, error) {
		if passphrase != "" {
			return c.secretFile(passphrase)
		}
		if !c.p.stdinTerminal {
			return nil, failf(exitLocked, "no_passphrase", "no passphrase for the publisher's key, and standard input is no terminal").
				withHint("give --key-passphrase-file FILE")
		}
		return c.promptSecret("passphrase of the publisher's key: ")
	})
	known := (*failure)(nil)
	switch {
	case errors.As(err, &known):
		return nil, err
	case errors.Is(err, seal.ErrPassphrase):
		return nil, failf(exitDenied, "wrong_passphrase", "%s: %w", file, err)
	case err != nil:
		return nil, usagef("%s: %w", file, err)
	}
	return key, nil
}
