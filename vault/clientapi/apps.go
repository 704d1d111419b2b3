package clientapi

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Bounds of a secrets-manager application.
const (
	maxAppData    = 4 << 10
	maxAppClients = 1000
	maxTokenTime  = 24 * time.Hour // of a one-time token, by the protocol
)

// app is a live application of the log.
func (w *writer) app(b []byte) (seal.ID, error) {
	app, err := id("application id", b)
	if err != nil {
		return app, err
	}
	e, ok := w.log.Entry(app)
	if !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_APP {
		return app, notFound("the log knows no application %s", app)
	}
	return app, nil
}

// mayHoldApp reports whether a party may hold an application's key, and with it reach
// all its folders and clients.
func (p *party) mayHoldApp(app seal.ID) bool {
	return p.admin() || p.log.MayHoldApp(p.entry, app)
}

func (p *party) needWholeApp(app seal.ID) error {
	if p.mayHoldApp(app) {
		return nil
	}
	return notAllowed("this needs share on every folder that application %s was ever granted", app)
}

// maySeeApp reports whether a party sees an application among others: who may hold its
// key, and who may SHARE, and so withdraw, one of its folders.
func (p *party) maySeeApp(app seal.ID) bool {
	return p.mayHoldApp(app) || slices.ContainsFunc(p.log.GrantsTo(app), func(g trust.Grant) bool { return p.has(g.Folder, trust.Share) })
}

// appHolders are the devices that may hold an application's key.
func appHolders(log *trust.Log, app seal.ID) []trust.Entry {
	return slices.DeleteFunc(log.Entries(trustv1.EntryKind_ENTRY_KIND_DEVICE), func(e trust.Entry) bool { return !log.MayHoldApp(e.ID, app) })
}

func (w *writer) putApp(r *clientv1.PutApp) error {
	app, err := w.app(r.GetAppId())
	if err != nil {
		return err
	}
	if !w.admin() {
		return notAllowed("this needs admin")
	}
	if n := len(r.GetAppData()); n == 0 || n > maxAppData {
		return malformed("application data of %d bytes, at most %d", n, maxAppData)
	}
	if _, err := seal.ParseDevicePub(r.GetOwnerPub()); err != nil {
		return malformed("owner's public key: %v", err)
	}
	return w.q.PutApp(w.ctx, db.PutAppParams{
		Org: w.org, AppID: app[:], AppData: r.GetAppData(), OwnerPub: r.GetOwnerPub(), Created: w.now.UnixMilli(),
	})
}

func (w *writer) putAppKey(r *clientv1.PutAppKey) error {
	app, err := w.app(r.GetAppId())
	if err != nil {
		return err
	}
	to, err := id("recipient", r.GetRecipientId())
	if err != nil {
		return err
	}
	if err := w.needWholeApp(app); err != nil {
		return err
	}
	e, ok := w.log.Entry(to)
	if !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_DEVICE || !w.log.MayHoldApp(to, app) {
		return notAllowed("%s may not hold the key of application %s", to, app)
	}
	if len(r.GetSealed()) != sealedKeySize {
		return malformed("a sealed application key of %d bytes, not %d", len(r.GetSealed()), sealedKeySize)
	}
	return w.q.PutAppKey(w.ctx, db.PutAppKeyParams{Org: w.org, AppID: app[:], RecipientID: to[:], Sealed: r.GetSealed()})
}

