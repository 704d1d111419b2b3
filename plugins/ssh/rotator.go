package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/pool"
)

// rotator remembers its open sessions, by address: see judge.
type rotator struct {
	mu   sync.Mutex
	open map[string][]*session // by address, newest last
}

// concurrency is how many of the administrator's connections a session opens at most. A
// verb has one for itself: whoever gives up waiting for a program that hangs closes the
// connection, which would end all that others do on it.
const concurrency = 8

// session is the administrator's connections, of which there is one as long as verbs come
// one after the other.
type session struct {
	admin sdk.OpenRequest
	root  bool
	sudo  sudo
	paid  paid

	closed      func()
	connections *pool.Pool[*ssh.Client]
}

// program runs a command. A connection that the target ended while it was idle is left
// for another: finding that out by the change would end a run that has just staged its
// candidate.
func (s *session) program(ctx context.Context, command string, input []byte) (answer, error) {
	for {
		client, used, err := s.connections.Take(ctx)
		if err != nil {
			return answer{}, err
		}
		got, err := run(ctx, client, command, input)
		dead := used && errors.Is(err, errNotStarted) && ctx.Err() == nil && !alive(ctx, client)
		s.connections.Give(client, err == nil)
		if !dead {
			return got, err
		}
	}
}

// alive asks a connection on which a channel could not be opened. One that does not
// answer before the context ends is closed.
func alive(ctx context.Context, client *ssh.Client) bool {
	defer context.AfterFunc(ctx, func() { client.Close() })()
	_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
	return err == nil
}

// mustChange is what sshd says, in place of any program, to whose password has expired.
const mustChange = "Password change required"

// Open logs in and looks at who it is; it changes nothing.
func (p *rotator) Open(ctx context.Context, r sdk.OpenRequest) (sdk.Session, error) {
	s := &session{admin: r, paid: paid{turn: make(chan struct{}, 1)}}
	s.closed = func() { p.forget(s) }
	s.connections = pool.New(concurrency, func(ctx context.Context) (*ssh.Client, error) {
		client, err := login(ctx, r.Host, r.Resource, r.AdminAs.Name, r.Admin)
		if err != nil {
			return nil, openError(err)
		}
		return client, nil
	}, func(c *ssh.Client) { c.Close() })
	client, _, err := s.connections.Take(ctx)
	if err != nil {
		return nil, err
	}
	err = s.look(ctx, client)
	s.connections.Give(client, err == nil)
	if err != nil {
		return nil, err
	}
	p.remember(s)
	return s, nil
}

// look finds out who has logged in, and how he becomes root.
func (s *session) look(ctx context.Context, client *ssh.Client) error {
	command, uid := whoRuns()
	who, err := run(ctx, client, "exec "+command, nil)
	if err == nil && who.exit != 0 && strings.Contains(who.said, mustChange) {
		return &sdk.Error{Class: sdk.ClassConflict, Reason: "admin.must_change", NotSent: true, Err: errors.New("the password is right, and has expired: nothing runs there until it is changed")}
	}
	id := uid(who)
	if err != nil || id == "" {
		return &sdk.Error{Class: sdk.ClassPermission, Reason: "admin.no_shell", NotSent: true, Err: errors.New("the administrator cannot run programs there")}
	}
	if s.root = id == "0"; s.root {
		return nil
	}
	// sudo may ask a password for one program and none for another, so it is asked for the
	// one that matters.
	free, err := run(ctx, client, "exec sudo -n -k -- "+command, nil)
	switch {
	case err == nil && uid(free) == "0":
		s.sudo = freeSudo
	case s.admin.Admin.Kind == sdk.Password:
		s.sudo = paidSudo
	}
	return nil
}

// whoRuns is a command that tells whose rights it has, and reads the user id from its
// answer: empty where it has not run. A shell may greet first. What a key's forced command
// says and how it ends proves nothing: only who has run it can have put the two halves of
// the word together.
func whoRuns() (command string, uid func(answer) string) {
	one, two := nonce(), nonce()
	command = "/bin/sh -c " + quote(`printf "\n%s%s %s\n" `+one+` `+two+` "$(/usr/bin/id -u)"`)
	return command, func(got answer) string {
		_, last, _ := strings.Cut(got.out, "\n"+one+two+" ")
		id, whole := strings.CutSuffix(last, "\n")
		if got.exit != 0 || !whole || strings.Trim(id, "0123456789") != "" {
			return ""
		}
		return id
	}
}

