package main

import (
	"context"
	"errors"

	"github.com/rotunda-pam/rotunda/sdk"
)

// loginRefused reads the number of an error that ended a login (MongoDB's error_codes.yml).
func loginRefused(code int32) (sdk.Class, string) {
	switch code {
	case 18: // AuthenticationFailed; or there is no such user, or it may not come from here
		return sdk.ClassAuth, "bad_secret"
	case 334: // MechanismUnavailable: the user has been changed since it was asked for
		return sdk.ClassUnsupported, "account.method"
	case 6, 7, 46, 50, 89, 91, 133, 189, 202, 211, 262, 11600, 11602, 13436:
		// Hosts behind a router, locks, time, shutting down, elections, keys of a cluster
		// that is not ready, a member that recovers.
		return sdk.ClassUnreachable, "target.busy"
	}
	return sdk.ClassUnsupported, "login.refused"
}

// changeRefused reads the number of an error that ended a command. It is false where the
// error does not prove that nothing was changed.
func changeRefused(code int32) (class sdk.Class, reason string, proven bool) {
	switch code {
	case 11: // UserNotFound
		return sdk.ClassNotFound, "account.missing", true
	case 13: // Unauthorized
		return sdk.ClassPermission, "admin.rights", true
	case 18, 391: // AuthenticationFailed, ReauthenticationRequired
		return sdk.ClassAuth, "admin.refused", true
	case 50687, 50692: // empty, or with characters that RFC 4013 does not allow
		return sdk.ClassPolicy, "policy.charset", true
	case 10107, 13435: // NotWritablePrimary, NotPrimaryNoSecondaryOk
		return sdk.ClassConflict, "target.read_only", true
	case 2, 9, 14, 20, 59, 72, 115, 238, 8000, 40414, 40415:
		// Values, fields and commands that it does not know or take; a service's own word (8000)
		return sdk.ClassUnsupported, "target.refused", true
	}
	return "", "", false
}

// lookError classes an error of a question: nothing was changed.
func lookError(ctx context.Context, err error) error {
	out := &sdk.Error{Class: sdk.ClassUnsupported, Reason: "target.protocol", NotSent: true, Err: err}
	var answer *refusal
	switch {
	case ctx.Err() != nil, broken(err):
		return lineError(ctx, err)
	case errors.As(err, &answer):
		var proven bool
		if out.Class, out.Reason, proven = changeRefused(answer.code); !proven {
			out.Class, out.Reason = loginRefused(answer.code)
		}
	}
	return out
}
