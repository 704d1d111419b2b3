package run

import (
	"context"
)

// slot is a run's place among those that work on a resource.
type slot struct {
	resource string
	release  func()
	alone    bool
}

func (s *slot) give() {
	if s.release != nil {
		s.release()
	}
	s.release, s.alone = nil, false
}

// queue waits for a slot on the resource that the run is said to be about, before
// anything is asked of the vault: who waits holds no lease and no secret, and any
// agent of the pool may take the run.
func (r *Run) queue(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.e.Open, func() { cancel(ErrNotBegun) })()
	if r.e.Open.Err() != nil {
		return ErrNotBegun
	}
	if r.job.Resource.IsZero() {
		return nil
	}
	if err := r.takeSlot(ctx, r.job.Resource.String()); err != nil {
		return context.Cause(ctx)
	}
	return nil
}

// changesAdministrator says whether the run may change the secret by which others work on
// the resource: it comes after those that wait, and none of them works meanwhile.
func (r *Run) changesAdministrator(account *servedRecord) bool {
	return mustRef(r.resource.Statement.GetResource().GetAdminAccount()) == r.job.Account && (r.as != "verify" && r.as != "script" || account.wire.Staged != nil)
}

// takeAlone waits until no other run works on a resource, and keeps them out.
func (r *Run) takeAlone(ctx context.Context, resource string) error {
	r.slot.give()
	release, err := r.e.Slots.AcquireAlone(ctx, resource, r.job.Command != nil)
	if err != nil {
		return err
	}
	r.slot = slot{resource, release, true}
	return nil
}

// takeSlot waits until a resource, and this agent, may take one more run.
func (r *Run) takeSlot(ctx context.Context, resource string) error {
	if r.slot.release != nil && r.slot.resource == resource {
		return nil
	}
	r.slot.give()
	release, err := r.e.Slots.Acquire(ctx, resource, r.job.Command != nil)
	if err != nil {
		return err
	}
	r.slot = slot{resource, release, false}
	return nil
}
