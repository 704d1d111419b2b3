package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/directory"
	"github.com/rotunda-pam/rotunda/sdk/pool"
)

// session is one administrator on one server, or an account that changes itself.
type session struct {
	server   directory.Server
	admin    string
	secret   sdk.Secret
	self     bool
	exop     bool // the server has the password modify operation
	replicas bool // a server may not have heard of a change
	pool     *pool.Pool[*directory.Conn]
	closed   func()

	mu sync.Mutex
	at string // the server, of those that the address may lead to
}

func (s *session) address() string { return s.server.Resource.Address }

func (s *session) where() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

// connect logs in once more, at the same server while it answers.
func (s *session) connect(ctx context.Context) (*directory.Conn, error) {
	server := s.server
	server.Prefer = s.where()
	c, err := login(ctx, server, s.admin, s.secret)
	if err == nil {
		s.mu.Lock()
		s.at = c.Remote()
		s.mu.Unlock()
	}
	return c, err
}

// Close says goodbye on idle connections. It may be called twice.
func (s *session) Close() error {
	s.pool.Close()
	s.closed()
	return nil
}

// look finds an account's entry, nil where there is none or where the administrator sees
// none, and gives the connection it was found on, which is thereby known to be alive.
func (s *session) look(ctx context.Context, dn string) (*directory.Conn, *ldap.Entry, error) {
	for {
		c, used, err := s.pool.Take(ctx)
		if err != nil {
			return nil, nil, err
		}
		found, err := search(ctx, c, dn, "(objectClass=*)", lookedAt()...)
		if err == nil {
			if len(found) != 1 {
				return c, nil, nil
			}
			return c, found[0], nil
		}
		alive := c.Alive()
		s.pool.Give(c, alive)
		if used && !alive && ctx.Err() == nil {
			continue // the idle ones are used up after at most concurrency rounds
		}
		return nil, nil, err
	}
}

// Apply sets the candidate.
func (s *session) Apply(ctx context.Context, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.ApplyResponse{}, err
	}
	unchanged := func(class sdk.Class, reason string) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
	}
	if a.Candidate.Kind != sdk.Password {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kind", NotSent: true, Err: fmt.Errorf("an entry has no %s", a.Candidate.Kind)}
	}
	if s.self && a.Account.Name != s.admin {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true, Err: errors.New("session changes its own account only")}
	}
	if _, err := ldap.ParseDN(a.Account.Name); err != nil || a.Account.Name == "" {
		return unchanged(sdk.ClassNotFound, "account.missing")
	}
	if empty(a.Candidate.Secret) { // the server would make one up
		return unchanged(sdk.ClassPolicy, "policy.charset")
	}
	c, _, err := s.look(ctx, a.Account.Name)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	defer func() { s.pool.Give(c, c.Alive()) }()
	err = c.Do(ctx, func() error {
		if s.exop {
			_, err := c.Extended(s.passwordModify(a))
			return err
		}
		return c.Modify(s.modify(a))
	})
	if err == nil {
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	}
	code, ok := directory.Code(err)
	if !ok { // it was sent and there is no answer: the zero outcome
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "reply.lost", Err: err}
	}
	if code == ldap.LDAPResultOther || code == ldap.LDAPResultOperationsError { // it went wrong, and nobody says when
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "target.failed", Err: err}
	}
	class, reason, ok := policyRefusal(policyError(directory.Controls(err)))
	if !ok {
		class, reason = refusal(code)
	}
	if s.self || reason == "policy.history" || reason == "policy.refused" {
		// A candidate that was set already is refused as one that was used before, or since
		// the former one, which an account has to say, is wrong by now.
		return s.unlessSet(ctx, c, a, class, reason)
	}
	return unchanged(class, reason)
}

// unlessSet logs in with a candidate that was refused: it is the account's password if
// this change was made before and its answer was lost. A login to an account that is held
// back would say nothing.
func (s *session) unlessSet(ctx context.Context, c *directory.Conn, a sdk.ApplyRequest, class sdk.Class, reason string) (sdk.ApplyResponse, error) {
	found, err := search(ctx, c, a.Account.Name, "(objectClass=*)", lookedAt()...)
	if err == nil && len(found) == 1 && heldBack(found[0], time.Now()) != "" {
		err = errors.New("the account is held back")
	}
	if err != nil {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "not_judged", Err: err}
	}
	server := s.server
	server.Prefer = c.Remote()
	set, err := login(ctx, server, a.Account.Name, a.Candidate.Secret)
	if err == nil {
		set.HangUp()
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	}
	if s.replicas && reason == "policy.history" { // who refused the change knows the candidate, and may be another server
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "replicating", Err: err}
	}
	if e := (*sdk.Error)(nil); errors.As(err, &e) && e.Reason == "bad_secret" {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
	}
	return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "not_judged", Err: err}
}

