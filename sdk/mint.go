package sdk

import (
	"context"
	"time"
)

// Limits of a [Minter].
const (
	MaxItems = 1000 // that List gives; who has more fails
	MaxID    = 256  // bytes of a credential's ID
)

// Minter is a Session whose target makes the secret; declared by Manifest.Minted.
//
// The agent writes down what List gives before it calls Mint, and has the vault store
// what Mint gives before anything else. After a crash between the two it lists again:
// what is in neither list nor vault is an orphan, which it sweeps before it mints anew.
type Minter interface {
	// List must be complete or fail (ListIsComplete): what it leaves out is taken for an
	// orphan later.
	List(context.Context, ListRequest) ([]Item, error)
	// Mint must leave every listed credential as it is (MintKeepsOthers): where the target
	// has no room for one more, that is an error of ClassConflict. It must send one request
	// that makes a credential, and never send it again (LostReplyIsUnknown). An error must be of ClassUnreachable
	// or ClassInternal unless it is proven that none was made (LostReplyIsUnknown). ID and
	// Secret are set. Nothing of the target's answer may be logged: no scrubber knows the
	// secret yet.
	Mint(context.Context, MintRequest) (Credential, error)
	// Sweep must delete the credentials of these ids, if they are the account's, and no
	// others (SweepOnlyNamed). It must be a success where they are gone already (SweepOnlyNamed), and need
	// nothing that the process remembers (KillBetweenMintAndStage).
	Sweep(context.Context, SweepRequest) error
}

// ListRequest asks which credentials of a kind an account has.
type ListRequest struct {
	Account Account
	Kind    Kind
}

// Item is one of them.
type Item struct {
	ID      string
	Created time.Time // as the target says; zero where it does not
	Active  bool      // it opens the target
}

// MintRequest asks for one more.
type MintRequest struct {
	Account Account
	Kind    Kind
}

// SweepRequest deletes some.
type SweepRequest struct {
	Account Account
	Kind    Kind
	IDs     []string
}
