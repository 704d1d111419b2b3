package main

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"
)

// domain is what a controller says of itself before anybody logs in.
type domain struct {
	root      string // DN
	partition string // DN of what is known of the forest's domains
	dns       string // example.com
	netbios   string // EXAMPLE; known to those who are logged in
}

// dnsOf is the name of the domain whose DN is given.
func dnsOf(root string) string {
	dn, err := ldap.ParseDN(root)
	if err != nil {
		return ""
	}
	var labels []string
	for _, r := range dn.RDNs {
		labels = append(labels, r.Attributes[0].Value)
	}
	return strings.Join(labels, ".")
}

// isDN tells a DN of Active Directory, which ends with the domain, from a UPN with an
// equals sign in it.
func isDN(name string) bool {
	dn, err := ldap.ParseDN(name)
	if err != nil || len(dn.RDNs) == 0 {
		return false
	}
	last := dn.RDNs[len(dn.RDNs)-1].Attributes
	return len(last) == 1 && strings.EqualFold(last[0].Type, "DC")
}

// query is how an account's entry is found, and what shows that it is the one: a
// controller takes some letters for others.
type query struct {
	base   string
	scope  int
	filter string
	is     func(*ldap.Entry) bool
}

const users = "(objectClass=user)"

// query understands a name. It is false where no account of this domain is called so.
func (d domain) query(name string) (query, bool) {
	if isDN(name) {
		return query{name, ldap.ScopeBaseObject, users, func(*ldap.Entry) bool { return true }}, true
	}
	bySAM := func(sam string) (query, bool) {
		if !isSAM(sam) {
			return query{}, false
		}
		return query{
			d.root, ldap.ScopeWholeSubtree, "(&" + users + "(sAMAccountName=" + ldap.EscapeFilter(sam) + "))",
			func(e *ldap.Entry) bool { return hasName(e, "sAMAccountName", sam) },
		}, true
	}
	if before, sam, ok := strings.Cut(name, `\`); ok {
		if !d.isCalled(before) {
			return query{}, false
		}
		return bySAM(sam)
	}
	prefix, suffix, ok := cutLast(name, "@")
	if !ok {
		return bySAM(name)
	}
	q := query{d.root, ldap.ScopeWholeSubtree, "(userPrincipalName=" + ldap.EscapeFilter(name) + ")", func(e *ldap.Entry) bool {
		return hasName(e, "userPrincipalName", name)
	}}
	// Every account has a second one that is written nowhere.
	if sam, ok := bySAM(prefix); ok && strings.EqualFold(suffix, d.dns) {
		written := q.is
		q.filter = "(|" + q.filter + sam.filter + ")"
		q.is = func(e *ldap.Entry) bool { return written(e) || sam.is(e) }
	}
	q.filter = "(&" + users + q.filter + ")"
	return q, true
}

func (d domain) isCalled(name string) bool {
	return strings.EqualFold(name, d.netbios) || strings.EqualFold(name, d.dns)
}

// isSAM tells whether anything in a domain can have this sAMAccountName.
func isSAM(sam string) bool { return sam != "" && !strings.ContainsAny(sam, `"/\[]:;|=,+*?<>`) }

// newSAM is the sAMAccountName of a user that is to be made, whose name is given with or
// without DOMAIN\. It is false of one that Windows' own dialogues would not take, or that
// reads as another: as a UPN, or as a computer's, which ends with $.
func (d domain) newSAM(name string) (string, bool) {
	if before, sam, ok := strings.Cut(name, `\`); ok {
		if !d.isCalled(before) {
			return "", false
		}
		name = sam
	}
	const longest = 20 // UTF-16 units
	notShown := func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
	ok := isSAM(name) && !strings.Contains(name, "@") && !strings.HasSuffix(name, "$") && !strings.HasSuffix(name, ".") &&
		strings.TrimSpace(name) == name && !strings.ContainsFunc(name, notShown) && len(utf16.Encode([]rune(name))) <= longest
	return name, ok
}

// isLoginName tells the names that a controller takes at a login as they are.
func isLoginName(name string) bool { return isDN(name) || strings.ContainsAny(name, `\@`) }

func hasName(e *ldap.Entry, attribute, name string) bool {
	return slices.ContainsFunc(e.GetAttributeValues(attribute), func(v string) bool { return strings.EqualFold(v, name) })
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
