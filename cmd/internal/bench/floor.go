package main

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rotunda-pam/rotunda/internal/targets"
)

// floor does by the bare client library what a rotation does to the target.
type floor struct {
	pg    *targets.PG
	login *pgconn.Config
	admin []*pgconn.PgConn // warm sessions, one for each in flight
	roles []string
}

const iterations = 4096 // of SCRAM, PostgreSQL's and its clients' own number

func newFloor(ctx context.Context, pg *targets.PG, roles int) (*floor, error) {
	f := &floor{pg: pg}
	var err error
	if f.login, err = pgconn.ParseConfig("user=u dbname=" + pg.Database + " sslmode=disable"); err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pg.CA)
	f.login.Host, f.login.Port, f.login.Fallbacks = pg.Host, uint16(pg.Port), nil
	f.login.TLSConfig = &tls.Config{ServerName: pg.ServerName, RootCAs: roots, MinVersion: tls.VersionTLS12}
	var sql []string
	for i := range roles {
		f.roles = append(f.roles, "floor_"+strconv.Itoa(i))
		sql = append(sql, "CREATE ROLE "+f.roles[i]+" LOGIN")
	}
	return f, pg.Exec(ctx, sql...)
}

func (f *floor) close() {
	for _, c := range f.admin {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_ = c.Close(ctx)
		cancel()
	}
}

// connect logs in afresh.
func (f *floor) connect(ctx context.Context, user, password string) (*pgconn.PgConn, error) {
	c := f.login.Copy()
	c.User, c.Password = user, password
	return pgconn.ConnectConfig(ctx, c)
}

// version is the server's.
func (f *floor) version(ctx context.Context) (string, error) {
	if err := f.warm(ctx, 1); err != nil {
		return "", err
	}
	return f.admin[0].ParameterStatus("server_version"), nil
}

// warm opens the administrator's sessions.
func (f *floor) warm(ctx context.Context, n int) error {
	for len(f.admin) < n {
		c, err := f.connect(ctx, f.pg.Admin, f.pg.AdminPassword.ExposeString())
		if err != nil {
			return fmt.Errorf("the administrator's session: %w", err)
		}
		f.admin = append(f.admin, c)
	}
	return nil
}

// run rotates for a time, n at once, each on a session of its own.
func (f *floor) run(ctx context.Context, verify string, n int, span time.Duration) (sample, error) {
	if err := f.warm(ctx, n); err != nil {
		return sample{}, err
	}
	before := cpuTimes(map[string]int{"postgres": f.pg.Pid()})
	self := ownCPU()
	var next atomic.Int64
	took := make([][]time.Duration, n)
	errs := make([]error, n)
	began := time.Now()
	var all sync.WaitGroup
	for w := range n {
		all.Go(func() {
			for time.Since(began) < span && errs[w] == nil {
				role := f.roles[int(next.Add(1))%len(f.roles)]
				start := time.Now()
				errs[w] = f.rotate(ctx, f.admin[w], role, verify)
				took[w] = append(took[w], time.Since(start))
			}
		})
	}
	all.Wait()
	elapsed := time.Since(began)
	for _, err := range errs {
		if err != nil {
			return sample{}, err // one says it
		}
	}
	var s sample
	for _, t := range took {
		s.took = append(s.took, t...)
	}
	s.perSecond = float64(len(s.took)) / elapsed.Seconds()
	s.cpu = perRun(before, cpuTimes(map[string]int{"postgres": f.pg.Pid()}), len(s.took))
	if s.cpu != nil {
		s.cpu["client library"] = (ownCPU() - self) / time.Duration(len(s.took))
	}
	return s, nil
}

// rotate is one rotation: a new password, its verifier, and the proof.
func (f *floor) rotate(ctx context.Context, admin *pgconn.PgConn, role, verify string) error {
	var b [18]byte
	_, _ = rand.Read(b[:]) // does not fail
	password := base64.RawURLEncoding.EncodeToString(b[:])
	salt := make([]byte, 16)
	_, _ = rand.Read(salt)
	v, err := verifier(password, salt, iterations)
	if err != nil {
		return err
	}
	if err := admin.Exec(ctx, "ALTER ROLE "+pgx.Identifier{role}.Sanitize()+" PASSWORD '"+v+"'").Close(); err != nil {
		return fmt.Errorf("change: %w", err)
	}
	if verify == "readback" {
		return readBack(ctx, admin, role, password)
	}
	c, err := f.connect(ctx, role, password)
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	return c.Close(ctx)
}

// readBack compares the stored verifier with one that is computed from the password
// and the stored salt.
func readBack(ctx context.Context, admin *pgconn.PgConn, role, password string) error {
	r := admin.ExecParams(ctx, "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1::text", [][]byte{[]byte(role)}, nil, nil, nil).Read()
	if r.Err != nil || len(r.Rows) != 1 {
		return fmt.Errorf("read back: %d rows, %w", len(r.Rows), r.Err)
	}
	stored := string(r.Rows[0][0])
	_, rest, _ := strings.Cut(strings.TrimPrefix(stored, "SCRAM-SHA-256$"), ":")
	text, _, _ := strings.Cut(rest, "$")
	salt, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	mine, err := verifier(password, salt, iterations)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(mine), []byte(stored)) != 1 {
		return errors.New("read back: the stored verifier is another password's")
	}
	return nil
}

// verifier is RFC 5802's, as PostgreSQL stores it.
func verifier(password string, salt []byte, n int) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, n, sha256.Size)
	if err != nil {
		return "", err
	}
	mac := func(name string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(name))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	b := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", n, b(salt), b(stored[:]), b(mac("Server Key"))), nil
}
