package store

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pressly/goose/v3"
)

// A database of any former version is brought to what a new one is.
func TestFormerVersionsAreBroughtUp(t *testing.T) {
	all, err := steps()
	if err != nil {
		t.Fatal(err)
	}
	want := schemaAfter(t, len(all), all)
	if len(want) == 0 {
		t.Fatal("a new database has no tables")
	}
	for version := 1; version < len(all); version++ {
		if got := schemaAfter(t, version, all); !slices.Equal(got, want) {
			t.Errorf("one of version %d becomes\n%v\nwant\n%v", version, got, want)
		}
	}
}

// schemaAfter makes a database of a version, has it opened, and gives its schema.
func schemaAfter(t *testing.T, version int, all []*goose.Migration) (schema []string) {
	t.Helper()
	ctx, path := context.Background(), filepath.Join(t.TempDir(), "test.db")
	do := func(f func(*sql.DB) error) {
		t.Helper()
		pool, err := sql.Open("sqlite", "file:"+path)
		if err == nil {
			err = f(pool)
			pool.Close()
		}
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
	}
	do(func(pool *sql.DB) error {
		p, err := goose.NewProvider(goose.DialectSQLite3, pool, nil, goose.WithGoMigrations(all...), goose.WithDisableGlobalRegistry(true))
		if err == nil {
			_, err = p.UpTo(ctx, int64(version))
		}
		return err
	})
	s, err := Open(ctx, path)
	if err != nil {
		t.Fatalf("version %d: %v", version, err)
	}
	s.Close()
	do(func(pool *sql.DB) error {
		rows, err := pool.QueryContext(ctx, "SELECT name, coalesce(sql, '') FROM sqlite_master ORDER BY name")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name, text string
			if err := rows.Scan(&name, &text); err != nil {
				return err
			}
			schema = append(schema, fmt.Sprintf("%s: %s", name, text))
		}
		return rows.Err()
	})
	return schema
}
