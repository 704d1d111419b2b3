package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/sdk"
)

// algorithms are tried one group after the other until the server shows a key that is
// pinned: in one handshake it shows one key only.
var algorithms = [][]string{
	{ssh.KeyAlgoED25519},
	{ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521},
	{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
}

// refusal says how far a login came that did not succeed.
type refusal int

const (
	unreached  refusal = iota // nobody judged the secret
	stranger                  // the host key is not pinned
	refused                   // the server refused it, for whatever reason
	another                   // it took another key that it was offered, and not this one
	dialogue                  // the server wants more than the secret: a change, a second factor
	further                   // it took an answer, right or wrong, and asked for more
	partial                   // the key itself was taken, and the login refused all the same
	unproven                  // the server let everybody in: it never judged the secret
	unreadable                // the secret itself cannot be used
)

type loginError struct {
	why refusal
	err error
}

func (e *loginError) Error() string { return e.err.Error() }
func (e *loginError) Unwrap() error { return e.err }

func why(err error) refusal {
	if e := (*loginError)(nil); errors.As(err, &e) {
		return e.why
	}
	return unreached
}

// login opens a connection as an account. The context bounds the handshake only. A key that
// is refused is followed by the others: whoever takes one of those has judged it (another), and no
// login has failed, for which a server might shut this host out. The connection is c's, or none.
func login(ctx context.Context, h sdk.Host, r sdk.Resource, name string, c sdk.Credential, others ...sdk.Credential) (*ssh.Client, error) {
	if len(h.Pins[r.Address]) == 0 {
		return nil, &loginError{stranger, errors.New("the resource pins no host key")}
	}
	var last error
	for _, group := range algorithms {
		client, shown, err := handshake(ctx, h, r, name, group, c, others...)
		if err == nil {
			return client, nil
		}
		// Another kind of key may be the pinned one, or the one that the server has.
		if shown && why(err) != stranger {
			return nil, err
		}
		if last == nil || why(err) == stranger {
			last = err
		}
		if ctx.Err() != nil || why(err) == unreadable {
			return nil, err
		}
	}
	return nil, last
}

// handshake is one try with one group of host key algorithms. shown tells whether the
// server showed a key.
func handshake(ctx context.Context, h sdk.Host, r sdk.Resource, name string, group []string, c sdk.Credential, others ...sdk.Credential) (_ *ssh.Client, shown bool, err error) {
	a := &answers{secret: c.Secret}
	methods, err := a.methods(c, others...)
	if err != nil {
		return nil, false, &loginError{unreadable, err}
	}
	raw, err := h.Dialer.DialContext(ctx, "tcp", r.Address)
	if err != nil {
		return nil, false, &loginError{unreached, err}
	}
	conn := &watched{Conn: raw}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	strange := false
	nc, channels, requests, err := ssh.NewClientConn(conn, r.Address, &ssh.ClientConfig{
		User: name, HostKeyAlgorithms: group,
		AuthCallback: func(c *ssh.ClientAuthContext) (ssh.AuthMethod, error) { return a.next(methods, c), nil },
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			shown = true
			if !sdk.Pinned(h.Pins[r.Address], key.Marshal()) {
				strange = true
				return errors.New("the host key is not pinned")
			}
			return nil
		},
	})
	if !stop() && err == nil {
		nc.Close()
		err = ctx.Err()
	}
	if err == nil && !a.used && a.other {
		nc.Close()
		return nil, true, &loginError{another, errors.New("the server took another key, and not this one")}
	}
	if err == nil && !a.used {
		nc.Close()
		return nil, true, &loginError{unproven, errors.New("the server lets the account in without asking for its secret")}
	}
	if err == nil {
		return ssh.NewClient(nc, channels, requests), true, nil
	}
	raw.Close()
	e := &loginError{unreached, err}
	switch {
	case strange:
		e.why = stranger
	case ctx.Err() != nil || conn.failed():
	case a.dialogue || a.used && strings.Contains(err.Error(), changeRequest):
		e.why = dialogue
	case a.further:
		e.why = further
	case a.used && c.Kind == sdk.SSHKey:
		// A server asks for the signature only of a key that it would take.
		e.why = partial
	case a.other:
		e.why = another
	case a.asked:
		// The connection stood, the secret was asked for, and the answer was no.
		e.why = refused
	}
	return nil, shown, e
}

// changeRequest is what the library says of SSH_MSG_USERAUTH_PASSWD_CHANGEREQ, number 60, in
// answer to a password (RFC 4252, 8): it has expired.
const changeRequest = "unexpected message type 60 "

