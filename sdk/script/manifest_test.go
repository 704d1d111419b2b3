package script_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// manifest is a script with these lines of manifest; the first stands on the file's second.
func manifest(lines ...string) string {
	return "--[[ rotunda\n" + strings.Join(lines, "\n") + "\n]]\nfunction run(job) return sdk.changed end\n"
}

// after is the least that a script of kind after_rotation says, on the lines 2 to 5.
var after = []string{`name = "restart-unit"`, `version = "1.0.0"`, `kind = "after_rotation"`, `about = "Restarts a unit."`}

func with(lines ...string) string { return manifest(append(append([]string{}, after...), lines...)...) }

func TestParse(t *testing.T) {
	m, err := script.Parse([]byte(with(
		`needs = ["admin", "former"]`,
		`modules = ["log", "ssh", "exec", "file"]`,
		`hosts = ["resource", "parameters.api", "records.router", "API.example.com:0443"]`,
		`programs = ["/usr/bin/systemctl", 'C:\Windows\System32\net.exe']`,
		`files = ["/etc/app.conf", "parameters.file"]`,
		`reveals = "The device takes it typed only."`,
		`[records.router]`,
		`about = "The router."`,
		`as = "resource"`,
		`[records.api]`,
		`about = "The API's account."`,
		`as = "account"`,
		`[parameters.unit]`,
		`type = "string"`,
		`about = "The unit's name."`,
		`required = true`,
		`pattern = "[A-Za-z0-9@._-]+"`,
		`[parameters]`,
		`api = {type = "url", about = "Where the API is.", required = true}`,
		`file = {type = "string", about = "The file.", default = "/etc/b.conf"}`,
		`tries.type = "integer"`,
		`tries.about = "How often."`,
		`tries.default = 3`,
	)))
	if err != nil {
		t.Fatal(err)
	}
	var parameters, records []string
	for _, p := range m.Parameters {
		parameters = append(parameters, p.Name)
	}
	for _, r := range m.Records {
		records = append(records, r.Name+" "+r.As)
	}
	for what, c := range map[string]struct{ got, want any }{
		"name":       {m.Name + " " + m.Version + " " + string(m.Kind), "restart-unit 1.0.0 after_rotation"},
		"hosts":      {m.Hosts, []string{"resource", "parameters.api", "records.router", "api.example.com:443"}},
		"records":    {records, []string{"router resource", "api account"}}, // as they stand in the text, not in the alphabet
		"parameters": {parameters, []string{"unit", "api", "file", "tries"}},
		"default":    {m.Parameter("tries").Default, int64(3)},
		"comment":    {strings.HasPrefix(string(m.Comment), "--[[ rotunda\n") && strings.HasSuffix(string(m.Comment), "\n]]"), true},
		"SDK":        {m.SDK().Name + m.SDK().Version, "lua1.0.0"},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: %v, want %v", what, c.got, c.want)
		}
	}
}

