package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// session is an administrator whose token was proven.
type session struct {
	api
	config Config
}

func (s *session) Close() error { return nil }

// ownerLabel is on each Secret that a token is bound to: whose token it is, by the service
// account's UID. One that is made again under its name has none of the former's tokens.
const ownerLabel = "rotunda.dev/token-of"

// uid looks the service account up.
func (s *session) uid(ctx context.Context, a sdk.Account) (string, error) {
	at, err := path(core, namespaceOf(a), "serviceaccounts", a.Name)
	if err != nil {
		return "", err
	}
	var account struct {
		Meta meta `json:"metadata"`
	}
	if err := s.ask(ctx, request{http.MethodGet, at, oneMeta, "", nil}, &account); err != nil {
		return "", err
	}
	if account.Meta.UID == "" || account.Meta.Name != a.Name {
		return "", &sdk.Error{Class: sdk.ClassUnreachable, Reason: "service.answer", Err: errors.New("the API names another service account")}
	}
	return account.Meta.UID, nil
}

// List reads all pages, or fails.
func (s *session) List(ctx context.Context, r sdk.ListRequest) ([]sdk.Item, error) {
	all, err := s.anchors(ctx, r.Account)
	if err != nil {
		return nil, err
	}
	var items []sdk.Item
	for _, m := range all {
		created, _ := time.Parse(time.RFC3339, m.Created) // a server that does not tell: zero
		items = append(items, sdk.Item{ID: m.Name, Created: created, Active: true})
	}
	return items, nil
}

// anchors are the Secrets that the account's tokens are bound to.
func (s *session) anchors(ctx context.Context, a sdk.Account) ([]meta, error) {
	uid, err := s.uid(ctx, a)
	if err != nil {
		return nil, err
	}
	return s.secrets(ctx, a, "labelSelector", ownerLabel+"="+uid)
}

// secrets are those of the account's namespace that a selector chooses.
func (s *session) secrets(ctx context.Context, a sdk.Account, selector, is string) (all []meta, err error) {
	at, err := path(core, namespaceOf(a), "secrets")
	if err != nil {
		return nil, err
	}
	query := url.Values{selector: {is}, "limit": {"500"}}
	for {
		var page struct {
			Kind  string
			Meta  struct{ Continue string } `json:"metadata"`
			Items []struct {
				Meta meta `json:"metadata"`
			}
		}
		if err := s.ask(ctx, request{http.MethodGet, at + "?" + query.Encode(), listMeta, "", nil}, &page); err != nil {
			return nil, err
		}
		for _, i := range page.Items {
			all = append(all, i.Meta)
		}
		if page.Kind != "PartialObjectMetadataList" || len(all) > sdk.MaxItems {
			return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "service.answer", Err: errors.New("the list of tokens is not whole")}
		}
		if page.Meta.Continue == "" {
			return all, nil
		}
		query.Set("continue", page.Meta.Continue)
	}
}

// text is a secret in JSON, which is never a string.
type text []byte

func (t *text) UnmarshalText(b []byte) error {
	*t = bytes.Clone(b)
	return nil
}

// Mint makes the Secret first, which is no credential, and then asks for the token once.
func (s *session) Mint(ctx context.Context, r sdk.MintRequest) (sdk.Credential, error) {
	uid, err := s.uid(ctx, r.Account)
	if err != nil {
		return sdk.Credential{}, err
	}
	at, err := path(core, namespaceOf(r.Account), "secrets")
	if err != nil {
		return sdk.Credential{}, err
	}
	var anchor struct {
		Meta meta `json:"metadata"`
	}
	if err := s.ask(ctx, request{http.MethodPost, at, oneMeta, object, map[string]any{
		"apiVersion": "v1", "kind": "Secret", "immutable": true,
		"metadata": meta{
			GenerateName: "rotunda-token-", Labels: map[string]string{ownerLabel: uid},
			Annotations: map[string]string{"rotunda.dev/about": "a token of the service account " + r.Account.Name + " ends when this is deleted"},
		},
	}}, &anchor); err != nil {
		return sdk.Credential{}, notFull(err)
	}
	if anchor.Meta.Name == "" || anchor.Meta.UID == "" {
		return sdk.Credential{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "service.answer", Err: errors.New("the API does not name the Secret that it made")}
	}
	if at, err = path(core, namespaceOf(r.Account), "serviceaccounts", r.Account.Name, "token"); err != nil {
		return sdk.Credential{}, err
	}
	var made struct {
		Status struct{ Token text }
	}
	err = s.ask(ctx, request{http.MethodPost, at, whole, object, map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
		"spec": map[string]any{
			"expirationSeconds": s.config.Hours * 3600,
			"boundObjectRef":    map[string]string{"kind": "Secret", "apiVersion": "v1", "name": anchor.Meta.Name, "uid": anchor.Meta.UID},
		},
	}}, &made)
	defer clear(made.Status.Token)
	if err == nil && len(made.Status.Token) == 0 {
		err = &sdk.Error{Class: sdk.ClassUnreachable, Reason: "service.answer", Err: errors.New("the API gives no token")}
	}
	if err != nil {
		return sdk.Credential{}, s.madeNone(ctx, r.Account, anchor.Meta, err)
	}
	return sdk.Credential{Kind: sdk.Token, ID: anchor.Meta.Name, Secret: sdk.NewSecret(made.Status.Token)}, nil
}

