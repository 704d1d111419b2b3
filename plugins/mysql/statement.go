package main

import (
	"fmt"
	"strings"
)

// statement is SQL with a question mark for each value.
type statement struct {
	text string
	args []string
}

// methodError says that an account has no password of a kind that is known here.
type methodError struct{ methods []method }

func (e methodError) Error() string {
	var names []string
	for _, m := range e.methods {
		names = append(names, m.plugin)
	}
	return fmt.Sprintf("the account logs in by %s: no password whose digest can be computed here", strings.Join(names, " or "))
}

// apply is the statement that brings an account to take the candidate; nil: it does
// already. Unless single, the account keeps its current password, or where that is not
// known the newest. Whatever further password it had is dropped: there is room for two.
func (s server) apply(u user, candidate, current []byte, c Config) (*statement, error) {
	at := s.base(u, current)
	if at < 0 {
		return nil, methodError{u.methods}
	}
	next, err := u.methods[at].next(candidate)
	if err != nil {
		return nil, err
	}
	single := c.Single || !s.two() || !u.methods[at].set()
	if has := u.find(candidate); has >= 0 && (!single || has == at) {
		return nil, nil
	}
	password := candidate
	if !c.Clear {
		password = nil
	}
	if !s.maria {
		// A change without RETAIN leaves the second password as it is, which is right where
		// that is the current one.
		return first(u.account, next, password, !single && at == 0), nil
	}
	var methods []method
	nextAt := 0
	for i, m := range u.methods {
		switch {
		case !m.password():
			methods = append(methods, m)
		case i != at: // dropped
		case single:
			nextAt, methods = len(methods), append(methods, next)
		case len(methods) == 0 && m.plugin == native:
			// Clients begin with this method, so whoever has the former password sees no change,
			// and the new one takes them a switch of methods.
			nextAt, methods = len(methods)+1, append(methods, m, next)
		default:
			// Clients come here by a switch already. Many, this plugin's driver among them, make
			// one only, so the new password comes first: else it could not be verified.
			nextAt, methods = len(methods), append(methods, next, m)
		}
	}
	return either(u.account, methods, nextAt, password), nil
}

// retire is the statement that ends old; nil: there is nothing to end. It is false where
// the account would be left without keep.
func (s server) retire(u user, keep, old []byte) (*statement, bool) {
	ends, stays := u.find(old), u.find(keep)
	switch {
	case ends < 0:
		return nil, true
	case stays < 0 || stays == ends:
		return nil, false
	case !s.maria && ends == 1:
		return &statement{"ALTER USER ?@? DISCARD OLD PASSWORD", []string{u.name, u.host}}, true
	case !s.maria:
		return first(u.account, u.methods[1], nil, false), true
	}
	var methods []method
	for _, m := range u.methods {
		if !m.matches(old) {
			methods = append(methods, m)
		}
	}
	return either(u.account, methods, 0, nil), true
}

// base is the password that stays beside a new one: the current, else the newest that is
// set, else one that is not.
func (s server) base(u user, current []byte) int {
	if i := u.find(current); i >= 0 {
		return i
	}
	newestLast := s.maria && len(u.methods) > 0 && u.methods[0].plugin == native
	at := -1
	for i, m := range u.methods {
		switch {
		case !m.password():
		case at < 0, m.set() && (newestLast || !u.methods[at].set()):
			at = i
		}
	}
	return at
}

// first is MySQL's statement that makes m an account's first password, by its digest
// unless the password is given.
func first(a account, m method, password []byte, retain bool) *statement {
	s := &statement{"ALTER USER ?@? IDENTIFIED WITH ? AS ?", []string{a.name, a.host, m.plugin, m.stored}}
	if password != nil {
		s = &statement{"ALTER USER ?@? IDENTIFIED WITH ? BY ?", []string{a.name, a.host, m.plugin, string(password)}}
	}
	if retain {
		s.text += " RETAIN CURRENT PASSWORD"
	}
	return s
}

// either is MariaDB's statement that lets an account log in by one of these methods. The
// password, if it is given, is that of the method at nextAt, in place of its digest.
func either(a account, methods []method, nextAt int, password []byte) *statement {
	s := &statement{args: []string{a.name, a.host}}
	var ways []string
	for i, m := range methods {
		s.args = append(s.args, m.plugin)
		switch {
		case i == nextAt && password != nil:
			ways, s.args = append(ways, "? USING PASSWORD(?)"), append(s.args, string(password))
		case m.stored == "":
			ways = append(ways, "?")
		default:
			ways, s.args = append(ways, "? USING ?"), append(s.args, m.stored)
		}
	}
	s.text = "ALTER USER ?@? IDENTIFIED VIA " + strings.Join(ways, " OR ")
	return s
}

// own are the statements by which an account changes its own password: the first that the
// server takes is the right one, since an account may not see by which method it logs in.
func (s server) own(candidate, current []byte, c Config) []statement {
	switch {
	case s.maria && c.Clear:
		return []statement{{"SET PASSWORD = PASSWORD(?)", []string{string(candidate)}}}
	case s.maria:
		return []statement{
			{"SET PASSWORD = ?", []string{nativeDigest(candidate)}},
			{"SET PASSWORD = ?", []string{ed25519Digest(candidate)}},
		}
	case s.since(replaceMySQL) && len(current) > 0:
		return []statement{{"ALTER USER USER() IDENTIFIED BY ? REPLACE ?", []string{string(candidate), string(current)}}}
	}
	// MySQL takes no digest from the account itself. It writes none of this to its logs.
	return []statement{{"ALTER USER USER() IDENTIFIED BY ?", []string{string(candidate)}}}
}
