package machineapi

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
)

const (
	urlLife    = time.Hour // of a download's address
	uploadLife = time.Hour // between add_file and the contents
	uploadTime = 10 * time.Minute
	uploadPath = "upload"
	maxFiles   = 1000     // of one record
	maxMeta    = 64 << 10 // bytes of a file's metadata
	maxParts   = 32       // of a form
	maxField   = 4 << 10  // bytes of a form's field
)

// addFile attaches a file: the record's data is replaced by what names the file,
// and an address and a secret, good once, are given for the contents. The file
// is listed when they have arrived.
func (a *API) addFile(ctx context.Context, r *request) (answer, error) {
	var in ksm.FileRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if err := checkData(in.OwnerRecordData); err != nil {
		return nil, err
	}
	switch {
	case len(in.FileRecordUID) == 0 || len(in.LinkKey) != wrappedKey || len(in.FileRecordData) == 0 || len(in.FileRecordData) > maxMeta:
		return nil, ksm.Refuse(ksm.CodeBadRequest, "a file needs a uid, its key wrapped under the record's, and metadata of at most %d bytes", maxMeta)
	case in.FileSize <= 0 || in.FileSize > ksm.MaxFile:
		return nil, ksm.Refuse(ksm.CodeTooLarge, "a file has 1 to %d bytes of ciphertext", ksm.MaxFile)
	}
	once := make([]byte, 32)
	rand.Read(once) //nolint:errcheck // it never fails
	hash := seal.Hash(once)
	err := a.Store.Write(ctx, func(q *db.Queries) error {
		record, staged, err := a.editable(ctx, q, r, in.OwnerRecordUID)
		if err != nil {
			return err
		}
		if err := checkFileRevision(record, in.OwnerRecordRevision); err != nil {
			return err
		}
		if err := a.giveWay(ctx, q, r, record, staged, false); err != nil {
			return err
		}
		n, err := q.CountFilesOf(ctx, db.CountFilesOfParams{Org: record.Org, RecordUid: record.RecordUid})
		if err != nil {
			return fmt.Errorf("count files: %w", err)
		}
		if n >= maxFiles {
			return ksm.Refuse(ksm.CodeTooLarge, "the record has %d files, at most %d are kept", n, maxFiles)
		}
		err = q.AddFile(ctx, db.AddFileParams{
			Org: record.Org, FileUid: in.FileRecordUID, RecordUid: record.RecordUid, FileKey: in.LinkKey, Data: in.FileRecordData,
			Size: in.FileSize, UploadHash: hash[:], Created: r.now.UnixMilli(),
		})
		if errors.Is(err, store.ErrExists) {
			return ksm.Refuse(ksm.CodeBadRequest, "a file with this uid exists already")
		}
		if err != nil {
			return fmt.Errorf("write file: %w", err)
		}
		if err := a.replace(ctx, q, r, record, in.OwnerRecordData); err != nil {
			return err
		}
		return a.tell(ctx, q, audit.Event{
			Org: record.Org, Name: audit.FileAdded, Actor: r.owner[:], Folder: record.FolderUid, Record: record.RecordUid,
			Fields: map[string]string{"file": ksm.URL(in.FileRecordUID), "size": strconv.FormatInt(in.FileSize, 10), "client": r.client.Name},
		})
	})
	if err != nil {
		return nil, err
	}
	token := slices.Concat(binary.BigEndian.AppendUint64(nil, uint64(r.client.Org)), in.FileRecordUID, once)
	parameters, err := json.Marshal(map[string]string{uploadPath: ksm.URL(token)})
	if err != nil {
		return nil, err
	}
	return ksm.FileAnswer{
		URL: a.BaseURL + ksm.PathFiles + uploadPath, Parameters: string(parameters), SuccessStatusCode: http.StatusCreated,
	}, nil
}

// checkFileRevision holds the revision that an add_file read against the record.
// Older SDKs send none. Where agents rotate, the data that comes with the file
// may hold a secret that is over, so nobody's guess is taken.
func checkFileRevision(record db.Record, read *int64) error {
	switch {
	case read != nil && *read != 0 && *read != record.Revision:
		return ksm.Refuse(ksm.CodeOutOfSync, "the record is at revision %d, the file's is %d: read it again", record.Revision, *read)
	case (read == nil || *read == 0) && record.StatementSeq > 0:
		return ksm.Refuse(ksm.CodeOutOfSync, "this SDK does not say which revision of the record it read, and agents may rotate this record: attach the file with a newer SDK, or to a record of its own")
	}
	return nil
}

