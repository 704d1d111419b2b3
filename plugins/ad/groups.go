package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/directory"
)

// groupNames takes a list of groups apart, which are named by sAMAccountName or DN. A DN has
// commas of its own: it begins with an equals sign, which no other name has, and ends after
// its DCs. It is false where something in the list is neither.
func groupNames(list string) (names []string, ok bool) {
	if !utf8.ValidString(list) || strings.ContainsRune(list, 0) {
		return nil, false
	}
	var dn []string
	var inDC bool
	end := func() bool {
		whole := strings.Join(dn, ",")
		dn, inDC = nil, false
		if whole != "" {
			names = append(names, whole)
		}
		return whole == "" || isDN(whole)
	}
	for _, part := range partsOf(list) {
		kind, _, ofDN := strings.Cut(part, "=")
		dc := ofDN && strings.EqualFold(strings.TrimSpace(kind), "DC")
		if (!ofDN || inDC && !dc) && !end() || dc && dn == nil { // DCs alone are a domain
			return nil, false
		}
		if ofDN {
			dn, inDC = append(dn, strings.TrimLeft(part, " ")), dc
			continue
		}
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		if !isSAM(part) {
			return nil, false
		}
		names = append(names, part)
	}
	return names, end()
}

// partsOf cuts at the commas that no backslash stands before.
func partsOf(list string) (parts []string) {
	begin, escaped := 0, false
	for i := range len(list) {
		switch {
		case escaped:
			escaped = false
		case list[i] == '\\':
			escaped = true
		case list[i] == ',':
			parts, begin = append(parts, list[begin:i]), i+1
		}
	}
	return append(parts, list[begin:])
}

// domainUsers is the group (by the last number of its SID) that every user is in without
// being among its members.
const domainUsers = 513

const groups = "(objectClass=group)"

// group finds one whose members the administrator may write, and gives its DN; none where
// every user is in it. Its errors say that nothing was sent.
func (s *session) group(ctx context.Context, c *directory.Conn, name string) (string, error) {
	q := query{name, ldap.ScopeBaseObject, groups, func(*ldap.Entry) bool { return true }}
	if !isDN(name) {
		q = query{
			s.domain.root, ldap.ScopeWholeSubtree, "(&" + groups + "(sAMAccountName=" + ldap.EscapeFilter(name) + "))",
			func(e *ldap.Entry) bool { return hasName(e, "sAMAccountName", name) },
		}
	}
	found, err := search(ctx, c, q, "sAMAccountName", "primaryGroupToken", "allowedAttributesEffective")
	switch {
	case err != nil:
		return "", err
	case len(found) == 0 || !q.is(found[0]):
		return "", &sdk.Error{Class: sdk.ClassNotFound, Reason: "group.missing", NotSent: true, Err: fmt.Errorf("there is no group %q", name)}
	case number(found[0], "primaryGroupToken") == domainUsers:
		return "", nil
	case !hasName(found[0], "allowedAttributesEffective", "member"):
		return "", &sdk.Error{Class: sdk.ClassPermission, Reason: "admin.rights", NotSent: true, Err: fmt.Errorf("the administrator may not write who is in the group %q", name)}
	}
	return found[0].DN, nil
}

// membership changes who is in a group. What is so already, the controller takes.
func membership(group string) *ldap.ModifyRequest {
	return ldap.NewModifyRequest(group, []ldap.Control{ldap.NewControlString(ldap.ControlTypeMicrosoftPermissiveModify, true, "")})
}

// memberships are the changes after which an account that is in the groups that it has is in
// those that are wanted; DNs are as the controller gives them.
func memberships(account string, has, wanted []string) (changes []*ldap.ModifyRequest) {
	for _, group := range has {
		if !contains(wanted, group) {
			r := membership(group)
			r.Delete("member", []string{account})
			changes = append(changes, r)
		}
	}
	for _, group := range wanted {
		if !contains(has, group) {
			r := membership(group)
			r.Add("member", []string{account})
			changes = append(changes, r)
		}
	}
	return changes
}

func contains(list []string, dn string) bool {
	return slices.ContainsFunc(list, func(other string) bool { return strings.EqualFold(other, dn) })
}
