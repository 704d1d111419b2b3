package targets

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// LDAP starts an OpenLDAP that ends with the test; lines are as StartLDAP's. It installs
// what is missing, or skips the test and says why.
func LDAP(t TB, lines ...string) *LDAPServer {
	t.Helper()
	ctx, dir, ok := forTest(t, OpenLDAP)
	if !ok {
		return nil
	}
	l, err := StartLDAP(ctx, filepath.Join(dir, "slapd"), lines...)
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

// Ferret starts a FerretDB that ends with the test. It is of the second tier: where it is
// not asked for, and where it cannot be had, it skips the test and says why.
func Ferret(t TB) *FerretDBServer {
	t.Helper()
	ctx, dir, ok := forTest(t, FerretDB)
	if !ok {
		return nil
	}
	f, err := StartFerretDB(ctx, filepath.Join(dir, "ferretdb"))
	if fatal(t, err) {
		return nil
	}
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Logf("stop FerretDB: %v", err)
		}
	})
	return f
}

// Seaweed starts a SeaweedFS that ends with the test. It is of the second tier, as
// [Ferret] is.
func Seaweed(t TB) *SeaweedServer {
	t.Helper()
	ctx, dir, ok := forTest(t, SeaweedFS)
	if !ok {
		return nil
	}
	s, err := StartSeaweedFS(ctx, filepath.Join(dir, "seaweedfs"))
	if fatal(t, err) {
		return nil
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Logf("stop SeaweedFS: %v", err)
		}
	})
	return s
}

// Kube starts a Kubernetes API that ends with the test. It is of the second tier, as
// [Ferret] is.
func Kube(t TB) *KubeServer {
	t.Helper()
	ctx, dir, ok := forTest(t, Kubernetes)
	if !ok {
		return nil
	}
	k, err := StartKube(ctx, filepath.Join(dir, "kube"))
	if fatal(t, err) {
		return nil
	}
	t.Cleanup(func() {
		if err := k.Stop(); err != nil {
			t.Logf("stop kube-apiserver: %v", err)
		}
	})
	return k
}

// Rabbit starts a RabbitMQ that ends with the test. It is of the second tier, as [Ferret] is.
func Rabbit(t TB) *RabbitServer {
	t.Helper()
	ctx, dir, ok := forTest(t, RabbitMQ)
	if !ok {
		return nil
	}
	r, err := StartRabbit(ctx, filepath.Join(dir, "rabbitmq"))
	if fatal(t, err) {
		return nil
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Logf("stop RabbitMQ: %v", err)
		}
	})
	return r
}

// Nginx starts an nginx that ends with the test. It is of the second tier, as [Ferret] is.
func Nginx(t TB) *NginxServer {
	t.Helper()
	ctx, dir, ok := forTest(t, NginxLight)
	if !ok {
		return nil
	}
	n, err := StartNginx(ctx, filepath.Join(dir, "nginx"))
	if fatal(t, err) {
		return nil
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Logf("stop nginx: %v", err)
		}
	})
	return n
}

// TestAll is the variable that says which tests of the second tier are run: none (unset),
// those whose server this machine has already ("cached"), or all ("1").
const TestAll = "ROTUNDA_TEST_ALL"

// Calls is after how many calls a plugin's kit looks for what they leave behind: 10,000 in
// the second tier, else 1,000, which take a tenth of the time and show lost descriptors as
// well, though of lost memory only more than 20 kB a call.
func Calls() int {
	if os.Getenv(TestAll) == "" {
		return 1000
	}
	return 10_000
}

// Longer leaves a test to the second tier that takes long without a server of that tier.
func Longer(t TB) {
	t.Helper()
	if os.Getenv(TestAll) == "" {
		t.Skipf("left out: it takes long, and is of the second tier: make test-all, or %s=1", TestAll)
	}
}

// wanted tells why a server's tests are left out, if they are.
func wanted(server Server) error {
	if !slices.Contains(SecondTier, server) {
		return nil
	}
	switch all := os.Getenv(TestAll); {
	case all == "":
		return fmt.Errorf("%w: tests on %s are of the second tier: make test-all, or %s=1", errLeftOut, server, TestAll)
	case all == "cached" && !Installed(server):
		return fmt.Errorf("%w: this machine does not have %s yet: make test-all gets it", errLeftOut, server)
	}
	return nil
}

var errLeftOut = errors.New("not asked for")

// installing is how long it may take to get a server; the slowest is built for half an
// hour, and other builds come first.
const installing = time.Hour

// forTest installs the server and makes a folder that is removed after the test.
func forTest(t TB, server Server) (context.Context, string, bool) {
	t.Helper()
	if fatal(t, wanted(server)) {
		return nil, "", false
	}
	install, cancel := context.WithTimeout(t.Context(), installing)
	t.Cleanup(cancel)
	if fatal(t, Install(install, func(s string) { t.Logf("%s", s) }, server)) {
		return nil, "", false
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
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
	case errors.Is(err, ErrUnavailable), errors.Is(err, errLeftOut):
		t.Skipf("left out: %v", err)
	default:
		t.Fatalf("%v", err)
	}
	return true
}