// detach removes files from a record.
func (a *API) detach(ctx context.Context, q *db.Queries, r *request, record db.Record, uids ksm.UIDs) error {
	if len(uids) > maxFiles {
		return ksm.Refuse(ksm.CodeTooLarge, "more than %d files to detach", maxFiles)
	}
	var gone []db.File
	for _, uid := range uids {
		f, err := q.FileByUID(ctx, db.FileByUIDParams{Org: record.Org, FileUid: uid})
		if isNotFound(err) || err == nil && string(f.RecordUid) != string(record.RecordUid) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read file: %w", err)
		}
		if err := q.DeleteFile(ctx, db.DeleteFileParams{Org: record.Org, FileUid: uid}); err != nil {
			return fmt.Errorf("delete file: %w", err)
		}
		gone = append(gone, f)
		err = a.tell(ctx, q, audit.Event{
			Org: record.Org, Name: audit.FileDeleted, Actor: r.owner[:], Folder: record.FolderUid, Record: record.RecordUid,
			Fields: map[string]string{"file": ksm.URL(uid), "client": r.client.Name},
		})
		if err != nil {
			return err
		}
	}
	a.RemoveFiles(q, record.Org, gone)
	return nil
}

// RemoveFiles removes files' contents once their rows are durably gone.
func (a *API) RemoveFiles(q *db.Queries, org int64, files []db.File) {
	if len(files) == 0 {
		return
	}
	q.AfterCommit(func() {
		for _, f := range files {
			if err := a.blobs.remove(org, f.FileUid); err != nil {
				a.log.Error("a deleted file's contents stay on the disk", "file", ksm.URL(f.FileUid), "error", err)
			}
		}
	})
}

func (a *API) serveFiles(w http.ResponseWriter, r *http.Request, name string) {
	switch {
	case name == uploadPath && r.Method == http.MethodPost:
		// The client may never read the answer: with a kept connection it would
		// not end.
		w.Header().Set("Connection", "close")
		a.upload(w, r)
	case name != uploadPath && r.Method == http.MethodGet:
		a.download(w, r, name)
	default:
		http.Error(w, "not found", http.StatusNotFound)
	}
}

// ---- downloads ----

// fileURL is an address that nobody can guess and that expires. It needs no row:
// any node of the server can check it.
func (a *API) fileURL(org int64, uid []byte, now time.Time) string {
	claim := fileClaim(now.Add(urlLife), org, uid)
	return a.BaseURL + ksm.PathFiles + ksm.URL(append(claim, fileMAC(a.Keys[0], claim)...))
}

const claimSize = 8 + 8 + 16

func fileClaim(until time.Time, org int64, uid []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(until.UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, uint64(org))
	return append(b, uid...)
}

func fileMAC(k ksm.ServerKey, claim []byte) []byte {
	raw, err := k.Private.Bytes()
	if err != nil {
		panic(err) // the key was checked when it was loaded
	}
	defer clear(raw)
	key, err := seal.KeyFrom(raw)
	if err != nil {
		panic(err) // a P-256 scalar has 32 bytes
	}
	defer key.Wipe()
	return seal.Derive(seal.Digest{}, key, "rotunda/v1/file-address", claim).Expose()
}

