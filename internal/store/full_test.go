package store

import (
	"database/sql"
	"errors"
	"path/filepath"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/store/db"
)

func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rotunda.db")
	first, err := Open(t.Context(), path) // the schema
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	pool, err := sql.Open("sqlite", dsn(path)+"&_pragma=max_page_count(200)")
	if err != nil {
		t.Fatal(err)
	}
	s, err := open(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put := func(id string, size int) error {
		return s.Write(t.Context(), func(q *db.Queries) error {
			return q.CreateOrg(t.Context(), db.CreateOrgParams{OrgID: []byte(id), Head: make([]byte, size), Created: 1})
		})
	}
	if err := put("small", 1); err != nil {
		t.Fatal(err)
	}
	if err := put("large", 10<<20); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	if err := put("small again", 1); err != nil {
		t.Errorf("after a write that did not fit: %v", err)
	}
	err = s.Read(t.Context(), func(q *db.Queries) error {
		_, err := q.OrgByID(t.Context(), []byte("small"))
		if _, gone := q.OrgByID(t.Context(), []byte("large")); !errors.Is(gone, ErrNotFound) {
			t.Errorf("large: %v", gone)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
