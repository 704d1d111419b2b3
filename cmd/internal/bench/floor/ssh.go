package floor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// SSHD is an OpenSSH server with throw-away accounts of this machine.
type SSHD struct {
	SSHD  *targets.SSHD
	admin []*ssh.Client // warm sessions
}

// StartSSHD starts one.
func StartSSHD(ctx context.Context, dir string) (Target, error) {
	s, err := targets.StartSSHD(ctx, filepath.Join(dir, "sshd"), targets.SSHDOptions{})
	if err != nil {
		return nil, err
	}
	return &SSHD{SSHD: s}, nil
}

// Name of server and library.
func (s *SSHD) Name() string {
	out, _ := exec.Command("/usr/sbin/sshd", "-V").CombinedOutput() // older ones know no -V, and say who they are all the same
	version := "OpenSSH"
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "OpenSSH") {
			version, _, _ = strings.Cut(strings.TrimSpace(line), ",")
		}
	}
	return version + ", " + module("golang.org/x/crypto")
}

// Pid of the server.
func (s *SSHD) Pid() int { return s.SSHD.Pid() }

// Close ends it.
func (s *SSHD) Close() error {
	for _, c := range s.admin {
		_ = c.Close()
	}
	return s.SSHD.Stop()
}

// Endpoint of the server, with the administrator's key.
func (s *SSHD) Endpoint() Endpoint {
	return Endpoint{
		Resource: sdk.Resource{Address: s.SSHD.Address}, Pins: s.SSHD.HostKeys,
		Admin: sdk.Credential{Kind: sdk.SSHKey, Secret: s.SSHD.AdminKey}, AdminAs: sdk.Account{Name: s.SSHD.Admin},
	}
}

// Accounts makes throw-away accounts of this machine.
func (s *SSHD) Accounts(ctx context.Context, n int) ([]*Account, error) {
	var all []*Account
	for range n {
		first := Password()
		u, err := s.SSHD.CreateUser(ctx, targets.UserOptions{Password: first})
		if err != nil {
			return nil, err
		}
		all = append(all, &Account{sdk.Account{Name: u.Name}, first})
	}
	return all, nil
}

// connect logs in afresh.
func (s *SSHD) connect(ctx context.Context, user string, by ssh.AuthMethod) (*ssh.Client, error) {
	tcp, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.SSHD.Address)
	if err != nil {
		return nil, err
	}
	_ = tcp.SetDeadline(time.Now().Add(time.Minute))
	c, chans, reqs, err := ssh.NewClientConn(tcp, s.SSHD.Address, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{by},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if !slices.Contains(s.SSHD.HostKeys, sha256.Sum256(key.Marshal())) {
				return errors.New("not the server that was started")
			}
			return nil
		},
	})
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	_ = tcp.SetDeadline(time.Time{})
	return ssh.NewClient(c, chans, reqs), nil
}

// Warm logs the administrator in.
func (s *SSHD) Warm(ctx context.Context, n int) error {
	pem := s.SSHD.AdminKey.Expose()
	defer clear(pem)
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return err
	}
	for len(s.admin) < n {
		c, err := s.connect(ctx, s.SSHD.Admin, ssh.PublicKeys(signer))
		if err != nil {
			return fmt.Errorf("the administrator's session: %w", err)
		}
		s.admin = append(s.admin, c)
	}
	return nil
}

// Rotate is chpasswd on the session, and a fresh login with the new password that runs a
// command: sshd lets people in who may do nothing.
func (s *SSHD) Rotate(ctx context.Context, session int, a *Account, _ string) error {
	a.Secret = Password()
	password := a.Secret.ExposeString()
	if err := run(s.admin[session], "chpasswd", a.Name+":"+password+"\n"); err != nil {
		return fmt.Errorf("change: %w", err)
	}
	c, err := s.connect(ctx, a.Name, ssh.Password(password))
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	defer c.Close()
	if err := run(c, "echo here", ""); err != nil {
		return fmt.Errorf("login: %w", err)
	}
	return nil
}

func run(c *ssh.Client, command, input string) error {
	session, err := c.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()
	session.Stdin = strings.NewReader(input)
	return session.Run(command)
}
