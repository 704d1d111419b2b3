package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// markdown gives every page of the repository, by its path from the root.
func markdown(t *testing.T) map[string]string {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("left out: not a git checkout: %v", err)
	}
	pages := map[string]string{}
	for _, name := range strings.Fields(string(out)) {
		text, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		pages[name] = string(text)
	}
	return pages
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	fenced  = regexp.MustCompile("(?ms)^```.*?^```")
)

// Every relative link leads to a file that is there, and every anchor to a heading.
func TestLinks(t *testing.T) {
	pages, followed := markdown(t), 0
	for name, text := range pages {
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			to, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			followed++
			path := filepath.Join(filepath.Dir(name), to)
			if to == "" {
				path = name
			}
			if _, err := os.Stat(filepath.Join("..", path)); err != nil {
				t.Errorf("%s links to %s, which is not there", name, m[1])
				continue
			}
			if anchor != "" && !hasHeading(pages[path], anchor) {
				t.Errorf("%s links to %s: the page has no such heading", name, m[1])
			}
		}
	}
	if followed < 30 {
		t.Errorf("only %d links were found", followed)
	}
}

// Every file and folder of ours that a page names is there.
func TestPathsThatAreNamed(t *testing.T) {
	tree, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for _, e := range tree {
		if e.IsDir() && e.Name() != "bin" && !strings.HasPrefix(e.Name(), ".") {
			ours = append(ours, e.Name())
		}
	}
	path := regexp.MustCompile("`((?:" + strings.Join(ours, "|") + ")/[A-Za-z0-9_./-]+)`")
	named := 0
	for name, text := range markdown(t) {
		for _, m := range path.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			named++
			if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
				t.Errorf("%s names %s, which is not there", name, m[1])
			}
		}
	}
	if named < 10 {
		t.Errorf("only %d paths are named", named)
	}
}

// hasHeading compares as GitHub makes anchors of headings.
func hasHeading(page, anchor string) bool {
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		slug := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		if strings.ReplaceAll(slug, " ", "-") == anchor {
			return true
		}
	}
	return false
}

// Every test that a page names is there: `folder TestName`.
func TestTestsThatAreNamed(t *testing.T) {
	named := 0
	for name, text := range markdown(t) {
		for _, m := range regexp.MustCompile("`([a-z][a-z/]*) (Test[A-Za-z]+)`").FindAllStringSubmatch(text, -1) {
			named++
			files, err := filepath.Glob(filepath.Join("..", m[1], "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, f := range files {
				code, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				found = found || strings.Contains(string(code), "func "+m[2]+"(")
			}
			if !found {
				t.Errorf("%s names the test %s of %s, which is not there", name, m[2], m[1])
			}
		}
	}
	if named < 20 {
		t.Errorf("only %d tests are named", named)
	}
}
