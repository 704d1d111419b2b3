package main

import (
	"context"
	"errors"

	"github.com/rotunda-pam/rotunda/sdk"
)

// generator is a script of that kind as the SDK's Generator.
type generator struct{ p *program }

// Generate runs generate, which answers a secret: a text could be in the log before it.
func (g generator) Generate(ctx context.Context, o sdk.OpenRequest, a sdk.Account) (sdk.Secret, error) {
	s, err := g.p.state(ctx, o.Host, nil)
	if err != nil {
		return sdk.Secret{}, err
	}
	defer s.close()
	job, err := s.job(sdk.Resource{Config: o.Resource.Config}, a)
	if err != nil {
		return sdk.Secret{}, err
	}
	got, err := s.call(ctx, "generate", job)
	if err != nil {
		return sdk.Secret{}, err
	}
	made, ok := secretOf(got)
	if !ok || made.Len() == 0 {
		return sdk.Secret{}, &sdk.Error{Class: sdk.ClassInternal, Reason: "script.generate", NotSent: true, Err: errNoSecret}
	}
	return made.Secret, nil
}

var errNoSecret = errors.New("generate answers with a secret (secret.random, secret.of), and this answer is none")
