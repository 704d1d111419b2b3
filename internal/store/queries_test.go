package store_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
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
