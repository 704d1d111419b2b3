package main

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk"
)

// What servers made from a password, and no other.
func TestDigests(t *testing.T) {
	text := func(s string) string {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, c := range map[string]struct {
		m        method
		password string
	}{
		"native":               {method{native, "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"}, "password"},
		"native in lower case": {method{native, "*2470c0c06dee42fd1618bb99005adca2ec9d1e19"}, "password"},
		"ed25519":              {method{ed25519, "ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY"}, "secret"},
		"sha2 of a MySQL 8":    {method{sha2, text("24412430303524031A69251C34295C4B35167C7F1E5A7B63091349503974624D34504B5A424679354856336868686F52485A736E4A733368786E427575516C73446469496537")}, "foobar"},
		"sha2 of another":      {method{sha2, text("24412430303524393D02673221785B414A4E5F02073711301659116B446B76753345617A4D7530635548526D3678746F6B75564835553334346932572E332F704C4856477131")}, "testpassword123"},
	} {
		if !c.m.set() || !c.m.matches([]byte(c.password)) || c.m.matches([]byte(c.password+" ")) || c.m.matches(nil) {
			t.Errorf("%s: %v is not known again", name, c.m)
		}
		next, err := c.m.next([]byte("another"))
		if err != nil || next.plugin != c.m.plugin || !next.set() || !next.matches([]byte("another")) || next.matches([]byte(c.password)) {
			t.Errorf("%s: the next one is %v, %v", name, next, err)
		}
	}
	for name, m := range map[string]method{
		"empty": {native, ""}, "no digest": {native, "invalid"}, "empty ed25519": {ed25519, ""}, "empty sha2": {sha2, ""},
		"sha2 without rounds": {sha2, "$A$000$" + strings.Repeat("x", 63)}, "sha2 cut off": {sha2, "$A$005$" + strings.Repeat("x", 62)},
		"PAM": {"pam", "mysql"},
	} {
		if m.set() || m.matches(nil) || m.matches([]byte("invalid")) {
			t.Errorf("%s: %v passes for a password", name, m)
		}
	}
	if _, err := (method{"pam", "mysql"}).next([]byte("x")); err == nil {
		t.Error("a digest was made for PAM")
	}
	a, _ := method{sha2, ""}.next([]byte("x"))
	b, _ := method{sha2, ""}.next([]byte("x"))
	if a == b || !strings.HasPrefix(a.stored, "$A$005$") {
		t.Errorf("salts are used again: %v, %v", a, b)
	}
	many := method{sha2, "$A$00A$" + strings.Repeat("s", 20) + strings.Repeat("d", 43)}
	if next, err := many.next([]byte("x")); err != nil || !strings.HasPrefix(next.stored, "$A$00A$") || !next.matches([]byte("x")) {
		t.Errorf("ten thousand rounds became %v, %v", next, err)
	}
}

func TestReadServer(t *testing.T) {
	for version, want := range map[string]struct {
		maria, two, fails bool
		table             string
	}{
		"10.11.19-MariaDB-0+deb12u1-log": {maria: true, two: true, table: "mysql.global_priv"},
		"10.4.3-MariaDB":                 {maria: true, two: true, table: "mysql.global_priv"},
		"10.3.39-MariaDB":                {maria: true, table: "mysql.user"},
		"11.8.2-MariaDB-ubu2404":         {maria: true, two: true, table: "mysql.global_priv"},
		"10.1.48-MariaDB":                {maria: true, fails: true},
		"8.0.36":                         {two: true, table: "mysql.user"},
		"8.4.2-commercial":               {two: true, table: "mysql.user"},
		"9.1.0":                          {two: true, table: "mysql.user"},
		"8.0.13":                         {table: "mysql.user"},
		"8.0.35-27.1 Percona":            {two: true, table: "mysql.user"},
		"5.7.44-log":                     {table: "mysql.user"},
		"5.6.51":                         {fails: true},
		"":                               {fails: true},
		"eight":                          {fails: true},
	} {
		got, err := readServer(version)
		if (err != nil) != want.fails || got.maria != want.maria || err == nil && (got.two() != want.two || got.table() != want.table) {
			t.Errorf("%q: %+v, %v", version, got, err)
		}
	}
}

func serverOf(t *testing.T, version string) server {
	t.Helper()
	s, err := readServer(version)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const (
	maria10 = "10.11.6-MariaDB"
	maria3  = "10.3.39-MariaDB"
	mysql8  = "8.0.36"
	mysql57 = "5.7.44"
)

func TestReadAccount(t *testing.T) {
	who := account{"app", "%"}
	for name, c := range map[string]struct {
		server string
		rows   [][]string
		want   user
		fails  bool
	}{
		"missing":            {mysql8, nil, user{}, false},
		"another by spaces":  {maria10, [][]string{{"app ", "%", `{}`}}, user{}, false},
		"another host":       {maria10, [][]string{{"app", "10.0.0.1", `{}`}}, user{}, false},
		"mariadb":            {maria10, [][]string{{"app", "%", `{"access":0,"plugin":"mysql_native_password","authentication_string":"*A","password_last_changed":1}`}}, user{found: true, methods: []method{{native, "*A"}}}, false},
		"mariadb, no plugin": {maria10, [][]string{{"app", "%", `{"access":18446744073709551615}`}}, user{found: true, methods: []method{{native, ""}}}, false},
		"mariadb, expired":   {maria10, [][]string{{"app", "%", `{"plugin":"ed25519","authentication_string":"E","password_last_changed":0}`}}, user{found: true, expired: true, methods: []method{{ed25519, "E"}}}, false},
		"mariadb, locked":    {maria10, [][]string{{"app", "%", `{"plugin":"ed25519","authentication_string":"E","account_locked":true}`}}, user{found: true, locked: true, methods: []method{{ed25519, "E"}}}, false},
		"mariadb, several":   {maria10, [][]string{{"app", "%", `{"plugin":"mysql_native_password","authentication_string":"*B","auth_or":[{"plugin":"unix_socket"},{},{"plugin":"ed25519","authentication_string":"E"}]}`}}, user{found: true, methods: []method{{"unix_socket", ""}, {native, "*B"}, {ed25519, "E"}}}, false},
		"mariadb, no json":   {maria10, [][]string{{"app", "%", `{`}}, user{}, true},
		"mariadb 10.3":       {maria3, [][]string{{"app", "%", "", "*A", "N", "N", ""}}, user{found: true, methods: []method{{native, "*A"}}}, false},
		"mysql":              {mysql8, [][]string{{"app", "%", sha2, "$A$", "N", "N", ""}}, user{found: true, methods: []method{{sha2, "$A$"}}}, false},
		"mysql, two":         {mysql8, [][]string{{"app", "%", sha2, "$A$", "N", "N", `{"additional_password": "$B$\u0001"}`}}, user{found: true, methods: []method{{sha2, "$A$"}, {sha2, "$B$\x01"}}}, false},
		"mysql, attributes":  {mysql8, [][]string{{"app", "%", sha2, "$A$", "N", "Y", `{"metadata": {"comment": "x"}}`}}, user{found: true, locked: true, methods: []method{{sha2, "$A$"}}}, false},
		"mysql, expired":     {mysql57, [][]string{{"app", "%", native, "*A", "Y", "N", ""}}, user{found: true, expired: true, methods: []method{{native, "*A"}}}, false},
		"mysql, no json":     {mysql8, [][]string{{"app", "%", sha2, "$A$", "N", "N", `x`}}, user{}, true},
		"mysql, few columns": {mysql8, [][]string{{"app", "%", sha2, "$A$", "N"}}, user{}, true},
		"no columns":         {mysql8, [][]string{{"app", "%"}}, user{}, false},
	} {
		got, err := serverOf(t, c.server).read(who, c.rows)
		if (err != nil) != c.fails || err == nil &&
			(got.found != c.want.found || got.locked != c.want.locked || got.expired != c.want.expired || !slices.Equal(got.methods, c.want.methods)) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
}

// The words that are made for each kind of server: MySQL's are proven here alone.
func TestStatements(t *testing.T) {
	app := account{"app", "%"}
	// What digest is meant is written as the password in angle brackets.
	show := func(s *statement) string {
		if s == nil {
			return ""
		}
		text := s.text
		for _, a := range s.args {
			for _, p := range []string{"old", "new", "older"} {
				for _, plugin := range []string{native, ed25519, sha2} {
					if (method{plugin, a}).matches([]byte(p)) {
						a = "<" + p + ">"
					}
				}
			}
			text = strings.Replace(text, "?", a, 1)
		}
		return text
	}
	of := func(plugin string, passwords ...string) (out []method) {
		for _, p := range passwords {
			m := method{plugin: plugin}
			if p != "" {
				var err error
				if m, err = m.next([]byte(p)); err != nil {
					t.Fatal(err)
				}
			}
			out = append(out, m)
		}
		return out
	}
	socket := method{"unix_socket", ""}
	single, inClear := Config{Single: true}, Config{Clear: true}
	for name, c := range map[string]struct {
		server  string
		methods []method
		current string
		config  Config
		want    string // "" for nothing to do, "refused"
	}{
		"mysql 8":                                 {mysql8, of(sha2, "old"), "old", Config{}, "ALTER USER app@% IDENTIFIED WITH caching_sha2_password AS <new> RETAIN CURRENT PASSWORD"},
		"mysql 8, native":                         {mysql8, of(native, "old"), "old", Config{}, "ALTER USER app@% IDENTIFIED WITH mysql_native_password AS <new> RETAIN CURRENT PASSWORD"},
		"mysql 8, current not known":              {mysql8, of(sha2, "old", "older"), "", Config{}, "ALTER USER app@% IDENTIFIED WITH caching_sha2_password AS <new> RETAIN CURRENT PASSWORD"},
		"mysql 8, current is the second":          {mysql8, of(sha2, "older", "old"), "old", Config{}, "ALTER USER app@% IDENTIFIED WITH caching_sha2_password AS <new>"},
		"mysql 8, set already":                    {mysql8, of(sha2, "new", "old"), "old", Config{}, ""},
		"mysql 8, was set before":                 {mysql8, of(sha2, "old", "new"), "old", Config{}, ""},
		"mysql 8, no password yet":                {mysql8, of(sha2, ""), "", Config{}, "ALTER USER app@% IDENTIFIED WITH caching_sha2_password AS <new>"},
		"mysql 8, one at a time":                  {mysql8, of(sha2, "old"), "old", single, "ALTER USER app@% IDENTIFIED WITH caching_sha2_password AS <new>"},
		"mysql 8, judged by the server":           {mysql8, of(sha2, "old"), "old", inClear, "ALTER USER app@% IDENTIFIED WITH caching_sha2_password BY new RETAIN CURRENT PASSWORD"},
		"mysql 8, LDAP":                           {mysql8, []method{{"authentication_ldap_simple", "uid=app"}}, "", Config{}, "refused"},
		"mysql 8, sha256_password":                {mysql8, []method{{"sha256_password", "$5$"}}, "", Config{}, "refused"},
		"mysql 5.7":                               {mysql57, of(native, "old"), "old", single, "ALTER USER app@% IDENTIFIED WITH mysql_native_password AS <new>"},
		"mysql 5.7, set already":                  {mysql57, of(native, "new"), "old", single, ""},
		"mariadb":                                 {maria10, of(native, "old"), "old", Config{}, "ALTER USER app@% IDENTIFIED VIA mysql_native_password USING <old> OR mysql_native_password USING <new>"},
		"mariadb, ed25519":                        {maria10, of(ed25519, "old"), "old", Config{}, "ALTER USER app@% IDENTIFIED VIA ed25519 USING <new> OR ed25519 USING <old>"},
		"mariadb, two":                            {maria10, of(native, "older", "old"), "old", Config{}, "ALTER USER app@% IDENTIFIED VIA mysql_native_password USING <old> OR mysql_native_password USING <new>"},
		"mariadb, two, current not known":         {maria10, of(native, "older", "old"), "", Config{}, "ALTER USER app@% IDENTIFIED VIA mysql_native_password USING <old> OR mysql_native_password USING <new>"},
		"mariadb, two of ed25519, not known":      {maria10, of(ed25519, "old", "older"), "", Config{}, "ALTER USER app@% IDENTIFIED VIA ed25519 USING <new> OR ed25519 USING <old>"},
		"mariadb, set already":                    {maria10, of(native, "old", "new"), "old", Config{}, ""},
		"mariadb, other methods":                  {maria10, append(of(native, "old"), socket), "old", Config{}, "ALTER USER app@% IDENTIFIED VIA mysql_native_password USING <old> OR mysql_native_password USING <new> OR unix_socket"},
		"mariadb, another method first":           {maria10, append([]method{socket}, of(native, "old")...), "old", Config{}, "ALTER USER app@% IDENTIFIED VIA unix_socket OR mysql_native_password USING <new> OR mysql_native_password USING <old>"},
		"mariadb, another method first, two":      {maria10, append([]method{socket}, of(native, "old", "older")...), "", Config{}, "ALTER USER app@% IDENTIFIED VIA unix_socket OR mysql_native_password USING <new> OR mysql_native_password USING <old>"},
		"mariadb, a password that lets nobody in": {maria10, []method{{native, "invalid"}, socket}, "", Config{}, "ALTER USER app@% IDENTIFIED VIA mysql_native_password USING <new> OR unix_socket"},
		"mariadb, no password yet":                {maria10, of(native, ""), "", Config{}, "ALTER USER app@% IDENTIFIED VIA mysql_native_password USING <new>"},
		"mariadb, one set and one not":            {maria10, of(native, "old", ""), "", Config{}, "ALTER USER app@% IDENTIFIED VIA mysql_native_password USING <old> OR mysql_native_password USING <new>"},
		"mariadb, one at a time":                  {maria10, of(native, "old"), "old", single, "ALTER USER app@% IDENTIFIED VIA mysql_native_password USING <new>"},
		"mariadb, one at a time, left over":       {maria10, of(native, "old", "new"), "old", single, "ALTER USER app@% IDENTIFIED VIA mysql_native_password USING <new>"},
		"mariadb, judged by the server":           {maria10, of(native, "old"), "old", inClear, "ALTER USER app@% IDENTIFIED VIA mysql_native_password USING <old> OR mysql_native_password USING PASSWORD(new)"},
		"mariadb, the socket alone":               {maria10, []method{socket}, "", Config{}, "refused"},
		"mariadb 10.3":                            {maria3, of(native, "old"), "old", single, "ALTER USER app@% IDENTIFIED VIA mysql_native_password USING <new>"},
	} {
		got, err := serverOf(t, c.server).apply(user{account: app, found: true, methods: c.methods}, []byte("new"), []byte(c.current), c.config)
		text := show(got)
		if err != nil {
			text = "refused"
		}
		if text != c.want {
			t.Errorf("change, %s: %q, want %q", name, text, c.want)
		}
	}

	for name, c := range map[string]struct {
		server  string
		methods []method
		want    string
	}{
		"mysql 8":               {mysql8, of(sha2, "new", "old"), "ALTER USER app@% DISCARD OLD PASSWORD"},
		"mysql 8, the first":    {mysql8, of(sha2, "old", "new"), "ALTER USER app@% IDENTIFIED WITH caching_sha2_password AS <new>"},
		"mysql 8, gone":         {mysql8, of(sha2, "new"), ""},
		"mysql 8, a third":      {mysql8, of(sha2, "new", "older"), ""},
		"mysql 8, the only one": {mysql8, of(sha2, "old"), "refused"},
		"mariadb":               {maria10, of(native, "old", "new"), "ALTER USER app@% IDENTIFIED VIA mysql_native_password USING <new>"},
		"mariadb, ed25519":      {maria10, of(ed25519, "new", "old"), "ALTER USER app@% IDENTIFIED VIA ed25519 USING <new>"},
		"mariadb, others stay":  {maria10, append(of(native, "old", "new", "older"), socket), "ALTER USER app@% IDENTIFIED VIA mysql_native_password USING <new> OR mysql_native_password USING <older> OR unix_socket"},
		"mariadb, gone":         {maria10, of(native, "new"), ""},
		"mariadb, the only one": {maria10, append(of(native, "old"), socket), "refused"},
		"nobody":                {maria10, nil, ""},
	} {
		got, ok := serverOf(t, c.server).retire(user{account: app, methods: c.methods}, []byte("new"), []byte("old"))
		text := show(got)
		if !ok {
			text = "refused"
		}
		if text != c.want {
			t.Errorf("retire, %s: %q, want %q", name, text, c.want)
		}
	}

	for name, c := range map[string]struct {
		server, current string
		config          Config
		want            string
	}{
		"mysql 8":                    {mysql8, "old", Config{}, "ALTER USER USER() IDENTIFIED BY new REPLACE old"},
		"mysql 8, current not known": {mysql8, "", Config{}, "ALTER USER USER() IDENTIFIED BY new"},
		"mysql 5.7":                  {mysql57, "old", Config{}, "ALTER USER USER() IDENTIFIED BY new"},
		"mariadb":                    {maria10, "old", Config{}, "SET PASSWORD = <new>; SET PASSWORD = <new>"},
		"mariadb, judged":            {maria10, "old", inClear, "SET PASSWORD = PASSWORD(new)"},
	} {
		var texts []string
		for _, s := range serverOf(t, c.server).own([]byte("new"), []byte(c.current), c.config) {
			texts = append(texts, show(&s))
		}
		if got := strings.Join(texts, "; "); got != c.want {
			t.Errorf("its own, %s: %q, want %q", name, got, c.want)
		}
	}

	for version, want := range map[string]string{
		mysql8:  "SELECT User, Host, plugin, authentication_string, password_expired, account_locked, COALESCE(User_attributes, '') FROM mysql.user WHERE User = app AND Host = %",
		mysql57: "SELECT User, Host, plugin, authentication_string, password_expired, account_locked, '' FROM mysql.user WHERE User = app AND Host = %",
		maria10: "SELECT User, Host, Priv FROM mysql.global_priv WHERE User = app AND Host = %",
		maria3:  "SELECT User, Host, plugin, IF(authentication_string = '', Password, authentication_string), password_expired, 'N', '' FROM mysql.user WHERE User = app AND Host = %",
	} {
		s := serverOf(t, version).look(app)
		if got := show(&s); got != want {
			t.Errorf("look, %s: %q, want %q", version, got, want)
		}
	}
}

func TestJudge(t *testing.T) {
	right, _ := method{native, ""}.next([]byte("right"))
	for name, c := range map[string]struct {
		methods []method
		want    sdk.VerifyResponse
	}{
		"the password":            {[]method{right}, accepted},
		"another":                 {[]method{{native, "*" + strings.Repeat("0", 40)}}, rejected},
		"the second of two":       {[]method{{native, "*" + strings.Repeat("0", 40)}, right}, accepted},
		"none":                    {[]method{{native, ""}}, rejected},
		"the socket":              {[]method{{"unix_socket", ""}}, rejected},
		"PAM, which asks others":  {[]method{{"pam", "mysql"}}, undecided("not_judged")},
		"the password, beside it": {[]method{{"pam", "mysql"}, right}, accepted},
	} {
		if got := (user{methods: c.methods}).judge([]byte("right")); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// What a server says of an account is its word: it is understood or refused, and what is
// made of it keeps the methods that are no passwords.
func FuzzReadAccount(f *testing.F) {
	f.Add(true, `{"access":0,"plugin":"mysql_native_password","authentication_string":"*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19","auth_or":[{},{"plugin":"unix_socket"}]}`, "", "", "")
	f.Add(true, `{"access":18446744073709551615}`, "", "", "")
	f.Add(true, `{"auth_or":[{},{},{}],"password_last_changed":0}`, "", "", "")
	f.Add(false, "", sha2, "$A$005$", `{"additional_password":"$A$005$"}`)
	f.Add(false, "", "", "", `[]`)
	f.Fuzz(func(t *testing.T, maria bool, priv, plugin, stored, attributes string) {
		version, row := mysql8, []string{"app", "%", plugin, stored, "N", "N", attributes}
		if maria {
			version, row = maria10, []string{"app", "%", priv}
		}
		s := serverOf(t, version)
		u, err := s.read(account{"app", "%"}, [][]string{row})
		if err != nil {
			return
		}
		if !u.found || len(u.methods) == 0 {
			t.Fatalf("%+v", u)
		}
		for _, m := range u.methods {
			if n, _, err := parseSHA2(m.stored); err == nil && n > 10*sha2Unit {
				t.Skip("would take its time")
			}
		}
		change, err := s.apply(u, []byte("new"), []byte("old"), Config{})
		if err != nil || change == nil {
			return
		}
		if !strings.HasPrefix(change.text, "ALTER USER ?@? IDENTIFIED ") || strings.Count(change.text, "?") != len(change.args) || change.args[0] != "app" || change.args[1] != "%" {
			t.Errorf("%+v", change)
		}
		for _, m := range u.methods {
			if !m.password() && !slices.Contains(change.args, m.plugin) {
				t.Errorf("%+v is gone from %+v", m, change)
			}
		}
	})
}
