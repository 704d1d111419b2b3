package main

import (
	"context"
	"strconv"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/sdk/directory"
)

// accountAttributes are what is read of an account, beside its names.
var accountAttributes = []string{
	"sAMAccountName", "userPrincipalName", "userAccountControl", "msDS-User-Account-Control-Computed", "lockoutTime",
	"badPwdCount", "badPasswordTime", "pwdLastSet", "msDS-ResultantPSO",
}

// account is an entry as far as logins go.
type account struct {
	dn     string
	barred string // why nobody may log in, whatever the password; empty: nothing does
	spared bool   // one more failed login leaves it unlocked
}

// Bits of userAccountControl ([MS-ADTS] 2.2.16) and of its computed companion.
const (
	accountDisabled   = 0x2
	smartcardRequired = 0x40000
	lockedOut         = 0x10
)

func barred(e *ldap.Entry) string {
	control := number(e, "userAccountControl")
	locked := number(e, "lockoutTime") != 0
	if e.GetAttributeValue("msDS-User-Account-Control-Computed") != "" { // knows when a lock ends
		locked = number(e, "msDS-User-Account-Control-Computed")&lockedOut != 0
	}
	switch {
	case control&accountDisabled != 0:
		return "disabled"
	case control&smartcardRequired != 0:
		return "no_login"
	case locked:
		return "locked"
	}
	return ""
}

// policy is what of a domain's password policy, or of a finer one that an account has,
// counts here.
type policy struct {
	threshold int64 // failed logins that lock an account; 0: none do
	window    time.Duration
	minAge    time.Duration
}

// policyOf reads the policy of an account. One of its own is mostly for the domain's
// administrators to see: then as little is taken for granted as can be.
func policyOf(ctx context.Context, c *directory.Conn, d domain, e *ldap.Entry) (policy, error) {
	root, err := read(ctx, c, d.root, "lockoutThreshold", "lockOutObservationWindow", "minPwdAge")
	if err != nil {
		return policy{}, err
	}
	if root == nil || root.GetAttributeValue("lockoutThreshold") == "" {
		return policy{threshold: cautious, window: 30 * time.Minute}, nil // what domains begin with
	}
	p := policy{number(root, "lockoutThreshold"), interval(root, "lockOutObservationWindow"), interval(root, "minPwdAge")}
	own := e.GetAttributeValue("msDS-ResultantPSO")
	if own == "" {
		return p, nil
	}
	finer, err := read(ctx, c, own, "msDS-LockoutThreshold", "msDS-LockoutObservationWindow", "msDS-MinimumPasswordAge")
	if err != nil {
		return p, err
	}
	if finer == nil || finer.GetAttributeValue("msDS-LockoutThreshold") == "" {
		p.threshold = cautious
		return p, nil
	}
	return policy{number(finer, "msDS-LockoutThreshold"), interval(finer, "msDS-LockoutObservationWindow"), interval(finer, "msDS-MinimumPasswordAge")}, nil
}

// cautious is the threshold where nobody tells: a login may fail while none has.
const cautious = 2

// spared says whether one more failed login leaves the account unlocked.
func (p policy) spared(ctx context.Context, c *directory.Conn, e *ldap.Entry) (bool, error) {
	failed := number(e, "badPwdCount")
	if p.threshold == 0 || failed+1 < p.threshold {
		return true, nil
	}
	// The first failed login after the window sets the count back, and nothing before it.
	now, err := clock(ctx, c)
	if err != nil {
		return false, err
	}
	return now.Sub(moment(e, "badPasswordTime")) >= p.window && p.threshold > 1, nil
}

// tooSoon says whether the account's own password is younger than it must be to be
// changed by the account itself.
func (p policy) tooSoon(ctx context.Context, c *directory.Conn, e *ldap.Entry) (bool, error) {
	if p.minAge == 0 || number(e, "pwdLastSet") == 0 {
		return false, nil
	}
	now, err := clock(ctx, c)
	return err == nil && now.Sub(moment(e, "pwdLastSet")) < p.minAge, err
}

// clock is the controller's own: what it wrote down is by that.
func clock(ctx context.Context, c *directory.Conn) (time.Time, error) {
	root, err := read(ctx, c, "", "currentTime")
	if err != nil || root == nil {
		return time.Now(), err
	}
	now, err := time.Parse("20060102150405.0Z", root.GetAttributeValue("currentTime"))
	if err != nil {
		return time.Now(), nil
	}
	return now, nil
}

func number(e *ldap.Entry, attribute string) int64 {
	n, _ := strconv.ParseInt(e.GetAttributeValue(attribute), 10, 64)
	return n
}

// tick is the unit of times in the directory.
const tick = 100 * time.Nanosecond

// interval is a length of time, which the directory keeps as a negative number; the
// lowest there is stands for ever.
func interval(e *ldap.Entry, attribute string) time.Duration {
	n := number(e, attribute)
	const longest = int64(1<<63-1) / int64(tick)
	switch {
	case n >= 0:
		return 0
	case n < -longest:
		return time.Duration(longest) * tick
	}
	return time.Duration(-n) * tick
}

// moment is a time that is kept as ticks since 1601.
func moment(e *ldap.Entry, attribute string) time.Time {
	n := number(e, attribute)
	return time.Unix(n/1e7-to1970, n%1e7*int64(tick))
}

// ticks is a time as the directory keeps it; what is finer than a tick falls off.
func ticks(t time.Time) int64 { return (t.Unix()+to1970)*1e7 + int64(t.Nanosecond())/int64(tick) }

// to1970 is how many seconds after 1601 the time of Unix begins.
const to1970 = 11644473600
