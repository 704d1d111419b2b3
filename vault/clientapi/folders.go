package clientapi

import (
	"context"
	"errors"
	"slices"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Bounds of what is stored about a folder, in bytes.
const (
	maxFolderData = 4 << 10
	sealedKeySize = seal.SealOverhead + 32
)

func (w *writer) putFolder(r *clientv1.PutFolder) error {
	folder, err := id("folder uid", r.GetFolderUid())
	if err != nil {
		return err
	}
	if _, ok := w.log.Folder(folder); !ok {
		return notFound("the log knows no folder %s", folder)
	}
	if err := w.need(folder, trust.Edit); err != nil {
		return err
	}
	if n := len(r.GetData()); n == 0 || n > maxFolderData {
		return malformed("folder data of %d bytes, at most %d", n, maxFolderData)
	}
	return w.q.PutFolder(w.ctx, db.PutFolderParams{Org: w.org, FolderUid: folder[:], Data: r.GetData(), Created: w.now.UnixMilli()})
}

// putFolderKey stores a folder key sealed to one party. Only the receiver can
// tell whether it is the right one; a later copy takes the place of a wrong one.
func (w *writer) putFolderKey(r *clientv1.PutFolderKey) error {
	folder, err := id("folder uid", r.GetFolderUid())
	if err != nil {
		return err
	}
	to, err := id("recipient", r.GetRecipientId())
	if err != nil {
		return err
	}
	f, ok := w.log.Folder(folder)
	if !ok {
		return notFound("the log knows no folder %s", folder)
	}
	if r.GetKeyVersion() != f.Version {
		return keyVersion(folder, r.GetKeyVersion(), f.Version)
	}
	if len(r.GetSealed()) != sealedKeySize {
		return malformed("a sealed folder key of %d bytes, not %d", len(r.GetSealed()), sealedKeySize)
	}
	if to != w.entry {
		if w.enrolment {
			return notAllowed("an enrolment's session stores its own keys alone")
		}
		if err := w.mayPutKey(folder, to, f.Version); err != nil {
			return err
		}
	}
	if !mayHoldKey(w.log, to, folder) {
		return notAllowed("%s may not read folder %s", to, folder)
	}
	return w.q.PutFolderKey(w.ctx, db.PutFolderKeyParams{
		Org: w.org, FolderUid: folder[:], KeyVersion: int64(f.Version), RecipientID: to[:], Sealed: r.GetSealed(),
	})
}

// mayPutKey: a copy for somebody who has none is a share; one in the place of another can
// take the folder from him, and is an edit, too.
func (w *writer) mayPutKey(folder, to seal.ID, version uint32) error {
	if err := w.need(folder, trust.Share); err != nil || w.has(folder, trust.Edit) || w.e.Kind == trustv1.EntryKind_ENTRY_KIND_RECOVERY {
		return err
	}
	_, err := w.q.SealedFolderKey(w.ctx, db.SealedFolderKeyParams{Org: w.org, FolderUid: folder[:], KeyVersion: int64(version), RecipientID: to[:]})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return notAllowed("%s has a copy of the key of folder %s: putting another in its place needs edit there", to, folder)
}

func keyVersion(folder seal.ID, got, want uint32) error {
	return refuse(connect.CodeFailedPrecondition, ReasonKeyVersion, "fetch the log and the folder's key, then try again",
		"version %d of the key of folder %s, the log has version %d", got, folder, want)
}

// mayHoldKey reports whether a folder's key may be sealed to a party.
func mayHoldKey(log *trust.Log, to, folder seal.ID) bool {
	e, ok := log.Entry(to)
	if !ok {
		return false
	}
	switch e.Kind {
	case trustv1.EntryKind_ENTRY_KIND_RECOVERY:
		return true
	case trustv1.EntryKind_ENTRY_KIND_DEVICE, trustv1.EntryKind_ENTRY_KIND_AGENT:
		return log.Roles(to, folder).Has(trust.Read)
	}
	return false
}

// ListFolders: see the service's definition. Folders come from the log, so that
// one whose name never arrived is seen too.
func (s *service) ListFolders(ctx context.Context, r *connect.Request[clientv1.ListFoldersRequest]) (*connect.Response[clientv1.ListFoldersResponse], error) {
	from, err := after(r.Msg.Page, 16)
	if err != nil {
		return nil, err
	}
	answer := &clientv1.ListFoldersResponse{}
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		folders := behind(p.folders(trust.Read), from)
		if n := size(r.Msg.Page); len(folders) > n {
			folders = folders[:n]
			answer.Next = token(folders[n-1].UID[:])
		}
		for _, f := range folders {
			view := &clientv1.FolderView{FolderUid: f.UID.Bytes(), KeyVersion: f.Version}
			row, err := q.FolderByUID(ctx, db.FolderByUIDParams{Org: p.org, FolderUid: f.UID[:]})
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			view.Data = row.Data
			view.SealedKey, err = q.SealedFolderKey(ctx, db.SealedFolderKeyParams{
				Org: p.org, FolderUid: f.UID[:], KeyVersion: int64(f.Version), RecipientID: p.entry[:],
			})
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			former, err := q.FormerFolderKey(ctx, db.FormerFolderKeyParams{Org: p.org, FolderUid: f.UID[:], RecipientID: p.entry[:], KeyVersion: int64(f.Version)})
			if err != nil {
				return err
			}
			for _, k := range former {
				view.FormerVersion, view.FormerKey = uint32(k.KeyVersion), k.Sealed
			}
			view.Records, err = q.CountRecordsIn(ctx, db.CountRecordsInParams{Org: p.org, FolderUid: f.UID[:]})
			if err != nil {
				return err
			}
			view.OldKeys, err = oldKeysIn(ctx, q, p.org, f)
			if err != nil {
				return err
			}
			answer.Folders = append(answer.Folders, view)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

// behind cuts a list of folders, ordered by uid, to those after one.
func behind(folders []trust.FolderState, uid []byte) []trust.FolderState {
	i, found := slices.BinarySearchFunc(folders, uid, func(f trust.FolderState, uid []byte) int { return slices.Compare(f.UID[:], uid) })
	if found {
		i++
	}
	return folders[i:]
}

// partiesAtOnce bounds how many rights one page of ListMissingKeys looks at: a
// page may be empty and still have a next one.
const partiesAtOnce = 200_000

// ListMissingKeys: see the service's definition. It lists, of the folders that
// the caller may share, who may read by the log and has no sealed copy of the
// newest key; then likewise the applications' keys.
//
// The token is folder (or zero and the app) and recipient, the last one seen.
func (s *service) ListMissingKeys(ctx context.Context, r *connect.Request[clientv1.ListMissingKeysRequest]) (*connect.Response[clientv1.ListMissingKeysResponse], error) {
	from, err := after(r.Msg.Page, 33)
	if err != nil {
		return nil, err
	}
	if from == nil {
		from = make([]byte, 33)
	}
	m := missing{limit: size(r.Msg.Page), last: [33]byte(from)}
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		return m.find(ctx, q, p)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&clientv1.ListMissingKeysResponse{Missing: m.found, Next: m.next}), nil
}

// missing collects a page. Its places are ordered: 0 and folder, or 1 and app,
// then the recipient.
type missing struct {
	limit int
	seen  int
	last  [33]byte // the place behind which the page begins
	found []*clientv1.MissingKey
	next  string
}

const (
	ofFolder = 0
	ofApp    = 1
)

func (m *missing) find(ctx context.Context, q *db.Queries, p *party) error {
	for _, f := range p.folders(trust.Share) {
		readers := p.log.Readers(f.UID)
		if m.passed(ofFolder, f.UID, readers) {
			continue
		}
		have, err := q.FolderKeyRecipients(ctx, db.FolderKeyRecipientsParams{Org: p.org, FolderUid: f.UID[:], KeyVersion: int64(f.Version)})
		if err != nil {
			return err
		}
		full := m.add(ofFolder, f.UID, readers, have, &clientv1.MissingKey{FolderUid: f.UID.Bytes(), KeyVersion: f.Version})
		if full {
			return nil
		}
	}
	apps := p.log.Entries(trustv1.EntryKind_ENTRY_KIND_APP)
	slices.SortFunc(apps, func(a, b trust.Entry) int { return slices.Compare(a.ID[:], b.ID[:]) })
	for _, app := range apps {
		if !p.mayHoldApp(app.ID) {
			continue
		}
		holders := appHolders(p.log, app.ID)
		if m.passed(ofApp, app.ID, holders) {
			continue
		}
		have, err := q.AppKeyRecipients(ctx, db.AppKeyRecipientsParams{Org: p.org, AppID: app.ID[:]})
		if err != nil {
			return err
		}
		if m.add(ofApp, app.ID, holders, have, &clientv1.MissingKey{AppId: app.ID.Bytes()}) {
			return nil
		}
	}
	return nil
}

// passed reports whether former pages have seen all of an object, and orders
// its parties.
func (m *missing) passed(kind byte, object seal.ID, parties []trust.Entry) bool {
	slices.SortFunc(parties, func(a, b trust.Entry) int { return slices.Compare(a.ID[:], b.ID[:]) })
	place := slices.Concat([]byte{kind}, object[:])
	if c := slices.Compare(place, m.last[:17]); c != 0 {
		return c < 0
	}
	return len(parties) == 0 || slices.Compare(parties[len(parties)-1].ID[:], m.last[17:]) <= 0
}

// add lists the parties without a copy, and reports whether the page is full.
func (m *missing) add(kind byte, object seal.ID, parties []trust.Entry, have [][]byte, like *clientv1.MissingKey) bool {
	holds := make(map[seal.ID]bool, len(have))
	for _, h := range have {
		if id, err := seal.IDFrom(h); err == nil {
			holds[id] = true
		}
	}
	for _, e := range parties {
		place := [33]byte(slices.Concat([]byte{kind}, object[:], e.ID[:]))
		if slices.Compare(place[:], m.last[:]) <= 0 {
			continue
		}
		if len(m.found) >= m.limit || m.seen >= partiesAtOnce {
			m.next = token(m.last[:])
			return true
		}
		m.seen++
		m.last = place
		if !holds[e.ID] {
			k := &clientv1.MissingKey{FolderUid: like.FolderUid, KeyVersion: like.KeyVersion, AppId: like.AppId, RecipientId: e.ID.Bytes()}
			m.found = append(m.found, k)
		}
	}
	return false
}
