package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

const minted = "m1nted-s3cret"

func (s *session) List(_ context.Context, r sdk.ListRequest) ([]sdk.Item, error) {
	item := func(id string) sdk.Item { return sdk.Item{ID: id, Created: time.Unix(1_700_000_000, 0), Active: true} }
	switch r.Account.Name {
	case "many":
		var items []sdk.Item
		for i := range sdk.MaxItems + 1 {
			items = append(items, item(fmt.Sprint(i)))
		}
		return items, nil
	case "twice":
		return []sdk.Item{item("one"), item("one")}, nil
	case "nameless":
		return []sdk.Item{item("")}, nil
	case "line":
		return []sdk.Item{item("one\ntwo")}, nil
	case "timeless":
		return []sdk.Item{{ID: "one"}}, nil
	case "fails":
		return []sdk.Item{item("one")}, errors.New("half of it")
	}
	return []sdk.Item{item("one"), item("two")}, nil
}

func (s *session) Mint(_ context.Context, r sdk.MintRequest) (sdk.Credential, error) {
	c := sdk.Credential{Kind: r.Kind, ID: "three", Public: []byte("public"), Secret: sdk.NewSecret([]byte(minted))}
	switch r.Account.Name {
	case "crash":
		os.Exit(3)
	case "nameless":
		c.ID = ""
	case "long":
		c.ID = strings.Repeat("x", sdk.MaxID+1)
	case "empty":
		c.Secret = sdk.Secret{}
	case "large":
		c.Secret = sdk.NewSecret(make([]byte, sdk.MaxSecret+1))
	case "kind":
		c.Kind = sdk.Token
	case "full":
		return sdk.Credential{}, &sdk.Error{Class: sdk.ClassConflict, Reason: "keys.full"}
	case "tells": // of the secret that it has just given
		return c, &sdk.Error{Class: sdk.ClassInternal, Reason: "tells", Err: errors.New("made " + minted)}
	}
	return c, nil
}

func (s *session) Sweep(_ context.Context, r sdk.SweepRequest) error {
	s.host.Log.Info("swept", "ids", strings.Join(r.IDs, "+"), "minted", minted)
	return nil
}
