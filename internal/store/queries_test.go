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

// TestWhatIsAskedOftenIsFoundByIndex: the scheduler asks for what is due at every pass,
// whatever the number of accounts and of open runs; and runs that ended badly are few among
// many that did not.
func TestWhatIsAskedOftenIsFoundByIndex(t *testing.T) {
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
	for file, queries := range map[string]map[string][]string{
		"scheduler.sql.go": {
			"DueRotations": {"rotation_due"}, "NextRotationDue": {"rotation_due"},
			"DueRuns": {"run_due"}, "NextRunDue": {"run_due"}, "OverdueRuns": {"run_late"}, "LonelyRuns": {"run_lonely"},
		},
		"vault.sql.go": {
			"BadRunsBefore": {"run_bad"}, "UnmendedRunsBefore": {"run_bad", "run_account"},
			"UnmendedDependentsBefore": {"run_bad", "run_account"}, "UnmendedScriptsBefore": {"run_bad", "run_account"},
		},
	} {
		text, err := os.ReadFile(filepath.Join("db", file))
		if err != nil {
			t.Fatal(err)
		}
		for name, indexes := range queries {
			query := regexp.MustCompile("(?s)= `(-- name: " + name + " .*?)`").FindSubmatch(text)
			if query == nil {
				t.Errorf("no query %s", name)
				continue
			}
			plan := lookups(t, pool, string(query[1]))
			for n, index := range indexes {
				if len(plan) != len(indexes) || !strings.HasPrefix(plan[n], "SEARCH") || !strings.Contains(plan[n], "INDEX "+index+" ") {
					t.Errorf("%s: %s", name, strings.Join(plan, "; "))
				}
			}
		}
	}
}

// lookups are the tables that a query goes through, and how it finds its rows in each.
func lookups(t *testing.T, pool *sql.DB, query string) (plan []string) {
	t.Helper()
	rows, err := pool.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, make([]any, strings.Count(query, "?"))...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		// Runs of one millisecond are ordered by their ids afterwards.
		if !strings.HasPrefix(detail, "CORRELATED") && detail != "USE TEMP B-TREE FOR LAST TERM OF ORDER BY" {
			plan = append(plan, detail)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return plan
}
