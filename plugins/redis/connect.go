package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/gomodule/redigo/redis"

	"github.com/rotunda-pam/rotunda/sdk"
)

// target is where to log in and how it proves itself.
type target struct {
	host     sdk.Host
	resource sdk.Resource
	unsaved  bool
}

func newTarget(h sdk.Host, r sdk.Resource) (target, error) {
	var c Config
	if err := sdk.DecodeConfig(r, &c); err != nil {
		return target{}, err
	}
	return target{host: h, resource: r, unsaved: c.Unsaved}, nil
}

// login is one connection on which somebody is logged in.
type login struct {
	net   net.Conn
	redis redis.Conn
}

// connect logs in afresh: one AUTH, so that a wrong password counts once. Nothing secret
// is sent before the server has proven itself.
func (t target) connect(ctx context.Context, name string, secret sdk.Secret) (*login, error) {
	secure, err := sdk.TLSConfig(t.host, t.resource)
	if err != nil {
		return nil, err
	}
	c, err := t.host.Dialer.DialContext(ctx, "tcp", t.resource.Address)
	if err != nil {
		return nil, lineError(ctx, err)
	}
	if secure != nil {
		s := tls.Client(c, secure)
		if err := s.HandshakeContext(ctx); err != nil {
			c.Close()
			return nil, handshakeError(ctx, err)
		}
		c = s
	}
	l := &login{net: c, redis: redis.NewConn(c, 0, 0)}
	password := secret.Expose()
	defer clear(password)
	if _, err := l.do(ctx, "AUTH", name, password); err != nil {
		l.hangUp()
		return nil, authError(ctx, err)
	}
	return l, nil
}

// do sends one command. Where ctx ends before the answer the connection ends with it.
func (l *login) do(ctx context.Context, command string, args ...any) (any, error) {
	stop := context.AfterFunc(ctx, func() { l.net.Close() })
	defer stop()
	return l.redis.Do(command, args...)
}

// alive tells whether the connection can be used for another command.
func (l *login) alive() bool { return l.redis.Err() == nil }

func (l *login) hangUp() { _ = l.redis.Close() }

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
	var network net.Error
	switch {
	case ctx.Err() != nil, errors.As(err, &ours):
		return lineError(ctx, err)
	case errors.As(err, &network) && network.Timeout(), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, new(*net.OpError)):
		return lineError(ctx, err)
	}
	// No TLS at all, for one: whoever is there has not proven itself.
	return &sdk.Error{Class: sdk.ClassAuth, Reason: "target_identity", NotSent: true, Err: err}
}

// authError reads the answer to AUTH. An error's first word is its code
// (https://redis.io/docs/latest/develop/reference/protocol-spec, simple errors).
func authError(ctx context.Context, err error) error {
	var answer redis.Error
	if !errors.As(err, &answer) {
		return lineError(ctx, err)
	}
	out := &sdk.Error{NotSent: true, Err: err}
	switch code(answer) {
	case "WRONGPASS": // or there is no such user, or it is switched off
		out.Class, out.Reason = sdk.ClassAuth, "bad_secret"
	case "LOADING", "BUSY", "MASTERDOWN":
		out.Class, out.Reason = sdk.ClassUnreachable, "target.busy"
	default:
		out.Class, out.Reason = sdk.ClassUnsupported, "login.refused"
	}
	return out
}

func code(e redis.Error) string {
	word, _, _ := strings.Cut(string(e), " ")
	return word
}
