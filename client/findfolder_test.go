package client

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	"github.com/rotunda-pam/rotunda/proto/rotunda/client/v1/clientv1connect"
)

// showFolders has the vault show of its folders what change leaves of each: false is none.
func (e *estate) showFolders(change func(uid seal.ID, f *clientv1.FolderView) bool) {
	e.vault.twist = func(m proto.Message) {
		if a, ok := m.(*clientv1.ListFoldersResponse); ok {
			a.Folders = slices.DeleteFunc(a.Folders, func(f *clientv1.FolderView) bool { return !change(idOr(f.FolderUid), f) })
		}
	}
}

// restored is a vault that takes nothing back.
type restored struct {
	clientv1connect.VaultServiceClient
}

func (restored) Write(context.Context, *connect.Request[clientv1.WriteRequest]) (*connect.Response[clientv1.WriteResponse], error) {
	err := connect.NewError(connect.CodeFailedPrecondition, errors.New("it is being recovered"))
	why, _ := connect.NewErrorDetail(&clientv1.ErrorDetail{Reason: string(trust.LogRecovering)})
	err.AddDetail(why)
	return nil, err
}

// Bob has made a folder of the name that Ada's has, and reads what is put into it. A server
// that hides hers does not have his taken for it.
func TestFolderWithheld(t *testing.T) {
	e := newEstate(t)
	ctx := t.Context()
	ada := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
	_, _, err := ada.folderKey(ctx, e.folder)
	e.must(err)
	hide := func() { e.showFolders(func(uid seal.ID, _ *clientv1.FolderView) bool { return uid != e.folder }) }
	hide() // else he is told that the name is taken
	bob := e.asBob(ada)
	his, err := bob.AddFolder(ctx, "Databases")
	e.must(err)
	e.vault.twist = nil

	find := func(t *testing.T, c *Client, name string, uid seal.ID, reason string) {
		t.Helper()
		f, err := c.FindFolder(ctx, name)
		if f.UID != uid || ReasonOf(err) != reason {
			t.Errorf("%s is found as %s, wanted %s: %v, wanted %q", name, f.UID, uid, err, reason)
		}
	}
	none := seal.ID{}
	t.Run("all are shown", func(t *testing.T) {
		e.vault.twist = nil
		c := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
		find(t, c, "Databases", none, "ambiguous")
		find(t, c, e.folder.String(), e.folder, "")
		find(t, c, his.UID.String(), his.UID, "")
		find(t, c, "Nowhere", none, "not_found")
	})
	t.Run("hers is not", func(t *testing.T) {
		hide()
		e.vault.noted = nil
		c := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
		find(t, c, "Databases", none, folderWithheld)
		find(t, c, "Nowhere", none, folderWithheld)
		find(t, c, his.UID.String(), his.UID, "")
		_, err := c.FindFolder(ctx, "Databases")
		if ClassOf(err) != Refused || !strings.Contains(err.Error(), e.folder.String()) {
			t.Errorf("it is not named: %v", err)
		}
		if _, err := c.FindRecord(ctx, "Databases/app"); ReasonOf(err) != folderWithheld {
			t.Errorf("a record in it: %v", err)
		}
		if !slices.Contains(e.vault.noted, "client.refused "+folderWithheld) {
			t.Errorf("it is not told of: %v", e.vault.noted)
		}
	})
	// An honest server cannot show a name that it was not given, nor seal a key.
	for name, without := range map[string]func(*clientv1.FolderView){
		"hers has no key yet": func(f *clientv1.FolderView) { f.SealedKey = nil },
		"hers has no name":    func(f *clientv1.FolderView) { f.Data = nil },
	} {
		t.Run(name, func(t *testing.T) {
			e.showFolders(func(uid seal.ID, f *clientv1.FolderView) bool {
				if uid == e.folder {
					without(f)
				}
				return true
			})
			c := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
			var noticed []string
			c.options.Notice = func(n Notice) { noticed = append(noticed, n.Code) }
			find(t, c, "Databases", his.UID, "")
			if !slices.Contains(noticed, "folder_nameless") {
				t.Errorf("it is not said: %v", noticed)
			}
			noticed = nil
			find(t, c, his.UID.String(), his.UID, "")
			if slices.Contains(noticed, "folder_nameless") {
				t.Error("it is said of a uid, too")
			}
		})
	}
	t.Run("the right to it was withdrawn a moment ago", func(t *testing.T) {
		e.vault.twist = nil
		e.must(bob.fetchLog(ctx))
		e.must(ada.Grant(ctx, e.folder, e.bob, 0))
		hide()
		find(t, bob, "Databases", his.UID, "")
	})
	// A server may say that it was put back from a backup: that it has lost something else
	// is no reason for believing that it has lost her folder.
	t.Run("hers is not, by a server that says it was restored", func(t *testing.T) {
		e.vault.twist = nil
		c := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
		e.must(c.fetchLog(ctx))
		_, err := c.AddFolder(ctx, "Other")
		e.must(err)
		hide()
		hides := e.vault.twist
		e.vault.twist = func(m proto.Message) {
			hides(m)
			if a, ok := m.(*clientv1.GetLogResponse); ok {
				a.HeadEpoch = e.vault.log.Head().Epoch - 1
				digest, _ := e.vault.log.DigestAt(a.HeadEpoch)
				a.HeadDigest, a.Changes = digest.Bytes(), nil
			}
		}
		var noticed []string
		c.options.Notice = func(n Notice) { noticed = append(noticed, n.Code) }
		c.conn = &enrol.Conn{VaultServiceClient: restored{e.vault}}
		c.sync.at = time.Time{}
		find(t, c, "Databases", none, folderWithheld)
		find(t, c, his.UID.String(), his.UID, "")
		if !slices.Contains(noticed, "log_kept") {
			t.Errorf("the server did not say it: %v", noticed)
		}
	})
}
