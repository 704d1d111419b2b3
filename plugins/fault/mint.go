package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// minter is the plugin whose target makes keys. An account's key logs in by its id.
type minter struct {
	rotator
	mine sync.Map // ids of keys that this process had made
}

// keys is an administrator who is logged in.
type keys struct {
	*session
	m *minter
}

func (m *minter) Open(ctx context.Context, r sdk.OpenRequest) (sdk.Session, error) {
	s, err := m.open(ctx, r)
	if err != nil {
		return nil, err
	}
	return &keys{s, m}, nil
}

func (m *minter) Verify(ctx context.Context, v sdk.VerifyRequest) (sdk.VerifyResponse, error) {
	v.Account.Name = v.Credential.ID
	return m.rotator.Verify(ctx, v)
}

func (k *keys) about(ctx context.Context, method, account, rest string, body, out any) (int, error) {
	return k.ask(ctx, method, "/users/"+url.PathEscape(account)+"/keys"+rest, k.admin.Name, k.secret, body, out)
}

func (k *keys) List(ctx context.Context, r sdk.ListRequest) (items []sdk.Item, err error) {
	for after := ""; ; {
		var page struct {
			Keys []struct {
				ID      string
				Created time.Time
				Active  bool
			}
			More bool
		}
		status, err := k.about(ctx, http.MethodGet, r.Account.Name, "?after="+url.QueryEscape(after), nil, &page)
		if err := refusal(status, err); err != nil {
			if k.fault == listAsFar {
				return items, nil
			}
			return nil, err
		}
		for _, one := range page.Keys {
			items = append(items, sdk.Item{ID: one.ID, Created: one.Created, Active: one.Active})
			after = one.ID
		}
		if !page.More || k.fault == listFirstPage {
			return items, nil
		}
	}
}

func (k *keys) Mint(ctx context.Context, r sdk.MintRequest) (sdk.Credential, error) {
	var made struct{ ID, Secret string }
	mint := func() (int, error) { return k.about(ctx, http.MethodPost, r.Account.Name, "", nil, &made) }
	status, err := mint()
	switch {
	case err != nil && k.fault == mintAgain:
		status, err = mint()
	case err != nil && k.fault == mintNotSent:
		return sdk.Credential{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", NotSent: true, Err: err}
	case status == http.StatusConflict && k.fault == mintMakesRoom:
		items, err := k.List(ctx, sdk.ListRequest{Account: r.Account})
		if err != nil || len(items) == 0 {
			return sdk.Credential{}, err
		}
		if err := k.delete(ctx, r.Account.Name, items[0].ID); err != nil {
			return sdk.Credential{}, err
		}
		status, err = mint()
		if err := refusal(status, err); err != nil {
			return sdk.Credential{}, err
		}
	}
	if err := refusal(status, err); err != nil {
		return sdk.Credential{}, err
	}
	if k.fault == printsMinted {
		fmt.Println("a new key: " + strings.Join(strings.Split(made.Secret, ""), " "))
	}
	k.m.mine.Store(made.ID, true)
	return sdk.Credential{Kind: sdk.APIKey, ID: made.ID, Secret: sdk.NewSecret([]byte(made.Secret))}, nil
}

func (k *keys) Sweep(ctx context.Context, r sdk.SweepRequest) error {
	ids := r.IDs
	if k.fault == sweepAll {
		items, err := k.List(ctx, sdk.ListRequest{Account: r.Account})
		if err != nil {
			return err
		}
		ids = nil
		for _, i := range items {
			ids = append(ids, i.ID)
		}
	}
	for _, id := range ids {
		if _, mine := k.m.mine.Load(id); !mine && k.fault == sweepOwnAlone {
			continue
		}
		if err := k.delete(ctx, r.Account.Name, id); err != nil {
			return err
		}
	}
	return nil
}

// delete ends a key; one that is gone is a success.
func (k *keys) delete(ctx context.Context, account, id string) error {
	status, err := k.about(ctx, http.MethodDelete, account, "/"+url.PathEscape(id), nil, nil)
	if err == nil && status == http.StatusNotFound && k.fault != sweepOnce {
		return nil
	}
	return refusal(status, err)
}

// Apply sees to it that a key is in force: the target made it.
func (k *keys) Apply(ctx context.Context, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	status, err := k.about(ctx, http.MethodPut, a.Account.Name, "/"+url.PathEscape(a.Candidate.ID), map[string]bool{"active": true}, nil)
	switch {
	case err != nil:
		return k.unanswered(ctx, err)
	case status == http.StatusNoContent:
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case status == http.StatusNotFound:
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "key.gone"}, nil
	case status == http.StatusForbidden:
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPermission, Reason: "admin.rights"}, nil
	}
	return sdk.ApplyResponse{}, nil
}

func (k *keys) Retire(ctx context.Context, r sdk.RetireRequest) (sdk.RetireResponse, error) {
	if err := k.delete(ctx, r.Account.Name, r.Old.ID); err != nil {
		return sdk.RetireResponse{}, err
	}
	return sdk.RetireResponse{Outcome: sdk.Changed}, nil
}

// refusal makes an error of an answer that is none of the good ones.
func refusal(status int, err error) error {
	switch {
	case err != nil:
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", Err: err}
	case status < 300:
		return nil
	}
	for _, one := range []struct {
		status int
		class  sdk.Class
		reason string
	}{
		{http.StatusUnauthorized, sdk.ClassAuth, "admin.refused"},
		{http.StatusForbidden, sdk.ClassPermission, "admin.rights"},
		{http.StatusNotFound, sdk.ClassNotFound, "account.missing"},
		{http.StatusConflict, sdk.ClassConflict, "keys.full"},
	} {
		if status == one.status {
			return &sdk.Error{Class: one.class, Reason: one.reason}
		}
	}
	return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "service.status"}
}
