package machineapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

const (
	kindApp   = "app"
	kindAgent = "agent"
	// seenEvery bounds how often a client's last_seen is written.
	seenEvery = 5 * time.Minute
)

// authenticate finds the client, checks its signature, and only then what else
// stands against it.
func (a *API) authenticate(ctx context.Context, r *request, opened *ksm.Opened) error {
	if err := decode(r, &r.head); err != nil {
		return err
	}
	if len(r.head.ClientID) != ksm.ClientSize {
		return ksm.Refuse(ksm.CodeBadRequest, "the payload names no client")
	}
	err := a.Store.Read(ctx, func(q *db.Queries) error {
		c, err := q.MachineClientByID(ctx, r.head.ClientID)
		if err != nil {
			return err
		}
		r.client = c
		r.log, err = a.Directory.View(ctx, q, c.Org)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return ksm.Refuse(ksm.CodeAccessDenied, "the client is not known here")
	}
	if err != nil {
		return fmt.Errorf("find the client: %w", err)
	}
	point, err := a.signingKey(r)
	if err != nil {
		return err
	}
	if !opened.Verify(point) {
		return a.refuseClient(ctx, r, "signature_invalid", "Signature is invalid")
	}
	if !a.seen.first(opened.Once()) {
		return ksm.Refuse(ksm.CodeAccessDenied, "this request was received before")
	}
	if wait := a.bucket(r).take(string(r.head.ClientID), r.now); wait > 0 {
		e := ksm.Refuse(ksm.CodeThrottled, "too many requests")
		e.RetryAfter = wait
		return e
	}
	if err := a.admit(ctx, r); err != nil {
		return err
	}
	return a.note(ctx, r, point)
}

func (a *API) bucket(r *request) *throttle {
	if r.client.Kind == kindAgent {
		return a.agents
	}
	return a.apps
}

// signingKey is the key that has to have signed the request: the stored one, or
// on a binding request the one that it brings. A repeated binding is served
// until it is confirmed, to the same key only.
func (a *API) signingKey(r *request) ([]byte, error) {
	stored := r.client.PublicKey
	if r.op != ksm.OpGetSecret || r.client.Kind != kindApp {
		if len(stored) == 0 {
			return nil, ksm.Refuse(ksm.CodeAccessDenied, "the client is not bound yet")
		}
		return stored, nil
	}
	var get struct {
		PublicKey ksm.Bytes `json:"publicKey"`
	}
	if err := decode(r, &get); err != nil {
		return nil, err
	}
	switch {
	case len(get.PublicKey) == 0 && len(stored) == 0:
		return nil, ksm.Refuse(ksm.CodeAccessDenied, "the client is not bound yet")
	case len(get.PublicKey) == 0:
		return stored, nil
	case r.client.Confirmed != 0 || len(r.client.EncryptedAppKey) == 0 || len(stored) != 0 && string(stored) != string(get.PublicKey):
		return nil, ksm.Refuse(ksm.CodeAccessDenied, "the one-time token was used already")
	}
	if _, err := seal.ParseDevicePub(get.PublicKey); err != nil {
		return nil, ksm.Refuse(ksm.CodeBadRequest, "the client's public key is no P-256 point")
	}
	r.binding = true
	return get.PublicKey, nil
}

// admit checks what may stand against a client that has proven who it is.
func (a *API) admit(ctx context.Context, r *request) error {
	owner, err := seal.IDFrom(r.client.OwnerID)
	if err != nil {
		return fmt.Errorf("the client's owner: %w", err)
	}
	r.owner = owner
	now := r.now.UnixMilli()
	kind := trustv1.EntryKind_ENTRY_KIND_APP
	if r.client.Kind == kindAgent {
		kind = trustv1.EntryKind_ENTRY_KIND_AGENT
	}
	entry, live := r.log.Entry(owner)
	switch {
	case r.client.Revoked != 0 || !live || entry.Kind != kind:
		return a.refuseClient(ctx, r, ksm.CodeAccessDenied, "the client's access has ended")
	case r.client.AccessExpires != 0 && now >= r.client.AccessExpires:
		return a.refuseClient(ctx, r, "expired", "the client's access has expired")
	case r.binding && len(r.client.PublicKey) == 0 && r.client.TokenExpires != 0 && now >= r.client.TokenExpires:
		return a.refuseClient(ctx, r, "expired", "the one-time token has expired")
	case r.client.LockAddress != 0 && r.client.Address != "" && r.client.Address != r.address:
		return a.refuseClient(ctx, r, "locked_address", "the client is locked to another address")
	}
	return nil
}

// note writes what a request changes about its client: it is bound, confirmed,
// or seen.
func (a *API) note(ctx context.Context, r *request, point []byte) error {
	now := r.now.UnixMilli()
	c := &r.client
	switch {
	case r.binding && len(c.PublicKey) == 0:
		return a.Store.Write(ctx, func(q *db.Queries) error {
			n, err := q.BindClient(ctx, db.BindClientParams{PublicKey: point, Address: r.address, Now: now, ClientID: c.ClientID})
			if err != nil {
				return fmt.Errorf("bind the client: %w", err)
			}
			if n == 0 { // another request was faster; was it this client's?
				again, err := q.MachineClientByID(ctx, c.ClientID)
				if err != nil {
					return fmt.Errorf("find the client: %w", err)
				}
				if string(again.PublicKey) != string(point) || again.Confirmed != 0 {
					return ksm.Refuse(ksm.CodeAccessDenied, "the one-time token was used already")
				}
				return nil
			}
			return a.tell(ctx, q, audit.Event{
				Org: c.Org, Name: audit.AppClientBound, Actor: c.OwnerID,
				Fields: map[string]string{"app": ksm.URL(c.OwnerID), "client": c.Name, "address": r.address},
			})
		})
	case !r.binding && c.Confirmed == 0 && c.Kind == kindApp:
		// It has its application's key: nobody needs the wrapped copy any more.
		at := c.Address
		if at == "" {
			at = r.address
		}
		return a.Store.Write(ctx, func(q *db.Queries) error {
			return q.ConfirmClient(ctx, db.ConfirmClientParams{Address: at, Now: now, ClientID: c.ClientID})
		})
	case now-c.LastSeen >= seenEvery.Milliseconds() && c.Kind == kindApp:
		return a.Store.Write(ctx, func(q *db.Queries) error {
			return q.SeenClient(ctx, db.SeenClientParams{LastSeen: now, ClientID: c.ClientID})
		})
	}
	return nil
}

// refuseClient refuses a known client and tells of it, not more often than once
// in ten minutes.
func (a *API) refuseClient(ctx context.Context, r *request, reason, message string) error {
	refused := ksm.Refuse(ksm.CodeAccessDenied, "%s", message)
	if r.client.Kind != kindApp || a.told.take(string(r.client.ClientID), r.now) > 0 {
		return refused
	}
	err := a.Store.Write(ctx, func(q *db.Queries) error {
		return a.tell(ctx, q, audit.Event{
			Org: r.client.Org, Name: audit.AppClientRefused, Actor: r.client.OwnerID, Reason: reason,
			Fields: map[string]string{"app": ksm.URL(r.client.OwnerID), "client": r.client.Name, "address": r.address},
		})
	})
	if err != nil {
		return errors.Join(refused, fmt.Errorf("note the refusal: %w", err))
	}
	return refused
}
