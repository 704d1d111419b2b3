package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rotunda-pam/rotunda/sdk"
)

// server is what a server is, which says what it stores where and which statements it
// takes.
type server struct {
	maria   bool
	version [3]int
}

var (
	oldestMySQL = [3]int{5, 7, 0}
	oldestMaria = [3]int{10, 2, 0} // has ALTER USER
	// Since when an account can have two passwords.
	twoMySQL = [3]int{8, 0, 14}
	twoMaria = [3]int{10, 4, 3}
	// Since when an account says what its password was when it changes it.
	replaceMySQL = [3]int{8, 0, 13}
)

// readServer reads the answer to SELECT VERSION().
func readServer(version string) (server, error) {
	s := server{maria: strings.Contains(strings.ToLower(version), "mariadb")}
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &s.version[0], &s.version[1], &s.version[2]); n != 3 {
		return s, fmt.Errorf("version %q of the server is not understood", version)
	}
	oldest := oldestMySQL
	if s.maria {
		oldest = oldestMaria
	}
	if !s.since(oldest) {
		return s, fmt.Errorf("server's version is %s: older than MySQL 5.7 and MariaDB 10.2 are not served", version)
	}
	return s, nil
}

func (s server) since(v [3]int) bool { return slices.Compare(s.version[:], v[:]) >= 0 }

// two says whether an account can have two passwords.
func (s server) two() bool { return s.maria && s.since(twoMaria) || !s.maria && s.since(twoMySQL) }

// table is where the server keeps its accounts.
func (s server) table() string {
	if s.maria && s.since(twoMaria) {
		return "mysql.global_priv"
	}
	return "mysql.user"
}

// look is the query for an account. The server compares names leniently (trailing
// spaces), so read compares again.
func (s server) look(a account) statement {
	columns := "plugin, authentication_string, password_expired, account_locked, ''"
	switch {
	case s.maria && s.since(twoMaria):
		columns = "Priv"
	case s.maria: // the password of an account that has no plugin is in a column of its own
		columns = "plugin, IF(authentication_string = '', Password, authentication_string), password_expired, 'N', ''"
	case s.since(twoMySQL):
		columns = "plugin, authentication_string, password_expired, account_locked, COALESCE(User_attributes, '')"
	}
	return statement{"SELECT User, Host, " + columns + " FROM " + s.table() + " WHERE User = ? AND Host = ?", []string{a.name, a.host}}
}

// account is whom a statement is about.
type account struct{ name, host string }

// accountOf reads the account that the agent names. Host parts are stored in lower case.
func accountOf(a sdk.Account) account {
	if a.Scope == "" {
		return account{a.Name, "%"}
	}
	return account{a.Name, strings.ToLower(a.Scope)}
}

func (a account) String() string { return a.name + "@" + a.host }

// user is what the server stores of an account.
type user struct {
	account
	found           bool
	locked, expired bool
	// methods are in the server's order. Those of MariaDB are tried one after the other; of
	// MySQL's two the second is the former password that it was told to keep.
	methods []method
}

// read understands the answer to look.
func (s server) read(a account, rows [][]string) (user, error) {
	i := slices.IndexFunc(rows, func(r []string) bool { return len(r) > 2 && r[0] == a.name && r[1] == a.host })
	if i < 0 {
		return user{account: a}, nil
	}
	u, row := user{account: a, found: true}, rows[i][2:]
	if s.maria && s.since(twoMaria) {
		return u, u.readPriv(row[0])
	}
	if len(row) != 5 {
		return user{}, errors.New("server's answer has other columns than were asked for")
	}
	u.methods = []method{{row[0], row[1]}}
	if s.maria && row[0] == "" {
		u.methods[0].plugin = native
	}
	u.expired, u.locked = row[2] == "Y", row[3] == "Y"
	if row[4] == "" {
		return u, nil
	}
	var attributes struct {
		Second string `json:"additional_password"`
	}
	if err := json.Unmarshal([]byte(row[4]), &attributes); err != nil {
		return user{}, fmt.Errorf("read the account's attributes: %w", err)
	}
	if attributes.Second != "" {
		u.methods = append(u.methods, method{row[0], attributes.Second})
	}
	return u, nil
}

// readPriv reads MariaDB's description of an account.
func (u *user) readPriv(text string) error {
	type way struct {
		Plugin string `json:"plugin"`
		Stored string `json:"authentication_string"`
	}
	var p struct {
		way
		Or      []way  `json:"auth_or"`
		Locked  bool   `json:"account_locked"`
		Changed *int64 `json:"password_last_changed"`
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return fmt.Errorf("read the account's description: %w", err)
	}
	if p.Plugin == "" {
		p.Plugin = native
	}
	u.locked, u.expired = p.Locked, p.Changed != nil && *p.Changed == 0
	if len(p.Or) == 0 {
		p.Or = []way{{}}
	}
	for _, w := range p.Or {
		if w.Plugin == "" { // the one that is written down outside of the list
			w = p.way
		}
		u.methods = append(u.methods, method{w.Plugin, w.Stored})
	}
	return nil
}

// find gives the method that a password opens the account by, -1 for none.
func (u user) find(password []byte) int {
	if len(password) == 0 {
		return -1
	}
	return slices.IndexFunc(u.methods, func(m method) bool { return m.matches(password) })
}

// judge compares a password with what is stored.
func (u user) judge(password []byte) sdk.VerifyResponse {
	if u.find(password) >= 0 {
		return sdk.VerifyResponse{Verdict: sdk.Accepted}
	}
	for _, m := range u.methods {
		if !m.password() && !m.harmless() { // PAM, for one, asks somebody else
			return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "not_judged"}
		}
	}
	return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}
}
