package sdk

import (
	"context"
	"encoding/json"
)

// Dependents are what uses an account's secret, and is given the new one before the
// former ends: a file, a service, a secret of another system. Declared by
// Manifest.Dependents.
//
// Each verb gets the resource on which the dependent lives, with the login that may change
// it there; its settings, as the account's statement has them, are Resource.Config (see
// Manifest.Dependent). Whatever a verb opens it closes again. The agent journals each step
// before and after Do, and goes on with the same steps after a crash.
type Dependents interface {
	// Plan says what there is to do, in order; of the secrets it is told the kind alone, since
	// the new one need not be there yet. It must change nothing (PlanIsReadOnly), fail
	// where a step cannot succeed, since nothing is changed yet (PlanFails), and put no secret
	// into a step (PlanHoldsNoSecret).
	Plan(context.Context, OpenRequest, ApplyRequest) ([]Step, error)
	// Do gives the dependent a secret. It must be repeatable (StepTwice), and answer Unknown
	// or an error when a sent change got no answer (LostStepIsUnknown).
	Do(context.Context, OpenRequest, Step, Credential) (StepResponse, error)
	// Undo gives it the former secret back, where that still works. It must be repeatable
	// (StepTwice).
	Undo(context.Context, OpenRequest, Step, Credential) (StepResponse, error)
}

// Step is one thing to do.
type Step struct {
	ID    string          // unique in its plan, at most 256 bytes
	Title string          // for people, at most 256 bytes
	Data  json.RawMessage // whatever Do needs, at most 64 KiB
}

// StepResponse tells what became of a step. The zero value means not known: the agent does
// it again.
type StepResponse struct {
	Outcome Outcome // Changed also where there was nothing to change
	Class   Class   // with Unchanged
	Reason  string  // stable code, at most 64 bytes
}

// PairAttr is the attribute of an account of a pair (see [Account].Attrs) that names the
// other one, which has been in use until now. The account that Plan gets takes over from it.
const PairAttr = "pair"
