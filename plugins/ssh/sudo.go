package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
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

// sudoPause is how long a password that sudo has refused is not tried again in a session:
// however many accounts wait for it, each try is a failed login of the administrator.
const sudoPause = time.Minute

// paid is what is known of the administrator's password and sudo.
type paid struct {
	taken   atomic.Bool
	turn    chan struct{} // of who tries it
	refused time.Time     // guarded by turn
}

// pays tells whether sudo takes the administrator's password, and tries it alone before
// anything stands behind it: where it is refused (since sudo wants another's, by targetpw or
// rootpw, or it is a new one by now) the lines that are for the program would be read as
// further tries, and the new secret could be one of them. A session tries it once; and again
// when a program has ended as sudo does. Where the password changes between, the first two lines
// go there, neither a secret: sudo asks three times unless sudoers says otherwise (passwd_tries).
func (s *session) pays(ctx context.Context) (bool, error) {
	if s.paid.taken.Load() {
		return true, nil
	}
	select {
	case s.paid.turn <- struct{}{}:
		defer func() { <-s.paid.turn }()
	case <-ctx.Done():
		return false, fmt.Errorf("%w: %w", errNotStarted, ctx.Err())
	}
	if s.paid.taken.Load() {
		return true, nil
	}
	if !s.paid.refused.IsZero() && time.Since(s.paid.refused) < sudoPause {
		return false, nil
	}
	var input bytes.Buffer
	defer func() { clear(input.Bytes()) }()
	word := s.admin.Admin.Secret.Expose()
	defer clear(word)
	input.Write(word)
	input.WriteByte('\n')
	got, err := s.program(ctx, "exec "+withPassword+"/bin/sh -c :", input.Bytes())
	if err != nil {
		if !errors.As(err, new(*sdk.Error)) { // else it is a login's, with which nothing began
			err = fmt.Errorf("%w: ask sudo: %w", errNotStarted, err)
		}
		return false, err
	}
	if got.exit != 0 {
		s.paid.refused = time.Now()
		return false, nil
	}
	s.paid.taken.Store(true)
	return true, nil
}