// madeNone is the error of a Mint that has made the Secret. Where the API has refused to
// make a token, the Secret goes; else it stays, and is swept as an orphan, with the token
// that there may be. Then nobody may think that nothing was sent.
func (s *session) madeNone(ctx context.Context, a sdk.Account, m meta, err error) error {
	e := &sdk.Error{Class: sdk.ClassInternal, Reason: "service.answer"}
	if errors.As(err, &e) && e.MadeNothing() && s.delete(ctx, a, m) == nil {
		return notFull(err)
	}
	return &sdk.Error{Class: sdk.ClassUnreachable, Reason: e.Reason, Err: err}
}

// notFull is for a Mint that met another's change. To the agent a conflict says that there
// is no room for one more, for which it would end an older one; here there always is.
func notFull(err error) error {
	if e := (*sdk.Error)(nil); errors.As(err, &e) && e.Class == sdk.ClassConflict {
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: e.Reason, Err: err}
	}
	return err
}

// delete ends a token; that it has ended already is a success. A Secret that was made again
// under its name is another one, and stays.
func (s *session) delete(ctx context.Context, a sdk.Account, m meta) error {
	at, err := path(core, namespaceOf(a), "secrets", m.Name)
	if err != nil {
		return err
	}
	err = s.ask(ctx, request{http.MethodDelete, at, oneMeta, object, map[string]any{
		"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": map[string]string{"uid": m.UID},
	}}, nil)
	if isReason(err, "account.missing") || isReason(err, "object.changed") {
		return nil
	}
	return err
}

// end deletes those of the account's Secrets that are named.
func (s *session) end(ctx context.Context, a sdk.Account, names ...string) error {
	all, err := s.anchors(ctx, a)
	if err != nil {
		return err
	}
	begun := false
	for _, m := range all {
		if !slices.Contains(names, m.Name) {
			continue
		}
		if err := s.delete(ctx, a, m); err != nil {
			if begun {
				err = sent(err)
			}
			return err
		}
		begun = true
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

func (s *session) Sweep(ctx context.Context, r sdk.SweepRequest) error {
	return s.end(ctx, r.Account, r.IDs...)
}

// Retire ends the former token, by the Secret that the token itself says it is bound to. One
// that is bound to none, such as a person makes with kubectl, cannot be ended before its
// time. What is not labelled as the account's is deleted by nobody but a person.
func (s *session) Retire(ctx context.Context, r sdk.RetireRequest) (sdk.RetireResponse, error) {
	to := boundTo(r.Old.Secret)
	if r.Old.ID == "" || r.Old.ID == r.Keep.ID || r.Old.ID != to.Name {
		return sdk.RetireResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "key_id.missing", NotSent: true, Err: errors.New("the former token is bound to no Secret of its id: it ends when its time is over")}
	}
	if err := s.end(ctx, r.Account, r.Old.ID); err != nil {
		return sdk.RetireResponse{}, err
	}
	left, err := s.secrets(ctx, r.Account, "fieldSelector", "metadata.name="+r.Old.ID)
	if err != nil {
		return sdk.RetireResponse{}, sent(err)
	}
	if len(left) > 0 && left[0].UID == to.UID && left[0].Deleted == "" {
		return sdk.RetireResponse{}, &sdk.Error{Class: sdk.ClassConflict, Reason: "token.unlabelled", Err: fmt.Errorf("the Secret %s does not have the label %s with the account's UID", r.Old.ID, ownerLabel)}
	}
	return sdk.RetireResponse{Outcome: sdk.Changed}, nil
}

// boundTo reads from a token which Secret it is bound to. What it says was signed by the API
// server, which let the account in with it; of any other token it is nothing.
func boundTo(token sdk.Secret) (m meta) {
	b := token.Expose()
	defer clear(b)
	parts := bytes.Split(b, []byte("."))
	if len(parts) != 3 {
		return m
	}
	payload := make([]byte, base64.RawURLEncoding.DecodedLen(len(parts[1])))
	defer clear(payload)
	n, err := base64.RawURLEncoding.Decode(payload, parts[1])
	var claims struct {
		Kubernetes struct {
			Secret meta `json:"secret"`
		} `json:"kubernetes.io"`
	}
	if err != nil || json.Unmarshal(payload[:n], &claims) != nil {
		return m
	}
	return claims.Kubernetes.Secret
}

// Apply sees to it that the token is in force: its Secret is there.
func (s *session) Apply(ctx context.Context, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	all, err := s.anchors(ctx, a.Account)
	var e *sdk.Error
	switch {
	case errors.As(err, &e) && !e.NotSent && e.MadeNothing():
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: e.Class, Reason: e.Reason}, nil
	case err != nil:
		return sdk.ApplyResponse{}, err
	case !slices.ContainsFunc(all, func(m meta) bool { return m.Name == a.Candidate.ID }):
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "key.gone"}, nil
	}
	return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
}