func TestRotator(t *testing.T) {
	m, err := script.Parse([]byte(manifest(`name = "router"`, `version = "2"`, `kind = "rotator"`, `about = "Rotates."`, `[rotator]`,
		`kinds = ["password", "ssh_key"]`, `overlap = ["ssh_key"]`, `self = true`, `no_login = true`, `concurrency = 4`, `login_tries = 2`,
		`max_len = 32`, `forbid = "'"`, `settle = "30s"`, `old_lives = "1h"`)))
	if err != nil {
		t.Fatal(err)
	}
	want := sdk.Manifest{
		Name: "lua", Version: "2", Kinds: []sdk.Kind{sdk.Password, sdk.SSHKey}, Overlap: []sdk.Kind{sdk.SSHKey}, Self: true, NoLogin: true,
		Concurrency: 4, LoginTries: 2, MaxLen: 32, Forbid: "'", Settle: 30 * time.Second, OldLives: time.Hour,
	}
	if got := m.SDK(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// A comment may be opened with as many = as a value with ]] makes necessary, and be written
// on Windows.
func TestComments(t *testing.T) {
	for name, text := range map[string]string{
		"levels": "--[==[ rotunda\n" + strings.Join(append(append([]string{}, after...),
			`[parameters.a]`, `type = "string"`, `about = "A."`, `required = true`, `pattern = "[[:alpha:]]"`), "\n") + "\n]==]\n",
		"carriage return": strings.ReplaceAll(with(`needs = ["admin"]`), "\n", "\r\n"),
		"nothing after":   strings.TrimSuffix(with(), "\nfunction run(job) return sdk.changed end\n"),
	} {
		if _, err := script.Parse([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	p := func(lines ...string) string {
		return with(append([]string{`[parameters.a]`, `about = "A."`}, lines...)...)
	}
	rot := func(lines ...string) string {
		return manifest(append([]string{`name = "r"`, `version = "1"`, `kind = "rotator"`, `about = "R."`}, lines...)...)
	}
	for name, c := range map[string]struct {
		text, key string
		line      int
		says      string // in the text or the hint
	}{
		"no manifest":              {"function run() end", "", 1, "first line is --[[ rotunda"},
		"not at the top":           {"\n" + with(), "", 1, "no manifest"},
		"another comment":          {"--[[ rotundas\n]]", "", 1, "no manifest"},
		"no end":                   {"--[[ rotunda\nname = 1", "", 1, "does not end"},
		"too long a script":        {with() + strings.Repeat(" ", script.MaxText), "", 1, "262144"},
		"too long a manifest":      {with(strings.Repeat("#\n", script.MaxManifest/2)), "", 1, "16384"},
		"not UTF-8":                {with() + "\xff", "", 8, "UTF-8"},
		"a zero byte":              {with() + "\x00", "", 8, "U+0000"},
		"a line that hides":        {with() + "-- safe\rrun = nil", "", 8, "U+000D"},
		"a line turned round":      {with() + "-- \u202e nur", "", 8, "U+202E"},
		"a space without width":    {with() + "-- \u200b", "", 8, "U+200B"},
		"a joiner":                 {with() + "-- a\u2060b", "", 8, "U+2060"},
		"a soft hyphen":            {with() + "-- a\u00adb", "", 8, "U+00AD"},
		"a direction isolated":     {with() + "-- \u2066a", "", 8, "U+2066"},
		"a mark of direction":      {with() + "-- \u200fa", "", 8, "U+200F"},
		"a line's end of another":  {with() + "-- \u2028run = nil", "", 8, "U+2028"},
		"a tag":                    {with() + "-- \U000e0041", "", 8, "U+E0041"},
		"a filler":                 {with() + "-- \u3164", "", 8, "U+3164"},
		"a variation":              {with() + "-- a\U000e0101", "", 8, "U+E0101"},
		"a byte order mark inside": {with() + "-- \ufeff", "", 8, "U+FEFF"},
		"not TOML":                 {with(`needs = admin`), "", 6, "TOML"},
		"a key twice":              {with(`name = "x"`), "", 6, "name"},
		"a table twice":            {with(`[parameters.a]`, `type = "string"`, `[parameters.a]`), "", 8, "parameters"},
		"a string of many lines":   {with(`reveals = """`, `x"""`), "", 6, "several lines"},
		"the end in a string":      {manifest(`name = "]]"`), "", 2, "--[==[ rotunda"},
		"deep":                     {with(`needs = [[[[[1]]]]]`), "", 6, "deep"}, // its first ]] ends it, too
		"deep, on many lines":      {with(`a = {`, `b = {`, `c = {`, `d = {`, `e = {}`, `}`), "", 10, "deep"},
		"a long key":               {with(`a.b.c.d.e.f = 1`), "", 6, "too many parts"},
		"unknown key":              {with(`need = ["admin"]`), "", 6, `did you mean "needs"`},
		"case":                     {with(`Needs = ["admin"]`), "", 6, `did you mean "needs"`},
		"quoted":                   {with(`"need.s" = 1`), "", 6, "unknown key"},
		"unknown, the first":       {with(`zz = 1`, `aa = 1`), "", 6, `"zz"`},
		"missing":                  {manifest(after[1:]...), "name", 1, "missing"},
		"empty":                    {manifest(append([]string{`name = ""`}, after[1:]...)...), "name", 2, "empty"},
		"name":                     {manifest(append([]string{`name = "Restart unit"`}, after[1:]...)...), "name", 2, "a-z"},
		"type":                     {manifest(append([]string{`name = 1`}, after[1:]...)...), "name", 2, "not a string"},
		"version":                  {manifest(after[0], `version = "v1"`, after[2], after[3]), "version", 3, "digit first"},
		"no kind":                  {manifest(after[0], after[1], after[3]), "kind", 1, "one of rotator, after_rotation"},
		"kind":                     {manifest(after[0], after[1], `kind = "after-rotation"`, after[3]), "kind", 4, `did you mean "after_rotation"`},
		"about of two lines":       {manifest(after[0], after[1], after[2], `about = "A.\nB."`), "about", 5, "not to be seen"},
		"about turned round":       {manifest(after[0], after[1], after[2], `about = "\u202e."`), "about", 5, "not to be seen"},
		"about too long":           {manifest(after[0], after[1], after[2], `about = "`+strings.Repeat("a", 513)+`"`), "about", 5, "at most 512"},
		"need":                     {with(`needs = ["root"]`), "needs", 6, "there are admin, secret, former"},
		"need twice":               {with(`needs = ["admin", "admin"]`), "needs", 6, "twice"},
		"needs of a rotator":       {rot(`needs = ["admin"]`, `[rotator]`, `kinds = ["password"]`), "needs", 6, "leave it out"},
		"needs of a generator":     {manifest(after[0], after[1], `kind = "generator"`, after[3], `needs = ["secret"]`), "needs", 6, "leave it out"},
		"hosts of a generator":     {manifest(after[0], after[1], `kind = "generator"`, after[3], `hosts = ["a.example.com:443"]`), "hosts", 6, "reaches nothing"},
		"programs of a generator":  {manifest(after[0], after[1], `kind = "generator"`, after[3], `modules = ["exec"]`, `programs = ["/bin/x"]`), "programs", 7, "reaches nothing"},
		"files of a generator":     {manifest(after[0], after[1], `kind = "generator"`, after[3], `modules = ["file"]`, `files = ["/etc/x"]`), "files", 7, "reaches nothing"},
		"records of a generator":   {manifest(after[0], after[1], `kind = "generator"`, after[3], `[records.x]`, `as = "account"`, `about = "x"`), "records", 6, "after_rotation"},
		"needs of a discoverer":    {manifest(after[0], after[1], `kind = "discoverer"`, after[3], `needs = ["admin"]`), "needs", 6, "leave it out"},
		"records of a discoverer":  {manifest(after[0], after[1], `kind = "discoverer"`, after[3], `[records.x]`, `as = "account"`, `about = "x"`), "records", 6, "after_rotation"},
		"needs of a dependent":     {manifest(after[0], after[1], `kind = "dependents"`, after[3], `needs = ["admin", "secret"]`), "needs", 6, "remove the rest"},
		"not a list":               {with(`needs = "admin"`), "needs", 6, "not a list"},
		"not of strings":           {with(`needs = [1]`), "needs", 6, "not a string"},
		"module":                   {with(`modules = ["os"]`), "modules", 6, `"os"`},
		"module, case":             {with(`modules = ["SSH"]`), "modules", 6, `did you mean "ssh"`},
		"too many":                 {with(`hosts = [` + strings.Repeat(`"a:1",`, 65) + `]`), "hosts", 6, "at most 64"},
		"host":                     {with(`hosts = ["db.example.com"]`), "hosts", 6, "api.example.com:443"},
		"host, port":               {with(`hosts = ["db:0"]`), "hosts", 6, "db:0"},
		"host, everything":         {with(`hosts = ["*:443"]`), "hosts", 6, "*:443"},
		"host, zone":               {with(`hosts = ["[fe80::1%eth0]:1"]`), "hosts", 6, "fe80"},
		"host, parameter":          {with(`hosts = ["parameters.x"]`), "hosts", 6, "address or url"},
		"host, parameter's type":   {with(`hosts = ["parameters.x"]`, `[parameters.x]`, `type = "string"`, `about = "X."`, `default = "x"`), "hosts", 6, "address or url"},
		"host, record":             {with(`hosts = ["records.x"]`), "hosts", 6, "no such record"},
		"program":                  {with(`modules = ["exec"]`, `programs = ["systemctl"]`), "programs", 7, "whole path"},
		"program, dots":            {with(`modules = ["exec"]`, `programs = ["/usr/../bin/sh"]`), "programs", 7, "whole path"},
		"program, Windows":         {with(`modules = ["exec"]`, `programs = ['C:\a\..\b']`), "programs", 7, "whole path"},
		"program, parameter":       {with(`modules = ["exec"]`, `programs = ["parameters.a"]`), "programs", 7, "type string"},
		"program without module":   {with(`programs = ["/bin/true"]`), "programs", 6, `add "exec"`},
		"file":                     {with(`modules = ["file"]`, `files = ["a.conf"]`), "files", 7, "whole path"},
		"file, parameter":          {with(`modules = ["file"]`, `files = ["parameters.a"]`), "files", 7, "type string"},
		"file without module":      {with(`files = ["/etc/a"]`), "files", 6, `add "file"`},
		"no table":                 {with(`parameters = 1`), "parameters", 6, "not a table"},
		"list of tables":           {with(`[[parameters.a]]`, `type = "string"`), "", 6, "--[==[ rotunda"},
		"parameter's name":         {with(`[parameters.Unit]`, `type = "string"`), "parameters.Unit", 6, "a-z"},
		"parameter's key":          {p(`typ = "string"`), "", 8, `did you mean "type"`},
		"parameter's type":         {p(`type = "strnig"`, `required = true`), "parameters.a.type", 8, `did you mean "string"`},
		"no type":                  {p(`required = true`), "parameters.a.type", 6, "missing"},
		"neither":                  {p(`type = "string"`), "parameters.a.default", 6, "required = true"},
		"both":                     {p(`type = "string"`, `required = true`, `default = "x"`), "parameters.a.default", 10, "no other"},
		"default's type":           {p(`type = "integer"`, `default = "3"`), "parameters.a.default", 9, "want an integer"},
		"default's pattern":        {p(`type = "string"`, `default = "x"`, `pattern = "y"`), "parameters.a.default", 9, "pattern"},
		"pattern":                  {p(`type = "string"`, `required = true`, `pattern = "("`), "parameters.a.pattern", 10, "regular expression"},
		"pattern out of its group": {p(`type = "string"`, `required = true`, `pattern = "a)|(b"`), "parameters.a.pattern", 10, "regular expression"},
		"pattern of an integer":    {p(`type = "integer"`, `required = true`, `pattern = "1"`), "parameters.a.pattern", 10, "string or strings"},
		"enum without values":      {p(`type = "enum"`, `required = true`), "parameters.a.values", 6, "enum"},
		"values without enum":      {p(`type = "string"`, `required = true`, `values = ["x"]`), "parameters.a.values", 10, "enum"},
		"record's as":              {with(`[records.r]`, `about = "R."`, `as = "admin"`), "records.r.as", 8, "there are resource, account"},
		"record's about":           {with(`[records.r]`, `as = "account"`), "records.r.about", 6, "missing"},
		"records of a rotator":     {rot(`[rotator]`, `kinds = ["password"]`, `[records.r]`, `about = "R."`, `as = "account"`), "records", 8, "job.extras"},
		"rotator of another kind":  {with(`[rotator]`, `kinds = ["password"]`), "rotator", 6, "kind rotator"},
		"no rotator":               {rot(), "rotator", 1, "[rotator]"},
		"no kinds":                 {rot(`[rotator]`), "rotator.kinds", 6, "password"},
		"kind of secret":           {rot(`[rotator]`, `kinds = ["passwort"]`), "rotator.kinds", 7, `did you mean "password"`},
		"overlap":                  {rot(`[rotator]`, `kinds = ["password"]`, `overlap = ["token"]`), "rotator.overlap", 8, "overlap lists"},
		"settle":                   {rot(`[rotator]`, `kinds = ["password"]`, `settle = "2h"`), "rotator.settle", 8, "at most 1h"},
		"negative":                 {rot(`[rotator]`, `kinds = ["password"]`, `max_len = -1`), "rotator.max_len", 8, "from 0"},
		"self":                     {rot(`[rotator]`, `kinds = ["password"]`, `self = "yes"`), "rotator.self", 8, "true or false"},
	} {
		_, err := script.Parse([]byte(c.text))
		e := (*script.Error)(nil)
		if !errors.As(err, &e) || e.Line != c.line || e.Key != c.key || !strings.Contains(e.Error(), c.says) {
			t.Errorf("%s: %v, want line %d, key %q and %q", name, err, c.line, c.key, c.says)
		}
	}
}

// Asks name everything that a script gets, and nothing else: what is left out of a manifest
// is not asked for.
func TestAsks(t *testing.T) {
	least, err := script.Parse([]byte(with()))
	if err != nil || len(least.Asks()) != 0 {
		t.Fatalf("%v, %v", least.Asks(), err)
	}
	m, err := script.Parse([]byte(with(
		`needs = ["secret"]`, `modules = ["ssh", "log", "exec", "file"]`, `hosts = ["parameters.a", "db:1"]`, `programs = ["/bin/x"]`, `files = ["/etc/y"]`,
		`reveals = "It must."`, `[parameters.a]`, `type = "address"`, `about = "The proxy."`, `required = true`, `[records.r]`, `about = "The router."`, `as = "account"`,
	)))
	if err != nil {
		t.Fatal(err)
	}
	const want = `the account's new secret|
the login and the secret of a further account, r|The router.
to see secrets in clear|It must.
to connect to what the parameter a says|The proxy.
to connect to db:1|
to run /bin/x on the agent's host|
to read and write /etc/y on the agent's host|
the module log|
the module ssh|
the module exec|
the module file|
`
	got := ""
	for _, a := range m.Asks() {
		got += fmt.Sprintf("%s|%s\n", a.What, a.Why)
	}
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// Where a parameter leads that a use need not give is part of what is asked for: an update
// that moves it asks for something else.
func TestAsksNameDefaults(t *testing.T) {
	asks := func(page, file, program string) (says string) {
		m, err := script.Parse([]byte(with(
			`modules = ["file", "exec"]`, `hosts = ["parameters.page"]`, `files = ["parameters.file"]`, `programs = ["parameters.program"]`,
			`[parameters.page]`, `type = "url"`, `about = "The page."`, fmt.Sprintf("default = %q", page),
			`[parameters.file]`, `type = "string"`, `about = "The file."`, fmt.Sprintf("default = %q", file),
			`[parameters.program]`, `type = "string"`, `about = "The program."`, fmt.Sprintf("default = %q", program),
		)))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range m.Asks() {
			says += a.What + "\n"
		}
		return says
	}
	was := asks("https://status.example.net/", "/etc/a", "/bin/a")
	for _, want := range []string{
		"to connect to what the parameter page says, else https://status.example.net/\n",
		"to read and write the file on the agent's host that the parameter file says, else /etc/a\n",
		"to run the program on the agent's host that the parameter program says, else /bin/a\n",
	} {
		if !strings.Contains(was, want) {
			t.Errorf("%s is not in\n%s", want, was)
		}
	}
	for name, is := range map[string]string{
		"another page":    asks("https://evil.example.org/", "/etc/a", "/bin/a"),
		"another file":    asks("https://status.example.net/", "/etc/cron.d/x", "/bin/a"),
		"another program": asks("https://status.example.net/", "/etc/a", "/bin/sh"),
	} {
		if is == was {
			t.Errorf("%s: an update asks for nothing else", name)
		}
	}
	if got := asks("https://status.example.net/", "", "/bin/a\u202e"); !strings.Contains(got, `else ""`) || strings.Contains(got, "\u202e") {
		t.Errorf("none, and one that is not to be seen: %q", got)
	}
}