func (a *API) download(w http.ResponseWriter, r *http.Request, name string) {
	if len(name) > 2*(claimSize+32) {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	token, err := ksm.Decode(name)
	if err != nil || len(token) != claimSize+32 || !a.claimed(token) {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	until := int64(binary.BigEndian.Uint64(token))
	org := int64(binary.BigEndian.Uint64(token[8:]))
	uid := token[16:claimSize]
	if a.Now().UnixMilli() >= until {
		http.Error(w, "this address has expired", http.StatusGone)
		return
	}
	var file db.File
	err = a.Store.Read(r.Context(), func(q *db.Queries) error {
		file, err = q.FileByUID(r.Context(), db.FileByUIDParams{Org: org, FileUid: uid})
		return err
	})
	if isNotFound(err) || err == nil && file.Present == 0 {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	if err != nil {
		a.fail(w, r, fmt.Errorf("read file: %w", err))
		return
	}
	blob, err := a.blobs.open(org, uid)
	if err != nil {
		a.fail(w, r, fmt.Errorf("open a file's contents: %w", err))
		return
	}
	defer blob.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(file.Size, 10))
	io.Copy(w, blob) //nolint:errcheck // the client is gone
}

func (a *API) claimed(token []byte) bool {
	for _, k := range a.Keys {
		if subtle.ConstantTimeCompare(fileMAC(k, token[:claimSize]), token[claimSize:]) == 1 {
			return true
		}
	}
	return false
}

// ---- uploads ----

// upload receives a file's contents: a form with the secret first and then the
// file, which some clients send without a file name and in chunks.
//
// Who has no good secret is given the time of any request, and takes nobody's
// place.
func (a *API) upload(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, ksm.MaxFile+maxParts*maxField)
	up, body, err := a.readForm(r)
	if err == nil {
		up.size, err = a.announced(r.Context(), up)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	select {
	case a.uploads <- struct{}{}:
		defer func() { <-a.uploads }()
	default:
		a.fail(w, r, ksm.Refuse(ksm.CodeUnavailable, "too many uploads at once; try again"))
		return
	}
	// Not every ResponseWriter has deadlines; the real server's has.
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(uploadTime)) //nolint:errcheck // see above
	if err := a.receive(r.Context(), up, body); err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	io.WriteString(w, `{"status":"ok"}`) //nolint:errcheck // one SDK insists on a body, another never reads it
}

// uploading is what an upload's secret says.
type uploading struct {
	org  int64
	uid  []byte
	hash seal.Digest
	size int64 // as announced
}

// readForm reads a form up to the file's part.
func (a *API) readForm(r *http.Request) (uploading, io.Reader, error) {
	var up uploading
	form, err := r.MultipartReader()
	if err != nil {
		return up, nil, ksm.Refuse(ksm.CodeBadRequest, "the upload is no multipart form")
	}
	for range maxParts {
		part, err := form.NextRawPart()
		if err != nil {
			return up, nil, ksm.Refuse(ksm.CodeBadRequest, "the upload's form is malformed or holds no file")
		}
		if part.FormName() == "file" {
			if len(up.uid) == 0 {
				return up, nil, ksm.Refuse(ksm.CodeAccessDenied, "the upload's secret has to come before the file")
			}
			return up, part, nil
		}
		value, err := io.ReadAll(io.LimitReader(part, maxField+1))
		if err != nil || len(value) > maxField {
			return up, nil, ksm.Refuse(ksm.CodeBadRequest, "a field of the upload's form is malformed or too long")
		}
		if part.FormName() != uploadPath {
			continue
		}
		token, err := ksm.Decode(string(value))
		if err != nil || len(token) != 8+16+32 {
			return up, nil, ksm.Refuse(ksm.CodeAccessDenied, "the upload's secret is malformed")
		}
		up = uploading{org: int64(binary.BigEndian.Uint64(token)), uid: token[8:24], hash: seal.Hash(token[24:])}
	}
	return up, nil, ksm.Refuse(ksm.CodeBadRequest, "the upload's form has too many fields")
}

func uploadRefused() error {
	return ksm.Refuse(ksm.CodeAccessDenied, "the upload's secret is not known, used or expired")
}

// announced gives the size of the file that an upload's secret is for.
func (a *API) announced(ctx context.Context, up uploading) (size int64, err error) {
	var file db.File
	err = a.Store.Read(ctx, func(q *db.Queries) error {
		file, err = q.FileByUID(ctx, db.FileByUIDParams{Org: up.org, FileUid: up.uid})
		return err
	})
	if isNotFound(err) {
		return 0, uploadRefused()
	}
	if err != nil {
		return 0, fmt.Errorf("read file: %w", err)
	}
	old := a.Now().UnixMilli() >= file.Created+uploadLife.Milliseconds()
	if old || subtle.ConstantTimeCompare(file.UploadHash, up.hash[:]) != 1 {
		return 0, uploadRefused()
	}
	return file.Size, nil
}

// receive stores a file's contents and uses its secret up.
func (a *API) receive(ctx context.Context, up uploading, body io.Reader) error {
	blob, err := a.blobs.receive(body, up.size)
	if err != nil {
		return err
	}
	defer blob.discard()
	return a.Store.Write(ctx, func(q *db.Queries) error {
		n, err := q.FileArrived(ctx, db.FileArrivedParams{Org: up.org, FileUid: up.uid, UploadHash: up.hash[:]})
		if err != nil {
			return fmt.Errorf("write file: %w", err)
		}
		if n == 0 {
			return uploadRefused() // another upload was faster, or the file was deleted
		}
		// In its place before the row says so: without the commit it is a blob
		// that nobody names, never a row without a blob.
		return blob.keep(up.org, up.uid)
	})
}
