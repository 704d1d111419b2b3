package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// rotator is a script of that kind as the SDK's Rotator.
type rotator struct{ p *program }

// session is a state that lives from open to close. Lua does one thing at a time: who
// comes second waits for his turn.
type session struct {
	turn chan struct{}
	s    *state
	open sdk.OpenRequest
	kept lua.LValue // what the script's open gave
	once sync.Once

	closed bool // with the turn
}

// Open runs the script's open, where it has one.
func (r rotator) Open(ctx context.Context, o sdk.OpenRequest) (sdk.Session, error) {
	host, at := places(o.Host, o.Resource, nil)
	s, err := r.p.state(ctx, host, at)
	if err != nil {
		return nil, err
	}
	v := &session{turn: make(chan struct{}, 1), s: s, open: o, kept: lua.LNil}
	if s.has("open") {
		job, err := v.job(sdk.Account{})
		if err == nil {
			job.RawSetString("account", lua.LNil) // the session is for many
			v.kept, err = s.call(ctx, "open", job)
		}
		if err != nil {
			s.close()
			return nil, err
		}
	}
	if s.has("judge") {
		r.p.mu.Lock()
		defer r.p.mu.Unlock()
		r.p.judges = append(r.p.judges, v)
	}
	return v, nil
}

func (v *session) job(a sdk.Account) (*lua.LTable, error) {
	job, err := v.s.job(v.open.Resource, a)
	if err == nil {
		v.s.logins(job, v.open)
	}
	return job, err
}

// take waits for the state.
func (v *session) take(ctx context.Context) (give func(), err error) {
	select {
	case v.turn <- struct{}{}:
		if v.closed {
			<-v.turn
			return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "session.closed", NotSent: true}
		}
		return func() { <-v.turn }, nil
	case <-ctx.Done():
		return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "deadline", NotSent: true, Err: ctx.Err()}
	}
}

// Apply runs set_secret.
func (v *session) Apply(ctx context.Context, r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	give, err := v.take(ctx)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	defer give()
	job, err := v.job(r.Account)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	job.RawSetString("candidate", v.s.credential(r.Candidate))
	job.RawSetString("current", v.s.credential(r.Current))
	got, err := v.s.call(ctx, "set_secret", v.kept, job)
	return v.s.applied(got), err
}

// Retire runs retire.
func (v *session) Retire(ctx context.Context, r sdk.RetireRequest) (sdk.RetireResponse, error) {
	give, err := v.take(ctx)
	if err != nil {
		return sdk.RetireResponse{}, err
	}
	defer give()
	job, err := v.job(r.Account)
	if err != nil {
		return sdk.RetireResponse{}, err
	}
	job.RawSetString("keep", v.s.credential(r.Keep))
	job.RawSetString("old", v.s.credential(r.Old))
	got, err := v.s.call(ctx, "retire", v.kept, job)
	return sdk.RetireResponse{Outcome: v.s.applied(got).Outcome}, err
}

// Close runs close, where the script has one, and ends the state.
func (v *session) Close() (err error) {
	v.once.Do(func() {
		v.s.p.mu.Lock()
		v.s.p.judges = slices.DeleteFunc(v.s.p.judges, func(o *session) bool { return o == v })
		v.s.p.mu.Unlock()
		v.turn <- struct{}{}
		v.closed = true
		defer func() { <-v.turn }()
		if v.s.has("close") {
			ctx, cancel := context.WithTimeout(context.Background(), loadTime)
			defer cancel()
			_, err = v.s.call(ctx, "close", v.kept)
		}
		v.s.close()
	})
	return err
}

// Verify runs verify in a state of its own: no session can fake a login.
func (r rotator) Verify(ctx context.Context, q sdk.VerifyRequest) (sdk.VerifyResponse, error) {
	host, at := places(q.Host, q.Resource, nil)
	s, err := r.p.state(ctx, host, at)
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	defer s.close()
	job, err := s.job(q.Resource, q.Account)
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	job.RawSetString("candidate", s.credential(q.Credential))
	got, err := s.call(ctx, "verify", job)
	out := s.judged(got)
	if err == nil && out == notJudged {
		out = r.p.judge(ctx, q)
	}
	return out, err
}

// notJudged is the answer to a login that was refused, nobody knows why.
var notJudged = sdk.VerifyResponse{Reason: "not_judged"}

// judge asks the newest session of an administrator on that resource, where the script has a
// judge, what a refusal says of the secret. It says no more than that: a login goes through no
// session, so that the secret is accepted is none of its answers.
func (p *program) judge(ctx context.Context, q sdk.VerifyRequest) sdk.VerifyResponse {
	p.mu.Lock()
	n := len(p.judges) - 1
	for n >= 0 && !p.judges[n].sees(q.Resource) {
		n--
	}
	var v *session
	if n >= 0 {
		v = p.judges[n]
	}
	p.mu.Unlock()
	if v == nil {
		return notJudged
	}
	give, err := v.take(ctx)
	if err != nil {
		return notJudged
	}
	defer give()
	job, err := v.job(q.Account)
	if err != nil {
		return notJudged
	}
	job.RawSetString("candidate", v.s.credential(q.Credential))
	got, err := v.s.call(ctx, "judge", v.kept, job)
	out := v.s.judged(got)
	if err != nil {
		v.s.note(slog.LevelWarn, "judge: "+err.Error())
	}
	if err != nil || out.Verdict == sdk.Accepted || out.Reason == "" {
		return notJudged
	}
	return out
}

