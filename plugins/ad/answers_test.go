package main

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/sdk"
)

// loginTexts are of Windows Server and of Samba, but for those that are no such thing.
var loginTexts = []struct {
	text string
	code uint32
	ok   bool
}{
	{"80090308: LdapErr: DSID-0C09042F, comment: AcceptSecurityContext error, data 52e, v2580", 0x52e, true},
	{"80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data 775, v1db1", 0x775, true},
	{"80090308: LdapErr: DSID-0C09042F, comment: AcceptSecurityContext error, data 773, v4563\x00", 0x773, true},
	{"80090308: LdapErr: DSID-0C09042F, comment: AcceptSecurityContext error, data 0, v2580", 0, true},
	{"00000057: LdapErr: DSID-0C0C0075, comment: the server did not recognise the name, data 52E", 0, false},
	{"data 52e, data 775", 0, false},
	{"data 123456789", 0, false},
	{"metadata 52e", 0, false},
	{"data 52ex", 0, false},
	{"data  52e", 0, false},
	{"Data 52e", 0, false},
	{"data", 0, false},
	{"Invalid credentials", 0, false},
	{"", 0, false},
}

func TestCodeOfLogin(t *testing.T) {
	for _, c := range loginTexts {
		if code, ok := codeOfLogin(c.text); code != c.code || ok != c.ok {
			t.Errorf("%q: %x, %v, want %x, %v", c.text, code, ok, c.code, c.ok)
		}
	}
}

// A number that is read stands in the text, once and for itself.
func FuzzCodeOfLogin(f *testing.F) {
	for _, c := range loginTexts {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		code, ok := codeOfLogin(text)
		if !ok {
			if code != 0 {
				t.Errorf("%q: not read, and %x", text, code)
			}
			return
		}
		digits := strings.TrimLeft(strconv.FormatUint(uint64(code), 16), "0")
		if !strings.Contains(text, "data ") || !strings.Contains(text, digits) {
			t.Errorf("%q: %x is not there", text, code)
		}
		if again, ok := codeOfLogin(text + "; " + text); ok {
			t.Errorf("%q, twice: %x", text, again)
		}
	})
}

func refusedBy(code uint16, text string) error { return ldap.NewError(code, errorText(text)) }

type errorText string

func (e errorText) Error() string { return string(e) }

// What decides over a login is the code that a controller gives, and nothing is rejected
// but by one.
func TestLoginError(t *testing.T) {
	said := func(data string) error {
		return refusedBy(ldap.LDAPResultInvalidCredentials, "80090308: LdapErr: DSID-0C09042F, comment: AcceptSecurityContext error, data "+data+", v2580")
	}
	for _, c := range []struct {
		err    error
		class  sdk.Class
		reason string
	}{
		{said("52e"), sdk.ClassAuth, "bad_secret"},
		{said("525"), sdk.ClassAuth, "not_judged"},
		{said("52f"), sdk.ClassAuth, "no_login"},
		{said("530"), sdk.ClassAuth, "no_login"},
		{said("531"), sdk.ClassAuth, "no_login"},
		{said("569"), sdk.ClassAuth, "no_login"},
		{said("532"), sdk.ClassAuth, "expired"},
		{said("701"), sdk.ClassAuth, "expired"},
		{said("773"), sdk.ClassAuth, "expired"},
		{said("533"), sdk.ClassAuth, "disabled"},
		{said("775"), sdk.ClassAuth, "locked"},
		{said("57"), sdk.ClassUnsupported, "login.refused"},
		{said("0"), sdk.ClassUnsupported, "login.refused"},
		{refusedBy(ldap.LDAPResultInvalidCredentials, ""), sdk.ClassUnsupported, "login.refused"},
		{refusedBy(ldap.LDAPResultUnwillingToPerform, "data 52e"), sdk.ClassUnsupported, "login.refused"},
		{refusedBy(ldap.LDAPResultBusy, ""), sdk.ClassUnreachable, "target.busy"},
		{refusedBy(ldap.LDAPResultInvalidDNSyntax, ""), sdk.ClassInvalid, "account.name"},
		{refusedBy(ldap.LDAPResultStrongAuthRequired, ""), sdk.ClassUnsupported, "auth.method"},
		{refusedBy(ldap.ErrorNetwork, "data 52e"), sdk.ClassUnreachable, "connection"},
	} {
		err := loginError(t.Context(), c.err)
		mustFail(t, err, c.class, c.reason)
	}
}

