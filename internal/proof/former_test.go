package proof

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/sdk"
)

// A key is replaced in two steps, and a person edits the record between them: the former
// key is ended all the same, whoever goes on. Until then the account does not count as
// rotated for those who were shut out before.
func TestFormerKeyIsNotForgotten(t *testing.T) {
	beside(t)
	ctx := t.Context()
	w := newContested(t, "fault")
	for _, k := range w.kinds {
		if k.kind != sdk.SSHKey {
			continue
		}
		for n, tc := range []struct {
			title string
			next  func(c cell)
		}{
			{"same-run", func(cell) { must(t, w.agent.Start(ctx)) }},
			{"another-run", func(c cell) {
				w.rotatesBy(t, c, w.second)
				must(t, w.agent.Start(ctx))
			}},
		} {
			c := cell{k, tc.title, "before-retire"}
			must(t, c.add(c.title))
			w.rotatesBy(t, c, w.agent)
			w.leaves(t, fmt.Sprint("Grace", n))
			exposed := func(want bool, when string) {
				t.Helper()
				out, err := w.CLI(ctx, nil, "doctor")
				_, list, _ := strings.Cut(string(out), "not rotated since")
				list, _, _ = strings.Cut(list, "\n")
				if got := strings.Contains(list, c.title); got != want {
					t.Errorf("%s, %s: exposed: %v, %v: %s", c, when, got, err, out)
				}
			}
			exposed(true, "after the removal")
			former, err := w.Credential(ctx, c.title, k.kind)
			must(t, err)
			w.stands(t, c)
			exposed(true, "while both keys open it")
			w.agent.Kill()
			if _, err := w.CLI(ctx, nil, "record", "edit", c.title, "--url", "https://example.test"); err != nil {
				t.Fatal(err)
			}
			exposed(true, "after an edit")
			w.release(t)
			tc.next(c)
			if left := w.unsettled(ctx, []cell{c}, time.Now().Add(patienceToSettle)); len(left) > 0 {
				t.Fatalf("%v\n%s", left, w.tells(ctx, c))
			}
			must(t, w.opens(ctx, k, c.title))
			if ok, err := k.accepts(ctx, c.title, former); err != nil || ok {
				t.Errorf("%s: the former key opens the target: %v, %v\n%s", c, ok, err, w.tells(ctx, c))
			}
			exposed(false, "in the end")
		}
		return
	}
	t.Skip("left out: this machine has no Unix accounts")
}

// leaves has somebody come who reads the accounts, and go.
func (w *world) leaves(t *testing.T, name string) {
	t.Helper()
	w.comes(t, name, "read")
	w.all(t, []string{"member", "remove", name, "--yes", "--no-rekey", "--no-rotate"})
}

// comes has somebody come who has roles on the accounts: his device is a profile of his
// name.
func (w *world) comes(t *testing.T, name, roles string) {
	t.Helper()
	token := filepath.Join(t.TempDir(), "token")
	w.all(t,
		[]string{"member", "add", name, "--out", token, "--no-wait"},
		[]string{"join", token, "--profile", strings.ToLower(name)},
		[]string{"folder", "grant", installation.Folder, name, roles, "--yes"},
	)
}

// all runs commands, one after the other.
func (w *world) all(t *testing.T, commands ...[]string) {
	t.Helper()
	for _, argv := range commands {
		if out, err := w.CLI(t.Context(), nil, argv...); err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
		}
	}
}
