package machineapi

import (
	"context"
	"errors"
	"fmt"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
)

// Bounds of sub-folders.
const (
	maxSubfolders = 5000     // below one root
	maxFolderData = 16 << 10 // bytes of a name's ciphertext
	wrappedCBC    = 64       // a key under another by CBC: iv, 32 bytes, padding
	maxDeleted    = 100_000  // records that one delete_folder takes along
)

// createFolder makes a sub-folder below a root folder or another sub-folder.
func (a *API) createFolder(ctx context.Context, r *request) (answer, error) {
	var in ksm.CreateFolderRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if len(in.FolderUID) == 0 || len(in.SharedFolderKey) != wrappedCBC || len(in.Data) == 0 || len(in.Data) > maxFolderData {
		return nil, ksm.Refuse(ksm.CodeBadRequest, "a new folder needs a uid, its key wrapped under the root folder's, and a name of at most %d bytes", maxFolderData)
	}
	return nil, a.Store.Write(ctx, func(q *db.Queries) error {
		root, err := r.editFolder(ctx, q, in.SharedFolderUID)
		if err != nil {
			return err
		}
		parent := []byte(in.ParentUID)
		if string(parent) == string(root.uid) {
			parent = nil
		}
		if len(parent) > 0 {
			row, err := q.SubfolderByUID(ctx, db.SubfolderByUIDParams{Org: r.client.Org, FolderUid: parent})
			if isNotFound(err) || err == nil && string(row.RootUid) != string(root.uid) {
				return ksm.Refuse(ksm.CodeBadRequest, "the parent is no folder below the shared folder")
			}
			if err != nil {
				return fmt.Errorf("read folder: %w", err)
			}
		}
		n, err := q.CountSubfoldersOf(ctx, db.CountSubfoldersOfParams{Org: r.client.Org, RootUid: root.uid})
		if err != nil {
			return fmt.Errorf("count folders: %w", err)
		}
		if n >= maxSubfolders {
			return ksm.Refuse(ksm.CodeTooLarge, "the shared folder has %d folders, at most %d are kept", n, maxSubfolders)
		}
		if _, err := q.FolderByUID(ctx, db.FolderByUIDParams{Org: r.client.Org, FolderUid: in.FolderUID}); !isNotFound(err) {
			if err != nil {
				return fmt.Errorf("read folder: %w", err)
			}
			return ksm.Refuse(ksm.CodeBadRequest, "a folder with this uid exists already")
		}
		err = q.AddSubfolder(ctx, db.AddSubfolderParams{
			Org: r.client.Org, FolderUid: in.FolderUID, RootUid: root.uid, ParentUid: parent,
			FolderKey: in.SharedFolderKey, Data: in.Data, Created: r.now.UnixMilli(),
		})
		if errors.Is(err, store.ErrExists) {
			return ksm.Refuse(ksm.CodeBadRequest, "a folder with this uid exists already")
		}
		if err != nil {
			return fmt.Errorf("write folder: %w", err)
		}
		return nil
	})
}

// subfolder reads a sub-folder below a root in which the application may edit.
func (a *API) subfolder(ctx context.Context, q *db.Queries, r *request, uid []byte) (db.Subfolder, error) {
	row, err := q.SubfolderByUID(ctx, db.SubfolderByUIDParams{Org: r.client.Org, FolderUid: uid})
	if isNotFound(err) || len(uid) == 0 {
		return row, ksm.Refuse(ksm.CodeAccessDenied, "there is no such sub-folder among those shared to this application")
	}
	if err != nil {
		return row, fmt.Errorf("read folder: %w", err)
	}
	_, err = r.editFolder(ctx, q, row.RootUid)
	return row, err
}

