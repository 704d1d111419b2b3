package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const dryManifest = `--[[ rotunda
name = "tries"
version = "1.0.0"
kind = "after_rotation"
about = "Tries things."
needs = ["secret", "admin"]
modules = ["ssh", "http", "sql", "ldap", "telnet", "exec", "winrm", "retry", "time", "log", "text"]
programs = ["/bin/true"]
hosts = ["resource", "records.box"]
[records.box]
about = "A box."
as = "account"
[parameters.unit]
type = "string"
about = "A unit."
default = "nginx"
]]
`

const dryBox = `local exec, winrm = require "exec", require "winrm"
local ssh, http, sql, ldap, telnet, retry, time, log, text =
	require "ssh", require "http", require "sql", require "ldap", require "telnet", require "retry", require "time", require "log", require "text"
local function at(job) local b = job.records.box return {address = b.address, login = b.login, secret = b.secret} end
function run(job)
`

// A dry run tells what a script would do, in order, and shows no secret; what is called
// wrongly is found as ever.
func TestDryRun(t *testing.T) {
	for name, c := range map[string]struct {
		body    string
		want    []string // calls and log lines
		answers string
		fails   string
	}{
		"a program over SSH": {
			`local c = assert(ssh.connect(at(job)))
			log.info("in")
			local r = assert(c:run{argv = {"systemctl", "restart", "--", job.parameters.unit}, stdin = job.secret})
			assert(r.status == 0 and r.stdout == "")
			c:close()
			return sdk.changed`,
			[]string{`ssh.connect{address = "box.example:22", login = "deploy", secret = [secret]}`, "in", `ssh.connection:run{argv = {"systemctl", "restart", "--", "nginx"}, stdin = [secret]}`},
			"changed", "",
		},
		"a device": {
			`local d = assert(telnet.connect{address = job.records.box.address})
			d:send("enable") assert(d:expect{"#", timeout = 3} == 1) d:close()`,
			[]string{`telnet.connect{address = "box.example:22"}`, `dialogue:send("enable")`, `dialogue:expect{"#", timeout = 3}`},
			"unknown", "",
		},
		"a request": {
			`local r = assert(http.post("/x", {json = {a = 1, [ "b c" ] = job.secret}, basic = {user = job.admin.login, secret = job.admin.secret}}))
			assert(r.status == 200 and next(r.json()) == nil)
			return sdk.unchanged("conflict", "told")`,
			[]string{`http.post("/x", {basic = {secret = [secret], user = "adm"}, json = {a = 1, ["b c"] = [secret]}})`},
			"unchanged", "",
		},
		"a statement": {
			`local c = assert(sql.connect{kind = "postgres", login = "a", secret = job.secret})
			assert(#assert(c:query("SELECT $1", 1)) == 0)
			assert(c:exec(text.concat("ALTER USER ", c:quote_identifier('a"b'), " PASSWORD ", assert(c:quote_literal(job.secret)))) == 1)
			c:close() return sdk.changed`,
			[]string{`sql.connect{kind = "postgres", login = "a", secret = [secret]}`, `sql.connection:query("SELECT $1", 1)`, `sql.connection:quote_literal([secret])`, `sql.connection:exec([secret])`},
			"changed", "",
		},
		"a directory": {
			`local c = assert(ldap.connect{login = "cn=adm", secret = job.secret})
			assert(#assert(c:search{base = "dc=x"}) == 0 and c:modify{dn = "cn=a", replace = {x = {"1"}}})
			return sdk.changed`,
			[]string{`ldap.connect{login = "cn=adm", secret = [secret]}`, `ldap.connection:search{base = "dc=x"}`, `ldap.connection:modify{dn = "cn=a", replace = {x = {"1"}}}`},
			"changed", "",
		},
		"waiting takes no time": {
			`time.sleep(3000) return retry.call{wait = 3000, attempts = 3, f = function(n) if n < 3 then return nil, {class = "unreachable", reason = "x"} end return sdk.changed end}`, []string{"time.sleep(3000)"}, "changed", "",
		},
		"a program of no manifest":    {`exec.run{argv = {"/bin/sh", "-c", "x"}}`, nil, "unknown", "/bin/sh is not among the programs"},
		"WinRM in clear":              {`local r, err = winrm.run{address = job.records.box.address, login = "a", secret = job.secret, argv = {"x"}} return sdk.unchanged(err.class, err.reason)`, nil, "unchanged", ""},
		"a table in itself":           {`local t = {} for n = 1, 60 do t[n] = t t["n" .. n] = t end http.post("/x", {headers = t})`, nil, "unknown", ""},
		"an option that is none":      {`ssh.connect{adress = "x"}`, nil, "unknown", "there is no option adress"},
		"a place that is none":        {`ssh.connect{address = "evil.example:22", login = "a", secret = job.secret}`, nil, "unknown", "evil.example:22 is no place of this script"},
		"a URL that is none":          {`http.get("https://evil.example/")`, nil, "unknown", "evil.example:443 is no place of this script"},
		"more than an answer made up": {`local r = http.get("/x") return r.json().items[1]`, []string{`http.get("/x")`}, "unknown", "tries.lua"},
		"a script that waits":         {`while true do http.get("/x") end`, nil, "unknown", "the script has done 1000 things"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "tries.lua")
			if err := os.WriteFile(file, []byte(dryManifest+dryBox+c.body+"\nend\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			job := `{"Login": "app", "Resource": {"Address": "db.example:443", "TLS": "system"}, "Admin": "adm", "Records": [{"Address": "box.example:22", "TLS": "off", "Login": "deploy"}]}`
			var out, errs bytes.Buffer
			status := byHand([]string{"dry", file}, strings.NewReader(job), &out, &errs)
			var got dryAnswer
			if err := json.Unmarshal(out.Bytes(), &got); err != nil || errs.Len() > 0 {
				t.Fatalf("status %d: %v, %s%s", status, err, &out, &errs)
			}
			var does []string
			for _, d := range got.Does {
				if d.In != "run" {
					t.Errorf("%+v is not in run", d)
				}
				does = append(does, d.Call+d.Log)
			}
			if c.want != nil && (len(does) < len(c.want) || !slices.Equal(does[:len(c.want)], c.want)) {
				t.Errorf("it would do\n%s\nwant\n%s", strings.Join(does, "\n"), strings.Join(c.want, "\n"))
			}
			said := got.Error + strings.Join(does, "\n")
			if got.Answer != c.answers || !strings.Contains(said, c.fails) {
				t.Errorf("it answers %q, and says %s; want %q and %q", got.Answer, said, c.answers, c.fails)
			}
		})
	}
}

// Other kinds, out of the library.
func TestDryRunOfTheLibrary(t *testing.T) {
	for file, row := range map[string]struct{ job, want string }{
		"rotators/rabbitmq.lua":  {`{"Login": "app", "Admin": "adm", "Resource": {"Address": "mq.example:15671", "TLS": "system"}}`, "unchanged"},
		"rotators/cisco-ios.lua": {`{"Login": "app", "Admin": "adm", "Extras": ["enable"], "Resource": {"Address": "sw.example:22"}}`, "unchanged"},
	} {
		t.Run(file, func(t *testing.T) {
			var out, errs bytes.Buffer
			byHand([]string{"dry", filepath.Join("..", "..", "scripts", file)}, strings.NewReader(row.job), &out, &errs)
			var got dryAnswer
			if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got.Does) == 0 {
				t.Fatalf("%v, %s%s", err, &out, &errs)
			}
			if got.Answer != row.want {
				t.Errorf("%+v", got)
			}
		})
	}
}
