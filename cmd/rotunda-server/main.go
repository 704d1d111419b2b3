// Command rotunda-server is everything in the middle: vault, router, scheduler and
// events, on one port and one database file. It sees ciphertext only.
package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/internal/cmdtree"
	"github.com/rotunda-pam/rotunda/internal/exitcode"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/terminal"
	"github.com/rotunda-pam/rotunda/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root, stderr := command(), terminal.Of(os.Stderr)
	root.SetOut(terminal.Of(os.Stdout))
	root.SetErr(stderr)
	if err := cmdtree.Execute(ctx, root); err != nil {
		fmt.Fprintln(stderr, "rotunda-server:", err)
		os.Exit(int(exitOf(err)))
	}
}

// exitOf is how the program ends for an error.
func exitOf(err error) exitcode.Code {
	other := exitcode.Internal
	if errors.Is(err, store.ErrLocked) {
		other = exitcode.Conflict
	}
	return exitcode.Of(err, other)
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use: "rotunda-server", Short: "vault, router and scheduler of Rotunda: sees ciphertext only",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), setupCodeCommand(), machineKeyCommand(), backupCommand(), restoreCommand(), restoredCommand(), &cobra.Command{
		Use: "version", Short: "print the version", Args: cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), version.Version) },
	})
	return root
}

func serveCommand() *cobra.Command {
	s := &settings{bodyTime: bodyTime, bodies: newBodies(bodiesAll, bodiesEach)}
	c := &cobra.Command{
		Use: "serve", Short: "run the server until it is told to stop", Args: cobra.NoArgs,
		Long: `Keeps everything in one folder (--data): the database, the certificate authority,
the keys of the secrets-manager API, file contents, and the setup code that lets
somebody make an organisation. ` + "`rotunda-server backup`" + ` copies all of it while the server runs.

Clients and agents pin the certificate authority's key, so it must survive.`,
		RunE: func(c *cobra.Command, _ []string) error { return serve(c.Context(), s, c.ErrOrStderr()) },
	}
	f := c.Flags()
	f.StringVar(&s.data, "data", "/var/lib/rotunda", "folder of everything that is kept")
	f.StringVar(&s.listen, "listen", ":8443", "address to listen on")
	f.StringSliceVar(&s.names, "name", nil, "host name or address by which this server is reached; may be repeated, the first is shown to people (default: this host's name and loopback)")
	f.StringVar(&s.baseURL, "base-url", "", "address that machine clients fetch files from (default: https:// and the first name and port)")
	f.IntVar(&s.connections, "max-connections", 60_000, "connections that are open at once; each needs a file descriptor")
	f.IntVar(&s.perAddress, "max-connections-per-address", 5_000, "of these, from one IPv4 address or one IPv6 /64: raise it where more agents share one")
	f.StringVar(&s.logFormat, "log-format", "text", "text or json")
	f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	return c
}

func setupCodeCommand() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "setup-code", Short: "print the code that lets somebody make an organisation", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			code := setupCode(data)
			if len(code) == 0 {
				return exitcode.With(exitcode.NotFound, fmt.Errorf("there is no setup code in %s: start the server once with --data %s", data, data))
			}
			fmt.Fprintln(c.OutOrStdout(), string(code))
			return nil
		},
	}
	c.Flags().StringVar(&data, "data", "/var/lib/rotunda", "the server's folder")
	return c
}

// machineKeyCommand prints what a machine client's configuration needs, so that
// it takes the key from the server's administrator and not from the network.
func machineKeyCommand() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "machine-key", Short: "print the public key of the secrets-manager API, as ID:KEY", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if made, err := filepath.Glob(filepath.Join(data, "machine-key-*.pem")); err != nil || len(made) == 0 {
				return exitcode.With(exitcode.NotFound, fmt.Errorf("there is no key in %s: start the server once with --data %s", data, data))
			}
			keys, err := openMachineKeys(data)
			if err != nil {
				return exitcode.With(exitcode.Usage, err)
			}
			pub, err := seal.DevicePub(keys[0].Private) // the current one comes first
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%d:%s\n", keys[0].ID, base64.RawURLEncoding.EncodeToString(pub))
			return nil
		},
	}
	c.Flags().StringVar(&data, "data", "/var/lib/rotunda", "the server's folder")
	return c
}
