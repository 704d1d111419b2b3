package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

func newJournal(t *testing.T) *Journal {
	t.Helper()
	j, _, err := Open(filepath.Join(t.TempDir(), "journal.db"), true, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// Changes that come while another is written share the next write; one that fails is
// answered alone, and nothing of it stays.
func TestChangesShareAWrite(t *testing.T) {
	j := newJournal(t)
	before, _ := j.Stats()
	inWrite, goOn := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		err := j.update(func(*bbolt.Tx) error { close(inWrite); <-goOn; return nil })
		if err != nil {
			t.Error(err)
		}
	})
	<-inWrite
	bad := errors.New("this one fails")
	const n = 20
	for i := range n {
		all.Go(func() {
			err := j.update(func(tx *bbolt.Tx) error {
				if err := tx.Bucket(bucketMeta).Put(fmt.Appendf(nil, "k%d", i), []byte("v")); err != nil {
					return err
				}
				if i == n/2 {
					return bad
				}
				return nil
			})
			if (i == n/2) != errors.Is(err, bad) || (i != n/2) != (err == nil) {
				t.Errorf("change %d: %v", i, err)
			}
		})
	}
	for waiting := 0; waiting < n; {
		time.Sleep(time.Millisecond) // they queue without a signal
		j.mu.Lock()
		waiting = len(j.waiting)
		j.mu.Unlock()
	}
	close(goOn)
	all.Wait()
	after, _ := j.Stats()
	if after-before != 2 {
		t.Errorf("%d durable writes, want 2", after-before)
	}
	err := j.view(func(tx *bbolt.Tx) error {
		for i := range n {
			if there := tx.Bucket(bucketMeta).Get(fmt.Appendf(nil, "k%d", i)) != nil; there != (i != n/2) {
				t.Errorf("change %d is there: %v", i, there)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
