package store_test

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/store"
)

// TestListsComeLast: a list of parameters is written out when the query runs, so
// that the numbers of the parameters after it would be wrong. Only a list of more
// than one shows that, so the texts are looked at.
func TestListsComeLast(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("db", "*.sql.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no generated queries: %v", err)
	}
	query := regexp.MustCompile("(?s)= `-- name: (\\w+)(.*?)`")
	after := regexp.MustCompile(`(?s)/\*SLICE:\w+\*/\?.*(/\*SLICE|\?)`)
	lists := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range query.FindAllSubmatch(text, -1) {
			if regexp.MustCompile(`SLICE`).Match(m[2]) {
				lists++
			}
			if after.Match(m[2]) {
				t.Errorf("%s: query %s has a parameter after its list", file, m[1])
			}
		}
	}
	if lists == 0 {
		t.Error("no query with a list was found: this test looks at the wrong texts")
	}
}

// TestWhatIsDueIsFoundByIndex: the scheduler asks these at every pass, whatever the
// number of accounts and of open runs.
func TestWhatIsDueIsFoundByIndex(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("db", "scheduler.sql.go"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rotunda.db")
	s, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pool, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for name, index := range map[string]string{
		"DueRotations": "rotation_due", "NextRotationDue": "rotation_due",
		"DueRuns": "run_due", "NextRunDue": "run_due", "OverdueRuns": "run_late", "LonelyRuns": "run_lonely",
	} {
		query := regexp.MustCompile("(?s)= `(-- name: " + name + " .*?)`").FindSubmatch(text)
		if query == nil {
			t.Errorf("no query %s", name)
			continue
		}
		nulls := make([]any, strings.Count(string(query[1]), "?"))
		rows, err := pool.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+string(query[1]), nulls...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, detail)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(plan) != 1 || !strings.HasPrefix(plan[0], "SEARCH") || !strings.Contains(plan[0], "INDEX "+index+" ") {
			t.Errorf("%s: %s", name, strings.Join(plan, "; "))
		}
	}
}
