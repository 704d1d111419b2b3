package client

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

const (
	maxAppName = 256
	// appClientRevoked is the state of a client that was ended.
	appClientRevoked = "revoked"
	appTokenTime     = 24 * time.Hour
)

// appRoles are all that an application may have.
const appRoles = Read | Edit

// appData is what an application's clients read about it, under its key.
type appData struct {
	Title string `json:"title"`
	Type  string `json:"type"`
}

// AddApp makes an application. Its key is sealed to administrators' devices, and later to
// those that may share each of its folders; its owner's key pair loses its private half at once, since
// the folder keys suffice to open what its clients create.
func (c *Client) AddApp(ctx context.Context, name string) (App, error) {
	op := "make the application " + name
	if name == "" || len(name) > maxAppName {
		return App{}, invalid(op, "a name has 1 to %d bytes", maxAppName)
	}
	if err := c.fresh(ctx); err != nil {
		return App{}, err
	}
	id, key := seal.NewID(), seal.NewKey()
	defer key.Wipe()
	owner, err := seal.GenerateDeviceKey()
	if err != nil {
		return App{}, fail(op, err)
	}
	ownerPub, err := seal.DevicePub(owner)
	if err != nil {
		return App{}, fail(op, err)
	}
	data, err := json.Marshal(appData{Title: name, Type: "app"})
	if err != nil {
		return App{}, fail(op, err)
	}
	_, err = c.change(ctx, changeSpec{
		op: op,
		ops: func(l *trust.Log) ([]*trustv1.Op, error) {
			return []*trustv1.Op{trust.PutOp(&trustv1.Entry{
				EntryId: id.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_APP, Name: name,
				AppCheck: seal.AppCheck(c.facts.OrgID, key, id).Bytes(), V: trust.Version,
			})}, nameFree(l, op, KindApp, seal.ID{}, name, c.now())
		},
		with: func(after *trust.Log) ([]*clientv1.WriteOp, error) {
			sealed, err := c.sealAppKeyTo(id, key, c.keys.Seal.Public(), c.facts.Entry)
			if err != nil {
				return nil, err
			}
			return []*clientv1.WriteOp{
				{Op: &clientv1.WriteOp_PutApp{PutApp: &clientv1.PutApp{AppId: id.Bytes(), AppData: seal.SealGCM(key, data, nil), OwnerPub: ownerPub}}},
				sealed,
			}, nil
		},
	})
	if err != nil {
		return App{}, err
	}
	return App{ID: id, Name: name}, c.fillMissing(ctx)
}

func (c *Client) sealAppKeyTo(app seal.ID, key seal.Key, sealPub []byte, to seal.ID) (*clientv1.WriteOp, error) {
	raw := key.Expose()
	defer clear(raw)
	sealed, err := seal.SealTo(sealPub, c.appRoute(app, to), raw)
	if err != nil {
		return nil, err
	}
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutAppKey{PutAppKey: &clientv1.PutAppKey{
		AppId: app.Bytes(), RecipientId: to.Bytes(), Sealed: sealed,
	}}}, nil
}

func (c *Client) appRoute(app, to seal.ID) seal.Route {
	return seal.Route{Purpose: seal.PurposeApp, Org: c.facts.OrgID, To: to, Object: app}
}

// sealAppKey seals an application's key, which this device holds, to another device.
func (c *Client) sealAppKey(ctx context.Context, app, to seal.ID, public []byte) (*clientv1.WriteOp, error) {
	const op = "seal an application's key"
	e, ok := c.log.Entry(to)
	if !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_DEVICE || !c.log.MayHoldApp(to, app) {
		return nil, &Error{Class: Denied, Reason: string(trust.NotAllowed), Op: op, Err: fmt.Errorf("%q may not hold it", c.nameOf(to))}
	}
	keys, err := c.log.Recipient(to, public, c.now())
	if err != nil {
		return nil, fail(op, err)
	}
	v, err := c.appView(ctx, app)
	if err != nil {
		return nil, err
	}
	key, err := c.openAppKey(v)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return c.sealAppKeyTo(app, key, keys.SealPub, to)
}

