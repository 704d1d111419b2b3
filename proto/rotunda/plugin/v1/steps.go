package pluginv1

import (
	"encoding/json"
	"fmt"
)

// CheckSteps holds a plan to its bounds, on both sides.
func CheckSteps(steps []*Step) error {
	if len(steps) > MaxSteps {
		return fmt.Errorf("a plan of %d steps, at most %d", len(steps), MaxSteps)
	}
	seen := map[string]bool{}
	for _, s := range steps {
		switch {
		case s.GetId() == "" || len(s.GetId()) > MaxTitle || seen[s.GetId()]:
			return fmt.Errorf("a step whose id is empty, too long, or not the only one: %.20q", s.GetId())
		case len(s.GetTitle()) > MaxTitle:
			return fmt.Errorf("a step whose title has %d bytes, at most %d", len(s.GetTitle()), MaxTitle)
		case len(s.GetData()) > MaxStep || len(s.GetData()) > 0 && !json.Valid(s.GetData()):
			return fmt.Errorf("a step whose data is no JSON, or longer than %d bytes", MaxStep)
		}
		seen[s.GetId()] = true
	}
	return nil
}
