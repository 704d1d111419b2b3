package targets

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/internal/password"
	"github.com/rotunda-pam/rotunda/sdk"
)

// SSHD is a running OpenSSH server on 127.0.0.1. Root logs in by key only; the other
// accounts of the machine by password or by their own authorized keys.
type SSHD struct {
	Host     string // 127.0.0.1
	Port     int
	Address  string              // host:port
	HostKeys [][sha256.Size]byte // of the public keys in wire format, Ed25519 first, then ECDSA
	Admin    string              // root
	AdminKey sdk.Secret          // root's private key, OpenSSH's PEM
	AdminPub []byte              // the same as a line of authorized_keys
	LogFile  string

	dir     string
	options SSHDOptions
	proc    *process
}

// SSHDOptions choose what kind of server it is.
type SSHDOptions struct {
	// PAM makes the server ask PAM, as distributions do. A wrong password then costs four
	// seconds instead of one.
	PAM bool
	// Quick has a login take half of the processor's time that it takes with a distribution's
	// settings: no program is started anew for each connection (sshd -r, where OpenSSH has that),
	// keys are exchanged by the curve that OpenSSL has in assembly, and PAM keeps the passwords
	// that are set on the server by a hash that takes half a millisecond in place of 25. Where
	// this machine has no mounts for the hash to have, that is as without.
	Quick bool
	// Lines are further lines of sshd_config; they win over ours.
	Lines []string
	// Blocks are further Match blocks, at its end.
	Blocks []string
}

// Pins are the host keys in the form that [sdk.Host].Pins wants them.
func (s *SSHD) Pins() []byte {
	var out []byte
	for _, k := range s.HostKeys {
		out = append(out, k[:]...)
	}
	return out
}

// StartSSHD starts an OpenSSH server of its own in dir, which must be empty, absent or
// left over from an earlier one. It needs root, since it logs people in.
func StartSSHD(ctx context.Context, dir string, o SSHDOptions) (*SSHD, error) {
	if os.Getuid() != 0 {
		return nil, fmt.Errorf("%w: an sshd that logs other users in needs root", ErrUnavailable)
	}
	if !exists("/usr/sbin/sshd") {
		return nil, fmt.Errorf("%w: install openssh-server", ErrUnavailable)
	}
	if err := prepare(dir); err != nil {
		return nil, err
	}
	s := &SSHD{Host: "127.0.0.1", Admin: "root", LogFile: filepath.Join(dir, "sshd.out"), dir: dir, options: o}
	if err := s.keys(); err != nil {
		return nil, err
	}
	// Where the unprivileged half of sshd is shut in; normally made by the service manager.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		return nil, fmt.Errorf("prepare sshd: %w", err)
	}
	err := onFreePort(func(port int) error {
		s.Port, s.Address = port, net.JoinHostPort(s.Host, strconv.Itoa(port))
		if err := s.configure(); err != nil {
			return err
		}
		return s.Up(ctx)
	})
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// NewHostKeys gives the server host keys that nobody has seen, from its next Up on.
func (s *SSHD) NewHostKeys() error {
	s.HostKeys = nil
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make host keys: %w", err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make host keys: %w", err)
	}
	for name, key := range map[string]crypto.Signer{"host_ed25519": ed, "host_ecdsa": ec} {
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			return fmt.Errorf("make host keys: %w", err)
		}
		if err := os.WriteFile(filepath.Join(s.dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return fmt.Errorf("make host keys: %w", err)
		}
	}
	for _, key := range []crypto.Signer{ed, ec} {
		pub, err := ssh.NewPublicKey(key.Public())
		if err != nil {
			return fmt.Errorf("make host keys: %w", err)
		}
		s.HostKeys = append(s.HostKeys, sha256.Sum256(pub.Marshal()))
	}
	return nil
}

func (s *SSHD) keys() error {
	if err := s.NewHostKeys(); err != nil {
		return err
	}
	pub, private, err := password.SSHKey()
	if err != nil {
		return err
	}
	s.AdminPub, s.AdminKey = pub, sdk.NewSecret(private)
	clear(private)
	return os.WriteFile(filepath.Join(s.dir, "root_keys"), append(slices.Clone(pub), '\n'), 0o600)
}

