package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/directory"
)

// made is the description of the users that this plugin has made. Where one has it and is
// below the unit of the settings, it is ours; no other is touched. Its holder may not write
// it, as he may some other attributes of himself.
const made = "made by rotunda, and removed by it"

// Values of userAccountControl: a user, who may log in or may not.
const (
	enabled  = "512"
	disabled = "514"
)

// never is when an account ends that has no end.
const never = "9223372036854775807"

// provisioner makes users that live for a while.
type provisioner struct{}

// guest is a user as the directory has it, and where it is looked for.
type guest struct {
	unit    string // DN of the unit in which users are made
	dn      string // empty: there is none
	ours    bool
	primary int64    // the group that it is in without being among its members
	groups  []string // DNs of the others
}

// unitOf reads the settings. Its errors say that nothing was sent.
func unitOf(r sdk.Resource) (string, error) {
	var c Config
	if err := sdk.DecodeConfig(r, &c); err != nil {
		return "", err
	}
	if !isDN(c.Accounts) {
		return "", noPlace(sdk.ClassInvalid, errors.New("the resource's settings do not give the DN of an organisational unit in which accounts are made (accounts)"))
	}
	return c.Accounts, nil
}

func noPlace(class sdk.Class, err error) error {
	return &sdk.Error{Class: class, Reason: "account.place", NotSent: true, Err: err}
}

// open logs in and looks for the user.
func (provisioner) open(ctx context.Context, r sdk.OpenRequest, name string) (*session, *directory.Conn, guest, error) {
	unit, err := unitOf(r.Resource)
	if err != nil {
		return nil, nil, guest{}, err
	}
	opened, err := new(rotator).Open(ctx, r)
	if err != nil {
		return nil, nil, guest{}, err
	}
	s := opened.(*session)
	c, e, err := s.look(ctx, name)
	if err == nil {
		var g guest
		if g, err = guestOf(ctx, c, unit, e); err == nil {
			return s, c, g, nil
		}
		s.pool.Give(c, c.Alive())
	}
	_ = s.Close()
	return nil, nil, guest{}, err
}

// guestOf reads what else counts here of an entry that was found. Where there is none, the
// unit has to be seen: who does not see it does not know what is in it.
func guestOf(ctx context.Context, c *directory.Conn, unit string, found *ldap.Entry) (guest, error) {
	at, err := read(ctx, c, unit, "1.1")
	if err == nil && at == nil {
		err = noPlace(sdk.ClassNotFound, fmt.Errorf("the administrator sees no organisational unit %q", unit))
	}
	if err != nil || found == nil {
		return guest{unit: unit}, err
	}
	e, err := read(ctx, c, found.DN, "description", "primaryGroupID", "memberOf")
	if err != nil || e == nil {
		return guest{unit: unit}, err
	}
	return guest{
		unit: unit, dn: e.DN, ours: e.GetAttributeValue("description") == made && isBelow(e.DN, at.DN),
		primary: number(e, "primaryGroupID"), groups: e.GetAttributeValues("memberOf"),
	}, nil
}

func isBelow(dn, unit string) bool {
	below, err := ldap.ParseDN(dn)
	above, errAbove := ldap.ParseDN(unit)
	return err == nil && errAbove == nil && above.AncestorOfFold(below)
}

// Provision makes a user, or gives one of ours another password, time, and groups. Until
// all that is so it is disabled: what breaks off in between lets nobody in.
func (p provisioner) Provision(ctx context.Context, r sdk.OpenRequest, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	unchanged := func(class sdk.Class, reason string) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
	}
	if a.Candidate.Kind != sdk.Password {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kind", NotSent: true, Err: errors.New("an account of a domain has a password")}
	}
	password, ok := unicodePwd(a.Candidate.Secret)
	if !ok {
		return unchanged(sdk.ClassPolicy, "policy.charset")
	}
	expires, names, err := rights(a.Account)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	s, c, g, err := p.open(ctx, r, a.Account.Name)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	defer func() { s.pool.Give(c, c.Alive()); _ = s.Close() }()
	if g.dn != "" && !g.ours {
		return unchanged(sdk.ClassConflict, "account.exists")
	}
	sam, ok := s.domain.newSAM(a.Account.Name)
	if g.dn == "" && !ok {
		return unchanged(sdk.ClassInvalid, "account.name")
	}
	wanted, err := s.groupsFor(ctx, c, g, names)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	if g.dn == "" {
		return s.makeGuest(ctx, c, g.unit, sam, password, expires, wanted)
	}
	return s.remakeGuest(ctx, c, g, password, expires, wanted)
}

// rights are what the account's attributes ask for: when it ends, and its groups' names.
func rights(a sdk.Account) (expires string, names []string, err error) {
	expires = never
	if until := a.Attrs[sdk.UntilAttr]; until != "" {
		t, err := time.Parse(time.RFC3339, until)
		if err == nil && ticks(t) <= 0 { // 0 stands for never
			err = errors.New("the directory's time begins after 1601-01-01")
		}
		if err != nil {
			return "", nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.until", NotSent: true, Err: err}
		}
		expires = strconv.FormatInt(ticks(t), 10)
	}
	names, ok := groupNames(a.Attrs[sdk.GroupsAttr])
	if !ok {
		return "", nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.groups", NotSent: true, Err: errors.New("a group is named by its sAMAccountName or its DN")}
	}
	return expires, names, nil
}