// answers gives the secret once. A server that asks again, or asks something else,
// gets nothing: another failed attempt would cost the account's budget, and a change
// dialogue must not be answered with the old secret.
type answers struct {
	secret   sdk.Secret
	asked    bool // for the secret, or which key it is
	used     bool // the secret was given, or the key has signed
	other    bool // another key has signed
	dialogue bool // the server asks for more than the secret
	answered bool // a question of a dialogue
	further  bool // after the secret the server asked for more
}

// noting is a key that notes its use.
type noting struct {
	ssh.AlgorithmSigner
	used *bool
}

func (n noting) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	*n.used = true
	return n.AlgorithmSigner.SignWithAlgorithm(rand, data, algorithm)
}

// method is a way to log in, by the name that servers offer it under.
type method struct {
	name string
	ssh.AuthMethod
}

// next is the first way that the server offers and that was not tried. Once a password was
// given there is none: what the server said then is its word on it.
func (a *answers) next(all []method, c *ssh.ClientAuthContext) ssh.AuthMethod {
	if slices.Contains(c.PartialSuccessMethods, "password") {
		a.further = true // it was right, and is not enough
	}
	for _, m := range all {
		if !a.used && slices.Contains(c.AllowedMethods, m.name) && !slices.Contains(c.TriedMethods, m.name) {
			return m.AuthMethod
		}
	}
	return nil
}

func (a *answers) methods(c sdk.Credential, others ...sdk.Credential) ([]method, error) {
	if c.Kind == sdk.SSHKey {
		signer, err := privateKey(c.Secret)
		if err != nil {
			return nil, err
		}
		keys := []ssh.Signer{noting{signer, &a.used}}
		for _, o := range others {
			if signer, err = privateKey(o.Secret); err != nil {
				return nil, err
			}
			keys = append(keys, noting{signer, &a.other})
		}
		return []method{{"publickey", ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			a.asked = true
			return keys, nil
		})}}, nil
	}
	return []method{{"password", ssh.PasswordCallback(func() (string, error) {
		a.asked, a.used = true, true
		return a.secret.ExposeString(), nil
	})}, {"keyboard-interactive", ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
		switch {
		case len(questions) == 0:
			return nil, nil
		case a.asked:
			a.further = a.answered
			return nil, errors.New("one answer is enough")
		case len(questions) != 1 || echos[0]:
			a.dialogue = true
			return nil, errors.New("the server asks for more than a password")
		}
		a.asked, a.used, a.answered = true, true, true
		return []string{a.secret.ExposeString()}, nil
	})}}, nil
}

// watched remembers whether the connection itself failed: a login that ended for that
// reason was not judged.
type watched struct {
	net.Conn
	mu     sync.Mutex
	err    error
	closed bool
}

// Close is this side's own doing: what fails after it says nothing of the connection.
func (w *watched) Close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	return w.Conn.Close()
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.note(err)
	return n, err
}

func (w *watched) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	w.note(err)
	return n, err
}

func (w *watched) note(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.err = err
	}
}

func (w *watched) failed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err != nil
}

// answer is how a program on the target ended.
type answer struct {
	exit int
	out  string
	said string // on standard error
}

// maxOutput bounds what is read of a program's output.
const maxOutput = 64 << 10

// errNotStarted is in errors after which nothing can have happened.
var errNotStarted = errors.New("the program was not started")

// run runs a fixed command with the given input. An error means that nobody knows how
// it ended, unless it is errNotStarted.
func run(ctx context.Context, client *ssh.Client, command string, input []byte) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, fmt.Errorf("%w: %w", errNotStarted, err)
	}
	// A context that ends takes the connection with it: a dead peer answers neither the
	// opening of a session nor its end.
	stop := context.AfterFunc(ctx, func() { client.Close() })
	defer stop()
	s, err := client.NewSession()
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", errNotStarted, err)
	}
	defer s.Close()
	var out, said strings.Builder
	s.Stdout, s.Stderr = &limited{w: &out, left: maxOutput}, &limited{w: &said, left: maxOutput}
	s.Stdin = strings.NewReader(string(input))
	err = s.Run(command)
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return answer{0, out.String(), said.String()}, nil
	case errors.As(err, &exit) && exit.Signal() == "":
		return answer{exit.ExitStatus(), out.String(), said.String()}, nil
	}
	return answer{}, err
}

type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.left -= n
	if _, err := l.w.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}

func nonce() string { return rand.Text() }
