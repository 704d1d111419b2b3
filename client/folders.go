package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// MaxFolderName bounds a folder's name, in bytes.
const MaxFolderName = 256

// folderCache holds opened folder keys, by folder; a key counts while the log's
// version is the one that it was opened for.
type folderCache struct {
	mu    sync.Mutex
	keys  map[seal.ID]folderKey
	views map[seal.ID]*clientv1.FolderView // as served last: their keys are opened when they are asked for
}

type folderKey struct {
	version uint32
	key     seal.Key
}

func (f *folderCache) get(uid seal.ID, version uint32) (seal.Key, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k, ok := f.keys[uid]
	return k.key, ok && k.version == version
}

func (f *folderCache) put(uid seal.ID, version uint32, key seal.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys == nil {
		f.keys = map[seal.ID]folderKey{}
	}
	f.keys[uid] = folderKey{version, key}
}

func (f *folderCache) see(uid seal.ID, v *clientv1.FolderView) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.views == nil {
		f.views = map[seal.ID]*clientv1.FolderView{}
	}
	f.views[uid] = v
}

func (f *folderCache) view(uid seal.ID, version uint32) *clientv1.FolderView {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.views[uid]; v != nil && v.KeyVersion == version && len(v.SealedKey) > 0 {
		return v
	}
	return nil
}

func (f *folderCache) wipe() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.keys {
		k.key.Wipe()
	}
	f.keys = nil
}

// keyCache holds public keys that were held against the log.
type keyCache struct {
	mu   sync.Mutex
	keys map[seal.ID][]byte
}

// listFolders walks the folders that the server lets this device see.
func (c *Client) listFolders(ctx context.Context, f func(*clientv1.FolderView) error) error {
	token := ""
	for {
		page, err := call(ctx, c, "list folders", c.conn.ListFolders, &clientv1.ListFoldersRequest{Page: &clientv1.Page{Size: 1000, Token: token}})
		if err != nil {
			return err
		}
		for _, v := range page.Folders {
			c.folders.see(idOr(v.FolderUid), v)
			if err := f(v); err != nil {
				return err
			}
		}
		if page.Next == "" || page.Next == token {
			return nil
		}
		token = page.Next
	}
}

// openFolder opens a folder's key from its view, checked against the log.
func (c *Client) openFolder(ctx context.Context, v *clientv1.FolderView) (seal.Key, error) {
	uid, err := seal.IDFrom(v.FolderUid)
	if err != nil {
		return seal.Key{}, badServer("open a folder", "folder: %w", err)
	}
	state, ok := c.log.Folder(uid)
	if !ok {
		return seal.Key{}, fail("open the folder "+uid.String(), &trust.Error{Reason: trust.FolderUnknown, What: "the log knows no such folder"})
	}
	if k, ok := c.folders.get(uid, state.Version); ok {
		return k, nil
	}
	if len(v.SealedKey) == 0 {
		return seal.Key{}, missingKey(uid)
	}
	k, err := trust.OpenFolderKey(c.log, c.facts.Entry, c.keys.Seal, uid, v.KeyVersion, v.SealedKey)
	if err != nil {
		c.tellRefusal(ctx, eventClientRefused, trust.ReasonOf(err))
		return seal.Key{}, fail("open the folder "+uid.String(), err)
	}
	c.folders.put(uid, state.Version, k)
	return k, nil
}

func missingKey(uid seal.ID) error {
	return &Error{
		Class: Conflict, Reason: "folder_key_missing", Op: "open the folder " + uid.String(),
		Err:  fmt.Errorf("nobody has sealed its key to this device yet"),
		Hint: "it comes when any member with share on the folder uses a client",
	}
}

