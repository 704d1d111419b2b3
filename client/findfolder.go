package client

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// FindFolder finds a folder by uid or name. By its name it is found only among all that the
// log lets the caller read: of two that bear the name, a server could keep the right one
// back, and the other may be of somebody who wants to be taken for it.
func (c *Client) FindFolder(ctx context.Context, nameOrUID string) (Folder, error) {
	op := "find the folder " + nameOrUID
	list, withheld, err := c.allFolders(ctx)
	if err != nil {
		return Folder{}, err
	}
	var found, nameless []Folder
	for _, f := range list {
		switch {
		case f.UID.String() == nameOrUID:
			return f, nil
		case f.Name == nameOrUID:
			found = append(found, f)
		case f.Name == f.UID.String():
			nameless = append(nameless, f)
		}
	}
	if len(withheld) > 0 {
		c.tellRefusal(ctx, eventClientRefused, folderWithheld)
		return Folder{}, &Error{
			Class: Refused, Reason: folderWithheld, Op: op,
			Err:  fmt.Errorf("the log lets you read %d more than the server shows, and it may be one of them: %s", len(withheld), someUIDs(withheld)),
			Hint: Hint(folderWithheld),
		}
	}
	if len(nameless) > 0 && len(found) > 0 {
		c.alarm("folder_nameless", "of %d folders that you may read no name can be read here, such as %s: whether one of them is called %s, too, is not known; name a folder by its uid to be sure",
			len(nameless), nameless[0].UID, nameOrUID)
	}
	switch len(found) {
	case 0:
		return Folder{}, notFound(op, "there is no such folder that you may read")
	case 1:
		return found[0], nil
	}
	return Folder{}, ambiguous(op, len(found), func(n int) string { return found[n].UID.String() })
}

// folderWithheld is the reason why a folder is not looked for by its name.
const folderWithheld = "folder_withheld"

// allFolders lists the folders that the caller may read, and those among them that the
// server keeps back: an honest one serves every folder of its log, also where it has no key
// for the caller, or no name.
func (c *Client) allFolders(ctx context.Context) (list []Folder, withheld []seal.ID, err error) {
	if err := c.fresh(ctx); err != nil {
		return nil, nil, err
	}
	for again := false; ; again = true {
		// Those of before: what is granted while they are listed need not be among them.
		due := c.readable()
		if list, err = c.Folders(ctx); err != nil {
			return nil, nil, err
		}
		shown := map[seal.ID]bool{}
		for _, f := range list {
			shown[f.UID] = true
		}
		withheld = slices.DeleteFunc(due, func(uid seal.ID) bool { return shown[uid] })
		if len(withheld) == 0 || again {
			break
		}
		// A right may have been withdrawn since this client fetched the log, or the server
		// put back: then it is given what it lacks.
		if err := c.fetchLog(ctx); err != nil {
			return nil, nil, err
		}
	}
	return list, withheld, nil
}

// readable are the folders that the log lets this device read.
func (c *Client) readable() (uids []seal.ID) {
	for _, f := range c.log.Folders() {
		if c.log.Roles(c.facts.Entry, f.UID).Has(Read) {
			uids = append(uids, f.UID)
		}
	}
	return uids
}

// someUIDs are the first few, for an error.
func someUIDs(uids []seal.ID) string {
	var text []string
	for _, uid := range uids[:min(len(uids), 5)] {
		text = append(text, uid.String())
	}
	return strings.Join(text, ", ")
}

func ambiguous(op string, n int, id func(int) string) error {
	ids := make([]string, min(n, 10))
	for i := range ids {
		ids[i] = id(i)
	}
	return &Error{
		Class: NotFound, Reason: "ambiguous", Op: op,
		Err:  fmt.Errorf("%d bear this name: %s", n, strings.Join(ids, ", ")),
		Hint: "name one by its id",
	}
}
