package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/sdk"
)

// hostKeyKinds are tried one after the other until the server shows a key that is pinned:
// in one handshake it shows one key only.
var hostKeyKinds = [][]string{
	{ssh.KeyAlgoED25519},
	{ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521},
	{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
}

// Reasons of a login that failed; each says how far it came.
const (
	sshStranger = "target_identity" // the host key is not pinned
	sshRefused  = "bad_secret"
	sshDialogue = "ssh.dialogue"  // the server wants more than the secret: a change, a second factor
	sshPartial  = "ssh.partial"   // the key itself was taken, and the login refused all the same
	sshUnproven = "ssh.not_asked" // the server let everybody in: it never judged the secret
	sshKey      = "ssh.key"       // the private key cannot be read
)

// sshLogin opens a connection. The context bounds the handshake only. Its errors are of
// type [*sdk.Error] and say that nothing was sent.
func sshLogin(ctx context.Context, h sdk.Host, at sdk.Resource, login string, of secret) (*ssh.Client, *sdk.Error) {
	if len(h.Pins[at.Address]) == 0 {
		return nil, sshError(sdk.ClassAuth, sshStranger, errors.New("no host key is pinned for "+at.Address+": its statement says which it has"))
	}
	var last *sdk.Error
	for _, kinds := range hostKeyKinds {
		client, shown, err := sshHandshake(ctx, h, at, login, of, kinds)
		if err == nil {
			return client, nil
		}
		// Another kind of key may be the pinned one, or the one that the server has.
		if shown && err.Reason != sshStranger || err.Reason == sshKey || ctx.Err() != nil {
			return nil, err
		}
		if last == nil || err.Reason == sshStranger {
			last = err
		}
	}
	return nil, last
}

func sshError(class sdk.Class, reason string, err error) *sdk.Error {
	return &sdk.Error{Class: class, Reason: reason, NotSent: true, Err: err}
}

// sshHandshake is one try with one kind of host key. shown tells whether the server showed one.
func sshHandshake(ctx context.Context, h sdk.Host, at sdk.Resource, login string, of secret, kinds []string) (_ *ssh.Client, shown bool, _ *sdk.Error) {
	answers := &sshAnswers{secret: of.Secret}
	methods, err := answers.methods(of)
	if err != nil {
		return nil, false, sshError(sdk.ClassInvalid, sshKey, err)
	}
	raw, err := h.Dialer.DialContext(ctx, "tcp", at.Address)
	if err != nil {
		return nil, false, unreached(ctx, err)
	}
	line := &watchedConn{Conn: raw}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	strange := false
	conn, channels, requests, err := ssh.NewClientConn(line, at.Address, &ssh.ClientConfig{
		User: login, HostKeyAlgorithms: kinds,
		AuthCallback: func(c *ssh.ClientAuthContext) (ssh.AuthMethod, error) { return answers.next(methods, c), nil },
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			shown = true
			if !sdk.Pinned(h.Pins[at.Address], key.Marshal()) {
				strange = true
				return errors.New("the host key is not pinned")
			}
			return nil
		},
	})
	if !stop() && err == nil {
		conn.Close()
		err = ctx.Err()
	}
	if err == nil && !answers.used {
		conn.Close()
		return nil, true, sshError(sdk.ClassUnsupported, sshUnproven, errors.New("the server lets the account in without asking for its secret"))
	}
	if err == nil {
		return ssh.NewClient(conn, channels, requests), true, nil
	}
	raw.Close()
	switch {
	case strange:
		return nil, shown, sshError(sdk.ClassAuth, sshStranger, err)
	case ctx.Err() != nil || line.failed():
	case answers.dialogue || answers.used && strings.Contains(err.Error(), changeRequest):
		return nil, shown, sshError(sdk.ClassUnsupported, sshDialogue, err)
	case answers.used && answers.key:
		// A server asks for the signature only of a key that it would take.
		return nil, shown, sshError(sdk.ClassUnsupported, sshPartial, err)
	case answers.asked:
		// The connection stood, the secret was asked for, and the answer was no.
		return nil, shown, sshError(sdk.ClassAuth, sshRefused, err)
	}
	return nil, shown, unreached(ctx, err)
}

