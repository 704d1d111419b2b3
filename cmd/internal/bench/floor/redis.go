package floor

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Redis is a server whose users have two passwords while one is changed.
type Redis struct {
	server *targets.RedisServer
	tls    *tls.Config
	admin  []redis.Conn
	users  int
}

// StartRedis starts one.
func StartRedis(ctx context.Context, dir string) (Target, error) {
	s, err := targets.StartRedis(ctx, filepath.Join(dir, "redis"))
	if err != nil {
		return nil, err
	}
	return &Redis{server: s, tls: trusting(s.CA)}, nil
}

// Name of server and library.
func (r *Redis) Name() string { return "Redis, " + module("github.com/gomodule/redigo") }

// Endpoint of the server, with the administrator that plugins use.
func (r *Redis) Endpoint() Endpoint {
	return Endpoint{
		Resource: sdk.Resource{Address: r.server.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}}, Pins: [][sha256.Size]byte{r.server.SPKI},
		Admin: credential(r.server.AdminPassword), AdminAs: sdk.Account{Name: r.server.Admin},
	}
}

// Accounts makes users.
func (r *Redis) Accounts(ctx context.Context, n int) ([]*Account, error) {
	var all []*Account
	for range n {
		a := &Account{sdk.Account{Name: "user" + strconv.Itoa(r.users)}, Password()}
		if err := r.server.CreateUser(ctx, a.Name, a.Secret); err != nil {
			return nil, err
		}
		r.users++
		all = append(all, a)
	}
	return all, nil
}

func (r *Redis) connect(ctx context.Context, user string, password sdk.Secret) (redis.Conn, error) {
	return redis.DialContext(ctx, "tcp", r.server.Address, redis.DialUseTLS(true), redis.DialTLSConfig(r.tls),
		redis.DialUsername(user), redis.DialPassword(password.ExposeString()), redis.DialReadTimeout(time.Minute))
}

// Warm logs the administrator in.
func (r *Redis) Warm(ctx context.Context, n int) error {
	for len(r.admin) < n {
		c, err := r.connect(ctx, r.server.Admin, r.server.AdminPassword)
		if err != nil {
			return fmt.Errorf("the administrator's session: %w", err)
		}
		r.admin = append(r.admin, c)
	}
	return nil
}

// Rotate adds the new password, logs in with it, and ends the former one; each change is
// saved.
func (r *Redis) Rotate(ctx context.Context, session int, a *Account, _ string) error {
	former := a.Secret
	a.Secret = Password()
	if err := r.set(ctx, session, a.Name, "#", a.Secret); err != nil {
		return fmt.Errorf("change: %w", err)
	}
	c, err := r.connect(ctx, a.Name, a.Secret)
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	return errors.Join(c.Close(), r.set(ctx, session, a.Name, "!", former))
}

func (r *Redis) set(ctx context.Context, session int, user, rule string, password sdk.Secret) error {
	c := r.admin[session]
	if _, err := redis.DoContext(c, ctx, "ACL", "SETUSER", user, fmt.Sprintf("%s%x", rule, sha256.Sum256(password.Expose()))); err != nil {
		return err
	}
	_, err := redis.DoContext(c, ctx, "ACL", "SAVE")
	return err
}

// Pid of the server.
func (r *Redis) Pid() int { return r.server.Pid() }

// Close ends it.
func (r *Redis) Close() error {
	for _, c := range r.admin {
		_ = c.Close()
	}
	return r.server.Stop()
}
