package client

import (
	"context"
	"errors"
	"regexp"
	"sync"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// names are those of the records and folders that this client has opened, by uid: the
// server knows none, so that its errors have uids.
type names struct {
	sync.Mutex
	by map[string]string
}

func (n *names) note(uid, name string) {
	if name == "" {
		return
	}
	n.Lock()
	defer n.Unlock()
	if n.by == nil {
		n.by = map[string]string{}
	}
	n.by[uid] = name
}

func (n *names) of(uid string) string {
	n.Lock()
	defer n.Unlock()
	return n.by[uid]
}

// uidText is what may be a uid, or a folder's and a record's.
var uidText = regexp.MustCompile(`[A-Za-z0-9_-]{22,}(/[A-Za-z0-9_-]{22,})?`)

// InNames is an error with the names that people know in place of the uids of records and
// folders. What is not known here keeps its uid.
func (c *Client) InNames(ctx context.Context, err error) error {
	var own *Error
	if !errors.As(err, &own) {
		return err
	}
	c.nameFolders(ctx, own)
	named := *own
	named.Op = c.named(own.Op)
	if own.Err != nil {
		named.Err = &renamed{c.named(own.Err.Error()), own.Err}
	}
	return &named
}

func (c *Client) named(text string) string {
	return uidText.ReplaceAllStringFunc(text, func(uid string) string {
		if name := c.names.of(uid); name != "" {
			return name
		}
		return uid
	})
}

// nameFolders fetches the folders' names where an answer of the server tells of one that
// was not opened yet.
func (c *Client) nameFolders(ctx context.Context, e *Error) {
	if e.Err == nil || e.Class == Unreachable || e.Class == Locked || e.Class == Refused {
		return
	}
	for _, text := range uidText.FindAllString(e.Err.Error(), -1) {
		uid, err := seal.ParseID(text)
		if err != nil || c.names.of(text) != "" {
			continue
		}
		if _, ok := c.log.Folder(uid); !ok {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, tellTime)
		defer cancel()
		_, _ = c.Folders(ctx) // without them the uid stays
		return
	}
}

// renamed is an error told in other words.
type renamed struct {
	text string
	err  error
}

func (r *renamed) Error() string { return r.text }
func (r *renamed) Unwrap() error { return r.err }