// folderKey is a folder's key, of the log's version.
func (c *Client) folderKey(ctx context.Context, uid seal.ID) (seal.Key, uint32, error) {
	if err := c.fresh(ctx); err != nil {
		return seal.Key{}, 0, err
	}
	state, ok := c.log.Folder(uid)
	if !ok {
		return seal.Key{}, 0, notFound("open the folder "+uid.String(), "there is no such folder")
	}
	if k, ok := c.folders.get(uid, state.Version); ok {
		return k, state.Version, nil
	}
	v := c.folders.view(uid, state.Version)
	if v == nil {
		if err := c.listFolders(ctx, func(*clientv1.FolderView) error { return nil }); err != nil {
			return seal.Key{}, 0, err
		}
		v = c.folders.view(uid, state.Version)
	}
	if v != nil {
		key, err := c.openFolder(ctx, v)
		return key, state.Version, err
	}
	if c.log.Roles(c.facts.Entry, uid).Has(Read) {
		c.bringOwnKeys(ctx)
		return seal.Key{}, 0, missingKey(uid)
	}
	return seal.Key{}, 0, &Error{
		Class: Denied, Reason: string(trust.NotAllowed), Op: "open the folder " + uid.String(),
		Err:  errors.New("you may not read it"),
		Hint: "somebody with share on it can grant you read, or " + c.administrators(),
	}
}

type folderData struct {
	Name string `json:"name"`
}

