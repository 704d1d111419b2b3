package main

import (
	"context"
	"crypto/md5"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/xdg-go/scram"
	"github.com/xdg-go/stringprep"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/rotunda-pam/rotunda/sdk"
)

// account is a user of a database.
type account struct{ name, db string }

func accountOf(a sdk.Account) account {
	if a.Scope == "" {
		return account{a.Name, "admin"}
	}
	return account{a.Name, a.Scope}
}

func (a account) String() string { return a.db + "." + a.name }

// possible tells whether there can be such a user, and of such a database, at all.
func (a account) possible() bool {
	fits := func(s string) bool { return s != "" && utf8.ValidString(s) && !strings.ContainsRune(s, 0) }
	return fits(a.name) && fits(a.db) && !strings.ContainsAny(a.db, `/\. "`) && len(a.db) < 64
}

// maxPassword bounds what is sent; MongoDB names no limit.
const maxPassword = 1 << 10

// sendable tells whether a password can be one of SCRAM-SHA-256 (RFC 7677: by RFC 4013).
func sendable(password string) bool {
	if password == "" || len(password) > maxPassword || !utf8.ValidString(password) {
		return false
	}
	prepared, err := stringprep.SASLprep.Prepare(password)
	return err == nil && prepared != ""
}

// target is where to log in and how it proves itself.
type target struct {
	host     sdk.Host
	resource sdk.Resource
}

func newTarget(h sdk.Host, r sdk.Resource) (target, error) {
	return target{host: h, resource: r}, sdk.DecodeConfig(r, &Config{})
}

// connect logs in afresh: one try, by one mechanism, so that a wrong password counts once.
// Nothing is sent before the server has proven itself.
func (t target) connect(ctx context.Context, who account, secret sdk.Secret) (*conn, error) {
	if !who.possible() {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true, Err: errors.New("no user can have this name and database")}
	}
	secure, err := sdk.TLSConfig(t.host, t.resource)
	if err != nil {
		return nil, err
	}
	line, err := t.host.Dialer.DialContext(ctx, "tcp", t.resource.Address)
	if err != nil {
		return nil, lineError(ctx, err)
	}
	if secure != nil {
		s := tls.Client(line, secure)
		if err := s.HandshakeContext(ctx); err != nil {
			line.Close()
			return nil, handshakeError(ctx, err)
		}
		line = s
	}
	c := &conn{net: line}
	if err := c.login(ctx, who, secret); err != nil {
		c.hangUp()
		return nil, loginError(ctx, err)
	}
	return c, nil
}

func (c *conn) hangUp() { _ = c.net.Close() }

// login asks for the user's mechanisms, logs in by the best, and has the server say whom it
// took that for.
func (c *conn) login(ctx context.Context, who account, secret sdk.Secret) error {
	reply, err := c.run(ctx, "admin", bson.D{
		{Key: "hello", Value: 1},
		{Key: "saslSupportedMechs", Value: who.String()},
		{Key: "client", Value: bson.D{
			{Key: "application", Value: bson.D{{Key: "name", Value: "rotunda"}}},
			{Key: "driver", Value: bson.D{{Key: "name", Value: "rotunda"}, {Key: "version", Value: "1"}}},
			{Key: "os", Value: bson.D{{Key: "type", Value: runtime.GOOS}}},
		}},
	})
	if err != nil {
		return err
	}
	var hello struct {
		Mechanisms []string `bson:"saslSupportedMechs"`
	}
	if err := bson.Unmarshal(reply, &hello); err != nil {
		return fmt.Errorf("what the server answers is not understood: %w", err)
	}
	by := best(hello.Mechanisms)
	if len(hello.Mechanisms) == 0 {
		by = sha1 // the user is missing, which a login is to show
	}
	if by == "" {
		return errMethod
	}
	if err := c.scram(ctx, by, who, secret); err != nil {
		return err
	}
	return c.mustBe(ctx, who)
}

// The mechanisms by which a user logs in with a password.
const (
	sha1   = "SCRAM-SHA-1"
	sha256 = "SCRAM-SHA-256"
)

// best is the mechanism to log in by; empty where none takes a password.
func best(mechanisms []string) string {
	for _, m := range []string{sha256, sha1} {
		if slices.Contains(mechanisms, m) {
			return m
		}
	}
	return ""
}

var (
	errMethod = errors.New("user does not log in by SCRAM")
	errProof  = errors.New("server does not prove that it knows the password")
	errSecret = errors.New("no password of SCRAM-SHA-256 has these characters")
	errOther  = errors.New("server took the login for another user")
)

// client makes what computes a user's proofs.
func client(mechanism string, who account, secret sdk.Secret) (*scram.Client, error) {
	password := secret.ExposeString()
	if mechanism == sha1 {
		// MongoDB's own: the password is a digest of it (specifications, auth, SCRAM-SHA-1).
		sum := md5.Sum([]byte(who.name + ":mongo:" + password))
		return scram.SHA1.NewClientUnprepped(who.name, hex.EncodeToString(sum[:]), "")
	}
	prepared, err := stringprep.SASLprep.Prepare(password)
	if err != nil {
		return nil, errSecret // the error has the character
	}
	return scram.SHA256.NewClientUnprepped(who.name, prepared, "") // names are not prepared
}

