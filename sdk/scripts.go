package sdk

import (
	"context"
	"errors"
	"strings"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk/scrub"
)

// The plugin's side of what runs after a rotation, and of a process that becomes the
// plugin which a script is.

// Load is the first call of such a process, and comes once.
func (s *server) Load(ctx context.Context, r *pluginv1.LoadRequest) (*pluginv1.LoadResponse, error) {
	none := new(scrub.Set)
	if s.load == nil {
		return nil, toStatus(ctx, refuse(ClassUnsupported, "verb.load"), none)
	}
	s.mu.Lock()
	again := s.loaded
	s.loaded = true
	s.mu.Unlock()
	if again {
		return nil, toStatus(ctx, refuse(ClassInvalid, "script.loaded"), none)
	}
	p, err := s.load(r.Text)
	if err != nil {
		return nil, toStatus(ctx, notAScript(err), none)
	}
	m, err := describe(p)
	if err != nil {
		return nil, toStatus(ctx, notAScript(err), none)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plugins[m.Name], s.manifests = p, []*pluginv1.Manifest{m}
	return &pluginv1.LoadResponse{}, nil
}

// notAScript gives what is wrong with a script its class, unless it has one.
func notAScript(err error) error {
	if e := (*Error)(nil); errors.As(err, &e) {
		return err
	}
	return &Error{Class: ClassInvalid, Reason: "script", NotSent: true, Err: err}
}

func (s *server) Run(ctx context.Context, r *pluginv1.RunRequest) (*pluginv1.RunResponse, error) {
	all := []*pluginv1.Credential{r.Secret, r.Former}
	for _, one := range r.Records {
		all = append(all, one.GetSecret())
	}
	p, at, secrets, err := s.place(r.Place, all...)
	if err == nil && p.After == nil {
		err = toStatus(ctx, refuse(ClassUnsupported, "verb.run"), secrets)
	}
	if err != nil {
		return nil, err
	}
	req := AfterRequest{Account: account(r.Account), Secret: credential(r.Secret), Former: credential(r.Former), RunID: r.RunId}
	if r.Time.IsValid() {
		req.Time = r.Time.AsTime()
	}
	for _, one := range r.Records {
		req.Records = append(req.Records, Record{
			Resource: resource(one.GetResource()), Account: account(one.GetAccount()), Secret: credential(one.GetSecret()), Pins: one.GetPins(),
		})
	}
	a, err := p.After.Run(ctx, at, req)
	if err != nil {
		return nil, toStatus(ctx, err, secrets)
	}
	// A secret may look like a code.
	why := a.Reason
	if secrets.Text(why) != why {
		why = "malformed"
	}
	return &pluginv1.RunResponse{
		Outcome: outcome(a.Outcome), Class: StepResponse{Class: a.Class}.class(), Reason: reason(why), Output: output(a.Output, secrets),
	}, nil
}

// output is cut when it has been scrubbed: half a secret would not be found.
func output(text string, secrets *scrub.Set) string {
	text = strings.ToValidUTF8(secrets.Text(text), "?")
	return strings.ToValidUTF8(text[:min(len(text), MaxOutput)], "")
}
