package main

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"

	"github.com/go-sql-driver/mysql"

	"github.com/rotunda-pam/rotunda/sdk"
)

// connectError classes a login that failed. Whatever the server said before it proved
// itself is not believed, except that it has no time.
func connectError(ctx context.Context, err error, proven bool) error {
	out := &sdk.Error{NotSent: true, Err: err}
	var ours *sdk.Error
	code, answered := codeOf(err)
	switch {
	case ctx.Err() != nil:
		out.Class, out.Reason = sdk.ClassUnreachable, "deadline"
	case errors.As(err, &ours): // the dialer's word, or the proof of the target's key
		out.Class, out.Reason = ours.Class, ours.Reason
	case broken(err):
		out.Class, out.Reason = sdk.ClassUnreachable, "connection"
	case answered && !proven:
		out.Class, out.Reason = sdk.ClassUnreachable, "connection"
		if class, reason := loginRefused(code); reason == "throttled" {
			out.Class, out.Reason = class, reason
		}
	case !proven:
		// A pin or a certificate that does not fit, no TLS at all, or no such server.
		out.Class, out.Reason = sdk.ClassAuth, "target_identity"
	case answered:
		out.Class, out.Reason = loginRefused(code)
	case errors.Is(err, mysql.ErrMalformPkt):
		// The account has a further method, and the driver makes one switch only.
		out.Class, out.Reason = sdk.ClassAuth, "auth.switch"
	default:
		// The driver refused how the server asked: for a password in clear, for one.
		out.Class, out.Reason = sdk.ClassUnsupported, "auth.method"
	}
	return out
}

// broken says whether there was no answer.
func broken(err error) bool {
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, driver.ErrBadConn)
}

// codeOf is the number of the server's error.
func codeOf(err error) (uint16, bool) {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return 0, false
	}
	return e.Number, true
}

// loginRefused reads the number of an error that ended a login, or the first statement
// after it (MySQL's and MariaDB's lists of server errors; they differ above 1900).
func loginRefused(code uint16) (sdk.Class, string) {
	switch code {
	case 1045, 1698: // or there is no such account, or it may not come from this host
		return sdk.ClassAuth, "bad_secret"
	case 3118, 3955, 4151, 4150: // locked by a person, and by too many wrong passwords: MySQL's and MariaDB's
		return sdk.ClassAuth, "locked"
	case 1820, 1862: // let in to change the password, and not let in
		return sdk.ClassAuth, "expired"
	case 1130: // nobody may come from this host
		return sdk.ClassAuth, "no_login"
	case 1040, 1129, 1203, 1226: // connections: of all, broken off by this host, of this account, in this hour
		return sdk.ClassUnreachable, "throttled"
	case 1047, 1053, 3032: // a cluster's node that is not ready, stopping, switched off
		return sdk.ClassUnreachable, "target.busy"
	case 3159:
		return sdk.ClassUnsupported, "target.tls"
	case 1251, 1524:
		return sdk.ClassUnsupported, "auth.method"
	default:
		return sdk.ClassUnsupported, "login.refused"
	}
}

// lookError classes an error of a question: nothing was changed.
func lookError(ctx context.Context, err error) error {
	out := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "connection", NotSent: true, Err: err}
	code, answered := codeOf(err)
	switch {
	case ctx.Err() != nil:
		out.Reason = "deadline"
	case !answered && broken(err):
	case !answered:
		out.Class, out.Reason = sdk.ClassUnsupported, "catalogue"
	default:
		out.Class, out.Reason, _ = changeRefused(code)
		if out.Reason == "" {
			out.Class, out.Reason = sdk.ClassUnsupported, "catalogue"
		}
	}
	return out
}

// changeRefused reads the number of an error that ended a statement. It is false where the
// error does not prove that nothing was changed: an error while the change is written to
// the binary log comes after it.
func changeRefused(code uint16) (class sdk.Class, reason string, proven bool) {
	switch code {
	case 1044, 1142, 1143, 1227:
		return sdk.ClassPermission, "admin.rights", true
	case 1820: // the administrator's own password
		return sdk.ClassConflict, "admin.must_change", true
	case 1133, 1396, 1410:
		return sdk.ClassNotFound, "account.missing", true
	case 1470:
		return sdk.ClassInvalid, "account.name", true
	case 1819:
		return sdk.ClassPolicy, "policy.refused", true
	case 3638:
		return sdk.ClassPolicy, "policy.history", true
	case 1372, 1827, 1524, 1699: // the digest is none of this method's, or there is no such method, or it has no password
		return sdk.ClassUnsupported, "account.method", true
	case 3878, 3894, 3895: // the first password cannot be kept beside the new one
		return sdk.ClassConflict, "account.retain", true
	case 3891: // is not what the account gave as its current password
		return sdk.ClassConflict, "account.current", true
	case 3892: // the account has to give it, and it is not known
		return sdk.ClassUnsupported, "account.current", true
	case 1792, 1836:
		return sdk.ClassConflict, "target.read_only", true
	case 1205, 1206, 1213, 1047, 3032: // locks, a cluster's node that is not ready, switched off
		return sdk.ClassUnreachable, "target.busy", true
	case 1064: // the server does not know the statement
		return sdk.ClassUnsupported, "target.refused", true
	}
	return "", "", false
}
