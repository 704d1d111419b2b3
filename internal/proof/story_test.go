package proof

import (
	"context"
	"fmt"
	"strings"
)

// story is all that is known of an account whose fate was not as it must be: its runs
// and events as the vault tells them, what the target says to each value that the vault
// has, and what the programs logged of its runs. No secret is in it.
func (w *world) story(ctx context.Context, k kindOfTarget, title string) string {
	var b strings.Builder
	tell := func(args ...string) []byte {
		out, err := w.CLI(ctx, nil, args...)
		fmt.Fprintf(&b, "--- rotunda %s\n%s", strings.Join(args, " "), out)
		if err != nil {
			fmt.Fprintf(&b, "%v\n", err)
		}
		return out
	}
	var list struct {
		Runs []struct {
			ID string `json:"run_id"`
		}
	}
	fmt.Fprintf(&b, "--- runs\n")
	if err := w.JSON(ctx, &list, nil, "run", "list", "--account", title, "--limit", "6"); err != nil {
		fmt.Fprintln(&b, err)
	}
	for _, r := range list.Runs {
		tell("run", "show", r.ID)
	}
	tell("record", "get", title)
	tell("record", "history", title)
	tell("events", "--limit", "60")
	return b.String()
}