func openError(err error) *sdk.Error {
	e := &sdk.Error{NotSent: true, Err: err}
	switch why(err) {
	case stranger:
		e.Class, e.Reason = sdk.ClassAuth, "target_identity"
	case refused:
		e.Class, e.Reason = sdk.ClassAuth, "admin.refused"
	case dialogue, further, partial:
		e.Class, e.Reason = sdk.ClassAuth, "admin.dialogue"
	case unproven:
		e.Class, e.Reason = sdk.ClassUnsupported, "auth.method"
	case unreadable:
		e.Class, e.Reason = sdk.ClassInvalid, "admin.key"
	default:
		e.Class, e.Reason = sdk.ClassUnreachable, "connection"
		if dial := (*sdk.Error)(nil); errors.As(err, &dial) { // the agent's word
			e.Class, e.Reason = dial.Class, dial.Reason
		}
	}
	return e
}

// Verify logs in afresh. With a password it runs a command, too: an expired account passes
// the login and fails there. A key has proven itself by the login, and its line may name a
// command that sshd would run instead.
func (p *rotator) Verify(ctx context.Context, v sdk.VerifyRequest) (sdk.VerifyResponse, error) {
	if v.Credential.Kind == sdk.SSHKey {
		if _, err := publicKey(v.Credential); err != nil {
			return sdk.VerifyResponse{}, err
		}
	}
	client, err := login(ctx, v.Host, v.Resource, v.Account.Name, v.Credential)
	if err != nil {
		switch why(err) {
		case refused, further:
			return p.judge(ctx, v), nil
		case stranger, unproven:
			return sdk.VerifyResponse{}, openError(err)
		case partial:
			return sdk.VerifyResponse{Reason: "second_factor"}, nil
		case dialogue:
			return sdk.VerifyResponse{Reason: "expired"}, nil
		}
		return sdk.VerifyResponse{Reason: "unreachable"}, nil
	}
	defer client.Close()
	if v.Credential.Kind == sdk.SSHKey {
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	}
	word := nonce()
	got, err := run(ctx, client, "echo "+word, nil)
	switch {
	case err != nil:
		return sdk.VerifyResponse{Reason: "unreachable"}, nil
	case got.exit == 0 && strings.TrimSpace(got.out) == word:
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	}
	// The secret was taken and no program may run: a nologin shell, or an expiry that
	// only a terminal could answer. Neither says more about the secret.
	return sdk.VerifyResponse{Reason: "no_login"}, nil
}

// Apply sets a password, or adds a public key, with the options of the present one, and
// leaves the others as they are.
func (s *session) Apply(ctx context.Context, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	if err := ctx.Err(); err != nil {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "cancelled", NotSent: true, Err: err}
	}
	if !accountName(a.Account.Name) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassNotFound, Reason: "account.missing"}, nil
	}
	if a.Candidate.Kind == sdk.SSHKey {
		key, err := publicKey(a.Candidate)
		if err != nil {
			return sdk.ApplyResponse{}, err
		}
		return s.outcome(s.run(ctx, keyAdder, a.Account.Name, key, presentKey(a.Current)))
	}
	password := a.Candidate.Secret.Expose()
	defer clear(password)
	if !oneLine(password) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.charset"}, nil
	}
	if s.byItself(a.Account.Name) {
		return s.setOwn(ctx, a.Candidate)
	}
	line := append([]byte(a.Account.Name+":"), password...)
	defer clear(line)
	return s.outcome(s.run(ctx, passwordSetter, a.Account.Name, line))
}

// Retire removes the old public key, and nothing else. A password has ended already.
// Which key it is, the private half says: the public half beside it is what somebody
// once typed in.
func (s *session) Retire(ctx context.Context, r sdk.RetireRequest) (sdk.RetireResponse, error) {
	if r.Old.Kind != sdk.SSHKey || r.Old.Secret.Len() == 0 && len(r.Old.Public) == 0 {
		return sdk.RetireResponse{Outcome: sdk.Changed}, nil
	}
	keep, err := publicKey(r.Keep)
	if err != nil {
		return sdk.RetireResponse{}, err
	}
	old, err := publicKey(sdk.Credential{Kind: sdk.SSHKey, Secret: r.Old.Secret})
	if err != nil {
		return sdk.RetireResponse{}, err
	}
	if bytes.Equal(keep, old) {
		return sdk.RetireResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "key.same", NotSent: true, Err: errors.New("the key to keep is the one to remove")}
	}
	got, err := s.outcome(s.run(ctx, keyDropper, r.Account.Name, keyBody(keep), keyBody(old)))
	if err == nil && got.Outcome == sdk.Changed {
		err = s.ended(ctx, r)
	}
	if err != nil {
		return sdk.RetireResponse{}, err
	}
	return sdk.RetireResponse{Outcome: got.Outcome}, nil
}

