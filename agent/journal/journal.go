// Package journal is an agent's durable memory (keys.md 5.4): the organisation's
// log, what it has seen of each record, the commands and runs under way, and the
// greatest time it has known. No secret is in it: candidates are at the vault.
//
// It is one bbolt file, locked against a second agent. Every change is on the disk
// before the call returns; concurrent changes share one write.
package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/rotunda-pam/rotunda/internal/fault"
)

// format is the number of the layout below.
const format = 1

var (
	bucketMeta     = []byte("meta")     // name → value
	bucketLog      = []byte("log")      // epoch (8, big endian) → Signed{Change}
	bucketRecords  = []byte("records")  // folder ‖ record (32) → seenRecord
	bucketAccounts = []byte("accounts") // folder ‖ record (32) → accountActivity
	bucketCommands = []byte("commands") // id (16) → Command
	bucketRuns     = []byte("runs")     // id (16) → Run
	bucketHostKeys = []byte("hostkeys") // folder ‖ record of a resource (32) → SHA-256 of the first key seen

	keyFormat   = []byte("format")
	keyGreatest = []byte("greatest")
	keyFloor    = []byte("floor")
)

// Journal is an open journal. It is safe for concurrent use.
type Journal struct {
	db   *bbolt.DB
	path string

	commits, writes, last atomic.Int64 // last: the number of the newest transaction
}

// errDamaged stands for every way in which a file is not a journal.
var errDamaged = errors.New("damaged")

// Open opens the journal at path or begins a new one. fresh says that the agent
// enrolled just now, so that nothing can have been forgotten. Otherwise a journal
// that is missing or damaged may have known commands that are still valid: the new
// one refuses every command issued until now + 120 s (the replay floor). A damaged
// file is kept beside the new one, for a person to look at; rebuilt tells of both.
func Open(path string, fresh bool, now time.Time) (j *Journal, rebuilt bool, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, false, fmt.Errorf("journal: %w", err)
	}
	_, statErr := os.Stat(path)
	missing := errors.Is(statErr, fs.ErrNotExist)
	j, err = open(path)
	if errors.Is(err, errDamaged) {
		aside := fmt.Sprintf("%s.damaged-%d", path, now.Unix())
		if err := os.Rename(path, aside); err != nil {
			return nil, false, fmt.Errorf("journal %s is damaged and cannot be moved aside: %w", path, err)
		}
		missing, fresh = true, false
		j, err = open(path)
	}
	if err != nil {
		return nil, false, err
	}
	if missing && !fresh {
		if err := j.setTime(keyFloor, now.Add(2*time.Minute)); err != nil {
			j.Close()
			return nil, false, err
		}
	}
	return j, missing && !fresh, nil
}

func open(path string) (*Journal, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("journal %s: another agent has it open; stop that one first", path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("journal %s: %w: %w", path, errDamaged, err)
	case err != nil:
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	// Concurrent runs share a write; the wait for company is kept well below what
	// one fsync costs a disk.
	db.MaxBatchDelay = 250 * time.Microsecond
	j := &Journal{db: db, path: path}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{bucketMeta, bucketLog, bucketRecords, bucketAccounts, bucketCommands, bucketRuns, bucketHostKeys} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if f := meta.Get(keyFormat); f != nil && (len(f) != 1 || f[0] != format) {
			return fmt.Errorf("it was written by a later version (format %v, this agent reads %d): upgrade the agent", f, format)
		}
		return meta.Put(keyFormat, []byte{format})
	})
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	return j, nil
}

// Close closes the file.
func (j *Journal) Close() error { return j.db.Close() }

func (j *Journal) update(f func(tx *bbolt.Tx) error) error {
	fault.At("before-journal-write")
	err := j.db.Batch(func(tx *bbolt.Tx) error {
		id := int64(tx.ID()) // which is gone after the commit
		tx.OnCommit(func() {
			j.writes.Add(1)
			if j.last.Swap(id) != id {
				j.commits.Add(1)
			}
		})
		return f(tx)
	})
	if err != nil {
		return fmt.Errorf("write journal %s: %w", j.path, err)
	}
	return nil
}

// Stats counts the durable writes since Open, and the changes that shared them.
func (j *Journal) Stats() (commits, writes int64) { return j.commits.Load(), j.writes.Load() }

func (j *Journal) view(f func(tx *bbolt.Tx) error) error {
	if err := j.db.View(f); err != nil {
		return fmt.Errorf("read journal %s: %w", j.path, err)
	}
	return nil
}

func (j *Journal) setTime(key []byte, t time.Time) error {
	return j.update(func(tx *bbolt.Tx) error { return putTime(tx, key, t) })
}

func putTime(tx *bbolt.Tx, key []byte, t time.Time) error {
	return tx.Bucket(bucketMeta).Put(key, binary.BigEndian.AppendUint64(nil, uint64(t.UnixMilli())))
}

func readTime(tx *bbolt.Tx, key []byte) time.Time {
	v := tx.Bucket(bucketMeta).Get(key)
	if len(v) != 8 {
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(v)))
}

func (j *Journal) time(key []byte) (t time.Time, err error) {
	err = j.view(func(tx *bbolt.Tx) error {
		t = readTime(tx, key)
		return nil
	})
	return t, err
}

func putJSON(tx *bbolt.Tx, bucket, key []byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return tx.Bucket(bucket).Put(key, b)
}

func getJSON(tx *bbolt.Tx, bucket, key []byte, v any) (bool, error) {
	b := tx.Bucket(bucket).Get(key)
	if b == nil {
		return false, nil
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("%s %x: %w", bucket, key, err)
	}
	return true, nil
}

// AppendLog stores changes from an epoch on, in order.
func (j *Journal) AppendLog(from uint64, signed ...[]byte) error {
	if len(signed) == 0 {
		return nil
	}
	return j.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketLog)
		for i, s := range signed {
			if err := b.Put(binary.BigEndian.AppendUint64(nil, from+uint64(i)), s); err != nil {
				return err
			}
		}
		return nil
	})
}

// Log gives the stored changes in order, from change 0.
func (j *Journal) Log(each func(signed []byte) error) error {
	return j.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketLog).ForEach(func(_, v []byte) error {
			return each(append([]byte(nil), v...))
		})
	})
}

// LogFrom gives the stored changes from an epoch on, for a server that lacks them.
func (j *Journal) LogFrom(epoch uint64, limit int) (out [][]byte, err error) {
	err = j.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketLog).Cursor()
		for k, v := c.Seek(binary.BigEndian.AppendUint64(nil, epoch)); k != nil && len(out) < limit; k, v = c.Next() {
			out = append(out, append([]byte(nil), v...))
		}
		return nil
	})
	return out, err
}