// openAppKey opens an application's key and holds it against the log.
func (c *Client) openAppKey(v *clientv1.AppView) (seal.Key, error) {
	id := idOr(v.AppId)
	op := "open the application " + c.nameOf(id)
	e, ok := c.log.Entry(id)
	if !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_APP {
		return seal.Key{}, notFound(op, "there is no such application")
	}
	if !c.log.MayHoldApp(c.facts.Entry, id) {
		return seal.Key{}, &Error{
			Class: Denied, Reason: string(trust.NotAllowed), Op: op, Err: errors.New("its key is held by who may share every folder that it was ever granted"),
			Hint: "who can do it, or give you the right: " + c.administrators(),
		}
	}
	if len(v.SealedKey) == 0 {
		return seal.Key{}, &Error{
			Class: Conflict, Reason: "app_key_missing", Op: op, Err: errors.New("nobody has sealed its key to this device yet"),
			Hint: "it comes when a person who has it uses his client",
		}
	}
	b, err := seal.OpenFrom(c.keys.Seal, c.appRoute(id, c.facts.Entry), v.SealedKey)
	if err != nil {
		return seal.Key{}, fail(op, &trust.Error{Reason: trust.RecordCorrupt, What: "the application's key does not open"})
	}
	defer clear(b)
	key, err := seal.KeyFrom(b)
	if err == nil {
		err = trust.CheckAppKey(c.log, id, key)
	}
	if err != nil {
		return seal.Key{}, fail(op, err)
	}
	return key, nil
}