// ended asks the server itself for a key that is gone from ~/.ssh/authorized_keys: keys may
// stand elsewhere, too. Its no counts only where it asks the key that is kept to sign: an
// account that is locked, or not let in, has no key taken. Where nobody answers, or answers
// so, the key is not known to have ended.
func (s *session) ended(ctx context.Context, r sdk.RetireRequest) error {
	client, err := login(ctx, s.admin.Host, s.admin.Resource, r.Account.Name, r.Old, r.Keep)
	switch {
	case err == nil:
		client.Close()
	case why(err) == another:
		return nil
	case why(err) == refused:
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "not_judged", Err: errors.New("the old key is gone from the account's ~/.ssh/authorized_keys, and whether it stands elsewhere nobody knows: " +
			"the server takes neither it nor the new one, as of an account that is locked or not let in")}
	case why(err) != partial: // there the key was taken, and something else stood in the way
		e := openError(fmt.Errorf("ask the server whether it still takes the old key: %w", err))
		e.NotSent = false
		return e
	}
	return &sdk.Error{Class: sdk.ClassConflict, Reason: "key.elsewhere", Err: errors.New("the old key is gone from the account's ~/.ssh/authorized_keys, and the server still takes it: " +
		"remove it from ~/.ssh/authorized_keys2, from the other files of AuthorizedKeysFile, or from where AuthorizedKeysCommand has it (sshd -T -C user=NAME tells both)")}
}

// publicKey is a key's line for authorized_keys, made from its private half. A public
// half that is given must be of the same key.
func publicKey(c sdk.Credential) (line []byte, err error) {
	invalid := func(reason string, err error) ([]byte, error) {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: reason, NotSent: true, Err: err}
	}
	signer, err := privateKey(c.Secret)
	if err != nil {
		return invalid("key.private", err)
	}
	if len(c.Public) > 0 {
		given, _, options, rest, err := ssh.ParseAuthorizedKey(c.Public)
		if err != nil || len(options) > 0 || len(bytes.TrimSpace(rest)) > 0 {
			return invalid("key.public", errors.New("the public key is not one line of type and key"))
		}
		if !bytes.Equal(given.Marshal(), signer.PublicKey().Marshal()) {
			return invalid("key.mismatch", errors.New("the public key is not that of the private key"))
		}
	}
	return bytes.TrimSpace(ssh.MarshalAuthorizedKey(signer.PublicKey())), nil
}

func privateKey(secret sdk.Secret) (ssh.AlgorithmSigner, error) {
	pem := secret.Expose()
	defer clear(pem)
	signer, err := ssh.ParsePrivateKey(pem)
	if key, ok := signer.(ssh.AlgorithmSigner); ok && err == nil {
		return key, nil
	}
	return nil, errors.New("the private key cannot be read: it must be an OpenSSH or PEM key without a passphrase")
}

