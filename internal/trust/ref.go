package trust

import (
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Ref names a record. The pair is the name: a uid alone never is.
type Ref struct {
	Folder seal.ID
	Record seal.ID
}

// RefFrom reads a Ref of the wire.
func RefFrom(r *trustv1.Ref) (Ref, error) {
	f, err := seal.IDFrom(r.GetFolderUid())
	if err != nil {
		return Ref{}, &Error{Reason: Malformed, What: "folder of a reference", Err: err}
	}
	rec, err := seal.IDFrom(r.GetRecordUid())
	if err != nil {
		return Ref{}, &Error{Reason: Malformed, What: "record of a reference", Err: err}
	}
	if f.IsZero() || rec.IsZero() {
		return Ref{}, fail(Malformed, "a reference names no folder or no record")
	}
	return Ref{f, rec}, nil
}

// mustRef reads a Ref of a body that has been checked; nil is the zero Ref.
func mustRef(r *trustv1.Ref) Ref {
	if r == nil {
		return Ref{}
	}
	return Ref{seal.ID(r.FolderUid), seal.ID(r.RecordUid)}
}

// Proto is the wire form.
func (r Ref) Proto() *trustv1.Ref {
	return &trustv1.Ref{FolderUid: r.Folder.Bytes(), RecordUid: r.Record.Bytes()}
}

// String is FOLDER/RECORD in base64url.
func (r Ref) String() string { return r.Folder.String() + "/" + r.Record.String() }

// IsZero reports a Ref that names nothing.
func (r Ref) IsZero() bool { return r == Ref{} }