// sees says whether a session is an administrator's on that resource. Another resource at the
// same address may be another part of the target, such as a file of its own.
func (v *session) sees(r sdk.Resource) bool {
	o := v.open
	return !o.Self && o.Resource.Address == r.Address && bytes.Equal(o.Resource.Config, r.Config)
}

// after is a script that runs after a rotation.
type after struct{ p *program }

// Run runs the script's run.
func (f after) Run(ctx context.Context, o sdk.OpenRequest, r sdk.AfterRequest) (sdk.AfterResponse, error) {
	host, at := places(o.Host, o.Resource, r.Records)
	s, err := f.p.state(ctx, host, at)
	if err != nil {
		return sdk.AfterResponse{}, err
	}
	defer s.close()
	job, err := s.job(o.Resource, r.Account)
	if err != nil {
		return sdk.AfterResponse{}, err
	}
	m := f.p.manifest
	if slices.Contains(m.Needs, script.NeedAdmin) {
		s.logins(job, o)
	}
	if slices.Contains(m.Needs, script.NeedSecret) {
		job.RawSetString("secret", s.credential(r.Secret))
	}
	if slices.Contains(m.Needs, script.NeedFormer) {
		job.RawSetString("former", s.credential(r.Former))
	}
	s.records(job, r.Records)
	s.run(job, r.RunID, r.Time)
	got, err := s.call(ctx, "run", job)
	a := s.applied(got)
	out := sdk.AfterResponse{Outcome: a.Outcome, Class: a.Class, Reason: a.Reason}
	// What it said before it failed is what its author needs.
	var failed *sdk.Error
	if errors.As(err, &failed) && ctx.Err() == nil && f.p.dry == nil {
		s.ending(slog.LevelError, failed.Error())
		out.Class, out.Reason, err = failed.Class, failed.Reason, nil
		if failed.NotSent {
			out.Outcome = sdk.Unchanged
		}
	} else if _, ok := answerOf(got); !ok && err == nil {
		s.ending(slog.LevelWarn, "run gave no answer: it ends with return sdk.changed, or with sdk.unchanged(class, reason)")
	}
	out.Output = s.output.String()
	return out, err
}

// dependents is a script of that kind as the SDK's Dependents.
type dependents struct{ p *program }

func (d dependents) with(ctx context.Context, o sdk.OpenRequest, a sdk.Account, do func(*state, *lua.LTable) error) error {
	host, at := places(o.Host, o.Resource, nil)
	s, err := d.p.state(ctx, host, at)
	if err != nil {
		return err
	}
	defer s.close()
	job, err := s.job(o.Resource, a)
	if err != nil {
		return err
	}
	if slices.Contains(d.p.manifest.Needs, script.NeedAdmin) {
		s.logins(job, o)
	}
	return do(s, job)
}

// Plan runs plan, which answers a list of steps.
func (d dependents) Plan(ctx context.Context, o sdk.OpenRequest, r sdk.ApplyRequest) (steps []sdk.Step, err error) {
	err = d.with(ctx, o, r.Account, func(s *state, job *lua.LTable) error {
		got, err := s.call(ctx, "plan", job)
		if err != nil {
			return err
		}
		list, ok := got.(*lua.LTable)
		if !ok {
			return &sdk.Error{Class: sdk.ClassInternal, Reason: "script.plan", NotSent: true, Err: errNoPlan}
		}
		for n := 1; n <= list.Len(); n++ {
			step, err := s.step(list.RawGetInt(n))
			if err != nil {
				return err
			}
			steps = append(steps, step)
		}
		return nil
	})
	return steps, err
}

// Do runs apply.
func (d dependents) Do(ctx context.Context, o sdk.OpenRequest, step sdk.Step, c sdk.Credential) (sdk.StepResponse, error) {
	return d.do(ctx, o, "apply", step, c)
}

// Undo runs undo; without one the step stays as it is.
func (d dependents) Undo(ctx context.Context, o sdk.OpenRequest, step sdk.Step, c sdk.Credential) (sdk.StepResponse, error) {
	return d.do(ctx, o, "undo", step, c)
}

func (d dependents) do(ctx context.Context, o sdk.OpenRequest, verb string, step sdk.Step, c sdk.Credential) (out sdk.StepResponse, err error) {
	err = d.with(ctx, o, sdk.Account{}, func(s *state, job *lua.LTable) error {
		if !s.has(verb) {
			out = sdk.StepResponse{Outcome: sdk.Unchanged, Class: sdk.ClassUnsupported, Reason: "script.no_undo"}
			return nil
		}
		job.RawSetString("account", lua.LNil) // a step has what it needs of it in its data
		job.RawSetString("secret", s.credential(c))
		t := s.L.NewTable()
		t.RawSetString("id", lua.LString(step.ID))
		t.RawSetString("title", lua.LString(step.Title))
		var data any
		if len(step.Data) > 0 && json.Unmarshal(step.Data, &data) == nil {
			t.RawSetString("data", s.plain(data))
		}
		got, err := s.call(ctx, verb, t, job)
		out = sdk.StepResponse(s.applied(got))
		return err
	})
	return out, err
}
