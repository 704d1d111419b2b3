package agent

import (
	"os"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Every metric is on the page for whoever runs agents, and the page has no other.
func TestMetricsOfThePage(t *testing.T) {
	page, err := os.ReadFile("../docs/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(rotunda_agent_[a-z_]+)` \\|").FindAllSubmatch(page, -1) {
		shown[string(m[1])] = true
	}
	ch := make(chan *prometheus.Desc, 64)
	collector{}.Describe(ch)
	newSteps().Describe(ch)
	close(ch)
	for d := range ch {
		name := regexp.MustCompile(`fqName: "([a-z_]+)"`).FindStringSubmatch(d.String())[1]
		if !shown[name] {
			t.Errorf("%s is not on the page", name)
		}
		delete(shown, name)
	}
	for name := range shown {
		t.Errorf("the page has %s, and the agent has not", name)
	}
}
