package sdk

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

// The plugin's side of a Minter.

// minter is the session of a call about secrets that the target makes.
func (s *server) minter(ctx context.Context, id uint64, kind string) (*openSession, Minter, error) {
	o, err := s.session(id)
	if err != nil {
		return nil, nil, err
	}
	m, ok := o.Session.(Minter)
	if !ok || !slices.Contains(o.mints, Kind(kind)) {
		return nil, nil, toStatus(ctx, refuse(ClassUnsupported, "verb.mint"), o.secrets)
	}
	return o, m, nil
}

func (s *server) List(ctx context.Context, r *pluginv1.ListRequest) (*pluginv1.ListResponse, error) {
	o, m, err := s.minter(ctx, r.Session, r.Kind)
	if err != nil {
		return nil, err
	}
	items, err := m.List(ctx, ListRequest{Account: account(r.Account), Kind: Kind(r.Kind)})
	if err == nil && len(items) > MaxItems {
		err = &Error{Class: ClassUnsupported, Reason: "keys.too_many", Err: fmt.Errorf("the account has %d, at most %d can be told apart", len(items), MaxItems)}
	}
	if err != nil {
		return nil, toStatus(ctx, err, o.secrets)
	}
	out := &pluginv1.ListResponse{}
	for _, i := range items {
		item := &pluginv1.Item{Id: i.ID, Active: i.Active}
		if !i.Created.IsZero() {
			item.Created = timestamppb.New(i.Created)
		}
		out.Items = append(out.Items, item)
	}
	return out, nil
}

func (s *server) Mint(ctx context.Context, r *pluginv1.MintRequest) (*pluginv1.MintResponse, error) {
	o, m, err := s.minter(ctx, r.Session, r.Kind)
	if err != nil {
		return nil, err
	}
	c, err := m.Mint(ctx, MintRequest{Account: account(r.Account), Kind: Kind(r.Kind)})
	secret := c.Secret.Expose()
	s.hideMinted(o, secret)
	if err != nil {
		return nil, toStatus(ctx, err, o.secrets)
	}
	return &pluginv1.MintResponse{Credential: &pluginv1.Credential{Kind: string(c.Kind), Id: c.ID, Public: c.Public, Secret: secret}}, nil
}

// maxMinted bounds the minted secrets that a session goes on hiding.
const maxMinted = 64

// hideMinted takes a secret that the target made out of what the session says from now
// on; the oldest make room.
func (s *server) hideMinted(o *openSession, secret []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o.shown = append(o.shown, o.secrets.Add(secret))
	if len(o.shown) > maxMinted {
		o.shown[0]()
		o.shown = slices.Delete(o.shown, 0, 1)
	}
}

func (s *server) Sweep(ctx context.Context, r *pluginv1.SweepRequest) (*pluginv1.SweepResponse, error) {
	o, m, err := s.minter(ctx, r.Session, r.Kind)
	if err != nil {
		return nil, err
	}
	if err := m.Sweep(ctx, SweepRequest{Account: account(r.Account), Kind: Kind(r.Kind), IDs: r.Ids}); err != nil {
		return nil, toStatus(ctx, err, o.secrets)
	}
	return &pluginv1.SweepResponse{}, nil
}
