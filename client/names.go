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

// served is the server's text of an error.
type served struct{ text string }

func (s *served) Error() string { return s.text }

// InNames is an error with the names that people know in place of the uids of records and
// folders, in what was to be done and in what the server answered. This package's own
// errors have a uid where they mean it, such as to tell two of one name apart.
func (c *Client) InNames(ctx context.Context, err error) error {
	var own *Error
	if !errors.As(err, &own) {
		return err
	}
	named := *own
	if answer, ok := own.Err.(*served); ok { //nolint:errorlint // what wraps it has words of its own
		c.nameFolders(ctx, answer.text)
		named.Err = &served{c.named(answer.text)}
	}
	named.Op = c.named(own.Op)
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
func (c *Client) nameFolders(ctx context.Context, answer string) {
	for _, text := range uidText.FindAllString(answer, -1) {
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
