// Package journal is an agent's durable memory (keys.md 5.4): the organisation's
// log, what it has seen of each record, the commands and runs under way, and the
// greatest time it has known. No secret is in it in clear: what is kept of values (kept.go)
// is as the vault has it.
//
// It is one bbolt file, locked against a second agent. Every change is on the disk
// before the call returns; changes that come while another is written share the next
// write (group.go).
package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// replayTime is how long the commands may still come that a journal has forgotten.
const replayTime = 2 * time.Minute

// format is the number of the layout below.
const format = 1

// ErrOpen: the journal is another process's.
var ErrOpen = errors.New("another agent has it open; stop that one first")

var (
	bucketMeta     = []byte("meta")     // name → value
	bucketLog      = []byte("log")      // epoch (8, big endian) → Signed{Change}
	bucketRecords  = []byte("records")  // folder ‖ record (32) → seenRecord
	bucketAccounts = []byte("accounts") // folder ‖ record (32) → accountActivity
	bucketCommands = []byte("commands") // id (16) → Command
	bucketRuns     = []byte("runs")     // id (16) → Run
	bucketHostKeys = []byte("hostkeys") // folder ‖ record of a resource (32) → SHA-256 of the first key seen
	bucketKept     = []byte("kept")     // folder ‖ record of an account (32) → keptRecord
	bucketMints    = []byte("mints")    // folder ‖ record of an account (32) → Mint

	bucketPlans      = []byte("plans")      // id of a run (16) → Plan
	bucketFolderKeys = []byte("folderkeys") // folder ‖ version (20) → folder key sealed to this agent
	bucketStates     = []byte("states")     // record that names a script ‖ script ‖ account (96) → what it put away, sealed to this agent

	buckets = [][]byte{bucketMeta, bucketLog, bucketRecords, bucketAccounts, bucketCommands, bucketRuns, bucketHostKeys, bucketKept, bucketMints, bucketPlans, bucketFolderKeys, bucketStates}

	keyFormat   = []byte("format")
	keyGreatest = []byte("greatest")
	keyFloor    = []byte("floor")
)

// Journal is an open journal. It is safe for concurrent use.
type Journal struct {
	db   *bbolt.DB
	path string

	mu      sync.Mutex
	writing bool
	waiting []*change // for the write under way to end; the first of them does the next

	commits, writes atomic.Int64
}

// errDamaged stands for every way in which a file is not a journal.
var errDamaged = errors.New("damaged")

// Open opens the journal at path or begins a new one. fresh says that the agent
// enrolled just now, so that nothing can have been forgotten. Otherwise a journal
// that is missing, empty or damaged may have known commands that are still valid: the
// new one refuses every command issued until now + 120 s (the replay floor). A damaged
// file is kept beside the new one, for a person to look at; rebuilt tells of both.
func Open(path string, fresh bool, now time.Time) (j *Journal, rebuilt bool, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, false, fmt.Errorf("journal: %w", err)
	}
	floor := now.Add(replayTime)
	if fresh {
		floor = time.Time{}
	}
	j, begun, err := open(path, floor)
	if errors.Is(err, errDamaged) {
		fresh = false
		aside := fmt.Sprintf("%s.damaged-%d", path, now.Unix())
		if err := os.Rename(path, aside); err != nil {
			return nil, false, fmt.Errorf("journal %s is damaged and cannot be moved aside: %w", path, err)
		}
		j, begun, err = open(path, now.Add(replayTime))
	}
	return j, begun && !fresh, err
}

// open opens a file; one without a format is begun now, with that replay floor.
func open(path string, floor time.Time) (j *Journal, begun bool, err error) {
	db, err := openWhole(path)
	if err != nil {
		return nil, false, fmt.Errorf("journal %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, b := range buckets {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		switch f := meta.Get(keyFormat); {
		case f == nil:
			begun = true
			if !floor.IsZero() {
				if err := putTime(tx, keyFloor, floor); err != nil {
					return err
				}
			}
		case len(f) != 1 || f[0] != format:
			return fmt.Errorf("it was written by a later version (format %v, this agent reads %d): upgrade the agent", f, format)
		}
		return meta.Put(keyFormat, []byte{format})
	})
	if err != nil {
		db.Close()
		return nil, false, fmt.Errorf("journal %s: %w", path, err)
	}
	return &Journal{db: db, path: path}, begun, nil
}

// openWhole opens a file and reads all of it. Damage shows as a panic of bbolt's, or as
// a fault of the mapped memory where the file is cut: it is found here, once, and not in
// the middle of the agent's work, at every start.
func openWhole(path string) (db *bbolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errDamaged, p)
		}
		if err != nil && db != nil {
			err = errors.Join(err, db.Close())
			db = nil
		}
	}()
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	var system syscall.Errno
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, ErrOpen
	case errors.As(err, &system):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return db, db.View(readable)
}

// readable reads every entry.
func readable(tx *bbolt.Tx) error {
	for _, name := range buckets {
		b := tx.Bucket(name)
		if b == nil {
			continue // begun by an earlier version, or now
		}
		isJSON := bytes.Equal(name, bucketRecords) || bytes.Equal(name, bucketAccounts) || bytes.Equal(name, bucketCommands) || bytes.Equal(name, bucketRuns) || bytes.Equal(name, bucketKept) || bytes.Equal(name, bucketMints) || bytes.Equal(name, bucketPlans)
		if err := b.ForEach(func(k, v []byte) error {
			if isJSON && !json.Valid(v) {
				return fmt.Errorf("%w: %s %x", errDamaged, name, k)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the file.
func (j *Journal) Close() error { return j.db.Close() }

// Stats counts the durable writes since Open, and the changes that shared them.
func (j *Journal) Stats() (commits, writes int64) { return j.commits.Load(), j.writes.Load() }

func (j *Journal) view(f func(tx *bbolt.Tx) error) error {
	if err := j.db.View(f); err != nil {
		return fmt.Errorf("read journal %s: %w", j.path, err)
	}
	return nil
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