const passwordModify = "1.3.6.1.4.1.4203.1.11.1" // RFC 3062

// passwordModify is the operation with the policy's control, which the library's own
// call does not take.
func (s *session) passwordModify(a sdk.ApplyRequest) *ldap.ExtendedRequest {
	value := ber.NewSequence("PasswdModifyRequestValue")
	field := func(tag ber.Tag, text string) {
		value.AppendChild(ber.NewString(ber.ClassContext, ber.TypePrimitive, tag, text, ""))
	}
	field(0, a.Account.Name)
	if s.self {
		field(1, a.Current.Secret.ExposeString())
	}
	field(2, a.Candidate.Secret.ExposeString())
	r := ldap.NewExtendedRequest(passwordModify, value)
	r.Controls = []ldap.Control{ldap.NewControlBeheraPasswordPolicy()}
	return r
}

// modify replaces all of an account's passwords; an account that changes itself takes
// its own away and adds the new one, which proves that it knows it.
func (s *session) modify(a sdk.ApplyRequest) *ldap.ModifyRequest {
	r := ldap.NewModifyRequest(a.Account.Name, []ldap.Control{ldap.NewControlBeheraPasswordPolicy()})
	next := []string{a.Candidate.Secret.ExposeString()}
	if s.self {
		r.Delete("userPassword", []string{a.Current.Secret.ExposeString()})
		r.Add("userPassword", next)
	} else {
		r.Replace("userPassword", next)
	}
	return r
}

// policyRefusal reads what the password policy says of a change that it refused.
func policyRefusal(e int8) (sdk.Class, string, bool) {
	switch e {
	case 3: // passwordModNotAllowed
		return sdk.ClassPermission, "admin.rights", true
	case 4: // mustSupplyOldPassword
		return sdk.ClassUnsupported, "policy.old_password", true
	case 5: // insufficientPasswordQuality
		return sdk.ClassPolicy, "policy.quality", true
	case 6: // passwordTooShort
		return sdk.ClassPolicy, "policy.length", true
	case tooYoung: // another candidate would be refused, too, and this one taken tomorrow
		return sdk.ClassUnreachable, "policy.too_soon", true
	case 8: // passwordInHistory
		return sdk.ClassPolicy, "policy.history", true
	case accountLocked:
		return sdk.ClassConflict, "account.locked", true
	case changeAfter: // the administrator's own password has to be changed first
		return sdk.ClassConflict, "admin.must_change", true
	}
	return "", "", false
}

// refusal reads the code of an operation that the server did not carry out (RFC 4511,
// appendix A.2).
func refusal(code uint16) (sdk.Class, string) {
	switch code {
	case ldap.LDAPResultNoSuchObject, ldap.LDAPResultInvalidDNSyntax:
		return sdk.ClassNotFound, "account.missing"
	case ldap.LDAPResultInsufficientAccessRights:
		return sdk.ClassPermission, "admin.rights"
	case ldap.LDAPResultConstraintViolation:
		return sdk.ClassPolicy, "policy.refused"
	case ldap.LDAPResultInvalidAttributeSyntax:
		return sdk.ClassPolicy, "policy.charset"
	case ldap.LDAPResultBusy, ldap.LDAPResultUnavailable, ldap.LDAPResultTimeLimitExceeded, ldap.LDAPResultAdminLimitExceeded:
		return sdk.ClassUnreachable, "target.busy"
	case ldap.LDAPResultReferral: // a replica that takes no writes, or another server's entry
		return sdk.ClassConflict, "target.referral"
	case ldap.LDAPResultConfidentialityRequired, ldap.LDAPResultStrongAuthRequired:
		return sdk.ClassUnsupported, "target.tls"
	case ldap.LDAPResultProtocolError, ldap.LDAPResultUnavailableCriticalExtension, ldap.LDAPResultUndefinedAttributeType:
		return sdk.ClassUnsupported, "target.refused"
	}
	return sdk.ClassConflict, "target.refused"
}
