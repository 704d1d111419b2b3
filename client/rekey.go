package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/rotunda-pam/rotunda/internal/fault"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

const (
	// maxWrapped bounds the keys under one folder key: they change over in one call.
	maxWrapped = 20_000
	// rekeyBatch bounds the records of one call: one change floors their statements.
	rekeyBatch = 100
	// restoredGap lifts a value's number above those that were given after the backup.
	restoredGap = 1000
)

// RekeyOptions are those of RekeyFolder.
type RekeyOptions struct {
	// New makes a new folder key also where records still wait for theirs from a former
	// call.
	New bool
	// Restored is asked for each record of a server that was restored to before a re-keying,
	// whose statement is older than the log allows, so that agents refuse it: yes signs anew
	// what it says. nil leaves them.
	Restored func(Restored) (bool, error)
	// Progress is told how many records are done.
	Progress func(done int)
}

// Rekeyed is what RekeyFolder did.
type Rekeyed struct {
	Folder  seal.ID
	Name    string
	Version uint32
	New     bool // this call made the folder key; else it went on with one
	Done    int
	Left    []RekeyLeft
}

// RekeyLeft is a record that keeps its key for now.
type RekeyLeft struct {
	Ref    Ref
	Title  string
	Reason string
}

// RekeyFolder gives a folder a new key and each record in it a new key of its own, under
// which its content is encrypted anew. Folder key and log change at once; the records
// follow one by one, and what is not done is found at the server: a call that was
// interrupted is gone on with by the next one.
func (c *Client) RekeyFolder(ctx context.Context, folder seal.ID, o RekeyOptions) (Rekeyed, error) {
	if err := c.fresh(ctx); err != nil {
		return Rekeyed{}, err
	}
	done := Rekeyed{Folder: folder, Name: folder.String()}
	op := "re-key the folder " + folder.String()
	if need := Share | Edit; !c.log.Roles(c.facts.Entry, folder).Has(need) {
		return done, &Error{
			Class: Denied, Reason: string(trust.NotAllowed), Op: op, Err: fmt.Errorf("this needs %s on the folder", need),
			Hint: "who can do it, or give you the right: " + c.administrators(),
		}
	}
	state, ok := c.log.Folder(folder)
	if !ok {
		return done, notFound(op, "there is no such folder")
	}
	view, keys, err := c.keysUnder(ctx, folder, state.Version)
	if err != nil {
		return done, fail(op, err)
	}
	done.Name = nameUnder(keys, view.Data, folder)
	op = "re-key the folder " + done.Name
	done.New = o.New || view.OldKeys == 0 || view.FormerVersion > 0
	if !done.New {
		if done.New, err = c.knownOutside(ctx, folder); err != nil {
			return done, fail(op, err)
		}
	}
	if done.New {
		if err := c.newFolderKey(ctx, op, folder, state.Version); err != nil {
			return done, err
		}
		fault.At("rekey-folder")
	}
	state, _ = c.log.Folder(folder)
	done.Version = state.Version
	return done, c.rekeyRecords(ctx, op, &done, o)
}

