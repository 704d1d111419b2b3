package targets

import (
	"context"
	"errors"
	"path/filepath"
	"time"
)

// TB is the part of [testing.TB] that is needed; a demonstration does not link the
// testing package.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Cleanup(func())
	Context() context.Context
}

// Postgres starts a PostgreSQL that ends with the test. It installs what is missing,
// or skips the test and says why.
func Postgres(t TB, settings ...string) *PG {
	t.Helper()
	ctx, dir, ok := forTest(t, PostgreSQL)
	if !ok {
		return nil
	}
	pg, err := StartPostgres(ctx, filepath.Join(dir, "postgres"), settings...)
	if fatal(t, err) {
		return nil
	}
	t.Cleanup(func() {
		if err := pg.Stop(); err != nil {
			t.Logf("stop PostgreSQL: %v", err)
		}
	})
	return pg
}

// OpenSSH starts an sshd that ends with the test. It installs what is missing, or
// skips the test and says why.
func OpenSSH(t TB, o SSHDOptions) *SSHD {
	t.Helper()
	ctx, dir, ok := forTest(t, OpenSSHD)
	if !ok {
		return nil
	}
	s, err := StartSSHD(ctx, filepath.Join(dir, "sshd"), o)
	if fatal(t, err) {
		return nil
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Logf("stop sshd: %v", err)
		}
	})
	return s
}

// RedisWithACL starts a Redis that ends with the test. It installs what is missing, or
// skips the test and says why.
func RedisWithACL(t TB, lines ...string) *RedisServer {
	t.Helper()
	ctx, dir, ok := forTest(t, Redis)
	if !ok {
		return nil
	}
	r, err := StartRedis(ctx, filepath.Join(dir, "redis"), lines...)
	if fatal(t, err) {
		return nil
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Logf("stop Redis: %v", err)
		}
	})
	return r
}

// LDAP starts an OpenLDAP that ends with the test. It installs what is missing, or
// skips the test and says why.
func LDAP(t TB) *LDAPServer {
	t.Helper()
	ctx, dir, ok := forTest(t, OpenLDAP)
	if !ok {
		return nil
	}
	l, err := StartLDAP(ctx, filepath.Join(dir, "slapd"))
	if fatal(t, err) {
		return nil
	}
	t.Cleanup(func() {
		if err := l.Stop(); err != nil {
			t.Logf("stop OpenLDAP: %v", err)
		}
	})
	return l
}

// Maria starts a MariaDB that ends with the test. It installs what is missing, or skips
// the test and says why.
func Maria(t TB, settings ...string) *MariaDBServer {
	t.Helper()
	ctx, dir, ok := forTest(t, MariaDB)
	if !ok {
		return nil
	}
	m, err := StartMariaDB(ctx, filepath.Join(dir, "mariadb"), settings...)
	if fatal(t, err) {
		return nil
	}
	t.Cleanup(func() {
		if err := m.Stop(); err != nil {
			t.Logf("stop MariaDB: %v", err)
		}
	})
	return m
}

// AD starts a controller of an Active Directory domain that ends with the test. It
// installs what is missing, or skips the test and says why.
func AD(t TB, settings ...string) *ADServer {
	t.Helper()
	ctx, dir, ok := forTest(t, SambaAD)
	if !ok {
		return nil
	}
	s, err := StartAD(ctx, filepath.Join(dir, "samba"), settings...)
	if fatal(t, err) {
		return nil
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Logf("stop Samba: %v", err)
		}
	})
	return s
}

// forTest installs the server and makes a folder that is removed after the test.
func forTest(t TB, server Server) (context.Context, string, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	if fatal(t, Install(ctx, func(s string) { t.Logf("%s", s) }, server)) {
		return nil, "", false
	}
	dir, remove, err := WorkDir()
	if fatal(t, err) {
		return nil, "", false
	}
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Logf("remove the test servers' folder: %v", err)
		}
	})
	return ctx, dir, true
}

func fatal(t TB, err error) bool {
	t.Helper()
	switch {
	case err == nil:
		return false
	case errors.Is(err, ErrUnavailable):
		t.Skipf("left out: %v", err)
	default:
		t.Fatalf("%v", err)
	}
	return true
}