// updateFolder renames a sub-folder. A root folder's name is its members'.
func (a *API) updateFolder(ctx context.Context, r *request) (answer, error) {
	var in ksm.UpdateFolderRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if len(in.Data) == 0 || len(in.Data) > maxFolderData {
		return nil, ksm.Refuse(ksm.CodeBadRequest, "a folder needs a name of at most %d bytes", maxFolderData)
	}
	return nil, a.Store.Write(ctx, func(q *db.Queries) error {
		if _, err := a.subfolder(ctx, q, r, in.FolderUID); err != nil {
			return err
		}
		err := q.RenameSubfolder(ctx, db.RenameSubfolderParams{Data: in.Data, Org: r.client.Org, FolderUid: in.FolderUID})
		if err != nil {
			return fmt.Errorf("write folder: %w", err)
		}
		return nil
	})
}

// deleteFolder deletes sub-folders, each with an outcome of its own.
func (a *API) deleteFolder(ctx context.Context, r *request) (answer, error) {
	var in ksm.DeleteFolderRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if len(in.FolderUIDs) > maxRequested {
		return nil, ksm.Refuse(ksm.CodeTooLarge, "more than %d folders to delete", maxRequested)
	}
	var out ksm.DeletedFolders
	err := a.Store.Write(ctx, func(q *db.Queries) error {
		out = ksm.DeletedFolders{Folders: []ksm.DeletedFolder{}}
		for _, uid := range in.FolderUIDs {
			d := ksm.DeletedFolder{FolderUID: ksm.URL(uid), ResponseCode: ksm.CodeOK}
			err := a.deleteTree(ctx, q, r, uid, in.ForceDeletion)
			if refused, ok := errors.AsType[*ksm.Error](err); ok {
				d.ResponseCode, d.ErrorMessage = refused.Code, refused.Message
			} else if err != nil {
				return err
			}
			out.Folders = append(out.Folders, d)
		}
		return nil
	})
	return out, err
}

// deleteTree deletes a sub-folder: empty, or by force with all below it. It
// looks at everything before it deletes anything, since a refusal keeps what the
// call did before.
func (a *API) deleteTree(ctx context.Context, q *db.Queries, r *request, uid []byte, force bool) error {
	top, err := a.subfolder(ctx, q, r, uid)
	if err != nil {
		return err
	}
	all, err := q.SubfolderKeysOf(ctx, db.SubfolderKeysOfParams{Org: r.client.Org, RootUid: top.RootUid})
	if err != nil {
		return fmt.Errorf("read folders: %w", err)
	}
	children := make(map[string][][]byte)
	for _, f := range all {
		children[string(f.ParentUid)] = append(children[string(f.ParentUid)], f.FolderUid)
	}
	tree := [][]byte{top.FolderUid}
	for i := 0; i < len(tree) && len(tree) <= len(all); i++ {
		tree = append(tree, children[string(tree[i])]...)
	}
	records, err := q.SizesInSubfolders(ctx, db.SizesInSubfoldersParams{
		Org: r.client.Org, FolderUid: top.RootUid, SubFolders: tree,
	})
	if err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	if !force && (len(tree) > 1 || len(records) > 0) {
		return ksm.Refuse(codeNotEmpty, "the folder is not empty")
	}
	if len(records) > maxDeleted {
		return ksm.Refuse(ksm.CodeTooLarge, "the folder holds more than %d records", maxDeleted)
	}
	for _, record := range records {
		if record.StatementSeq > 0 {
			return ksm.Refuse(ksm.CodeAccessDenied, "the folder holds a record that a person manages: an application may not delete it")
		}
	}
	for _, found := range records {
		record, err := q.RecordByUID(ctx, db.RecordByUIDParams{Org: r.client.Org, RecordUid: found.RecordUid})
		if err != nil {
			return fmt.Errorf("read record: %w", err)
		}
		if err := a.deleteRecord(ctx, q, r, record); err != nil {
			return err
		}
	}
	for _, f := range tree {
		if err := q.DeleteSubfolder(ctx, db.DeleteSubfolderParams{Org: r.client.Org, FolderUid: f}); err != nil {
			return fmt.Errorf("delete folder: %w", err)
		}
	}
	return nil
}

const codeNotEmpty = "not_empty"
