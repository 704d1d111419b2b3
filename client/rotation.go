package client

import (
	"context"
	"errors"
	"iter"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/schedule"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/span"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// proto is the schedule as the scheduler reads it, checked.
func (s Schedule) proto(now time.Time) (*clientv1.Schedule, *schedule.Schedule, error) {
	p := &clientv1.Schedule{TimeZone: s.TimeZone, Anchor: milli(s.Anchor)}
	kinds := 0
	if s.Cron != "" {
		kinds++
		p.Kind = &clientv1.Schedule_Cron{Cron: s.Cron}
	}
	if s.Every != 0 {
		kinds++
		if s.Every < schedule.MinGap || s.Every > schedule.MaxEvery || s.Every%time.Second != 0 {
			return nil, nil, invalid("", "an interval is whole seconds, from %s to %s: not %s", span.Text(schedule.MinGap), span.Text(schedule.MaxEvery), span.Text(s.Every))
		}
		p.Kind = &clientv1.Schedule_EveryS{EveryS: uint32(s.Every / time.Second)}
		if p.Anchor == 0 {
			p.Anchor = now.UnixMilli()
		}
	}
	if !s.Once.IsZero() {
		kinds++
		p.Kind = &clientv1.Schedule_Once{Once: s.Once.UnixMilli()}
	}
	if kinds != 1 {
		return nil, nil, invalid("", "a schedule is either cron, or an interval, or a single time")
	}
	parsed, err := schedule.Parse(p)
	if err == nil {
		err = parsed.Spaced()
	}
	if err != nil {
		return nil, nil, &Error{
			Class: Invalid, Reason: schedule.Reason, Err: err,
			Hint: "cron has five fields, minute hour day month weekday, such as \"30 3 * * 1\"; `rotunda rotation preview` shows when a schedule fires",
		}
	}
	return p, parsed, nil
}

func scheduleFrom(p *clientv1.Schedule) Schedule {
	s := Schedule{TimeZone: p.GetTimeZone(), Anchor: when(p.GetAnchor())}
	switch k := p.GetKind().(type) {
	case *clientv1.Schedule_Cron:
		s.Cron = k.Cron
	case *clientv1.Schedule_EveryS:
		s.Every = time.Duration(k.EveryS) * time.Second
	case *clientv1.Schedule_Once:
		s.Once = when(k.Once)
	}
	return s
}

// Preview lists the next n firings (at most 100), computed here.
func Preview(s Schedule, after time.Time, n int) ([]time.Time, error) {
	_, parsed, err := s.proto(after)
	if err != nil {
		return nil, fail("preview the schedule", err)
	}
	return parsed.Preview(after, n), nil
}

// SetRotation signs the statement with its mandate, floors the former one and
// stores the schedule, in one transaction.
func (c *Client) SetRotation(ctx context.Context, s RotationSpec) error {
	op := "set the rotation of " + s.Account.String()
	if s.Schedule == nil {
		return c.endRotation(ctx, op, s)
	}
	now := c.now()
	wire, parsed, err := s.Schedule.proto(now)
	if err != nil {
		return fail(op, err)
	}
	if parsed.Next(now).IsZero() {
		return &Error{Class: Invalid, Reason: schedule.Reason, Op: op, Err: errors.New("the schedule never fires again")}
	}
	interval := s.MinInterval
	if interval == 0 {
		interval = parsed.MinInterval()
	}
	life := s.MandateFor
	if life == 0 {
		life = trust.MaxMandate
	}
	switch {
	case interval < trust.MinInterval || interval > schedule.MaxEvery || interval%time.Second != 0:
		return invalid(op, "the least interval is whole seconds, from %s to %s: not %s", span.Text(trust.MinInterval), span.Text(schedule.MaxEvery), span.Text(interval))
	case life < 0 || life > trust.MaxMandate:
		return invalid(op, "the permission lasts at most %s", span.Text(trust.MaxMandate))
	case s.Jitter < 0 || s.Jitter > schedule.MaxJitter:
		return invalid(op, "jitter is at most %s", span.Text(schedule.MaxJitter))
	case s.Missed != "" && s.Missed != "skip" && s.Missed != "once":
		return invalid(op, "what to do about missed firings is skip or once, not %q", s.Missed)
	}
	if err := parsed.Fits(s.Jitter, interval); err != nil {
		return invalid(op, "%w", err)
	}
	for attempt := 1; ; attempt++ {
		o, err := c.account(ctx, op, s.Account)
		if err != nil {
			return err
		}
		if err := o.linked(op); err != nil {
			return err
		}
		resource, err := c.resourceOf(ctx, op, o)
		if err != nil {
			return err
		}
		a := accountOf(o)
		a.Mandate = &trustv1.Mandate{
			Enabled: true, MinIntervalS: uint32(interval / time.Second),
			// A little less than the bound, which counts from when it is signed.
			ValidUntil: c.now().Add(min(life, trust.MaxMandate-time.Hour)).UnixMilli(),
		}
		if s.Policy != nil {
			a.Policy = proto.CloneOf(s.Policy)
		}
		d := newDraft(o)
		d.setSubject(a)
		put := &clientv1.WriteOp{Op: &clientv1.WriteOp_PutRotation{PutRotation: &clientv1.PutRotation{
			Account: s.Account.Proto(), Resource: a.Resource, PoolId: resource.Statement.GetResource().PoolId,
			Schedule: wire, Missed: s.Missed, JitterS: uint32(s.Jitter / time.Second), Paused: s.Paused,
		}}}
		err = c.putDraft(ctx, op, d, func(*trust.Log) ([]*clientv1.WriteOp, error) {
			return []*clientv1.WriteOp{put}, nil
		})
		if ReasonOf(err) != "statement_conflict" || attempt == appendAttempts {
			return err
		}
	}
}

// endRotation signs the mandate away and deletes the schedule.
func (c *Client) endRotation(ctx context.Context, op string, s RotationSpec) error {
	scheduled, err := c.rotationView(ctx, op, s.Account)
	if err != nil {
		return err
	}
	o, err := c.account(ctx, op, s.Account)
	if err != nil {
		return err
	}
	if err := o.linked(op); err != nil {
		return err
	}
	a := accountOf(o)
	a.Mandate = nil
	if s.Policy != nil {
		a.Policy = proto.CloneOf(s.Policy)
	}
	d := newDraft(o)
	d.setSubject(a)
	return c.putDraft(ctx, op, d, func(*trust.Log) ([]*clientv1.WriteOp, error) {
		if scheduled == nil {
			return nil, nil
		}
		return []*clientv1.WriteOp{{Op: &clientv1.WriteOp_DeleteRotation{DeleteRotation: &clientv1.DeleteRotation{Account: s.Account.Proto()}}}}, nil
	})
}

// account fetches an account whose statement holds.
func (c *Client) account(ctx context.Context, op string, ref Ref) (*opened, error) {
	o, err := c.one(ctx, op, ref)
	if err != nil {
		return nil, err
	}
	return o, o.signed(op, "account", o.Statement.GetAccount() != nil)
}

// resource fetches a resource whose statement holds.
func (c *Client) resource(ctx context.Context, op string, ref Ref) (*opened, error) {
	o, err := c.one(ctx, op, ref)
	if err != nil {
		return nil, err
	}
	return o, o.signed(op, "resource", o.Statement.GetResource() != nil)
}

// resourceOf fetches the resource where an account logs in.
func (c *Client) resourceOf(ctx context.Context, op string, account *opened) (*opened, error) {
	ref, err := refFrom(account.Statement.GetAccount().GetResource())
	if err != nil {
		return nil, fail(op, err)
	}
	return c.resource(ctx, op, ref)
}

// signed refuses a record without a statement of the kind that it should have.
func (o *opened) signed(op, kind string, has bool) error {
	switch {
	case has:
		return nil
	case o.Statement != nil:
		return invalid(op, "%s is no %s: it is of type %s", o.Title, kind, o.Type)
	}
	reason := o.Reason
	if reason == "" {
		return invalid(op, "%s is no %s: it is of type %s", o.Title, kind, o.Type)
	}
	return &Error{
		Class: Refused, Reason: reason, Op: op, Err: errors.New("the statement of " + o.Title + " does not hold"),
		Hint: trust.Reason(reason).Hint(),
	}
}

func (c *Client) rotationView(ctx context.Context, op string, account Ref) (*clientv1.RotationView, error) {
	page, err := call(ctx, c, op, c.conn.ListRotations, &clientv1.ListRotationsRequest{AccountUid: account.Record.Bytes()})
	if err != nil || len(page.Rotations) == 0 {
		return nil, err
	}
	return page.Rotations[0], nil
}

// RotationOf is an account's rotation, with the statement's mandate.
func (c *Client) RotationOf(ctx context.Context, account Ref) (Rotation, error) {
	op := "show the rotation of " + account.String()
	o, err := c.account(ctx, op, account)
	if err != nil {
		return Rotation{}, err
	}
	v, err := c.rotationView(ctx, op, account)
	if err != nil {
		return Rotation{}, err
	}
	if v == nil {
		return Rotation{}, notFound(op, "the account has no schedule")
	}
	r, err := rotationFrom(v)
	r.Mandate = o.Statement.GetAccount().Mandate
	if o.Attested.GetPhase() == trustv1.Phase_PHASE_COMMITTED {
		r.Changed = when(o.Attested.Time)
	}
	return r, err
}

// Preview lists the next n firings (at most 100) of the rotation with their jitter, the
// first as the server has it stored, the others computed here as there, and which of them
// agents would refuse by its mandate. What a person rotates meanwhile is not foreseen.
func (r Rotation) Preview(after time.Time, n int) ([]Firing, error) {
	_, parsed, err := r.Schedule.proto(after)
	if err != nil {
		return nil, fail("preview the schedule", err)
	}
	var firings []Firing
	changed, stored := r.Changed, r.Next.After(after)
	for range min(n, schedule.MaxPreview) {
		t, nominal := parsed.Due(r.Account.Record[:], r.Jitter, after)
		if stored { // no jitter reaches the firing after: that one is next from here, too
			t, nominal, stored = r.Next, r.Next, false
		}
		if t.IsZero() {
			break
		}
		after = nominal
		f := Firing{At: t}
		switch m := r.Mandate; {
		case !m.GetEnabled():
			f.Refused = trust.MandateOff
		case t.After(time.UnixMilli(m.ValidUntil)):
			f.Refused = trust.MandateExpired
		case !changed.IsZero() && !t.After(changed.Add(time.Duration(m.MinIntervalS)*time.Second)):
			f.Refused = trust.TooOften
		default:
			changed = t
		}
		firings = append(firings, f)
	}
	return firings, nil
}

func rotationFrom(v *clientv1.RotationView) (Rotation, error) {
	account, err := refFrom(v.Rotation.GetAccount())
	if err != nil {
		return Rotation{}, badServer("list rotations", "account: %w", err)
	}
	resource, err := refFrom(v.Rotation.GetResource())
	if err != nil {
		return Rotation{}, badServer("list rotations", "resource: %w", err)
	}
	return Rotation{
		Account: account, Resource: resource, Schedule: scheduleFrom(v.Rotation.GetSchedule()), Missed: v.Rotation.GetMissed(),
		Jitter: time.Duration(v.Rotation.GetJitterS()) * time.Second, Paused: v.Rotation.GetPaused(),
		Next: when(v.Next), Last: when(v.Last), State: v.State, Failures: int(v.Failures), Reason: v.Reason,
	}, nil
}

// Rotations lists rotations of a folder (zero: all).
func (c *Client) Rotations(ctx context.Context, folder seal.ID) iter.Seq2[Rotation, error] {
	return func(yield func(Rotation, error) bool) {
		q := &clientv1.ListRotationsRequest{Page: &clientv1.Page{Size: 1000}}
		if !folder.IsZero() {
			q.FolderUid = folder.Bytes()
		}
		for {
			page, err := call(ctx, c, "list rotations", c.conn.ListRotations, q)
			if err != nil {
				yield(Rotation{}, err)
				return
			}
			for _, v := range page.Rotations {
				r, err := rotationFrom(v)
				if !yield(r, err) || err != nil {
					return
				}
			}
			if page.Next == "" || page.Next == q.Page.Token {
				return
			}
			q.Page.Token = page.Next
		}
	}
}

// PauseRotation stops or resumes a schedule at the server. It is the server's
// honesty that keeps it: SetRotation without a schedule ends the mandate.
func (c *Client) PauseRotation(ctx context.Context, account Ref, paused bool) error {
	op := "pause the rotation of " + account.String()
	if !paused {
		op = "resume the rotation of " + account.String()
	}
	_, err := call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{
		{Op: &clientv1.WriteOp_PauseRotation{PauseRotation: &clientv1.PauseRotation{Account: account.Proto(), Paused: paused}}},
	}})
	return err
}