func (w *writer) putAppFolder(r *clientv1.PutAppFolder) error {
	app, err := w.app(r.GetAppId())
	if err != nil {
		return err
	}
	folder, err := id("folder uid", r.GetFolderUid())
	if err != nil {
		return err
	}
	f, ok := w.log.Folder(folder)
	switch {
	case !ok:
		return notFound("the log knows no folder %s", folder)
	case r.GetKeyVersion() != f.Version:
		return keyVersion(folder, r.GetKeyVersion(), f.Version)
	case len(r.GetWrapped()) != wrappedKeyLen:
		return malformed("a wrapped folder key of %d bytes, not %d", len(r.GetWrapped()), wrappedKeyLen)
	}
	if err := w.need(folder, trust.Share); err != nil {
		return err
	}
	if !w.log.Roles(app, folder).Has(trust.Read) {
		return notAllowed("application %s may not read folder %s", app, folder)
	}
	err = w.q.PutAppFolder(w.ctx, db.PutAppFolderParams{
		Org: w.org, AppID: app[:], FolderUid: folder[:], KeyVersion: int64(f.Version), Wrapped: r.GetWrapped(),
	})
	if err != nil {
		return err
	}
	return w.tell(audit.Event{
		Name: audit.AppFolderShared, Folder: folder[:],
		Fields: map[string]string{"app": app.String(), "key_version": strconv.FormatUint(uint64(f.Version), 10)},
	})
}

func (w *writer) putAppClient(r *clientv1.PutAppClient) error {
	app, err := w.app(r.GetAppId())
	if err != nil {
		return err
	}
	if err := w.needWholeApp(app); err != nil {
		return err
	}
	if _, err := w.q.AppByID(w.ctx, db.AppByIDParams{Org: w.org, AppID: app[:]}); errors.Is(err, store.ErrNotFound) {
		return notFound("application %s has not been stored", app)
	} else if err != nil {
		return err
	}
	binding := "token"
	tokenEnd := time.UnixMilli(r.GetTokenExpires())
	switch {
	case len(r.GetClientId()) != 64:
		return malformed("a client id of %d bytes, not 64", len(r.GetClientId()))
	case len(r.GetName()) == 0 || len(r.GetName()) > trust.MaxName:
		return malformed("a client's name of %d bytes, at most %d", len(r.GetName()), trust.MaxName)
	case r.GetAccessExpires() < 0 || r.GetAccessExpires() != 0 && r.GetAccessExpires() <= w.now.UnixMilli():
		return malformed("access ends before it begins")
	case len(r.GetPublicKey()) != 0:
		binding = "configuration"
		if _, err := seal.ParseDevicePub(r.GetPublicKey()); err != nil {
			return malformed("client's public key: %v", err)
		}
	case len(r.GetEncryptedAppKey()) != wrappedKeyLen:
		return malformed("an encrypted application key of %d bytes, not %d", len(r.GetEncryptedAppKey()), wrappedKeyLen)
	case !tokenEnd.After(w.now) || tokenEnd.After(w.now.Add(maxTokenTime+trust.Skew)):
		return malformed("a token's time ends within %v", maxTokenTime)
	}
	if n := len(r.GetEncryptedAppKey()); n > 256 {
		return malformed("an encrypted application key of %d bytes", n)
	}
	n, err := w.q.CountAppClients(w.ctx, db.CountAppClientsParams{Org: w.org, OwnerID: app[:]})
	if err != nil {
		return err
	}
	if n >= maxAppClients {
		return refuse(connect.CodeResourceExhausted, ReasonTooLarge, "make another application", "application %s has %d clients", app, n)
	}
	err = w.q.AddAppClient(w.ctx, db.AddAppClientParams{
		ClientID: r.GetClientId(), Org: w.org, OwnerID: app[:], Name: r.GetName(), PublicKey: r.GetPublicKey(),
		EncryptedAppKey: r.GetEncryptedAppKey(), TokenExpires: r.GetTokenExpires(), AccessExpires: r.GetAccessExpires(),
		LockAddress: flag(r.GetLockAddress()), Created: w.now.UnixMilli(),
	})
	if errors.Is(err, store.ErrExists) {
		return refuse(connect.CodeAlreadyExists, ReasonExists, "make another", "there is such a client already")
	}
	if err != nil {
		return err
	}
	return w.tell(audit.Event{Name: audit.AppClientAdded, Fields: map[string]string{"app": app.String(), "client": r.GetName(), "binding": binding}})
}

