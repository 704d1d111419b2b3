// Command nothing is a plugin whose every verb answers at once: what remains is what a
// call costs.
package main

import (
	"context"

	"github.com/rotunda-pam/rotunda/sdk"
)

type rotator struct{}

func (rotator) Open(context.Context, sdk.OpenRequest) (sdk.Session, error) { return rotator{}, nil }

func (rotator) Verify(context.Context, sdk.VerifyRequest) (sdk.VerifyResponse, error) {
	return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
}

func (rotator) Apply(context.Context, sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
}

func (rotator) Close() error { return nil }

func main() {
	sdk.Serve(sdk.Plugin{
		Manifest: sdk.Manifest{Name: "nothing", Version: "1.0.0", Kinds: []sdk.Kind{sdk.Password}, Config: &struct{}{}},
		Rotator:  rotator{},
	})
}
