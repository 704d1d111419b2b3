package proof

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// A folder was re-keyed, and the server goes on with the former key: with the copies that
// it kept, or, helped by somebody who could read the folder once, with that key sealed
// anew to everybody.
func formerFolderKey(t *testing.T, w *hostileWorld) {
	title := w.account(t)
	w.works(t, title)
	r := w.ref(t, title)
	if _, err := w.file.Exec("CREATE TEMP TABLE former_keys AS SELECT * FROM main.folder_key WHERE folder_uid = ?", r.Folder.Bytes()); err != nil {
		t.Fatal(err)
	}
	former := w.folderKey(t, w.ada(t).stolen(), r.Folder)
	// Records that other rows have left broken are named, and left.
	if _, err := w.CLI(t.Context(), nil, "folder", "rekey", r.Folder.String(), "--yes"); err != nil {
		t.Log(err)
	}
	w.works(t, title)
	state, _ := w.log(t).Folder(r.Folder)
	tablet := w.newDevice(t)
	opens := func() {
		t.Helper()
		if _, err := tablet.CLI(t.Context(), nil, "record", "get", path(r)); err != nil {
			t.Fatalf("the honest case of the new device: %v", err)
		}
	}
	opens()
	key := w.loot(t, r).key

	for _, c := range []struct {
		what  string
		newer bool // also to a device that is newer than the copies
		worst func()
	}{
		{"the copies of before", false, func() {
			w.sql(t, `UPDATE folder_key AS k SET sealed = f.sealed FROM former_keys f
				WHERE f.recipient_id = k.recipient_id AND k.org = 1 AND k.folder_uid = ? AND k.key_version = ?`, r.Folder.Bytes(), state.Version)
		}},
		{"sealed anew, the record's key under it", true, func() {
			w.serveOwnFolderKey(t, r.Folder, state.Version, former)
			w.sql(t, "UPDATE record SET record_key = ? WHERE org = 1 AND record_uid = ?", trust.SealRecordKey(former, key), r.Record.Bytes())
		}},
	} {
		keys, record := w.keep(t, "folder_key", "org = 1 AND folder_uid = ?", r.Folder.Bytes()), w.keepRecord(t, r)
		t.Run(c.what, func(t *testing.T) {
			w.refusedByAll(t, title, r, trust.FolderKeySwapped, c.worst)
			since := w.now(t)
			w.untouched(t, func() {
				w.fails(t, trust.FolderKeySwapped, "record", "add", w.name("new"), "--folder", r.Folder.String(), "--resource", "db", "--login", "nobody", "--no-secret")
			})
			w.told(t, since, "client.refused", trust.FolderKeySwapped)
			if !c.newer {
				return
			}
			since = w.now(t)
			w.untouched(t, func() {
				if _, err := tablet.CLI(t.Context(), nil, "folder", "list", "--json"); reasonOf(err) != string(trust.FolderKeySwapped) {
					t.Errorf("the new device ends by %q, want %s: %v", reasonOf(err), trust.FolderKeySwapped, err)
				}
			})
			w.told(t, since, "client.refused", trust.FolderKeySwapped)
		})
		keys()
		record()
	}
	opens()
	w.works(t, title)
}

// newDevice is a further device of Ada's, which joins now and is gone at the row's end.
func (w *hostileWorld) newDevice(t *testing.T) *installation.Installation {
	t.Helper()
	name := w.name("tablet")
	file := filepath.Join(w.Dir, name+".token")
	w.cli(t, "device", "add", name, "--out", file, "--no-wait")
	i := w.elsewhere(t, name)
	if _, err := i.CLI(t.Context(), nil, "join", file, "--unlock-for", "12h"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := w.CLI(context.WithoutCancel(t.Context()), nil, "device", "remove", name, "--yes", "--no-rekey", "--no-rotate"); err != nil {
			t.Error(err)
		}
	})
	w.cli(t, "log", "verify") // the first device seals the folders' keys to it
	return i
}