// keysUnder are a folder as the server has it now, and the keys under which what is in it
// may be: the log's, and the one before where the server was restored to a time before
// the last re-keying. That one is held against the log's word of then.
func (c *Client) keysUnder(ctx context.Context, folder seal.ID, version uint32) (*clientv1.FolderView, []seal.Key, error) {
	var view *clientv1.FolderView
	err := c.listFolders(ctx, func(v *clientv1.FolderView) error {
		if idOr(v.FolderUid) == folder && v.KeyVersion == version {
			view = v
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if view == nil {
		return nil, nil, missingKey(folder)
	}
	var keys []seal.Key
	key, err := c.openFolder(ctx, view)
	if err == nil {
		keys = append(keys, key)
	}
	if view.FormerVersion > 0 {
		former, e := c.formerFolderKey(folder, view)
		if e != nil {
			return nil, nil, e
		}
		keys, err = append(keys, former), nil
	}
	return view, keys, err
}

func (c *Client) formerFolderKey(folder seal.ID, view *clientv1.FolderView) (seal.Key, error) {
	key, err := trust.OpenFormerFolderKey(c.log, c.facts.Entry, c.keys.Seal, folder, view.FormerKey)
	if err != nil {
		return seal.Key{}, err
	}
	check, was := seal.FolderCheck(c.facts.OrgID, key, folder, view.FormerVersion), false
	err = c.eachChange(func(change *trustv1.Change) {
		for _, op := range change.Ops {
			f := op.GetFolder()
			was = was || idOr(f.GetFolderUid()) == folder && f.GetKeyVersion() == view.FormerVersion && bytes.Equal(f.GetFolderCheck(), check[:])
		}
	})
	if err == nil && !was {
		err = &trust.Error{Reason: trust.FolderKeySwapped, What: "the former key of folder " + folder.String() + " is none that the log has known"}
	}
	return key, err
}

// nameUnder is a folder's name, under whichever key.
func nameUnder(keys []seal.Key, data []byte, uid seal.ID) string {
	for _, k := range keys {
		if name := folderName(k, data, uid); name != uid.String() {
			return name
		}
	}
	return uid.String()
}

// newFolderKey declares the folder's next key, seals it to all who may read, and has the
// server wrap all that is under the former one anew, in one call.
func (c *Client) newFolderKey(ctx context.Context, op string, folder seal.ID, former uint32) error {
	key := seal.NewKey()
	_, err := c.change(ctx, changeSpec{
		op: op, removal: true,
		ops: func(l *trust.Log) ([]*trustv1.Op, error) {
			if state, _ := l.Folder(folder); state.Version != former {
				return nil, &Error{
					Class: Conflict, Reason: "rekeyed_meanwhile", Err: errors.New("somebody else has given it a new key meanwhile"),
					Hint: "run the command again: it goes on with that key",
				}
			}
			return []*trustv1.Op{trust.FolderOp(c.facts.OrgID, folder, former+1, key)}, nil
		},
		with: func(after *trust.Log) ([]*clientv1.WriteOp, error) {
			return c.takeOver(ctx, after, folder, former, key)
		},
	})
	if err != nil {
		return err
	}
	c.folders.put(folder, former+1, key)
	return nil
}

// takeOver brings all that is under a folder's former key under the new one, and gives
// that to all who may read.
func (c *Client) takeOver(ctx context.Context, after *trust.Log, folder seal.ID, former uint32, key seal.Key) ([]*clientv1.WriteOp, error) {
	view, old, err := c.keysUnder(ctx, folder, former)
	if err != nil {
		return nil, err
	}
	name, err := json.Marshal(folderData{nameUnder(old, view.Data, folder)})
	if err != nil {
		return nil, err
	}
	r := &clientv1.RekeyFolder{FolderUid: folder.Bytes(), KeyVersion: former + 1, Data: seal.SealCBC(key, name)}
	q := &clientv1.ListWrappedRequest{FolderUid: folder.Bytes(), Page: &clientv1.Page{Size: 1000}}
	for {
		page, err := call(ctx, c, "list what is under the folder's key", c.conn.ListWrapped, q)
		if err != nil {
			return nil, err
		}
		for _, w := range page.Records {
			r.Records = append(r.Records, &clientv1.Rewrapped{Uid: w.Uid, Former: w.Wrapped, Wrapped: rewrap(key, w.Wrapped, old...)})
		}
		for _, w := range page.Folders {
			r.Folders = append(r.Folders, &clientv1.Rewrapped{Uid: w.Uid, Former: w.Wrapped, Wrapped: rewrapCBC(key, w.Wrapped, old)})
		}
		if page.Next == "" || page.Next == q.Page.Token {
			break
		}
		q.Page.Token = page.Next
	}
	if n := len(r.Records) + len(r.Folders); n > maxWrapped {
		return nil, invalid("", "%d keys are under the folder's, and at most %d change over in one call: move records to other folders first", n, maxWrapped)
	}
	ops := []*clientv1.WriteOp{{Op: &clientv1.WriteOp_RekeyFolder{RekeyFolder: r}}}
	apps, err := c.wrapForApps(ctx, after, folder, former+1, key)
	if err != nil {
		return nil, err
	}
	readers, err := c.sealToReaders(ctx, after, folder, former+1, key)
	return slices.Concat(ops, apps, readers), err
}

// rewrap brings a key from under one of other keys under another. What opens under none
// of them is garbage that somebody wrote: it stays what it was.
func rewrap(key seal.Key, wrapped []byte, under ...seal.Key) []byte {
	for _, old := range under {
		inner, err := seal.UnwrapKey(old, wrapped)
		if err == nil {
			defer inner.Wipe()
			return seal.WrapKey(key, inner)
		}
	}
	return wrapped
}

// rewrapCBC is rewrap of a sub-folder's key, in the secrets-manager format.
func rewrapCBC(key seal.Key, wrapped []byte, under []seal.Key) []byte {
	for _, old := range under {
		inner, err := seal.OpenCBC(old, wrapped)
		if err == nil && len(inner) == seal.KeySize {
			defer clear(inner)
			return seal.SealCBC(key, inner)
		}
	}
	return wrapped
}

// wrapForApps wraps a folder key for each application that may read the folder.
func (c *Client) wrapForApps(ctx context.Context, l *trust.Log, folder seal.ID, version uint32, key seal.Key) ([]*clientv1.WriteOp, error) {
	var ops []*clientv1.WriteOp
	for _, g := range l.GrantsOn(folder) {
		app, ok := l.Entry(g.To)
		if !ok || app.Kind != KindApp || !g.Roles.Has(Read) {
			continue
		}
		view, err := c.appView(ctx, app.ID)
		if err != nil {
			return nil, err
		}
		appKey, err := c.openAppKey(view)
		if reason := ReasonOf(err); reason == "app_key_missing" || reason == string(trust.NotAllowed) {
			return nil, &Error{
				Class: ClassOf(err), Reason: reason, Err: fmt.Errorf("the application %q may read the folder, and its key is not on this device", app.Name),
				Hint: "who may share all its folders re-keys this one, or an administrator; or withdraw its grant: `rotunda folder grant FOLDER APP none`",
			}
		}
		if err != nil {
			return nil, err
		}
		ops = append(ops, &clientv1.WriteOp{Op: &clientv1.WriteOp_PutAppFolder{PutAppFolder: &clientv1.PutAppFolder{
			AppId: app.ID.Bytes(), FolderUid: folder.Bytes(), KeyVersion: version, Wrapped: seal.WrapKey(appKey, key),
		}}})
		appKey.Wipe()
	}
	return ops, nil
}

// rekeyRecords gives new keys to the records whose own was made under a former key of
// the folder.
func (c *Client) rekeyRecords(ctx context.Context, op string, done *Rekeyed, o RekeyOptions) error {
	key, version, err := c.folderKey(ctx, done.Folder)
	if err != nil {
		return fail(op, err)
	}
	if o.Restored == nil {
		return c.rekeyPages(ctx, op, key, version, done, o, func(string) bool { return true })
	}
	// Resources first: what an agent said of an account counts by its resource's pool.
	if err := c.rekeyPages(ctx, op, key, version, done, o, isResource); err != nil {
		return err
	}
	return c.rekeyPages(ctx, op, key, version, done, o, func(kind string) bool { return !isResource(kind) })
}

func (c *Client) rekeyPages(ctx context.Context, op string, key seal.Key, version uint32, done *Rekeyed, o RekeyOptions, wanted func(kind string) bool) error {
	q := &clientv1.ListOldKeysRequest{FolderUid: done.Folder.Bytes(), Page: &clientv1.Page{Size: rekeyBatch}}
	for {
		page, err := call(ctx, c, op, c.conn.ListOldKeys, q)
		if err != nil {
			return err
		}
		batch, err := c.prepareRekey(ctx, key, version, page.Records, done, o, wanted)
		if err != nil {
			return err
		}
		for _, part := range cut(batch) {
			if err := c.writeRekey(ctx, op, part, done); err != nil {
				return err
			}
			if o.Progress != nil {
				o.Progress(done.Done)
			}
			fault.At("rekey-records")
		}
		if page.Next == "" || page.Next == q.Page.Token {
			return nil
		}
		q.Page.Token = page.Next
	}
}

// rekeying is a record on its way to another key.
type rekeying struct {
	o     *opened
	put   *clientv1.RekeyRecord
	draft *draft // nil: it has no statement
}

// cut cuts a batch where it is too large for one call.
func cut(batch []rekeying) (parts [][]rekeying) {
	size := 0
	for _, r := range batch {
		if len(parts) == 0 || size+len(r.put.Data) > writeBytes {
			parts, size = append(parts, nil), 0
		}
		size += len(r.put.Data)
		parts[len(parts)-1] = append(parts[len(parts)-1], r)
	}
	return parts
}

func (c *Client) prepareRekey(ctx context.Context, folderKey seal.Key, version uint32, list []*clientv1.OldKey, done *Rekeyed, how RekeyOptions, wanted func(kind string) bool) ([]rekeying, error) {
	views := make([]*clientv1.RecordView, len(list))
	for i, k := range list {
		views[i] = k.Record
	}
	open, err := c.open(ctx, views)
	if err != nil {
		return nil, err
	}
	var out []rekeying
	for i, o := range open {
		if o.Ref.Folder != done.Folder {
			return nil, badServer("re-key", "a record of another folder")
		}
		if !wanted(o.Type) {
			continue
		}
		if how.Restored != nil && o.Reason == string(trust.StatementRollback) {
			if err := c.takeRestored(ctx, o, how.Restored); err != nil {
				return nil, err
			}
		}
		r, err := c.rekeying(o, folderKey, version, list[i])
		if err != nil {
			done.Left = append(done.Left, RekeyLeft{o.Ref, o.Title, ReasonOf(fail("", err))})
			continue
		}
		out = append(out, r)
	}
	return out, nil
}

// rekeying makes a record's new key and what is under it. Its error says why the record
// keeps its key for now.
func (c *Client) rekeying(o *opened, folderKey seal.Key, version uint32, k *clientv1.OldKey) (rekeying, error) {
	switch {
	case o.content == nil, o.State == Broken, o.State == RolledBack && !o.restored, o.checked == nil && o.view.Statement != nil:
		return rekeying{}, &trust.Error{Reason: trust.Reason(orElse(o.Reason, string(trust.RecordCorrupt))), What: "it is not what its readers should use"}
	case k.Busy:
		return rekeying{}, &trust.Error{Reason: trust.RunOutstanding, What: "a run is under way"}
	}
	if err := o.settled(""); err != nil {
		return rekeying{}, err
	}
	// A new key asks for a new statement, which would have the caller's rights, and for his
	// word on the value.
	if err := o.linked(""); err != nil {
		return rekeying{}, err
	}
	if err := o.mayAttest(); err != nil && (o.inUse() || o.hidden()) {
		return rekeying{}, err
	}
	key := seal.NewKey()
	plain, err := seal.OpenGCM(o.content.Key, o.view.Data, nil)
	if err != nil {
		return rekeying{}, &trust.Error{Reason: trust.RecordCorrupt, What: "data", Err: err}
	}
	defer clear(plain)
	r := rekeying{o: o, put: &clientv1.RekeyRecord{
		Ref: o.Ref.Proto(), Revision: o.view.Revision, RecordKey: trust.SealRecordKey(folderKey, key), KeyVersion: version, Data: trust.SealData(key, plain),
	}}
	for _, f := range k.Files {
		// A file whose key does not open never did: it stays what it was.
		r.put.Files = append(r.put.Files, &clientv1.FileKey{FileUid: f.FileUid, FileKey: rewrap(key, f.FileKey, o.content.Key)})
	}
	r.put.Former = []*clientv1.FormerKey{{Former: o.view.RecordKey, Wrapped: seal.WrapKey(key, o.content.Key)}}
	for _, f := range k.Former {
		outer := folderKey
		if f.UnderRecord {
			outer = o.content.Key
		}
		if !bytes.Equal(f.Former, o.view.RecordKey) {
			r.put.Former = append(r.put.Former, &clientv1.FormerKey{Former: f.Former, Wrapped: rewrap(key, f.Former, outer)})
		}
	}
	if o.checked == nil {
		return r, nil
	}
	if !c.maySign(o) {
		return rekeying{}, &trust.Error{Reason: trust.NotAllowed, What: "you may not sign its statement anew"}
	}
	d := newDraft(o)
	d.key = key
	// What would be refused is found before anything is signed for the others.
	if _, _, err := c.signDraft(c.log, &d, d.seq(c.log)); err != nil {
		return rekeying{}, err
	}
	r.draft = &d
	return r, nil
}

// writeRekey writes a batch, or, where one of it cannot be written, each by itself.
func (c *Client) writeRekey(ctx context.Context, op string, batch []rekeying, done *Rekeyed) error {
	err := c.putRekey(ctx, op, batch)
	switch {
	case err == nil:
		done.Done += len(batch)
		return nil
	case ClassOf(err) != Conflict:
		return err
	case len(batch) == 1:
		done.Left = append(done.Left, RekeyLeft{batch[0].o.Ref, batch[0].o.Title, ReasonOf(err)})
		return nil
	}
	for _, r := range batch {
		if err := c.writeRekey(ctx, op, []rekeying{r}, done); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) putRekey(ctx context.Context, op string, batch []rekeying) error {
	var drafts []draft
	for _, r := range batch {
		if r.draft != nil {
			drafts = append(drafts, *r.draft)
		}
	}
	return c.putDrafts(ctx, op, drafts, func(l *trust.Log) ([]*clientv1.WriteOp, error) {
		var ops []*clientv1.WriteOp
		for _, r := range batch {
			ops = append(ops, &clientv1.WriteOp{Op: &clientv1.WriteOp_RekeyRecord{RekeyRecord: r.put}})
			if r.o.Type != TypeAccount || !r.o.inUse() {
				continue // nobody attests its value, now as before
			}
			same := sameSecret(r.o)
			if f, ok := l.Folder(r.o.Ref.Folder); ok && same != nil {
				// A secret that was set since the folder has its key was under the record's
				// former one: whoever knows that may know the secret.
				same.LogEpoch = min(same.LogEpoch, f.Epoch-1)
			}
			attest, err := c.attest(l, r.o, seal.Hash(r.put.Data), same, false)
			if err != nil {
				return nil, err
			}
			ops = append(ops, attest)
		}
		return ops, nil
	})
}

// recordKeys are a record's key and, where something lies under an older one, its former
// keys: those of its history.
type recordKeys struct {
	c    *Client
	ref  Ref
	keys []seal.Key
	all  bool
}

func (c *Client) keysOf(o *opened) *recordKeys {
	return &recordKeys{c: c, ref: o.Ref, keys: []seal.Key{o.content.Key}}
}

// open tries one key after the other.
func (k *recordKeys) open(ctx context.Context, try func(seal.Key) error) error {
	err := errors.New("no key of the record opens it")
	for i := 0; ; i++ {
		if i == len(k.keys) && !k.all {
			k.all = true
			if err := k.former(ctx); err != nil {
				return err
			}
		}
		if i == len(k.keys) {
			return err
		}
		if err = try(k.keys[i]); err == nil {
			return nil
		}
	}
}

func (k *recordKeys) former(ctx context.Context) error {
	folderKey, _, err := k.c.folderKey(ctx, k.ref.Folder)
	if err != nil {
		return err
	}
	q := &clientv1.ListHistoryRequest{Ref: k.ref.Proto(), Page: &clientv1.Page{Size: pageSize}}
	for {
		page, err := call(ctx, k.c, "look for former keys of "+k.ref.String(), k.c.conn.ListHistory, q)
		if err != nil {
			return err
		}
		for _, h := range page.History {
			outer := folderKey
			if h.UnderRecord {
				outer = k.keys[0]
			}
			key, err := seal.UnwrapKey(outer, h.RecordKey)
			if err == nil && !slices.ContainsFunc(k.keys, key.Equal) {
				k.keys = append(k.keys, key)
			}
		}
		if page.Next == "" || page.Next == q.Page.Token {
			return nil
		}
		q.Page.Token = page.Next
	}
}
