package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Snapshot copies the database at path, as it is at one moment, to a new file (mode
// 0600). A server that has it open goes on reading and writing meanwhile.
func Snapshot(ctx context.Context, path, into string) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("copy the database: %w", err)
	}
	f, err := os.OpenFile(into, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // SQLite takes an empty file
	if err != nil {
		return fmt.Errorf("copy the database: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("copy the database: %w", err)
	}
	return withFile(ctx, path, func(pool *sql.DB) error {
		_, err := pool.ExecContext(ctx, "VACUUM INTO ?", into)
		return err
	})
}

// Check reads all of a database file, which nobody else has open, and fails where it
// is damaged.
func Check(ctx context.Context, path string) error {
	return withFile(ctx, path, func(pool *sql.DB) error {
		var said string
		if err := pool.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&said); err != nil {
			return err
		}
		if said != "ok" {
			return fmt.Errorf("%w: %s", ErrCorrupt, said)
		}
		return nil
	})
}

func withFile(ctx context.Context, path string, f func(pool *sql.DB) error) error {
	full, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	pool, err := sql.Open("sqlite", dsn(full))
	if err != nil {
		return fmt.Errorf("open the database %s: %w", path, err)
	}
	pool.SetMaxOpenConns(1)
	if err := errors.Join(f(pool), pool.Close()); err != nil {
		return failure("the database "+path, class(err), err)
	}
	return nil
}