// presentKey is the body of the key that an account has, or nothing where that is not known.
// Its public half counts where the private one cannot be read, as under a passphrase.
func presentKey(c sdk.Credential) []byte {
	if c.Kind != sdk.SSHKey {
		return nil
	}
	if line, err := publicKey(sdk.Credential{Kind: sdk.SSHKey, Secret: c.Secret}); err == nil {
		return keyBody(line)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(c.Public)
	if err != nil {
		return nil
	}
	return keyBody(ssh.MarshalAuthorizedKey(key))
}

// keyBody is the base64 part of a line, by which keys are compared.
func keyBody(line []byte) []byte { return bytes.Fields(line)[1] }

// accountName tells whether an account can have this name at all.
func accountName(name string) bool {
	return oneLine([]byte(name)) && !strings.Contains(name, ":")
}

func oneLine(b []byte) bool { return len(b) > 0 && !bytes.ContainsAny(b, "\n\r\x00") }

// run runs a program with the account's name and further lines as its input, as root
// where the administrator is not the account itself.
func (s *session) run(ctx context.Context, p program, name string, lines ...[]byte) (answer, error) {
	var rest []byte
	defer func() { clear(rest) }()
	for _, l := range lines {
		rest = append(append(rest, l...), '\n')
	}
	return s.feed(ctx, p, name, rest)
}

// feed runs a program with a name in its second line and whatever follows as its input.
func (s *session) feed(ctx context.Context, p program, name string, rest []byte) (answer, error) {
	var input bytes.Buffer
	defer func() { clear(input.Bytes()) }()
	command := "exec " + p.command
	if own := p.own && name == s.admin.AdminAs.Name; !s.root && !own {
		switch s.sudo {
		case freeSudo:
			command = "exec sudo -n -- " + p.command
		case paidSudo:
			if taken, err := s.pays(ctx); err != nil || !taken {
				return answer{exit: exitSudo}, err
			}
			// sudo reads its own line and leaves the rest of the input alone.
			command = "exec " + withPassword + p.command
			word := s.admin.Admin.Secret.Expose()
			defer clear(word)
			input.Write(word)
			input.WriteByte('\n')
		default:
			return answer{exit: exitNotRoot}, nil
		}
	}
	input.WriteString(firstLine + "\n" + name + "\n")
	input.Write(rest)
	got, err := s.program(ctx, command, input.Bytes())
	if err != nil || got.exit == exitSudo {
		s.paid.doubt()
	}
	return got, err
}

// outcome reads how a script ended. A program that ended with one of these codes has
// changed nothing; one whose end is not known may have.
func (s *session) outcome(got answer, err error) (sdk.ApplyResponse, error) {
	if errors.Is(err, errNotStarted) {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "connection", NotSent: true, Err: err}
	}
	if own := (*sdk.Error)(nil); errors.As(err, &own) { // of a login, with which nothing began
		return sdk.ApplyResponse{}, own
	}
	if err != nil {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "reply.lost", Err: err}
	}
	unchanged := func(class sdk.Class, reason string) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
	}
	switch got.exit {
	case 0:
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case exitMissing:
		return unchanged(sdk.ClassNotFound, "account.missing")
	case exitNoTool:
		return unchanged(sdk.ClassUnsupported, "target.tools")
	case exitNotRoot:
		return unchanged(sdk.ClassPermission, "admin.not_root")
	case exitNoHome:
		return unchanged(sdk.ClassConflict, "account.no_home")
	case exitKeys:
		return unchanged(sdk.ClassConflict, "keys.unwritable")
	case exitOptions:
		return unchanged(sdk.ClassConflict, "key.options")
	case exitKeepGone:
		return unchanged(sdk.ClassConflict, "keys.keep_missing")
	case exitLocked:
		return unchanged(sdk.ClassConflict, "locked")
	case exitRefused:
		return unchanged(sdk.ClassConflict, "chpasswd.refused")
	case exitUnclear:
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassConflict, Reason: "chpasswd.refused", Err: errors.New("chpasswd failed, and may have set the password before it did")}
	case exitOtherOne:
		return unchanged(sdk.ClassUnsupported, "self")
	case exitForeign:
		return unchanged(sdk.ClassConflict, "account.exists")
	case exitUser:
		return unchanged(sdk.ClassConflict, "account.refused")
	case exitHalf:
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassConflict, Reason: "account.half_made", Err: errors.New("the account is there, and useradd failed: look for what it misses, such as a home folder")}
	case exitNoFile:
		return unchanged(sdk.ClassNotFound, "file.missing")
	case exitFile:
		return unchanged(sdk.ClassConflict, "file.unwritable")
	case exitFolder:
		return unchanged(sdk.ClassConflict, "file.folder")
	case exitBusy:
		return unchanged(sdk.ClassUnreachable, "target.busy")
	case exitInput:
		return unchanged(sdk.ClassPermission, "admin.sudo")
	case exitSudo:
		if !s.root {
			return unchanged(sdk.ClassPermission, "admin.sudo")
		}
	}
	return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInternal, Reason: "script", Err: fmt.Errorf("the program on the target ended with %d", got.exit)}
}

// Close ends the connections.
func (s *session) Close() error {
	s.closed()
	s.connections.Close()
	return nil
}