// Folders lists the folders that the caller may read, by name.
func (c *Client) Folders(ctx context.Context) ([]Folder, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	var out []Folder
	err := c.listFolders(ctx, func(v *clientv1.FolderView) error {
		f, err := c.folder(ctx, v)
		if err != nil {
			return err
		}
		out = append(out, f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(out, func(f Folder) bool { return f.Missing }) {
		c.bringOwnKeys(ctx)
	}
	slices.SortStableFunc(out, func(a, b Folder) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (c *Client) folder(ctx context.Context, v *clientv1.FolderView) (Folder, error) {
	uid, err := seal.IDFrom(v.FolderUid)
	if err != nil {
		return Folder{}, badServer("list folders", "folder: %w", err)
	}
	f := Folder{UID: uid, KeyVersion: v.KeyVersion, Records: v.Records, OldKeys: v.OldKeys, Roles: c.log.Roles(c.facts.Entry, uid), Grants: c.grantsOn(uid)}
	key, err := c.openFolder(ctx, v)
	if ReasonOf(err) == "folder_key_missing" {
		f.Missing, f.Name = true, uid.String()
		return f, nil
	}
	if err != nil {
		return Folder{}, err
	}
	f.Name = folderName(key, v.Data, uid)
	c.names.note(uid.String(), f.Name)
	return f, nil
}

// folderName opens a folder's name. It is encrypted without proof of its origin
// (the secrets-manager format has none), so a broken one is shown as the uid.
func folderName(key seal.Key, data []byte, uid seal.ID) string {
	var d folderData
	b, err := seal.OpenCBC(key, data)
	if err != nil || json.Unmarshal(b, &d) != nil || d.Name == "" || len(d.Name) > MaxFolderName {
		return uid.String()
	}
	return d.Name
}

func (c *Client) grantsOn(folder seal.ID) []Grant {
	var out []Grant
	for _, g := range c.log.GrantsOn(folder) {
		if e, ok := c.log.Entry(g.To); ok {
			out = append(out, Grant{To: g.To, Kind: e.Kind, Name: e.Name, Roles: g.Roles})
		}
	}
	return out
}

// folderNames are the names of the folders that the caller may read.
func (c *Client) folderNames(ctx context.Context) (map[seal.ID]string, error) {
	list, err := c.Folders(ctx)
	names := map[seal.ID]string{}
	for _, f := range list {
		names[f.UID] = f.Name
	}
	return names, err
}

// AddFolder makes a folder and grants it to the caller.
func (c *Client) AddFolder(ctx context.Context, name string) (Folder, error) {
	op := "make the folder " + name
	if name == "" || len(name) > MaxFolderName {
		return Folder{}, invalid(op, "a folder's name has 1 to %d bytes", MaxFolderName)
	}
	if err := textual("name", name); err != nil {
		return Folder{}, fail(op, err)
	}
	if err := c.fresh(ctx); err != nil {
		return Folder{}, err
	}
	list, err := c.Folders(ctx)
	if err != nil {
		return Folder{}, err
	}
	for _, f := range list {
		if f.Name == name {
			return Folder{}, exists(op, "the folder "+name, f.UID.String(), "use that one, or take another name")
		}
	}
	me, err := c.me()
	if err != nil {
		return Folder{}, err
	}
	uid, key := seal.NewID(), seal.NewKey()
	data, err := json.Marshal(folderData{name})
	if err != nil {
		return Folder{}, fail(op, err)
	}
	_, err = c.change(ctx, changeSpec{
		op: op,
		ops: func(l *trust.Log) ([]*trustv1.Op, error) {
			return trust.NewFolderOps(c.facts.OrgID, uid, me.Owner, key), nil
		},
		with: func(after *trust.Log) ([]*clientv1.WriteOp, error) {
			ops := []*clientv1.WriteOp{{Op: &clientv1.WriteOp_PutFolder{PutFolder: &clientv1.PutFolder{
				FolderUid: uid.Bytes(), Data: seal.SealCBC(key, data),
			}}}}
			keys, err := c.sealToReaders(ctx, after, uid, 1, key)
			return append(ops, keys...), err
		},
	})
	if err != nil {
		return Folder{}, err
	}
	c.folders.put(uid, 1, key)
	return Folder{UID: uid, Name: name, KeyVersion: 1, Roles: c.log.Roles(c.facts.Entry, uid), Grants: c.grantsOn(uid)}, nil
}

// sealToReaders seals a new folder key to everybody who may read the folder. A
// reader whose keys do not verify is left out, with a notice: he gets none.
func (c *Client) sealToReaders(ctx context.Context, l *trust.Log, uid seal.ID, version uint32, key seal.Key) ([]*clientv1.WriteOp, error) {
	readers := l.Readers(uid)
	ids := make([]seal.ID, len(readers))
	for i, r := range readers {
		ids[i] = r.ID
	}
	public, err := c.publicKeys(ctx, ids)
	if err != nil {
		return nil, err
	}
	var ops []*clientv1.WriteOp
	for _, r := range readers {
		if r.Expired(c.now()) {
			continue
		}
		sealed, err := trust.SealFolderKey(l, uid, key, r.ID, public[r.ID], c.now())
		if trust.ReasonOf(err) == trust.RecipientUnverified {
			c.tellRefusal(ctx, eventClientRefused, trust.RecipientUnverified)
			what := "serves keys of %q that are not the log's"
			if len(public[r.ID]) == 0 {
				what = "has no keys of %q"
			}
			c.alarm("recipient_unverified", "the server "+what+": nothing was sealed to them", r.Name)
			continue
		}
		if err != nil {
			return nil, err
		}
		ops = append(ops, putFolderKey(uid, version, r.ID, sealed))
	}
	return ops, nil
}

func putFolderKey(uid seal.ID, version uint32, to seal.ID, sealed []byte) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutFolderKey{PutFolderKey: &clientv1.PutFolderKey{
		FolderUid: uid.Bytes(), KeyVersion: version, RecipientId: to.Bytes(), Sealed: sealed,
	}}}
}

// publicKeys fetches entries' encoded keys. Whoever seals to them checks them.
func (c *Client) publicKeys(ctx context.Context, ids []seal.ID) (map[seal.ID][]byte, error) {
	out := make(map[seal.ID][]byte, len(ids))
	var ask [][]byte
	c.public.mu.Lock()
	for _, id := range ids {
		if k, ok := c.public.keys[id]; ok {
			out[id] = k
		} else {
			ask = append(ask, id.Bytes())
		}
	}
	c.public.mu.Unlock()
	for part := range slices.Chunk(ask, 1000) {
		answer, err := call(ctx, c, "fetch public keys", c.conn.GetKeys, &clientv1.GetKeysRequest{EntryIds: part})
		if err != nil {
			return nil, err
		}
		c.public.mu.Lock()
		if c.public.keys == nil {
			c.public.keys = map[seal.ID][]byte{}
		}
		for _, k := range answer.Keys {
			id, err := seal.IDFrom(k.EntryId)
			if err != nil {
				continue
			}
			out[id] = k.Keys
			// Only keys that are the log's are kept: others may be set right later.
			if e, ok := c.log.Entry(id); ok {
				if _, err := trust.CheckKeys(e, k.Keys); err == nil {
					c.public.keys[id] = k.Keys
				}
			}
		}
		c.public.mu.Unlock()
	}
	return out, nil
}

// Grant sets the roles of a member, pool or app on a folder (zero: on all; none:
// withdraws), and seals the folder's key to whoever may read it now.
func (c *Client) Grant(ctx context.Context, folder, to seal.ID, roles Roles) error {
	if err := c.fresh(ctx); err != nil {
		return err
	}
	op := fmt.Sprintf("grant %s on %s to %s", roles, folder, c.nameOf(to))
	if _, ok := c.log.Folder(folder); !ok && !folder.IsZero() {
		return notFound(op, "there is no such folder")
	}
	if e, ok := c.log.Entry(to); ok && e.Kind == trustv1.EntryKind_ENTRY_KIND_APP {
		return c.GrantApp(ctx, to, folder, roles)
	}
	_, err := c.change(ctx, changeSpec{
		op: op, removal: roles == 0,
		ops: func(*trust.Log) ([]*trustv1.Op, error) {
			return []*trustv1.Op{trust.GrantOp(folder, to, roles)}, nil
		},
	})
	if err != nil {
		return err
	}
	return c.fillMissing(ctx)
}

// fillMissing seals folder and application keys to those who may have them and
// lack them, as far as this device can, and says so.
func (c *Client) fillMissing(ctx context.Context) error {
	const op = "seal missing keys"
	token := ""
	filled := map[seal.ID]int{}
	for {
		page, err := call(ctx, c, op, c.conn.ListMissingKeys, &clientv1.ListMissingKeysRequest{Page: &clientv1.Page{Size: writeOps, Token: token}})
		if err != nil {
			return err
		}
		ops, err := c.sealMissing(ctx, page.Missing, filled)
		if err != nil {
			return err
		}
		if len(ops) > 0 {
			if _, err := call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: ops}); err != nil {
				return err
			}
		}
		if page.Next == "" || page.Next == token {
			break
		}
		token = page.Next
	}
	for id, n := range filled {
		c.notice("keys_filled", "%d keys were sealed to %q, who may read and had none", n, c.nameOf(id))
	}
	return nil
}

func (c *Client) sealMissing(ctx context.Context, missing []*clientv1.MissingKey, filled map[seal.ID]int) ([]*clientv1.WriteOp, error) {
	var ids []seal.ID
	for _, m := range missing {
		ids = append(ids, idOr(m.RecipientId))
	}
	public, err := c.publicKeys(ctx, ids)
	if err != nil {
		return nil, err
	}
	var ops []*clientv1.WriteOp
	for _, m := range missing {
		to := idOr(m.RecipientId)
		if len(public[to]) == 0 {
			c.notice("keys_missing", "the server has no public keys of %q: until they come, nobody can seal a folder's key to it; a device brings its own when it connects, an agent is enrolled anew", c.nameOf(to))
			continue
		}
		var made *clientv1.WriteOp
		var err error
		if len(m.AppId) > 0 {
			made, err = c.sealAppKey(ctx, idOr(m.AppId), to, public[to])
		} else {
			made, err = c.sealFolderKey(ctx, idOr(m.FolderUid), to, public[to])
		}
		switch {
		case err == nil:
			ops = append(ops, made)
			filled[to]++
		case ReasonOf(err) == string(trust.RecipientUnverified):
			c.tellRefusal(ctx, eventClientRefused, trust.RecipientUnverified)
			c.alarm("recipient_unverified", "the server asks for a key to be sealed to %q, whose keys are not the log's: it was not", c.nameOf(to))
		case ClassOf(err) == Unreachable:
			return nil, err
		default:
			// A key that this device lacks, or a right: another client fills it.
		}
	}
	return ops, nil
}

func (c *Client) sealFolderKey(ctx context.Context, uid, to seal.ID, public []byte) (*clientv1.WriteOp, error) {
	key, version, err := c.folderKey(ctx, uid)
	if err != nil {
		return nil, err
	}
	sealed, err := trust.SealFolderKey(c.log, uid, key, to, public, c.now())
	if err != nil {
		return nil, fail("seal a folder key", err)
	}
	return putFolderKey(uid, version, to, sealed), nil
}
