package jump

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/sdk"
)

// algorithms are tried one group after the other until the host shows a key that is
// pinned: in one handshake it shows one key only.
var algorithms = [][]string{
	{ssh.KeyAlgoED25519},
	{ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521},
	{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
}

// connect logs in to the last of the hosts, through those before it.
func (w *Ways) connect(ctx context.Context, hosts []Host) (*ssh.Client, net.Conn, error) {
	n := len(hosts)
	last := hosts[n-1]
	if len(last.Pins) == 0 {
		return nil, nil, failed(hosts, sdk.ClassInvalid, "jump.host_key", errors.New("its resource pins no host key"))
	}
	var strange error // the first key that was shown, of those that are not pinned
	var err error
	for _, group := range algorithms {
		raw, dialErr := w.dial(ctx, hosts[:n-1], "tcp", last.Address)
		if dialErr != nil {
			if errors.As(dialErr, new(*hostError)) { // of a host before this one
				return nil, nil, dialErr
			}
			return nil, nil, failed(hosts, sdk.ClassUnreachable, "jump.unreachable", dialErr)
		}
		var client *ssh.Client
		var next bool
		if client, next, err = handshake(ctx, raw, last, group); err == nil {
			return client, raw, nil
		}
		_ = raw.Close()
		if !next {
			break
		}
		if own := (*sdk.Error)(nil); strange == nil && errors.As(err, &own) {
			strange = err
		}
		if strange != nil {
			err = strange
		}
	}
	return nil, nil, failed(hosts, sdk.ClassUnreachable, "jump.unreachable", err)
}

// handshake logs in over a connection. next says that the host may show another key,
// which is pinned: nothing was sent to it.
func handshake(ctx context.Context, raw net.Conn, to Host, group []string) (client *ssh.Client, next bool, err error) {
	asked, shown, strange := false, false, false
	auth, err := methods(to.Credential, &asked)
	if err != nil {
		return nil, false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	c, channels, requests, err := ssh.NewClientConn(raw, to.Address, &ssh.ClientConfig{
		User: to.Login, Auth: auth, HostKeyAlgorithms: group,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			shown = true
			if strange = !sdk.Pinned(to.Pins, key.Marshal()); strange {
				return errors.New("the host key is not pinned")
			}
			return nil
		},
	})
	if !stop() && err == nil {
		_ = c.Close()
		err = ctx.Err()
	}
	switch {
	case err == nil:
		return ssh.NewClient(c, channels, requests), false, nil
	case ctx.Err() != nil:
		return nil, false, fmt.Errorf("no answer within %v: %w", connectTime, ctx.Err())
	case strange:
		return nil, true, &sdk.Error{Class: sdk.ClassAuth, Reason: string(trust.TargetIdentity), Err: fmt.Errorf("it shows a host key that its resource does not pin: %w", err)}
	case asked:
		// Not class auth: that would be said of the target's administrator.
		return nil, false, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "jump.refused", Err: fmt.Errorf("it refuses the login of %q: %w", to.Login, err)}
	}
	return nil, !shown, err
}

// methods give the secret once: a host that asks again gets nothing, since another
// failed attempt would cost the account's budget.
func methods(c sdk.Credential, asked *bool) ([]ssh.AuthMethod, error) {
	if c.Kind == sdk.SSHKey {
		pem := c.Secret.Expose()
		defer clear(pem)
		signer, err := ssh.ParsePrivateKey(pem)
		if err != nil {
			return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "jump.key", Err: errors.New("the private key of its login cannot be read: it must be an OpenSSH or PEM key without a passphrase")}
		}
		return []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			*asked = true
			return []ssh.Signer{signer}, nil
		})}, nil
	}
	once := func() (string, error) {
		if *asked {
			return "", errors.New("one answer is enough")
		}
		*asked = true
		return c.Secret.ExposeString(), nil
	}
	return []ssh.AuthMethod{ssh.PasswordCallback(once), ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
		if len(questions) == 0 {
			return nil, nil
		}
		if len(questions) != 1 || echos[0] {
			return nil, errors.New("it asks for more than a password")
		}
		answer, err := once()
		return []string{answer}, err
	})}, nil
}
