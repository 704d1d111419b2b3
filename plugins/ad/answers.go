package main

import (
	"context"
	"regexp"
	"strconv"

	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/directory"
)

// A controller gives one code for every login that it refuses, and says why in a text
// that has a form: "80090308: LdapErr: DSID-0C09042F, comment: AcceptSecurityContext
// error, data 52e, v2580". The number after data is an error code of Windows.
var loginCode = regexp.MustCompile(`\bdata ([0-9a-f]+)\b`)

// Why a login was refused ([MS-ERREF] 2.2).
const (
	wrongPassword = 0x52e
	noAccount     = 0x525
)

// kept are the codes of accounts that nobody may log in to now, whatever the password;
// or, of all but locked, with the right one.
var kept = map[uint32]string{
	0x52f: "no_login", // restricted
	0x530: "no_login", // not at this hour
	0x531: "no_login", // not from here
	0x569: "no_login", // not by this kind of login
	0x532: "expired",
	0x701: "expired", // the account
	0x773: "expired", // must be changed at the next login
	0x533: "disabled",
	0x775: "locked",
}

// codeOfLogin reads the number. A text that does not have exactly one says nothing.
func codeOfLogin(text string) (uint32, bool) {
	found := loginCode.FindAllStringSubmatch(text, 2)
	if len(found) != 1 {
		return 0, false
	}
	return hex(found[0][1])
}

func hex(digits string) (uint32, bool) {
	n, err := strconv.ParseUint(digits, 16, 32)
	if err != nil {
		return 0, false
	}
	return uint32(n), true
}

// loginError reads why a login was refused.
func loginError(ctx context.Context, err error) error {
	answer, ok := directory.Code(err)
	if !ok {
		return directory.Unreached(ctx, err)
	}
	out := &sdk.Error{Class: sdk.ClassUnsupported, Reason: "login.refused", NotSent: true, Err: err}
	switch answer {
	case ldap.LDAPResultInvalidCredentials:
		code, ok := codeOfLogin(directory.Text(err))
		reason, isKept := kept[code]
		switch {
		case !ok:
		case isKept:
			out.Class, out.Reason = sdk.ClassAuth, reason
		case code == wrongPassword:
			out.Class, out.Reason = sdk.ClassAuth, "bad_secret"
		case code == noAccount:
			out.Class, out.Reason = sdk.ClassAuth, notJudged
		}
	case ldap.LDAPResultBusy, ldap.LDAPResultUnavailable:
		out.Class, out.Reason = sdk.ClassUnreachable, "target.busy"
	case ldap.LDAPResultInvalidDNSyntax:
		out.Class, out.Reason = sdk.ClassInvalid, "account.name"
	case ldap.LDAPResultConfidentialityRequired, ldap.LDAPResultStrongAuthRequired:
		out.Reason = "auth.method"
	}
	return out
}

// What an operation that was refused says first, in eight digits ([MS-ADTS] 3.1.1.3.1.9).
var changeCode = regexp.MustCompile(`^([0-9A-Fa-f]{8}):`)

// Why a change of a password was refused.
const (
	wrongOldPassword    = 0x56
	passwordRestriction = 0x52d // length, classes, history or age: the controller does not say which
)

func codeOfChange(text string) (uint32, bool) {
	found := changeCode.FindStringSubmatch(text)
	if found == nil {
		return 0, false
	}
	return hex(found[1])
}

// refusal reads the answer to an operation that the controller did not carry out.
func refusal(answer uint16, text string) (sdk.Class, string) {
	switch answer {
	case ldap.LDAPResultNoSuchObject, ldap.LDAPResultInvalidDNSyntax:
		return sdk.ClassNotFound, "account.missing"
	case ldap.LDAPResultInsufficientAccessRights:
		return sdk.ClassPermission, "admin.rights"
	case ldap.LDAPResultConstraintViolation, ldap.LDAPResultUnwillingToPerform: // the latter of Windows, of a reset
		switch code, _ := codeOfChange(text); code {
		case passwordRestriction:
			return sdk.ClassPolicy, "policy.refused"
		case wrongOldPassword:
			return sdk.ClassAuth, "admin.refused"
		}
	case ldap.LDAPResultEntryAlreadyExists: // a user, or something else of that name
		return sdk.ClassConflict, "account.exists"
	case ldap.LDAPResultNotAllowedOnNonLeaf: // there is something below the account
		return sdk.ClassConflict, "account.owns"
	case ldap.LDAPResultBusy, ldap.LDAPResultUnavailable, ldap.LDAPResultTimeLimitExceeded, ldap.LDAPResultAdminLimitExceeded:
		return sdk.ClassUnreachable, "target.busy"
	case ldap.LDAPResultReferral: // a controller that takes no writes, or another domain's account
		return sdk.ClassConflict, "target.referral"
	case ldap.LDAPResultConfidentialityRequired, ldap.LDAPResultStrongAuthRequired:
		return sdk.ClassUnsupported, "target.tls"
	case ldap.LDAPResultProtocolError, ldap.LDAPResultUnavailableCriticalExtension, ldap.LDAPResultUndefinedAttributeType:
		return sdk.ClassUnsupported, "target.refused"
	}
	return sdk.ClassConflict, "target.refused"
}