func TestRefusal(t *testing.T) {
	for _, c := range []struct {
		answer uint16
		text   string
		class  sdk.Class
		reason string
	}{
		// Windows, of an own change and of a reset; Samba.
		{ldap.LDAPResultConstraintViolation, "0000052D: AtrErr: DSID-03191083, #1:\n\t0: 0000052D: DSID-03191083, problem 1005 (CONSTRAINT_ATT_TYPE), data 0, Att 9005a (unicodePwd)", sdk.ClassPolicy, "policy.refused"},
		{ldap.LDAPResultUnwillingToPerform, "0000052D: SvcErr: DSID-031A12D2, problem 5003 (WILL_NOT_PERFORM), data 0", sdk.ClassPolicy, "policy.refused"},
		{ldap.LDAPResultConstraintViolation, "0000052D: Constraint violation - check_password_restrictions: the password is too short.", sdk.ClassPolicy, "policy.refused"},
		{ldap.LDAPResultConstraintViolation, "00000056: AtrErr: DSID-03191083, #1:", sdk.ClassAuth, "admin.refused"},
		{ldap.LDAPResultConstraintViolation, "00000056", sdk.ClassConflict, "target.refused"},
		{ldap.LDAPResultConstraintViolation, "it says 0000052D: elsewhere", sdk.ClassConflict, "target.refused"},
		{ldap.LDAPResultConstraintViolation, "", sdk.ClassConflict, "target.refused"},
		{ldap.LDAPResultUnwillingToPerform, "0000001F: SvcErr: DSID-031A12D2, problem 5003 (WILL_NOT_PERFORM), data 0", sdk.ClassConflict, "target.refused"},
		{ldap.LDAPResultInsufficientAccessRights, "0000052D: ", sdk.ClassPermission, "admin.rights"},
		{ldap.LDAPResultNoSuchObject, "", sdk.ClassNotFound, "account.missing"},
		{ldap.LDAPResultReferral, "", sdk.ClassConflict, "target.referral"},
		{ldap.LDAPResultUnavailable, "", sdk.ClassUnreachable, "target.busy"},
		{ldap.LDAPResultStrongAuthRequired, "", sdk.ClassUnsupported, "target.tls"},
		{ldap.LDAPResultUndefinedAttributeType, "", sdk.ClassUnsupported, "target.refused"},
	} {
		if class, reason := refusal(c.answer, c.text); class != c.class || reason != c.reason {
			t.Errorf("%d %q: %s %s, want %s %s", c.answer, c.text, class, reason, c.class, c.reason)
		}
	}
}

