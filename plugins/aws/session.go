package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rotunda-pam/rotunda/sdk"
)

// session is an administrator whose key was proven.
type session struct {
	service
	admin sdk.Credential
}

func (s *session) Close() error { return nil }

func (s *session) ask(ctx context.Context, user, action string, params url.Values, out any) error {
	if err := notCancelled(ctx); err != nil {
		return err
	}
	if user == "" { // would be the administrator's own
		return &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true}
	}
	if params == nil {
		params = url.Values{}
	}
	params.Set("UserName", user)
	return s.iam(ctx, s.admin, action, params, out)
}

// List reads all pages, or fails.
func (s *session) List(ctx context.Context, r sdk.ListRequest) (items []sdk.Item, err error) {
	for marker := ""; ; {
		params := url.Values{}
		if marker != "" {
			params.Set("Marker", marker)
		}
		var page struct {
			Result *struct {
				Keys []struct {
					ID         string `xml:"AccessKeyId"`
					Status     string
					CreateDate string
				} `xml:"AccessKeyMetadata>member"`
				IsTruncated bool
				Marker      string
			} `xml:"ListAccessKeysResult"`
		}
		if err := s.ask(ctx, r.Account.Name, "ListAccessKeys", params, &page); err != nil {
			return nil, err
		}
		if page.Result == nil || page.Result.IsTruncated && (page.Result.Marker == "" || page.Result.Marker == marker) || len(items) > sdk.MaxItems {
			return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "service.answer", Err: errors.New("the list of keys is not whole")}
		}
		for _, k := range page.Result.Keys {
			created, _ := time.Parse(time.RFC3339, k.CreateDate) // a service that does not tell: zero
			items = append(items, sdk.Item{ID: k.ID, Created: created, Active: k.Status == "Active"})
		}
		if !page.Result.IsTruncated {
			return items, nil
		}
		marker = page.Result.Marker
	}
}

// Mint has the service make a key. Some services would make the user with it, so he is
// looked for first.
func (s *session) Mint(ctx context.Context, r sdk.MintRequest) (sdk.Credential, error) {
	if err := s.ask(ctx, r.Account.Name, "GetUser", nil, nil); err != nil && !isReason(err, "admin.rights") {
		return sdk.Credential{}, err
	}
	var made struct {
		ID     string `xml:"CreateAccessKeyResult>AccessKey>AccessKeyId"`
		Secret []byte `xml:"CreateAccessKeyResult>AccessKey>SecretAccessKey"`
	}
	if err := s.ask(ctx, r.Account.Name, "CreateAccessKey", nil, &made); err != nil {
		return sdk.Credential{}, err
	}
	defer clear(made.Secret)
	return sdk.Credential{Kind: sdk.APIKey, ID: made.ID, Secret: sdk.NewSecret(made.Secret)}, nil
}

func (s *session) Sweep(ctx context.Context, r sdk.SweepRequest) error {
	for n, id := range r.IDs {
		if err := s.delete(ctx, r.Account.Name, id); err != nil {
			if n > 0 {
				err = sent(err)
			}
			return err
		}
	}
	return nil
}

// sent is the error of what comes after a change that was sent: it does not say that
// nothing was.
func sent(err error) error {
	if e := (*sdk.Error)(nil); errors.As(err, &e) && e.NotSent {
		return &sdk.Error{Class: e.Class, Reason: e.Reason, Err: err}
	}
	return err
}

// delete ends a key; that it is gone already is a success.
func (s *session) delete(ctx context.Context, user, id string) error {
	err := s.ask(ctx, user, "DeleteAccessKey", url.Values{"AccessKeyId": {id}}, nil)
	if isReason(err, "account.missing") {
		return nil
	}
	return err
}

