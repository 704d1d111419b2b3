package proof

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// scriptSays is a script that runs after a rotation, and says something.
func scriptSays(name, words string) []byte {
	return []byte(fmt.Sprintf(`--[[ rotunda
name    = %q
version = "1.0.0"
kind    = "after_rotation"
about   = "Says that it ran."
modules = ["log"]
]]
local log = require "log"

function run(job)
	log.info(%q)
	return sdk.changed
end
`, name, words))
}

// approved makes an account after whose rotations a script of its own runs, as the honest
// case shows.
func (w *hostileWorld) approved(t *testing.T) (account, title string) {
	t.Helper()
	account, title = w.account(t), w.name("script")
	w.cli(t, "script", "add", w.scriptFile(t, scriptSays(title, "the approved one has run")), "--folder", w.folder(t).String())
	w.cli(t, "record", "edit", account, "--script", title)
	o, err := w.Rotate(t.Context(), account, "--agent", w.agent.Name)
	if err != nil || o.Scripts != "done" || !strings.Contains(o.Detail, "the approved one has run") {
		t.Fatalf("the honest case: %v: %+v: %s", err, o, w.agent.Tail())
	}
	w.opensTarget(t, account)
	return account, title
}

func (w *hostileWorld) scriptFile(t *testing.T, text []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script.lua")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// replaceFile has the server serve another file with a script's record, as whoever has the
// record's key can.
func (w *hostileWorld) replaceFile(t *testing.T, l loot, text []byte) {
	t.Helper()
	r, err := record.Parse(l.data)
	if err == nil {
		err = r.SetText(record.ScriptText, text)
	}
	if err != nil {
		t.Fatal(err)
	}
	plain, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	box := trust.SealData(l.key, plain)
	w.sql(t, "UPDATE record SET data = ?, data_digest = ? WHERE org = 1 AND record_uid = ?", box, seal.Hash(box).Bytes(), l.ref.Record.Bytes())
}

// A script's file is replaced by one that was approved elsewhere: alone, or with a statement
// that a member signs who may edit, and not approve.
func scriptReplaced(t *testing.T, w *hostileWorld) {
	_, elsewhere := w.approved(t)
	other := w.loot(t, w.ref(t, elsewhere))
	parsed, err := record.Parse(other.data)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := parsed.Text(record.ScriptText)

	t.Run("the file alone", func(t *testing.T) {
		account, title := w.approved(t)
		ref := w.ref(t, title)
		l, restore := w.loot(t, ref), w.keepRecord(t, ref)
		w.refused(t, account, trust.ScriptChanged, func() { w.replaceFile(t, l, text) })
		w.fails(t, trust.ScriptChanged, "script", "show", title)
		restore()
		w.works(t, account)
	})

	t.Run("signed by who may not approve", func(t *testing.T) {
		account, title := w.approved(t)
		member, bob := w.member(t, trust.Read|trust.Edit)
		defer w.remove(t, member)
		l := w.loot(t, w.ref(t, title))
		w.refused(t, account, trust.ScriptChanged, func() {
			m, err := script.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			s := l.statement
			s.Seq, s.Prev = s.Seq+1, nil
			s.GetScript().Name, s.GetScript().Sha256, s.GetScript().ManifestSha256 = m.Name, seal.Hash(text).Bytes(), seal.Hash(m.Comment).Bytes()
			w.serveStatement(t, l.ref, l.key, s.Seq, w.sign(t, bob.stolen(), l.key, s))
			w.replaceFile(t, l, text)
		})
	})
}