// names are by what they must become; empty: no account is called so.
var names = map[string]string{
	"bob":                            "(&(objectClass=user)(sAMAccountName=bob))",
	`EXAMPLE\bob`:                    "(&(objectClass=user)(sAMAccountName=bob))",
	`corp.example.com\bob`:           "(&(objectClass=user)(sAMAccountName=bob))",
	"o'brien (jr)":                   `(&(objectClass=user)(sAMAccountName=o'brien \28jr\29))`,
	"jürgen":                         `(&(objectClass=user)(sAMAccountName=j\c3\bcrgen))`,
	"bob@other.test":                 "(&(objectClass=user)(userPrincipalName=bob@other.test))",
	"bob@Corp.Example.com":           "(&(objectClass=user)(|(userPrincipalName=bob@Corp.Example.com)(&(objectClass=user)(sAMAccountName=bob))))",
	"a=b@other.test":                 "(&(objectClass=user)(userPrincipalName=a=b@other.test))",
	"*)(cn=*@corp.example.com":       `(&(objectClass=user)(userPrincipalName=\2a\29\28cn=\2a@corp.example.com))`,
	"CN=bob@x,DC=example,DC=com":     users,
	`CN=b\,c,OU=*,DC=x`:              users,
	"cn=bob,dc=example,dc=com":       users,
	`OTHER\bob`:                      "",
	`\bob`:                           "",
	`EXAMPLE\`:                       "",
	`EXAMPLE\OTHER\bob`:              "",
	"*":                              "",
	"bob*":                           "",
	"CN=bob,OU=people":               "",
	"":                               "",
	"bob)(sAMAccountName=*":          "",
	"CN=bob,O=example+DC=com,DC=c+D": "",
}

var example = domain{root: "DC=corp,DC=example,DC=com", dns: "corp.example.com", netbios: "EXAMPLE"}

func TestQuery(t *testing.T) {
	for name, want := range names {
		q, ok := example.query(name)
		if ok != (want != "") || q.filter != want {
			t.Errorf("%q: %q, %v, want %q", name, q.filter, ok, want)
		}
		if byDN := q.scope == ldap.ScopeBaseObject; ok && (byDN != (want == users) || byDN && q.base != name || !byDN && q.base != example.root) {
			t.Errorf("%q: looked for at %q, scope %d", name, q.base, q.scope)
		}
	}
	if got := dnsOf(example.root); got != example.dns {
		t.Errorf("%s is called %s", example.root, got)
	}
}

// A controller takes some letters for others: what it finds must have the name.
func TestFoundIsTheOne(t *testing.T) {
	e := ldap.NewEntry("CN=x", map[string][]string{"sAMAccountName": {"Bob"}, "userPrincipalName": {"Robert@other.test"}})
	for name, want := range map[string]bool{
		"bob": true, `example\BOB`: true, "böb": false, "bob@corp.example.com": true, "robert@OTHER.test": true, "röbert@other.test": false, "robert@corp.example.com": false,
	} {
		if q, ok := example.query(name); !ok || q.is(e) != want {
			t.Errorf("%q: %v, %v, want %v", name, ok, q.is(e), want)
		}
	}
}

// No name makes more of a filter than it is to be.
func FuzzQuery(f *testing.F) {
	for name := range names {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		q, ok := example.query(name)
		if !ok {
			return
		}
		if q.scope == ldap.ScopeBaseObject {
			if q.base != name || q.filter != users {
				t.Errorf("%q: %q below %q", name, q.filter, q.base)
			}
			return
		}
		packet, err := ldap.CompileFilter(q.filter)
		if err != nil {
			t.Fatalf("%q: %q: %v", name, q.filter, err)
		}
		if n := len(packet.Children); n != 2 || packet.Tag != ldap.FilterAnd {
			t.Fatalf("%q: %q has %d parts", name, q.filter, n)
		}
		for _, part := range packet.Children {
			if part.Tag != ldap.FilterEqualityMatch && part.Tag != ldap.FilterOr {
				t.Errorf("%q: %q is more than a comparison", name, q.filter)
			}
		}
	})
}

func TestSpared(t *testing.T) {
	// What needs the controller's clock has no controller to ask, and panics.
	for _, c := range []struct {
		threshold int64
		failed    string
		want      bool
	}{
		{0, "1000", true},
		{5, "", true},
		{5, "0", true},
		{5, "3", true},
		{2, "0", true},
	} {
		e := ldap.NewEntry("CN=x", map[string][]string{"badPwdCount": {c.failed}})
		if got, err := (policy{threshold: c.threshold}).spared(t.Context(), nil, e); err != nil || got != c.want {
			t.Errorf("%s failed of %d: %v, %v", c.failed, c.threshold, got, err)
		}
	}
}

func TestTimes(t *testing.T) {
	e := ldap.NewEntry("CN=x", map[string][]string{
		"half an hour": {"-18000000000"}, "none": {"0"}, "positive": {"5"}, "never": {"-9223372036854775808"}, "a text": {"soon"},
		"2026": {"134401514308492760"},
	})
	for name, want := range map[string]time.Duration{
		"half an hour": 30 * time.Minute, "none": 0, "positive": 0, "never": math.MaxInt64 / 100 * 100, "a text": 0, "absent": 0,
	} {
		if got := interval(e, name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if got := moment(e, "2026").UTC(); got != time.Date(2026, 11, 26, 7, 23, 50, 849276000, time.UTC) {
		t.Errorf("%v", got)
	}
	if got := moment(e, "absent").UTC(); got != time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC) {
		t.Errorf("%v", got)
	}
}

func TestBarred(t *testing.T) {
	for _, c := range []struct {
		control, computed, lockout string
		want                       string
	}{
		{"512", "0", "0", ""},
		{"512", "0", "134401514308492760", ""}, // the lock is over
		{"512", "16", "134401514308492760", "locked"},
		{"512", "", "134401514308492760", "locked"},
		{"512", "", "", ""},
		{"512", "8388608", "", ""}, // expired: a login tells, and a wrong password first
		{"514", "16", "", "disabled"},
		{"262656", "0", "", "no_login"},
	} {
		attributes := map[string][]string{"userAccountControl": {c.control}, "lockoutTime": {c.lockout}}
		if c.computed != "" {
			attributes["msDS-User-Account-Control-Computed"] = []string{c.computed}
		}
		if got := barred(ldap.NewEntry("CN=x", attributes)); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