// Retire switches the former key off before it deletes it, so that it has ended also
// where the administrator may not delete.
func (s *session) Retire(ctx context.Context, r sdk.RetireRequest) (sdk.RetireResponse, error) {
	if r.Old.Kind != sdk.APIKey || r.Old.ID == "" || r.Old.ID == r.Keep.ID {
		return sdk.RetireResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "key_id.missing", NotSent: true}
	}
	off := s.activate(ctx, r.Account.Name, r.Old.ID, false)
	if off != nil && !isReason(off, "account.missing") && !isReason(off, "target.unsupported") {
		return sdk.RetireResponse{}, off
	}
	err := s.ask(ctx, r.Account.Name, "DeleteAccessKey", url.Values{"AccessKeyId": {r.Old.ID}}, nil)
	if isReason(err, "account.missing") {
		err = nil
		if off != nil { // the user has no such key: perhaps another has
			err = s.ended(ctx, r.Old, r.Account.Name)
		}
	}
	if err != nil {
		return sdk.RetireResponse{}, sent(err)
	}
	return sdk.RetireResponse{Outcome: sdk.Changed}, nil
}

// ended sees to it that a key which the user has not is refused. One that was deleted a
// moment ago may be let in a little longer.
func (s *session) ended(ctx context.Context, old sdk.Credential, user string) error {
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		seen, err := s.try(ctx, old, user)
		switch {
		case err != nil:
			return err
		case seen.Verdict == sdk.Rejected:
			return nil
		case seen.Reason == "key.other_account", seen.Verdict == sdk.Accepted && wait > time.Second:
			return &sdk.Error{Class: sdk.ClassConflict, Reason: "key.other_account", Err: fmt.Errorf("the user %s has no key %s, and the service lets it in", user, old.ID)}
		case seen.Verdict != sdk.Accepted:
			return &sdk.Error{Class: sdk.ClassUnreachable, Reason: seen.Reason, Err: fmt.Errorf("the user %s has no key %s, and nobody knows whether the service lets it in", user, old.ID)}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return notCancelled(ctx)
		}
	}
}

func (s *session) activate(ctx context.Context, user, id string, active bool) error {
	status := "Inactive"
	if active {
		status = "Active"
	}
	return s.ask(ctx, user, "UpdateAccessKey", url.Values{"AccessKeyId": {id}, "Status": {status}}, nil)
}

// Apply sets a password, or sees to it that a key which the service made is in force.
func (s *session) Apply(ctx context.Context, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	var err error
	if a.Candidate.Kind == sdk.Password {
		err = s.setPassword(ctx, a.Account.Name, a.Candidate.Secret)
	} else {
		err = s.force(ctx, a.Account.Name, a.Candidate.ID)
	}
	var e *sdk.Error
	switch {
	case err == nil:
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case errors.As(err, &e) && !e.NotSent && e.MadeNothing():
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: e.Class, Reason: e.Reason}, nil
	}
	return sdk.ApplyResponse{}, err
}

// setPassword passes it on as text, which is the one way, and which Go cannot clear.
func (s *session) setPassword(ctx context.Context, user string, secret sdk.Secret) error {
	password := secret.ExposeString()
	if !utf8.ValidString(password) || strings.ContainsFunc(password, func(r rune) bool {
		return r > 0xff || r < ' ' && r != '\t' && r != '\n' && r != '\r'
	}) {
		return &sdk.Error{Class: sdk.ClassPolicy, Reason: "password.charset"}
	}
	return s.ask(ctx, user, "UpdateLoginProfile", url.Values{"Password": {password}, "PasswordResetRequired": {"false"}}, nil)
}

// force switches a key on that is off.
func (s *session) force(ctx context.Context, user, id string) error {
	items, err := s.List(ctx, sdk.ListRequest{Account: sdk.Account{Name: user}})
	if err != nil {
		return err
	}
	i := slices.IndexFunc(items, func(i sdk.Item) bool { return i.ID == id })
	switch {
	case i < 0:
		return &sdk.Error{Class: sdk.ClassPolicy, Reason: "key.gone"}
	case items[i].Active:
		return nil
	}
	return s.activate(ctx, user, id, true)
}
