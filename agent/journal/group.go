package journal

import (
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/rotunda-pam/rotunda/internal/fault"
)

// change is one function that waits to be written.
type change struct {
	f    func(tx *bbolt.Tx) error
	lead chan []*change // it is to write this group, itself first
	done chan error
}

// update runs f in a transaction that is on the disk when update returns. Whoever
// comes while a write is under way waits for its end, and then one of those writes for
// them all: so a write takes along whatever came during the one before, however long a
// disk takes for it. f may be called more than once.
func (j *Journal) update(f func(tx *bbolt.Tx) error) error {
	fault.At("before-journal-write")
	c := &change{f: f, lead: make(chan []*change, 1), done: make(chan error, 1)}
	j.mu.Lock()
	j.waiting = append(j.waiting, c)
	if !j.writing {
		j.writing = true
		j.handOver()
	}
	j.mu.Unlock()
	select {
	case group := <-c.lead:
		j.write(group)
		j.mu.Lock()
		j.handOver()
		j.mu.Unlock()
	case err := <-c.done:
		return j.failed(err)
	}
	return j.failed(<-c.done)
}

func (j *Journal) failed(err error) error {
	if err != nil {
		return fmt.Errorf("write journal %s: %w", j.path, err)
	}
	return nil
}

// handOver gives all who wait to the first of them, to be written. With j.mu held.
func (j *Journal) handOver() {
	if len(j.waiting) == 0 {
		j.writing = false
		return
	}
	j.waiting[0].lead <- j.waiting
	j.waiting = nil
}

// write writes a group in one transaction and answers each. A function that fails is
// answered alone, and the others are written without it.
func (j *Journal) write(group []*change) {
	for len(group) > 0 {
		bad := -1
		err := j.db.Update(func(tx *bbolt.Tx) error {
			for i, c := range group {
				if err := c.f(tx); err != nil {
					bad = i
					return err
				}
			}
			return nil
		})
		if bad >= 0 {
			group[bad].done <- err
			group = append(group[:bad:bad], group[bad+1:]...)
			continue
		}
		if err == nil {
			j.commits.Add(1)
			j.writes.Add(int64(len(group)))
		}
		for _, c := range group {
			c.done <- err
		}
		return
	}
}
