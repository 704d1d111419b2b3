package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// sudo is how the administrator becomes root.
type sudo int

const (
	noSudo   sudo = iota // not at all
	freeSudo             // without a password
	paidSudo             // with his own
)

const (
	withPassword = "sudo -k -S -p '' -- "
	exitSudo     = 1 // sudo's own, where it runs nothing
)

// sudoPause is how long sudo's word on the administrator's password holds in a session. However
// many accounts wait for one that it refuses, each try is a failed login of the administrator.
const sudoPause = time.Minute

// paid is what is known of the administrator's password and sudo.
type paid struct {
	turn chan struct{} // of who asks sudo

	mu             sync.Mutex
	taken, refused time.Time
}

// word is what sudo said last, if that is not long ago.
func (p *paid) word() (taken, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken = time.Since(p.taken) < sudoPause
	return taken, taken || time.Since(p.refused) < sudoPause
}

func (p *paid) note(taken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken, p.refused = time.Time{}, time.Time{}
	if taken {
		p.taken = time.Now()
	} else {
		p.refused = time.Now()
	}
}

// doubt has sudo asked again, unless it has refused the password meanwhile.
func (p *paid) doubt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken = time.Time{}
}

// pays tells whether sudo takes the administrator's password, and tries it alone before
// anything stands behind it: where it is refused (since sudo wants another's, by targetpw or
// rootpw, or it is a new one by now) the lines that are for the program would be read as
// further tries, and the new secret could be one of them. It is tried again after a while, and
// when a program has ended as sudo does. Of the programs that are run in the minute in which the
// password changes, the first two lines go there, neither a secret: sudo asks three times unless
// sudoers says otherwise (passwd_tries).
func (s *session) pays(ctx context.Context) (bool, error) {
	if taken, known := s.paid.word(); known {
		return taken, nil
	}
	select {
	case s.paid.turn <- struct{}{}:
		defer func() { <-s.paid.turn }()
	case <-ctx.Done():
		return false, fmt.Errorf("%w: %w", errNotStarted, ctx.Err())
	}
	if taken, known := s.paid.word(); known { // somebody else has asked
		return taken, nil
	}
	var input bytes.Buffer
	defer func() { clear(input.Bytes()) }()
	word := s.admin.Admin.Secret.Expose()
	defer clear(word)
	input.Write(word)
	input.WriteByte('\n')
	command, uid := whoRuns()
	got, err := s.program(ctx, "exec "+withPassword+command, input.Bytes())
	switch {
	case errors.As(err, new(*sdk.Error)): // of a login, with which nothing began
		return false, err
	case err != nil:
		return false, fmt.Errorf("%w: ask sudo: %w", errNotStarted, err)
	}
	taken := uid(got) != ""
	s.paid.note(taken)
	return taken, nil
}
