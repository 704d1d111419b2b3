package machineapi

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// Bounds of an answer.
const (
	maxAnswered = 40 << 20 // bytes of ciphertext; base64 makes it a third longer
	atOnce      = 500      // rows in one query
)

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }

// shared is a folder that an application may read, with the folder's current
// key wrapped for it. A folder whose key is newer than the wrapping is not
// shared until a member's client wraps the new one: the application could not
// open it.
type shared struct {
	uid     []byte
	wrapped []byte
	version int64
	edit    bool
}

func (r *request) share(f db.AppFolder) (shared, bool) {
	uid := seal.ID(f.FolderUid)
	roles := r.log.Roles(r.owner, uid)
	state, ok := r.log.Folder(uid)
	if !ok || !roles.Has(trust.Read) || int64(state.Version) != f.KeyVersion {
		return shared{}, false
	}
	return shared{f.FolderUid, f.Wrapped, f.KeyVersion, roles.Has(trust.Edit)}, true
}

func (r *request) sharedFolders(ctx context.Context, q *db.Queries) ([]shared, error) {
	rows, err := q.AppFolderKeys(ctx, db.AppFolderKeysParams{Org: r.client.Org, AppID: r.owner[:]})
	if err != nil {
		return nil, fmt.Errorf("read shared folders: %w", err)
	}
	var out []shared
	for _, row := range rows {
		if s, ok := r.share(row); ok {
			out = append(out, s)
		}
	}
	return out, nil
}

// sharedFolder refuses a folder that the application may not read.
func (r *request) sharedFolder(ctx context.Context, q *db.Queries, uid []byte) (shared, error) {
	row, err := q.AppFolderKey(ctx, db.AppFolderKeyParams{Org: r.client.Org, AppID: r.owner[:], FolderUid: uid})
	if err != nil && !isNotFound(err) {
		return shared{}, fmt.Errorf("read shared folder: %w", err)
	}
	s, ok := shared{}, false
	if err == nil {
		s, ok = r.share(row)
	}
	if !ok {
		return shared{}, ksm.Refuse(ksm.CodeAccessDenied, "the folder is not shared to this application")
	}
	return s, nil
}

// editFolder refuses a folder in which the application may not change anything.
func (r *request) editFolder(ctx context.Context, q *db.Queries, uid []byte) (shared, error) {
	s, err := r.sharedFolder(ctx, q, uid)
	if err == nil && !s.edit {
		err = ksm.Refuse(ksm.CodeAccessDenied, "the application may not change the folder")
	}
	return s, err
}

// answerHead begins the answer of get_secret and get_folders.
func (a *API) answerHead(ctx context.Context, q *db.Queries, r *request) (*ksm.GetAnswer, error) {
	app, err := q.AppByID(ctx, db.AppByIDParams{Org: r.client.Org, AppID: r.owner[:]})
	if err != nil {
		return nil, fmt.Errorf("read application: %w", err)
	}
	out := &ksm.GetAnswer{
		AppData: ksm.URL(app.AppData), ExpiresOn: r.client.AccessExpires, Folders: []ksm.Folder{}, Records: []ksm.Record{},
	}
	if r.binding {
		key, owner := ksm.Std(r.client.EncryptedAppKey), ksm.Std(app.OwnerPub)
		out.EncryptedAppKey, out.AppOwnerPublicKey = &key, &owner
	}
	return out, nil
}

