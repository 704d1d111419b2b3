package sdk

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

// Discoverer finds the accounts that a target has. Declared by Manifest.Discoverer.
type Discoverer interface {
	// Discover logs in as the resource's administrator, changes nothing, and tells emit of
	// each account, in one goroutine. What the statement says of this use is
	// Resource.Config. An error of emit's says that no more are taken: Discover ends with it.
	Discover(ctx context.Context, r OpenRequest, emit func(Finding) error) error
}

// Finding is an account that was found.
type Finding struct {
	Login string // at most 256 bytes
	Scope string // as [Account.Scope]; empty: it has none
	// Facts are for people, by short names (a-z, 0-9 and _): "locked", "roles", "last_login".
	// At most 16, each at most 256 bytes; no secrets.
	Facts map[string]string
}

// ErrEnough is emit's, when it takes no more findings.
var ErrEnough = errors.New("no more findings are taken")

// Bounds of one finding.
const (
	maxFound = 256 // bytes of a login, of a scope, or of a fact
	maxFacts = 16
)

var factName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// Check says why a finding cannot be told, nil where it can.
func (f Finding) Check() error {
	switch {
	case f.Login == "":
		return errors.New("an account without a login")
	case !told(f.Login):
		return errors.New("a login that is too long, or has characters that are not to be seen")
	case !told(f.Scope):
		return errors.New("a scope that is too long, or has characters that are not to be seen")
	case len(f.Facts) > maxFacts:
		return fmt.Errorf("%d facts of one account, at most %d", len(f.Facts), maxFacts)
	}
	for name, value := range f.Facts {
		if !factName.MatchString(name) {
			return errors.New("a fact whose name is not a-z, 0-9 and _, a letter first, at most 32")
		}
		if !told(value) {
			return fmt.Errorf("a fact %s that is too long, or has characters that are not to be seen", name)
		}
	}
	return nil
}

// told says whether people can be shown a text.
func told(s string) bool {
	return len(s) <= maxFound && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func (s *server) Discover(ctx context.Context, r *pluginv1.DiscoverRequest) (*pluginv1.DiscoverResponse, error) {
	p, at, secrets, err := s.place(r.Place)
	if err == nil && p.Discoverer == nil {
		err = toStatus(ctx, refuse(ClassUnsupported, "verb.discover"), secrets)
	}
	if err != nil {
		return nil, err
	}
	out, left := &pluginv1.DiscoverResponse{}, pluginv1.MaxFoundBytes
	err = p.Discoverer.Discover(ctx, at, func(f Finding) error {
		if err := f.Check(); err != nil {
			return &Error{Class: ClassInternal, Reason: "discover.malformed", NotSent: true, Err: fmt.Errorf("it found %w", err)}
		}
		a := &pluginv1.Account{Name: []byte(f.Login), Scope: []byte(f.Scope), Attrs: f.Facts}
		if left -= proto.Size(a); left < 0 || len(out.Accounts) == pluginv1.MaxFound {
			out.More = true
			return ErrEnough
		}
		out.Accounts = append(out.Accounts, a)
		return nil
	})
	if err != nil && !(out.More && errors.Is(err, ErrEnough)) {
		return nil, toStatus(ctx, err, secrets)
	}
	return out, nil
}