func (c *Client) listApps(ctx context.Context, f func(*clientv1.AppView) error) error {
	token := ""
	for {
		page, err := call(ctx, c, "list applications", c.conn.ListApps, &clientv1.ListAppsRequest{Page: &clientv1.Page{Size: 1000, Token: token}})
		if err != nil {
			return err
		}
		for _, v := range page.Apps {
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

func (c *Client) appView(ctx context.Context, id seal.ID) (*clientv1.AppView, error) {
	var found *clientv1.AppView
	err := c.listApps(ctx, func(v *clientv1.AppView) error {
		if idOr(v.AppId) == id {
			found = v
		}
		return nil
	})
	if err == nil && found == nil {
		err = notFound("find the application "+id.String(), "there is no such application")
	}
	return found, err
}

// Apps lists applications.
func (c *Client) Apps(ctx context.Context) ([]App, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	names, err := c.folderNames(ctx)
	if err != nil {
		return nil, err
	}
	var out []App
	err = c.listApps(ctx, func(v *clientv1.AppView) error {
		id := idOr(v.AppId)
		e, ok := c.log.Entry(id)
		if !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_APP {
			return nil // removed from the log: the server's row means nothing
		}
		a := App{ID: id, Name: e.Name, Held: c.log.MayHoldApp(c.facts.Entry, id)}
		for _, g := range c.log.GrantsTo(id) {
			name := names[g.Folder]
			if name == "" {
				name = g.Folder.String()
			}
			a.Folders = append(a.Folders, AppFolder{UID: g.Folder, Name: name, Roles: g.Roles})
		}
		for _, k := range v.Clients {
			a.Clients = append(a.Clients, AppClient{
				ID: k.ClientId, Name: k.Name, State: k.State, Created: when(k.Created), LastSeen: when(k.LastSeen),
			})
		}
		out = append(out, a)
		return nil
	})
	return out, err
}

// FindApp finds an application by id or name.
func (c *Client) FindApp(ctx context.Context, nameOrID string) (App, error) {
	op := "find the application " + nameOrID
	list, err := c.Apps(ctx)
	if err != nil {
		return App{}, err
	}
	var found []App
	for _, a := range list {
		if a.ID.String() == nameOrID {
			return a, nil
		}
		if a.Name == nameOrID {
			found = append(found, a)
		}
	}
	switch len(found) {
	case 0:
		return App{}, notFound(op, "there is no such application that you may see")
	case 1:
		return found[0], nil
	}
	return App{}, ambiguous(op, len(found), func(n int) string { return found[n].ID.String() })
}

// GrantApp gives an application READ, or READ and EDIT, on a folder; none withdraws.
func (c *Client) GrantApp(ctx context.Context, app, folder seal.ID, roles Roles) error {
	if err := c.fresh(ctx); err != nil {
		return err
	}
	op := fmt.Sprintf("grant %s on %s to the application %s", roles, folder, c.nameOf(app))
	if roles&^appRoles != 0 || roles != 0 && !roles.Has(Read) || folder.IsZero() {
		return invalid(op, "an application gets read, or read and edit, on one folder")
	}
	var with func(*trust.Log) ([]*clientv1.WriteOp, error)
	if roles != 0 {
		v, err := c.appView(ctx, app)
		if err != nil {
			return err
		}
		if err := c.noStrangers(ctx, op, v, folder); err != nil {
			return err
		}
		appKey, err := c.openAppKey(v)
		if err != nil {
			return err
		}
		defer appKey.Wipe()
		key, version, err := c.folderKey(ctx, folder)
		if err != nil {
			return err
		}
		with = func(*trust.Log) ([]*clientv1.WriteOp, error) {
			return []*clientv1.WriteOp{{Op: &clientv1.WriteOp_PutAppFolder{PutAppFolder: &clientv1.PutAppFolder{
				AppId: app.Bytes(), FolderUid: folder.Bytes(), KeyVersion: version, Wrapped: seal.WrapKey(appKey, key),
			}}}}, nil
		}
	}
	_, err := c.change(ctx, changeSpec{
		op: op, removal: roles == 0, with: with,
		ops: func(*trust.Log) ([]*trustv1.Op, error) {
			return []*trustv1.Op{trust.GrantOp(folder, app, roles)}, nil
		},
	})
	if err != nil {
		return err
	}
	return c.fillMissing(ctx) // the folder's sharers may hold the application's key now
}

// machineConfig is the public SDKs' client configuration (all values text).
type machineConfig struct {
	Hostname          string `json:"hostname"`
	ClientID          string `json:"clientId"`
	PrivateKey        string `json:"privateKey"`
	AppKey            string `json:"appKey"`
	AppOwnerPublicKey string `json:"appOwnerPublicKey"`
	ServerPublicKeyID string `json:"serverPublicKeyId"`
	ServerPublicKey   string `json:"serverPublicKey,omitempty"`
}

// AppConfig makes a client key, registers its public half and returns a complete
// configuration: base64 of JSON, as the public SDKs read it. Prefer it to a token.
func (c *Client) AppConfig(ctx context.Context, s AppClientSpec) (sdk.Secret, error) {
	op := "make a configuration for " + s.Name
	if len(s.ServerKey) != 0 {
		if _, err := seal.ParseDevicePub(s.ServerKey); err != nil {
			return sdk.Secret{}, invalid(op, "the endpoint's public key is no point of P-256, uncompressed (65 bytes, the first is 4): it has %d bytes", len(s.ServerKey))
		}
	}
	put, appKey, err := c.appClient(ctx, op, s)
	if err != nil {
		return sdk.Secret{}, err
	}
	defer appKey.Wipe()
	// The client seals the key of every record that it creates to its owner, too, and
	// nobody needs that copy: the owner is made here, and its private half forgotten. A
	// public half that the server says would be the server's word.
	owner, err := seal.GenerateDeviceKey()
	if err != nil {
		return sdk.Secret{}, fail(op, err)
	}
	ownerPub, err := seal.DevicePub(owner)
	if err != nil {
		return sdk.Secret{}, fail(op, err)
	}
	key, err := seal.GenerateDeviceKey()
	if err != nil {
		return sdk.Secret{}, fail(op, err)
	}
	der, err := seal.MarshalDeviceKey(key)
	if err != nil {
		return sdk.Secret{}, fail(op, err)
	}
	defer clear(der)
	if put.PublicKey, err = seal.DevicePub(key); err != nil {
		return sdk.Secret{}, fail(op, err)
	}
	put.ClientId = make([]byte, 64)
	rand.Read(put.ClientId)
	std := base64.StdEncoding.EncodeToString
	raw := appKey.Expose()
	defer clear(raw)
	config, err := json.Marshal(machineConfig{
		Hostname: c.machineHost(s), ClientID: std(put.ClientId), PrivateKey: std(der), AppKey: std(raw),
		AppOwnerPublicKey: std(ownerPub), ServerPublicKeyID: s.ServerKeyID,
		ServerPublicKey: base64.RawURLEncoding.EncodeToString(s.ServerKey),
	})
	if err != nil {
		return sdk.Secret{}, fail(op, err)
	}
	defer clear(config)
	if err := c.putAppClient(ctx, op, put); err != nil {
		return sdk.Secret{}, err
	}
	text := base64.StdEncoding.AppendEncode(nil, config)
	defer clear(text)
	return sdk.NewSecret(text), nil
}

// AppToken makes a one-time token. A client that binds by one takes the owner's
// key from the server unauthenticated: see the manual before you use it.
func (c *Client) AppToken(ctx context.Context, s AppClientSpec) (sdk.Secret, error) {
	op := "make a one-time token for " + s.Name
	put, appKey, err := c.appClient(ctx, op, s)
	if err != nil {
		return sdk.Secret{}, err
	}
	defer appKey.Wipe()
	token := seal.NewKey()
	defer token.Wipe()
	id := seal.TokenClientID(token)
	put.ClientId = id[:]
	put.EncryptedAppKey = seal.WrapKey(token, appKey)
	if s.TokenFor == 0 {
		s.TokenFor = appTokenTime
	}
	put.TokenExpires = c.now().Add(s.TokenFor).UnixMilli()
	if err := c.putAppClient(ctx, op, put); err != nil {
		return sdk.Secret{}, err
	}
	// The SDKs split the text at colons: a port cannot stand in it.
	host := c.machineHost(s)
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	text := append([]byte(host), ':')
	raw := token.Expose()
	defer clear(raw)
	text = base64.RawURLEncoding.AppendEncode(text, raw)
	defer clear(text)
	return sdk.NewSecret(text), nil
}

func (c *Client) appClient(ctx context.Context, op string, s AppClientSpec) (*clientv1.PutAppClient, seal.Key, error) {
	if s.Name == "" || len(s.Name) > maxAppName {
		return nil, seal.Key{}, invalid(op, "a client's name has 1 to %d bytes", maxAppName)
	}
	if err := c.fresh(ctx); err != nil {
		return nil, seal.Key{}, err
	}
	v, err := c.appView(ctx, s.App)
	if err != nil {
		return nil, seal.Key{}, err
	}
	for _, k := range v.Clients {
		if k.Name == s.Name && k.State != appClientRevoked {
			return nil, seal.Key{}, exists(op, "the client "+s.Name, hex.EncodeToString(k.ClientId), "take another name, or end that one first: `rotunda app remove APP --client NAME`")
		}
	}
	key, err := c.openAppKey(v)
	return &clientv1.PutAppClient{
		AppId: s.App.Bytes(), Name: s.Name, AccessExpires: milli(s.AccessUntil), LockAddress: s.LockAddress,
	}, key, err
}

func (c *Client) putAppClient(ctx context.Context, op string, put *clientv1.PutAppClient) error {
	_, err := call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{
		{Op: &clientv1.WriteOp_PutAppClient{PutAppClient: put}},
	}})
	return err
}

// machineHost is the address for machine clients; the port is left out where it is 443.
func (c *Client) machineHost(s AppClientSpec) string {
	address := s.PublicServer
	if address == "" {
		address = c.facts.Server
	}
	if host, port, err := net.SplitHostPort(address); err == nil && port == "443" {
		return host
	}
	return address
}

// RemoveAppClient ends one client of an application.
func (c *Client) RemoveAppClient(ctx context.Context, app seal.ID, client []byte) error {
	_, err := call(ctx, c, "remove a client of the application "+app.String(), c.conn.Write, &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{
		{Op: &clientv1.WriteOp_RemoveAppClient{RemoveAppClient: &clientv1.RemoveAppClient{AppId: app.Bytes(), ClientId: client}}},
	}})
	return err
}