// groupsFor finds the groups that are asked for, and looks whether the administrator may
// write them and those that the account has and shall leave.
func (s *session) groupsFor(ctx context.Context, c *directory.Conn, g guest, names []string) (wanted []string, err error) {
	for _, name := range names {
		dn, err := s.group(ctx, c, name)
		if err != nil {
			return nil, err
		}
		if dn != "" && !contains(wanted, dn) {
			wanted = append(wanted, dn)
		}
	}
	for _, dn := range g.groups {
		if contains(wanted, dn) {
			continue
		}
		if _, err := s.group(ctx, c, dn); err != nil {
			return nil, err
		}
	}
	return wanted, nil
}

// makeGuest makes the user, in one operation as far as it can be.
func (s *session) makeGuest(ctx context.Context, c *directory.Conn, unit, sam, password, expires string, wanted []string) (sdk.ApplyResponse, error) {
	at, err := read(ctx, c, unit, "allowedChildClassesEffective")
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	if at == nil || !hasName(at, "allowedChildClassesEffective", "user") {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassPermission, Reason: "admin.rights", NotSent: true, Err: fmt.Errorf("the administrator may not make users in %q", unit)}
	}
	r := ldap.NewAddRequest("CN="+ldap.EscapeDN(sam)+","+unit, nil)
	r.Attribute("objectClass", []string{"user"})
	r.Attribute("sAMAccountName", []string{sam})
	r.Attribute("description", []string{made})
	r.Attribute("userAccountControl", []string{disabled})
	r.Attribute("accountExpires", []string{expires})
	r.Attribute("unicodePwd", []string{password})
	out, err := outcome(c.Do(ctx, func() error { return c.Add(r) }))
	if err != nil || out.Outcome != sdk.Changed {
		return out, err
	}
	return unfinished(s.modifyAll(ctx, c, append(memberships(r.DN, nil, wanted), control(r.DN, enabled))...))
}

// remakeGuest gives a user of ours what it shall have now. One whose primary group is not
// that of all users has been given it by hand; it is then among the others that it has.
func (s *session) remakeGuest(ctx context.Context, c *directory.Conn, g guest, password, expires string, wanted []string) (sdk.ApplyResponse, error) {
	first := control(g.dn, disabled)
	first.Replace("accountExpires", []string{expires})
	if g.primary != domainUsers {
		first.Replace("primaryGroupID", []string{strconv.Itoa(domainUsers)})
	}
	if out, err := s.modifyAll(ctx, c, first); err != nil || out.Outcome != sdk.Changed {
		return out, err
	}
	e, err := read(ctx, c, g.dn, "memberOf")
	if err != nil || e == nil {
		return unfinished(sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassNotFound, Reason: "account.missing"}, err)
	}
	reset := ldap.NewModifyRequest(g.dn, nil)
	reset.Replace("unicodePwd", []string{password})
	changes := append([]*ldap.ModifyRequest{reset}, memberships(g.dn, e.GetAttributeValues("memberOf"), wanted)...)
	return unfinished(s.modifyAll(ctx, c, append(changes, control(g.dn, enabled))...))
}

// Deprovision removes a user of ours, whom nobody is let in as from the first step on.
func (p provisioner) Deprovision(ctx context.Context, r sdk.OpenRequest, a sdk.Account) (sdk.ApplyResponse, error) {
	s, c, g, err := p.open(ctx, r, a.Name)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	defer func() { s.pool.Give(c, c.Alive()); _ = s.Close() }()
	_, isName := s.domain.query(a.Name)
	switch {
	case !isName:
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassInvalid, Reason: "account.name"}, nil
	case g.dn == "":
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case !g.ours:
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassConflict, Reason: "account.exists"}, nil
	}
	if out, err := s.modifyAll(ctx, c, control(g.dn, disabled)); err != nil || out.Outcome != sdk.Changed {
		return out, err
	}
	return unfinished(outcome(c.Do(ctx, func() error { return c.Del(ldap.NewDelRequest(g.dn, nil)) })))
}

func control(dn, value string) *ldap.ModifyRequest {
	r := ldap.NewModifyRequest(dn, nil)
	r.Replace("userAccountControl", []string{value})
	return r
}

// modifyAll makes changes one after the other, up to the first that fails.
func (s *session) modifyAll(ctx context.Context, c *directory.Conn, changes ...*ldap.ModifyRequest) (sdk.ApplyResponse, error) {
	for _, r := range changes {
		out, err := outcome(c.Do(ctx, func() error { return c.Modify(r) }))
		if err != nil || out.Outcome != sdk.Changed {
			return out, err
		}
	}
	return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
}

// unfinished is how what follows a first change ended: what failed is neither "unchanged"
// nor "nothing was sent".
func unfinished(out sdk.ApplyResponse, err error) (sdk.ApplyResponse, error) {
	if e := (*sdk.Error)(nil); errors.As(err, &e) {
		return sdk.ApplyResponse{}, &sdk.Error{Class: e.Class, Reason: e.Reason, Err: e.Err}
	}
	if err == nil && out.Outcome == sdk.Unchanged {
		return sdk.ApplyResponse{}, &sdk.Error{Class: out.Class, Reason: out.Reason, Err: errors.New("the account is there, disabled: run again")}
	}
	return out, err
}