// getSecret answers with the shared folders and the records below them. With
// requested records or folders, only those records; what is not there is left
// out, since clients look for titles and uids alike. The folders come all the
// same, empty where nothing below was asked for: clients take from the last
// answer the keys under which they create.
func (a *API) getSecret(ctx context.Context, r *request) (answer, error) {
	var in ksm.GetRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if len(in.RequestedRecords)+len(in.RequestedFolders) > maxRequested {
		return nil, ksm.Refuse(ksm.CodeTooLarge, "more than %d records and folders requested", maxRequested)
	}
	if err := a.large(ctx, r); err != nil {
		return nil, err
	}
	var out *ksm.GetAnswer
	err := a.Store.Read(ctx, func(q *db.Queries) error {
		var err error
		if out, err = a.answerHead(ctx, q, r); err != nil {
			return err
		}
		folders, err := r.sharedFolders(ctx, q)
		if err != nil {
			return err
		}
		size := answered(0)
		for _, f := range folders {
			rows, err := a.recordsOf(ctx, q, r, f, in, &size)
			if err != nil {
				return err
			}
			records, err := a.present(ctx, q, r, f, rows, &size)
			if err != nil {
				return err
			}
			out.Folders = append(out.Folders, ksm.Folder{FolderUID: ksm.URL(f.uid), FolderKey: ksm.Std(f.wrapped), Records: records})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

const maxRequested = 1000

func contains(list ksm.UIDs, uid []byte) bool {
	return slices.ContainsFunc(list, func(u []byte) bool { return string(u) == string(uid) })
}

// answered counts the bytes of a whole answer, before they are read.
type answered int64

// around is what an item of an answer has around its ciphertext, at most, in bytes: a
// file's address is the longest.
const around = 256

// add counts items with so many bytes of ciphertext in all.
func (s *answered) add(bytes, items int64) error {
	if *s += answered(bytes + items*around); *s > maxAnswered {
		return ksm.Refuse(ksm.CodeTooLarge, "what is shared exceeds %d bytes: share less, or request records by uid or by folder", maxAnswered)
	}
	return nil
}

// recordsOf reads a folder's records, or those asked for.
func (a *API) recordsOf(ctx context.Context, q *db.Queries, r *request, f shared, in ksm.GetRequest, size *answered) (out []db.Record, err error) {
	uids, err := a.uidsOf(ctx, q, r, f, in, size)
	if err != nil {
		return nil, err
	}
	for part := range slices.Chunk(uids, atOnce) {
		rows, err := q.RecordsByUID(ctx, db.RecordsByUIDParams{Org: r.client.Org, Uids: part})
		if err != nil {
			return nil, fmt.Errorf("read records: %w", err)
		}
		for _, row := range rows {
			if row.KeyVersion == f.version { // else it waits for its new wrapping
				out = append(out, row)
			}
		}
	}
	slices.SortFunc(out, func(a, b db.Record) int { return slices.Compare(a.RecordUid, b.RecordUid) })
	return out, nil
}

// uidsOf names the records that recordsOf reads, and counts them.
func (a *API) uidsOf(ctx context.Context, q *db.Queries, r *request, f shared, in ksm.GetRequest, size *answered) (out [][]byte, err error) {
	if len(in.RequestedRecords) == 0 && len(in.RequestedFolders) == 0 || contains(in.RequestedFolders, f.uid) {
		after := []byte{}
		for {
			rows, err := q.SizesInFolder(ctx, db.SizesInFolderParams{Org: r.client.Org, FolderUid: f.uid, After: after, N: atOnce})
			if err != nil {
				return nil, fmt.Errorf("count records: %w", err)
			}
			for _, row := range rows {
				if err := size.add(row.Size, 1); err != nil {
					return nil, err
				}
				out = append(out, row.RecordUid)
			}
			if len(rows) < atOnce {
				return out, nil
			}
			after = rows[len(rows)-1].RecordUid
		}
	}
	have := make(map[string]bool)
	if len(in.RequestedFolders) > 0 {
		rows, err := q.SizesInSubfolders(ctx, db.SizesInSubfoldersParams{
			Org: r.client.Org, FolderUid: f.uid, SubFolders: in.RequestedFolders,
		})
		if err != nil {
			return nil, fmt.Errorf("count records: %w", err)
		}
		for _, row := range rows {
			if err := size.add(row.Size, 1); err != nil {
				return nil, err
			}
			out = append(out, row.RecordUid)
			have[string(row.RecordUid)] = true
		}
	}
	if len(in.RequestedRecords) > 0 {
		rows, err := q.SizesOf(ctx, db.SizesOfParams{Org: r.client.Org, Uids: in.RequestedRecords})
		if err != nil {
			return nil, fmt.Errorf("count records: %w", err)
		}
		for _, row := range rows {
			if string(row.FolderUid) != string(f.uid) || have[string(row.RecordUid)] {
				continue
			}
			if err := size.add(row.Size, 1); err != nil {
				return nil, err
			}
			out = append(out, row.RecordUid)
		}
	}
	return out, nil
}

// present makes the answer's records, with the files whose contents have arrived.
func (a *API) present(ctx context.Context, q *db.Queries, r *request, f shared, rows []db.Record, size *answered) ([]ksm.Record, error) {
	of := make(map[string][]ksm.File)
	for chunk := range slices.Chunk(rows, atOnce) {
		var uids [][]byte
		for _, row := range chunk {
			uids = append(uids, row.RecordUid)
		}
		files, err := q.SizeOfFiles(ctx, db.SizeOfFilesParams{Org: r.client.Org, Uids: uids})
		if err != nil {
			return nil, fmt.Errorf("count files: %w", err)
		}
		if err := size.add(files.Size, files.Files); err != nil {
			return nil, err
		}
		list, err := q.FilesOfRecords(ctx, db.FilesOfRecordsParams{Org: r.client.Org, Uids: uids})
		if err != nil {
			return nil, fmt.Errorf("read files: %w", err)
		}
		for _, file := range list {
			if file.Present == 0 {
				continue
			}
			of[string(file.RecordUid)] = append(of[string(file.RecordUid)], ksm.File{
				FileUID: ksm.URL(file.FileUid), FileKey: ksm.Std(file.FileKey), Data: ksm.Std(file.Data),
				URL: a.fileURL(r.client.Org, file.FileUid, r.now),
			})
		}
	}
	out := make([]ksm.Record, 0, len(rows))
	for _, row := range rows {
		record := ksm.Record{
			RecordUID: ksm.URL(row.RecordUid), RecordKey: ksm.Std(row.RecordKey), Data: ksm.Std(row.Data),
			Revision: row.Revision, IsEditable: f.edit, Files: of[string(row.RecordUid)],
		}
		if record.Files == nil {
			record.Files = []ksm.File{}
		}
		if len(row.SubFolderUid) > 0 {
			inner := ksm.URL(row.SubFolderUid)
			record.InnerFolderUID = &inner
		}
		out = append(out, record)
	}
	return out, nil
}

// getFolders lists every folder with its name: all roots first, since one SDK
// resolves keys in the list's order.
func (a *API) getFolders(ctx context.Context, r *request) (answer, error) {
	if err := a.large(ctx, r); err != nil {
		return nil, err
	}
	var out *ksm.GetAnswer
	err := a.Store.Read(ctx, func(q *db.Queries) error {
		var err error
		if out, err = a.answerHead(ctx, q, r); err != nil {
			return err
		}
		roots, err := r.sharedFolders(ctx, q)
		if err != nil {
			return err
		}
		var below []ksm.Folder
		size := answered(0)
		for _, f := range roots {
			row, err := q.FolderByUID(ctx, db.FolderByUIDParams{Org: r.client.Org, FolderUid: f.uid})
			if isNotFound(err) || err == nil && len(row.Data) == 0 {
				continue // without a name one SDK fails on the whole answer
			}
			if err != nil {
				return fmt.Errorf("read folder: %w", err)
			}
			name := ksm.Std(row.Data)
			out.Folders = append(out.Folders, ksm.Folder{
				FolderUID: ksm.URL(f.uid), FolderKey: ksm.Std(f.wrapped), Data: &name, Records: []ksm.Record{},
			})
			names, err := q.SizeOfSubfolders(ctx, db.SizeOfSubfoldersParams{Org: r.client.Org, RootUid: f.uid})
			if err != nil {
				return fmt.Errorf("count folders: %w", err)
			}
			if err := size.add(names.Size, names.Folders); err != nil {
				return err
			}
			subs, err := q.SubfoldersOf(ctx, db.SubfoldersOfParams{Org: r.client.Org, RootUid: f.uid})
			if err != nil {
				return fmt.Errorf("read folders: %w", err)
			}
			for _, s := range subs {
				parent, data := ksm.URL(f.uid), ksm.Std(s.Data)
				if len(s.ParentUid) > 0 {
					parent = ksm.URL(s.ParentUid)
				}
				below = append(below, ksm.Folder{
					FolderUID: ksm.URL(s.FolderUid), FolderKey: ksm.Std(s.FolderKey), Data: &data, Parent: &parent, Records: []ksm.Record{},
				})
			}
		}
		out.Folders = append(out.Folders, below...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
