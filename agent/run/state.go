package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/rotunda-pam/rotunda/agent/local"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/sdk"
)

// A script may put a little away from one run to the next: a number of a ticket, a token
// that is good for an hour. It is of the script in one place, where one record names it, and
// of one account there, so that nothing passes from one to another; it outlives the script's
// versions. It is
// sealed to this agent, in its journal: another agent of the pool has its own, and what a
// script puts away it must be able to miss.

// Bounds of what a script puts away in one place.
const (
	maxStateNames = 32
	maxStateBytes = 16 << 10
)

// scriptState is that of one script where one record names it, for one account.
type scriptState struct {
	e                   *Engine
	by, script, account trust.Ref
}

// putAway is what is sealed. It names its place: one that was moved to another is none.
type putAway struct {
	By      string                `json:"by"`
	Script  string                `json:"script"`
	Account string                `json:"account"`
	Values  map[string]stateValue `json:"values"`
}

type stateValue struct {
	Value  []byte `json:"value"`
	Secret bool   `json:"secret,omitempty"`
}

// states has one written after the other.
type states struct{ mu sync.Mutex }

func (s scriptState) route() seal.Route {
	me := s.e.Me.ID
	return seal.Route{Purpose: seal.PurposeState, Org: s.e.Directory.Known().Org(), From: me, To: me, Object: s.account.Record}
}

func (s scriptState) open() (map[string]stateValue, error) {
	box, err := s.e.Journal.ScriptState(s.by, s.script, s.account)
	if err != nil || box == nil {
		return map[string]stateValue{}, err
	}
	plain, err := seal.OpenFrom(s.e.Me.Seal, s.route(), box)
	if err != nil {
		return nil, s.broken()
	}
	defer clear(plain)
	var p putAway
	if json.Unmarshal(plain, &p) != nil || p.By != s.by.String() || p.Script != s.script.String() || p.Account != s.account.String() || p.Values == nil {
		return nil, s.broken()
	}
	return p.Values, nil
}

func (s scriptState) broken() error {
	return &sdk.Error{Class: sdk.ClassInternal, Reason: local.Broken, NotSent: true, Err: errors.New("what was put away is not as it was: state.set begins anew")}
}

// Get is what was put away by a name.
func (s scriptState) Get(name string) (value []byte, isSecret, known bool, err error) {
	values, err := s.open()
	v, known := values[name]
	delete(values, name) // whoever asks wipes it
	wipeValues(values)
	return v.Value, v.Secret, known, err
}

func wipeValues(values map[string]stateValue) {
	for _, v := range values {
		clear(v.Value)
	}
}

// Set puts a value away in a name's place; nil forgets it. The value is wiped.
func (s scriptState) Set(name string, value []byte, isSecret bool) error {
	s.e.states.mu.Lock()
	defer s.e.states.mu.Unlock()
	values, err := s.open()
	var broken *sdk.Error
	switch {
	case errors.As(err, &broken) && broken.Reason == local.Broken:
		values = map[string]stateValue{}
	case err != nil:
		return err
	}
	defer wipeValues(values)
	clear(values[name].Value)
	if value == nil {
		delete(values, name)
	} else {
		values[name] = stateValue{value, isSecret}
	}
	if len(values) == 0 {
		return s.e.Journal.PutScriptState(s.by, s.script, s.account, nil)
	}
	size := 0
	for name, v := range values {
		size += len(name) + len(v.Value)
	}
	if len(values) > maxStateNames || size > maxStateBytes {
		return &sdk.Error{Class: sdk.ClassInvalid, Reason: local.Full, NotSent: true, Err: fmt.Errorf("a script puts away at most %d values of %d bytes together", maxStateNames, maxStateBytes)}
	}
	plain, err := json.Marshal(putAway{s.by.String(), s.script.String(), s.account.String(), values})
	if err != nil {
		return err
	}
	defer clear(plain)
	box, err := seal.SealTo(s.e.Me.Seal.Public(), s.route(), plain)
	if err != nil {
		return err
	}
	return s.e.Journal.PutScriptState(s.by, s.script, s.account, box)
}