// saslStep is a server's part of the conversation.
type saslStep struct {
	Conversation int32  `bson:"conversationId"`
	Done         bool   `bson:"done"`
	Payload      []byte `bson:"payload"`
}

// scram logs in.
func (c *conn) scram(ctx context.Context, mechanism string, who account, secret sdk.Secret) error {
	maker, err := client(mechanism, who, secret)
	if err != nil {
		return err
	}
	ours := maker.NewConversation()
	first, err := ours.Step("")
	if err != nil {
		return err
	}
	next := bson.D{
		{Key: "saslStart", Value: 1},
		{Key: "mechanism", Value: mechanism},
		{Key: "payload", Value: bson.Binary{Data: []byte(first)}},
		{Key: "options", Value: bson.D{{Key: "skipEmptyExchange", Value: true}}},
	}
	for range 4 { // two of them have something to say, and some servers want an empty one
		reply, err := c.run(ctx, who.db, next)
		if err != nil {
			return err
		}
		var theirs saslStep
		if err := bson.Unmarshal(reply, &theirs); err != nil {
			return fmt.Errorf("what the server answers is not understood: %w", err)
		}
		var answer string
		if !ours.Done() {
			if tooMany(string(theirs.Payload)) {
				return errors.New("server wants more iterations than a login may take")
			}
			if answer, err = ours.Step(string(theirs.Payload)); err != nil {
				return fmt.Errorf("%w: %w", errProof, err)
			}
		}
		if theirs.Done {
			if !ours.Valid() {
				return errProof
			}
			return nil
		}
		next = bson.D{
			{Key: "saslContinue", Value: 1},
			{Key: "conversationId", Value: theirs.Conversation},
			{Key: "payload", Value: bson.Binary{Data: []byte(answer)}},
		}
	}
	return errors.New("server does not end the login")
}

// maxIterations bounds the work that a server can make; MongoDB's defaults are 10,000 and
// 15,000.
const maxIterations = 10_000_000

// tooMany reads the iterations that a server asks for (RFC 5802, server-first-message).
func tooMany(message string) bool {
	for field := range strings.SplitSeq(message, ",") {
		if i, ok := strings.CutPrefix(field, "i="); ok {
			n, err := strconv.Atoi(i)
			return err != nil || n > maxIterations
		}
	}
	return false
}

// mustBe asks the server whom it has let in: a command that only a login gives an answer
// to, where a ping is answered to anybody, and that needs no role.
func (c *conn) mustBe(ctx context.Context, who account) error {
	reply, err := c.run(ctx, who.db, bson.D{{Key: "connectionStatus", Value: 1}})
	if err != nil {
		return err
	}
	var status struct {
		Info struct {
			Users []struct {
				User string `bson:"user"`
				DB   string `bson:"db"`
			} `bson:"authenticatedUsers"`
		} `bson:"authInfo"`
	}
	if err := bson.Unmarshal(reply, &status); err != nil {
		return fmt.Errorf("what the server answers is not understood: %w", err)
	}
	for _, u := range status.Info.Users {
		if u.User == who.name && u.DB == who.db {
			return nil
		}
	}
	return errOther
}

// lineError classes what is not an answer of the server.
func lineError(ctx context.Context, err error) *sdk.Error {
	out := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "connection", NotSent: true, Err: err}
	var ours *sdk.Error
	switch {
	case ctx.Err() != nil:
		out.Reason = "deadline"
	case errors.As(err, &ours): // the dialer's word
		out.Class, out.Reason = ours.Class, ours.Reason
	}
	return out
}

func handshakeError(ctx context.Context, err error) error {
	var ours *sdk.Error
	switch {
	case ctx.Err() != nil, errors.As(err, &ours), broken(err):
		return lineError(ctx, err)
	}
	// No TLS at all, for one: whoever is there has not proven itself.
	return &sdk.Error{Class: sdk.ClassAuth, Reason: "target_identity", NotSent: true, Err: err}
}

// broken says whether the line ended.
func broken(err error) bool {
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// loginError classes a login that failed.
func loginError(ctx context.Context, err error) error {
	out := &sdk.Error{NotSent: true, Err: err}
	var answer *refusal
	switch {
	case ctx.Err() != nil, broken(err):
		return lineError(ctx, err)
	case errors.As(err, &answer):
		out.Class, out.Reason = loginRefused(answer.code)
	case errors.Is(err, errMethod):
		out.Class, out.Reason = sdk.ClassUnsupported, "account.method"
	case errors.Is(err, errProof):
		out.Class, out.Reason = sdk.ClassAuth, "target_identity"
	case errors.Is(err, errSecret):
		out.Class, out.Reason = sdk.ClassInvalid, "secret.charset"
	case errors.Is(err, errOther):
		out.Class, out.Reason = sdk.ClassInternal, "login.other"
	default:
		out.Class, out.Reason = sdk.ClassUnsupported, "target.protocol"
	}
	return out
}
