package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rotunda-pam/rotunda/sdk"
)

// made is the comment of the roles that this plugin has made: no other is touched.
const made = "made by rotunda, and removed by it"

// provisioner makes roles that live for a while.
type provisioner struct{}

// guest is a role as the catalogue has it.
type guest struct {
	found, ours bool
	groups      []membership
}

// membership is of a role in a group. Since PostgreSQL 16 there is one for each role that
// has granted it, and none of those revokes another's.
type membership struct{ group, grantor string }

// open logs in and looks for the role.
func (provisioner) open(ctx context.Context, r sdk.OpenRequest, name string) (*session, *pgconn.PgConn, guest, error) {
	opened, err := new(rotator).Open(ctx, r)
	if err != nil {
		return nil, nil, guest{}, err
	}
	s := opened.(*session)
	c, rows, err := s.read(ctx, lookForGuest, name)
	if err != nil {
		_ = s.Close()
		return nil, nil, guest{}, err
	}
	g := guest{found: len(rows) > 0, ours: len(rows) > 0 && rows[0][0] == made}
	for _, row := range rows {
		if row[1] != "" {
			g.groups = append(g.groups, membership{row[1], row[2]})
		}
	}
	return s, c, g, nil
}

// lookForGuest gives a role's comment, once for each of its memberships, or once. A grantor
// who is gone has no name.
const lookForGuest = `SELECT coalesce(shobj_description(r.oid, 'pg_authid'), ''), coalesce(g.rolname, ''), coalesce(b.rolname, '')
FROM pg_catalog.pg_roles r
LEFT JOIN pg_catalog.pg_auth_members m ON m.member = r.oid
LEFT JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
LEFT JOIN pg_catalog.pg_roles b ON b.oid = m.grantor
WHERE r.rolname = $1::text`

// Provision makes a role, or gives one of ours another password, time, and groups.
func (p provisioner) Provision(ctx context.Context, r sdk.OpenRequest, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	unchanged := func(class sdk.Class, reason string) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
	}
	password := a.Candidate.Secret.Expose()
	defer clear(password)
	switch {
	case a.Candidate.Kind != sdk.Password:
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kind", NotSent: true, Err: errors.New("a role has a password")}
	case !validName(a.Account.Name):
		return unchanged(sdk.ClassInvalid, "account.name")
	case !sendable(password):
		return unchanged(sdk.ClassPolicy, "policy.charset")
	}
	options, groups, err := rights(a.Account)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	s, c, g, err := p.open(ctx, r, a.Account.Name)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	defer func() { s.give(c); _ = s.Close() }()
	if g.found && !g.ours {
		return unchanged(sdk.ClassConflict, "account.exists")
	}
	v, err := newVerifier(password, s.iterations)
	if err != nil {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInternal, Reason: "scram", NotSent: true, Err: err}
	}
	name := pgx.Identifier{a.Account.Name}.Sanitize()
	verb := "CREATE"
	if g.found {
		verb = "ALTER"
	}
	statement := verb + " ROLE " + name + " LOGIN PASSWORD '" + v.String() + "'" + options +
		"; COMMENT ON ROLE " + name + " IS '" + made + "'"
	for _, m := range g.groups {
		if slices.Contains(groups, m.group) {
			continue
		}
		statement += "; REVOKE " + pgx.Identifier{m.group}.Sanitize() + " FROM " + name
		if m.grantor != "" {
			statement += " GRANTED BY " + pgx.Identifier{m.grantor}.Sanitize()
		}
	}
	for _, group := range groups {
		statement += "; GRANT " + pgx.Identifier{group}.Sanitize() + " TO " + name
	}
	return p.change(ctx, c, statement)
}

// rights are what the account's attributes ask for.
func rights(a sdk.Account) (options string, groups []string, err error) {
	options = " VALID UNTIL 'infinity'"
	if until := a.Attrs[sdk.UntilAttr]; until != "" {
		t, err := time.Parse(time.RFC3339, until)
		if err != nil {
			return "", nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.until", NotSent: true, Err: err}
		}
		options = " VALID UNTIL '" + t.UTC().Format("2006-01-02 15:04:05") + "+00'"
	}
	for group := range strings.SplitSeq(a.Attrs[sdk.GroupsAttr], ",") {
		if group = strings.TrimSpace(group); group == "" {
			continue
		}
		if !validName(group) || strings.Contains(group, "%") {
			return "", nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.groups", NotSent: true, Err: errors.New("a role has no such name")}
		}
		groups = append(groups, group)
	}
	return options, groups, nil
}

// Deprovision removes a role of ours. What it owns it keeps, and is then not removed: a
// person has to decide about that.
func (p provisioner) Deprovision(ctx context.Context, r sdk.OpenRequest, a sdk.Account) (sdk.ApplyResponse, error) {
	if !validName(a.Name) {
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	}
	s, c, g, err := p.open(ctx, r, a.Name)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	defer func() { s.give(c); _ = s.Close() }()
	switch {
	case !g.found:
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case !g.ours:
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassConflict, Reason: "account.exists"}, nil
	}
	name := pgx.Identifier{a.Name}.Sanitize()
	// From here on nobody comes in, whether or not it can be removed.
	if out, err := p.change(ctx, c, "ALTER ROLE "+name+" NOLOGIN"); err != nil || out.Outcome != sdk.Changed {
		return out, err
	}
	if _, err := query(ctx, c, "SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE usename = $1::text", a.Name); err != nil && r.Host.Log != nil {
		r.Host.Log.Warn("sessions of an account that is removed could not be ended", "error", plain(err))
	}
	return p.change(ctx, c, "DROP ROLE "+name)
}

// change sends one message, and so one transaction.
func (provisioner) change(ctx context.Context, c *pgconn.PgConn, statement string) (sdk.ApplyResponse, error) {
	err := c.Exec(ctx, bounds(ctx)+statement).Close()
	if err == nil {
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	}
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		switch pg.Code {
		case "2BP01": // dependent_objects_still_exist
			return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassConflict, Reason: "account.owns"}, nil
		case "42704": // undefined_object: a role to be granted
			return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassNotFound, Reason: "group.missing"}, nil
		}
		if class, reason, proven := changeRefused(pg); proven {
			return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
		}
	}
	return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "reply.lost", Err: err}
}