func (w *writer) removeAppClient(r *clientv1.RemoveAppClient) error {
	app, err := id("application id", r.GetAppId())
	if err != nil {
		return err
	}
	if err := w.needWholeApp(app); err != nil {
		return err
	}
	c, err := w.q.MachineClientByID(w.ctx, r.GetClientId())
	if errors.Is(err, store.ErrNotFound) || err == nil && (c.Org != w.org || string(c.OwnerID) != string(app[:])) {
		return notFound("application %s has no such client", app)
	}
	if err != nil {
		return err
	}
	n, err := w.q.RevokeAppClient(w.ctx, db.RevokeAppClientParams{ClientID: r.GetClientId(), Org: w.org, OwnerID: app[:]})
	if err != nil {
		return err
	}
	if n != 1 {
		return notFound("application %s has no such client", app)
	}
	return w.tell(audit.Event{Name: audit.AppClientRemoved, Fields: map[string]string{"app": app.String(), "client": c.Name}})
}

// ListApps: see the service's definition. It lists the applications whose key
// the caller may hold, or one of whose folders he may share; the token is the id of the last one seen.
func (s *service) ListApps(ctx context.Context, r *connect.Request[clientv1.ListAppsRequest]) (*connect.Response[clientv1.ListAppsResponse], error) {
	from, err := after(r.Msg.Page, 16)
	if err != nil {
		return nil, err
	}
	answer := &clientv1.ListAppsResponse{}
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		n, bytes := size(r.Msg.Page), 0
		for {
			rows, err := q.AppsAfter(ctx, db.AppsAfterParams{Org: p.org, After: from, Rows: rowsAtOnce})
			if err != nil {
				return err
			}
			for _, a := range rows {
				if !p.maySeeApp(seal.ID(a.AppID)) {
					continue
				}
				if have := len(answer.Apps); have == n || bytes > pageBytes {
					answer.Next = token(answer.Apps[have-1].AppId)
					return nil
				}
				view, err := s.appView(ctx, q, p, a)
				if err != nil {
					return err
				}
				bytes += proto.Size(view)
				answer.Apps = append(answer.Apps, view)
			}
			if len(rows) < rowsAtOnce {
				return nil
			}
			from = rows[len(rows)-1].AppID
		}
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

func (s *service) appView(ctx context.Context, q *db.Queries, p *party, a db.App) (*clientv1.AppView, error) {
	view := &clientv1.AppView{AppId: a.AppID, AppData: a.AppData, OwnerPub: a.OwnerPub}
	var err error
	view.FolderUids, err = q.AppFolders(ctx, db.AppFoldersParams{Org: p.org, AppID: a.AppID})
	if err != nil || !p.mayHoldApp(seal.ID(a.AppID)) {
		return view, err
	}
	view.SealedKey, err = q.SealedAppKey(ctx, db.SealedAppKeyParams{Org: p.org, AppID: a.AppID, RecipientID: p.entry[:]})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	view.HolderIds, err = q.AppKeyRecipients(ctx, db.AppKeyRecipientsParams{Org: p.org, AppID: a.AppID})
	if err != nil {
		return nil, err
	}
	clients, err := q.AppClients(ctx, db.AppClientsParams{Org: p.org, OwnerID: a.AppID, Rows: maxAppClients})
	if err != nil {
		return nil, err
	}
	for _, c := range clients {
		view.Clients = append(view.Clients, &clientv1.AppClientView{
			ClientId: c.ClientID, Name: c.Name, State: clientState(c, s.Now()), Created: c.Created, LastSeen: c.LastSeen,
		})
	}
	return view, nil
}

func clientState(c db.MachineClient, now time.Time) string {
	switch ms := now.UnixMilli(); {
	case c.Revoked != 0:
		return "revoked"
	case c.AccessExpires != 0 && c.AccessExpires <= ms:
		return "expired"
	case len(c.PublicKey) != 0:
		return "bound"
	case c.TokenExpires <= ms:
		return "expired"
	}
	return "waiting"
}
