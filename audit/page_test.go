package audit

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the page of events anew")

// TestPageOfEvents: docs/events.md is the catalogue.
func TestPageOfEvents(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Events

What Rotunda notes, for "rotunda events". Who tells of an event is the server where nothing else is said; what an agent or a
person's client tells is its own word. Times are Unix milliseconds.

| event | told by | meaning | reason | fields |
|---|---|---|---|---|
`)
	for _, k := range Catalogue {
		var fields []string
		for _, f := range k.Fields {
			fields = append(fields, "`"+f.Name+"`: "+f.Meaning)
		}
		b.WriteString("| `" + k.Name + "` | " + k.toldBy() + " | " + k.Meaning + " | " + k.Reason + " | " + strings.Join(fields, "; ") + " |\n")
	}
	page := filepath.Join("..", "docs", "events.md")
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(page); err != nil || string(got) != b.String() {
		t.Errorf("%s is not current (%v): go test ./audit -run TestPageOfEvents -update", page, err)
	}
}

func (k Kind) toldBy() string {
	var who []string
	if k.by == 0 || k.by&byServer != 0 {
		who = append(who, "server")
	}
	if k.by&byAgent != 0 {
		who = append(who, "agent")
	}
	if k.by&byClient != 0 {
		who = append(who, "client")
	}
	return strings.Join(who, ", ")
}
