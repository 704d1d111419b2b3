package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Secrets that the target makes (sdk.Minter).

// mints refuses what the manifest does not declare.
func (s *Session) mints(kind sdk.Kind) error {
	if !slices.Contains(s.s.p.manifest.Minted, kind) {
		return s.s.p.fail(PluginManifest, fmt.Errorf("by its manifest its targets make no %s", kind))
	}
	return nil
}

// List as sdk.Minter. A list that cannot be whole is an error.
func (s *Session) List(ctx context.Context, r sdk.ListRequest) ([]sdk.Item, error) {
	if err := s.mints(r.Kind); err != nil {
		return nil, err
	}
	req := &pluginv1.ListRequest{Session: s.s.id, Account: account(r.Account), Kind: string(r.Kind)}
	var resp *pluginv1.ListResponse
	err := s.verb(ctx, nil, func(ctx context.Context, c *pluginv1.Call) (err error) {
		req.Call = c
		resp, err = s.s.p.keys.List(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(resp.GetItems()) > pluginv1.MaxItems {
		return nil, s.s.p.failed(PluginProtocol, fmt.Errorf("it lists %d credentials, at most %d are told apart", len(resp.Items), pluginv1.MaxItems))
	}
	items, seen := make([]sdk.Item, 0, len(resp.GetItems())), map[string]bool{}
	for _, i := range resp.GetItems() {
		if !validID(i.GetId()) || seen[i.GetId()] {
			return nil, s.s.p.failed(PluginProtocol, errors.New("it lists a credential twice, or one without a proper id"))
		}
		seen[i.GetId()] = true
		item := sdk.Item{ID: i.GetId(), Active: i.GetActive()}
		if i.GetCreated().IsValid() {
			item.Created = i.GetCreated().AsTime()
		}
		items = append(items, item)
	}
	return items, nil
}

// Mint as sdk.Minter. After an error that is not NotSent the target may have made one.
func (s *Session) Mint(ctx context.Context, r sdk.MintRequest) (sdk.Credential, error) {
	if err := s.mints(r.Kind); err != nil {
		return sdk.Credential{}, err
	}
	req := &pluginv1.MintRequest{Session: s.s.id, Account: account(r.Account), Kind: string(r.Kind)}
	var resp *pluginv1.MintResponse
	err := s.verb(ctx, nil, func(ctx context.Context, c *pluginv1.Call) (err error) {
		req.Call = c
		resp, err = s.s.p.keys.Mint(ctx, req)
		return err
	})
	if err != nil {
		return sdk.Credential{}, err
	}
	made := resp.GetCredential()
	defer wipe(made)
	defer s.s.p.hide([]*pluginv1.Credential{made})()
	switch n := len(made.GetSecret()); {
	case made.GetKind() != string(r.Kind):
		return sdk.Credential{}, s.s.p.failed(PluginProtocol, errors.New("it gave a credential of another kind than was asked for"))
	case !validID(made.GetId()):
		return sdk.Credential{}, s.s.p.failed(PluginProtocol, errors.New("it gave a credential without a proper id"))
	case n == 0 || n > sdk.MaxSecret || len(made.GetPublic()) > sdk.MaxSecret:
		return sdk.Credential{}, s.s.p.failed(PluginProtocol, fmt.Errorf("it gave a secret of %d bytes", n))
	}
	return sdk.Credential{Kind: r.Kind, ID: made.GetId(), Public: slices.Clone(made.GetPublic()), Secret: sdk.NewSecret(made.GetSecret())}, nil
}

// Sweep as sdk.Minter.
func (s *Session) Sweep(ctx context.Context, r sdk.SweepRequest) error {
	if err := s.mints(r.Kind); err != nil {
		return err
	}
	req := &pluginv1.SweepRequest{Session: s.s.id, Account: account(r.Account), Kind: string(r.Kind), Ids: r.IDs}
	return s.verb(ctx, nil, func(ctx context.Context, c *pluginv1.Call) (err error) {
		req.Call = c
		_, err = s.s.p.keys.Sweep(ctx, req)
		return err
	})
}

// validID: ids are shown to people, and kept in records and the journal.
func validID(id string) bool {
	return id != "" && len(id) <= pluginv1.MaxID && utf8.ValidString(id) && !slices.ContainsFunc([]rune(id), func(r rune) bool { return r < ' ' || r == 0x7f })
}
