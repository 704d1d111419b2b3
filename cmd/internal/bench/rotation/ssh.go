package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// sshd is an OpenSSH server with throw-away accounts of this machine.
type sshd struct {
	sshd  *targets.SSHD
	admin []*ssh.Client // warm sessions
}

func startSSHD(ctx context.Context, dir string) (target, error) {
	s, err := targets.StartSSHD(ctx, filepath.Join(dir, "sshd"), targets.SSHDOptions{})
	if err != nil {
		return nil, err
	}
	return &sshd{sshd: s}, nil
}

func (s *sshd) name() string {
	out, _ := exec.Command("/usr/sbin/sshd", "-V").CombinedOutput() // older ones know no -V, and say who they are all the same
	version := "OpenSSH"
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "OpenSSH") {
			version, _, _ = strings.Cut(strings.TrimSpace(line), ",")
		}
	}
	return version + ", " + module("golang.org/x/crypto")
}

func (s *sshd) pid() int { return s.sshd.Pid() }

func (s *sshd) close() error {
	for _, c := range s.admin {
		_ = c.Close()
	}
	return s.sshd.Stop()
}

func (s *sshd) accounts(ctx context.Context, n int, _ side) ([]account, error) {
	var all []account
	for range n {
		first := sdk.NewSecret([]byte(newPassword()))
		u, err := s.sshd.CreateUser(ctx, targets.UserOptions{Password: first})
		if err != nil {
			return nil, err
		}
		all = append(all, account{login: u.Name, first: first})
	}
	return all, nil
}

func (s *sshd) addTo(ctx context.Context, i *installation.Installation, resource string) error {
	return i.AddSSHD(ctx, resource, s.sshd)
}

// connect logs in afresh.
func (s *sshd) connect(ctx context.Context, user string, by ssh.AuthMethod) (*ssh.Client, error) {
	tcp, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.sshd.Address)
	if err != nil {
		return nil, err
	}
	_ = tcp.SetDeadline(time.Now().Add(time.Minute))
	c, chans, reqs, err := ssh.NewClientConn(tcp, s.sshd.Address, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{by},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if !slices.Contains(s.sshd.HostKeys, sha256.Sum256(key.Marshal())) {
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

func (s *sshd) warm(ctx context.Context, n int) error {
	pem := s.sshd.AdminKey.Expose()
	defer clear(pem)
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return err
	}
	for len(s.admin) < n {
		c, err := s.connect(ctx, s.sshd.Admin, ssh.PublicKeys(signer))
		if err != nil {
			return fmt.Errorf("the administrator's session: %w", err)
		}
		s.admin = append(s.admin, c)
	}
	return nil
}

// rotate is chpasswd on the session, and a fresh login with the new password that runs a
// command: sshd lets people in who may do nothing.
func (s *sshd) rotate(ctx context.Context, worker int, user, _ string) error {
	password := newPassword()
	if err := run(s.admin[worker], "chpasswd", user+":"+password+"\n"); err != nil {
		return fmt.Errorf("change: %w", err)
	}
	c, err := s.connect(ctx, user, ssh.Password(password))
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

func newPassword() string {
	var b [18]byte
	_, _ = rand.Read(b[:]) // does not fail
	return base64.RawURLEncoding.EncodeToString(b[:])
}
