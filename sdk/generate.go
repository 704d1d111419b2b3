package sdk

import (
	"context"
	"fmt"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

// Generator makes secrets of a shape that no password policy says. Declared by
// Manifest.Generator.
type Generator interface {
	// Generate gives a new secret for an account, another one each time. It gets no secret
	// and reaches nothing; what the statement says of this use is Resource.Config (see
	// Manifest.Config).
	Generate(context.Context, OpenRequest, Account) (Secret, error)
}

func (s *server) Generate(ctx context.Context, r *pluginv1.GenerateRequest) (*pluginv1.GenerateResponse, error) {
	p, at, secrets, err := s.place(r.Place)
	if err == nil && p.Generator == nil {
		err = toStatus(ctx, refuse(ClassUnsupported, "verb.generate"), secrets)
	}
	if err != nil {
		return nil, err
	}
	made, err := p.Generator.Generate(ctx, at, account(r.Account))
	if err == nil && (made.Len() == 0 || made.Len() > MaxSecret) {
		err = &Error{Class: ClassInternal, Reason: "secret.malformed", NotSent: true, Err: fmt.Errorf("it gave a secret of %d bytes", made.Len())}
	}
	if err != nil {
		return nil, toStatus(ctx, err, secrets)
	}
	return &pluginv1.GenerateResponse{Secret: made.Expose()}, nil
}
