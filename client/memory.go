package client

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// memory is what this device has seen, on disk: the log's changes, and of each
// record the newest statement and value, so that a server that shows older ones
// is found out. It holds no secret and no content. Several processes may use a
// profile at once: the file is open only as long as a piece of work takes.
type memory struct{ path string }

// memoryWait is how long a process waits for another one's piece of work.
const memoryWait = 20 * time.Second

var (
	logBucket       = []byte("log")       // epoch (8 bytes) → Signed{Change}
	statementBucket = []byte("statement") // folder ‖ record → seq (8) ‖ digest
	valueBucket     = []byte("value")     // folder ‖ record → seq (8) ‖ digest ‖ former
	noteBucket      = []byte("note")      // name → time (8): what was told already
)

// work runs f over the memory; what f wrote is durable when work returns nil.
func (m memory) work(f func(*memoryTx) error) (err error) {
	db, err := bolt.Open(m.path, 0o600, &bolt.Options{Timeout: memoryWait})
	if err != nil {
		return m.refused(err)
	}
	defer func() {
		if e := db.Close(); err == nil {
			err = e
		}
		err = m.refused(err)
	}()
	tx, err := db.Begin(true)
	if err != nil {
		return err
	}
	t := &memoryTx{tx: tx}
	defer func() { _ = tx.Rollback() }() // an error after a commit, which is meant
	for _, b := range [][]byte{logBucket, statementBucket, valueBucket, noteBucket} {
		if tx.Bucket(b) == nil {
			t.wrote = true
			if _, err := tx.CreateBucket(b); err != nil {
				return err
			}
		}
	}
	if err := f(t); err != nil {
		return err
	}
	if !t.wrote {
		return nil
	}
	return tx.Commit()
}

// refused tells what the system refused from a memory that is damaged: whoever throws
// away a sound one is no longer protected from a server that shows older records.
func (m memory) refused(err error) error {
	if errors.Is(err, bolterrors.ErrTimeout) {
		return &Error{
			Class: Conflict, Reason: "profile_busy", Op: "open " + m.path, Err: errors.New("another process is using this profile"),
			Hint: "wait until it has ended, then try again",
		}
	}
	cause, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return err
	}
	hint := "look at the disk and the folder"
	switch {
	case errors.Is(cause, fs.ErrPermission):
		hint = "run this as the person whose profile it is, who must be able to write the file and its folder"
	case cause == syscall.EROFS:
		hint = "the file system is read-only: mount it so that it can be written"
	case cause == syscall.ENOSPC || cause == syscall.EDQUOT:
		hint = "make room on the disk"
	}
	return &Error{
		Class: Internal, Reason: "profile_unusable", Op: "use " + m.path, Err: err,
		Hint: hint + "; keep the file: it is what finds out a server that shows older records",
	}
}

// memoryTx is one piece of work. It is a trust.RecordMemory.
type memoryTx struct {
	tx    *bolt.Tx
	wrote bool
}

func (t *memoryTx) put(bucket, key, value []byte) error {
	t.wrote = true
	return t.tx.Bucket(bucket).Put(key, value)
}

// changes gives f the log's changes from an epoch on.
func (t *memoryTx) changes(from uint64, f func(epoch uint64, signed []byte) error) error {
	c := t.tx.Bucket(logBucket).Cursor()
	for k, v := c.Seek(epochKey(from)); k != nil; k, v = c.Next() {
		if len(k) != 8 {
			return errors.New("the stored log is damaged")
		}
		if err := f(binary.BigEndian.Uint64(k), v); err != nil {
			return err
		}
	}
	return nil
}

func (t *memoryTx) addChanges(first uint64, signed [][]byte) error {
	for n, s := range signed {
		if err := t.put(logBucket, epochKey(first+uint64(n)), s); err != nil {
			return err
		}
	}
	return nil
}

func epochKey(epoch uint64) []byte { return binary.BigEndian.AppendUint64(nil, epoch) }

func refKey(r Ref) []byte { return append(r.Folder.Bytes(), r.Record[:]...) }

// Statement implements trust.RecordMemory. The signed bytes are not kept: they
// would be content in clear on this disk.
func (t *memoryTx) Statement(r Ref) (trust.StatementSeen, error) {
	v := t.tx.Bucket(statementBucket).Get(refKey(r))
	if v == nil {
		return trust.StatementSeen{}, nil
	}
	if len(v) != 40 {
		return trust.StatementSeen{}, errors.New("the memory of statements is damaged")
	}
	return trust.StatementSeen{Seq: binary.BigEndian.Uint64(v), Digest: seal.Digest(v[8:])}, nil
}

// RememberStatement implements trust.RecordMemory.
func (t *memoryTx) RememberStatement(r Ref, s trust.StatementSeen) error {
	seen, err := t.Statement(r)
	if err != nil || seen.Seq >= s.Seq {
		return err
	}
	return t.put(statementBucket, refKey(r), append(epochKey(s.Seq), s.Digest[:]...))
}

// Value implements trust.RecordMemory.
func (t *memoryTx) Value(r Ref) (trust.ValueSeen, error) {
	v := t.tx.Bucket(valueBucket).Get(refKey(r))
	if v == nil {
		return trust.ValueSeen{}, nil
	}
	if len(v) != 80 {
		return trust.ValueSeen{}, errors.New("the memory of values is damaged")
	}
	return trust.ValueSeen{
		Seq: binary.BigEndian.Uint64(v), Digest: seal.Digest(v[8:40]), Former: seal.Digest(v[40:72]), Set: binary.BigEndian.Uint64(v[72:]),
	}, nil
}

// RememberValue implements trust.RecordMemory.
func (t *memoryTx) RememberValue(r Ref, s trust.ValueSeen) error {
	seen, err := t.Value(r)
	if err != nil || seen.Seq > s.Seq || seen == s {
		return err
	}
	v := append(epochKey(s.Seq), s.Digest[:]...)
	v = append(v, s.Former[:]...)
	return t.put(valueBucket, refKey(r), binary.BigEndian.AppendUint64(v, s.Set))
}