func (s *SSHD) configure() error {
	pam := "no"
	if s.options.PAM {
		pam = "yes"
	}
	config := append(slices.Clone(s.options.Lines),
		"Port "+strconv.Itoa(s.Port),
		"ListenAddress "+s.Host,
		"HostKey "+filepath.Join(s.dir, "host_ed25519"),
		"HostKey "+filepath.Join(s.dir, "host_ecdsa"),
		"PidFile none",
		"UsePAM "+pam,
		"PasswordAuthentication yes",
		"KbdInteractiveAuthentication yes",
		"PermitRootLogin prohibit-password",
		"MaxStartups 200",
		"UseDNS no",
		// Bash takes itself for a shell within a shell, and leaves the machine's own .bashrc of
		// root unread: what people put there takes longer than all that a test does.
		"SetEnv SHLVL=1",
		"Match User root",
		// A command and not a file: sshd refuses a file below a folder that others may write,
		// and dir may be anywhere.
		"  AuthorizedKeysCommand /usr/bin/cat "+filepath.Join(s.dir, "root_keys"),
		"  AuthorizedKeysCommandUser root",
		"  AuthorizedKeysFile none")
	if s.options.Quick {
		config = slices.Insert(config, len(s.options.Lines), "KexAlgorithms ecdh-sha2-nistp256")
	}
	config = append(append(config, s.options.Blocks...), "")
	if err := os.WriteFile(filepath.Join(s.dir, "config"), []byte(strings.Join(config, "\n")), 0o600); err != nil {
		return fmt.Errorf("configure sshd: %w", err)
	}
	return nil
}

// pamPasswords is how Debian has passwords set and kept.
const pamPasswords = "/etc/pam.d/common-password"

// quickly is a command that has pamPasswords of its own, whose hash is a quick one.
func (s *SSHD) quickly(ctx context.Context, argv []string) []string {
	own := filepath.Join(s.dir, "common-password")
	mounted := []string{
		"/usr/bin/unshare", "--mount", "--propagation", "slave",
		"/bin/sh", "-c", `mount --bind "$0" ` + pamPasswords + ` && exec "$@"`, own,
	}
	rules, err := os.ReadFile(pamPasswords)
	if err != nil || os.WriteFile(own, bytes.ReplaceAll(rules, []byte("yescrypt"), []byte("sha512 rounds=1000")), 0o644) != nil ||
		run(ctx, nil, append(slices.Clone(mounted), "true")...) != nil {
		return argv
	}
	return append(mounted, argv...)
}

// Up starts the server again after Down, on the same port with the same keys.
func (s *SSHD) Up(ctx context.Context) error {
	argv := []string{"/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(s.dir, "config")}
	if s.options.Quick {
		argv = s.quickly(ctx, append(argv, "-r"))
	}
	var err error
	if s.proc, err = start(s.dir, "sshd", nil, argv...); err != nil {
		return err
	}
	err = s.proc.ready(ctx, func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", s.Address)
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, s.Down()), logTail(s.LogFile))
	}
	return nil
}

// Down stops the server and waits for its end. Connections that are open go on.
func (s *SSHD) Down() error {
	err := s.proc.stop(terminate)
	s.proc = nil
	return err
}

// Pid is the listening process's.
func (s *SSHD) Pid() int { return s.proc.cmd.Process.Pid }

// Pause leaves new connections without an answer until Resume. Connections that are
// open already go on.
func (s *SSHD) Pause() error { return s.proc.pause() }

// Resume ends Pause.
func (s *SSHD) Resume() error { return s.proc.resume() }

// Stop stops the server and removes its accounts and its folder.
func (s *SSHD) Stop() error { return errors.Join(s.Down(), Clean(s.dir)) }

// Accepts tells whether the server lets user in with c and runs a command for him.
func (s *SSHD) Accepts(ctx context.Context, user string, c sdk.Credential) (bool, error) {
	var asked, known bool // the secret was asked for; the server is ours
	secret := c.Secret.Expose()
	defer clear(secret)
	var auth ssh.AuthMethod
	if c.Kind == sdk.SSHKey {
		signer, err := ssh.ParsePrivateKey(secret)
		if err != nil {
			return false, fmt.Errorf("read the private key: %w", err)
		}
		auth = ssh.PublicKeysCallback(func() ([]ssh.Signer, error) { asked = true; return []ssh.Signer{signer}, nil })
	} else {
		auth = ssh.PasswordCallback(func() (string, error) { asked = true; return string(secret), nil })
	}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	sc, chans, reqs, err := ssh.NewClientConn(conn, s.Address, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{auth},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if known = slices.Contains(s.HostKeys, sha256.Sum256(key.Marshal())); !known {
				return errors.New("not the server that was started")
			}
			return nil
		},
	})
	if err != nil && asked && known {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	client := ssh.NewClient(sc, chans, reqs)
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return false, err
	}
	defer session.Close()
	out, err := session.Output("echo here")
	return err == nil && bytes.Equal(out, []byte("here\n")), nil
}