// unreached classes an error before anything was sent.
func unreached(ctx context.Context, err error) *sdk.Error {
	e := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "connection", NotSent: true, Err: err}
	var known *sdk.Error
	switch {
	case ctx.Err() != nil:
		e.Reason = "deadline"
	case errors.As(err, &known): // the dialer's word, or that of the TLS proof
		e.Class, e.Reason = known.Class, known.Reason
	}
	return e
}

// changeRequest is what the library says of SSH_MSG_USERAUTH_PASSWD_CHANGEREQ, number 60, in
// answer to a password: it has expired.
const changeRequest = "unexpected message type 60 "

// sshAnswers gives the secret once. A server that asks again, or asks something else, gets
// nothing: another failed attempt would cost the account's budget, and a change dialogue
// must not be answered with the old secret.
type sshAnswers struct {
	secret   sdk.Secret
	key      bool
	asked    bool // for the secret, or which key it is
	used     bool // the secret was given, or the key has signed
	dialogue bool // the server asked for more: it has not said that the secret is wrong
}

// sshMethod is a way to log in, by the name that servers offer it under.
type sshMethod struct {
	name string
	ssh.AuthMethod
}

// next is the first way that the server offers and that was not tried. Once the secret was
// given there is none: what the server said then is the last word.
func (a *sshAnswers) next(all []sshMethod, c *ssh.ClientAuthContext) ssh.AuthMethod {
	if a.used && !a.key && len(c.PartialSuccessMethods) > 0 {
		a.dialogue = true // the password was right, and is not enough
	}
	for _, m := range all {
		if !a.used && slices.Contains(c.AllowedMethods, m.name) && !slices.Contains(c.TriedMethods, m.name) && !slices.Contains(c.PartialSuccessMethods, m.name) {
			return m.AuthMethod
		}
	}
	return nil
}

// notingKey notes its use.
type notingKey struct {
	ssh.AlgorithmSigner
	used *bool
}

func (n notingKey) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	*n.used = true
	return n.AlgorithmSigner.SignWithAlgorithm(rand, data, algorithm)
}

func (a *sshAnswers) methods(of secret) ([]sshMethod, error) {
	text := of.Expose()
	defer clear(text)
	if a.key = len(of.public) > 0 || bytes.HasPrefix(bytes.TrimSpace(text), []byte("-----BEGIN ")); a.key {
		signer, err := ssh.ParsePrivateKey(text)
		key, ok := signer.(ssh.AlgorithmSigner)
		if err != nil || !ok {
			return nil, errors.New("the private key cannot be read: it must be an OpenSSH or PEM key without a passphrase")
		}
		return []sshMethod{{"publickey", ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			a.asked = true
			return []ssh.Signer{notingKey{key, &a.used}}, nil
		})}}, nil
	}
	return []sshMethod{{"password", ssh.PasswordCallback(func() (string, error) {
		a.asked, a.used = true, true
		return a.secret.ExposeString(), nil
	})}, {"keyboard-interactive", ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
		switch {
		case len(questions) == 0:
			return nil, nil
		case a.used || len(questions) != 1 || echos[0]: // a code, or a new password for an expired one
			a.dialogue = true
			return nil, errors.New("the server asks for more than a password")
		}
		a.asked, a.used = true, true
		return []string{a.secret.ExposeString()}, nil
	})}}, nil
}

// watchedConn remembers whether the connection itself failed: a login that ended for that
// reason was not judged.
type watchedConn struct {
	net.Conn
	mu     sync.Mutex
	err    error
	closed bool
}

// Close is this side's own doing: what fails after it says nothing of the connection.
func (w *watchedConn) Close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	return w.Conn.Close()
}

func (w *watchedConn) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.note(err)
	return n, err
}

func (w *watchedConn) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	w.note(err)
	return n, err
}

func (w *watchedConn) note(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.err = err
	}
}

func (w *watchedConn) failed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err != nil
}
