package main

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

// A script has the globals that check knows, and no others.
func TestGlobalsAreAList(t *testing.T) {
	b := newBench(t, nil, "", `return 1`)
	s := b.state()
	var names []string
	s.L.G.Global.ForEach(func(k, _ lua.LValue) { names = append(names, k.String()) })
	slices.Sort(names)
	want := append(slices.Clone(known), "run")
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("globals\n%v\nwant\n%v", names, want)
	}
}

// What a script tries in order to get out of its world ends in an error of its own.
func TestNoWayOut(t *testing.T) {
	for name, code := range map[string]string{
		"load":                  `return load("return 1")`,
		"loadstring":            `return loadstring("return 1")`,
		"dofile":                `return dofile("/etc/passwd")`,
		"io":                    `return io.open("/etc/passwd")`,
		"os":                    `return os.getenv("PATH")`,
		"debug":                 `return debug.getinfo(1)`,
		"package":               `return package.loaded`,
		"getfenv":               `return getfenv(0)`,
		"setfenv":               `return setfenv(1, {})`,
		"newproxy":              `return newproxy(true)`,
		"string.dump":           `return string.dump(run)`,
		"module of no manifest": `return require("exec")`,
		"module by path":        `return require("/tmp/x")`,
		"metatable of texts":    `getmetatable("").__index = {}`,
		"metatable of a secret": `getmetatable(job.secret).__index = {}`,
		"setmetatable of one":   `setmetatable(job.secret, {})`,
		"rep":                   `return string.rep("a", 2^30)`,
		"rep by a method":       `return ("a"):rep(2^30)`,
		"format":                `return string.format("%99999999d", 1)`,
		"recursion":             `local function f() return 1 + f() end return f()`,
		"unpack":                `local t = {} for i = 1, 100000 do t[i] = i end return unpack(t)`,
		"reveal":                `return job.secret:reveal()`,
		"reveal by pcall":       `return assert(pcall(job.secret.reveal, job.secret))`,
		"length":                `return #job.secret`,
		"order":                 `return job.secret < job.secret`,
		"sum":                   `return job.secret + 1`,
		"as a key of options":   `return text.concat("a", job.secret .. "b")`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, []string{"text"}, "", code)
			got, err := b.run(func(s *state, job *lua.LTable) {
				job.RawSetString("secret", s.secret(secret{Secret: sdk.NewSecret([]byte("hunter2!"))}))
			})
			if err == nil {
				t.Fatalf("it answered %v", got)
			}
			if e := errorFrom(t, err); e.Reason != "script.error" || !strings.Contains(e.Error(), "test.lua:") {
				t.Errorf("error %v: want one of the script's, with its line", err)
			}
			if strings.Contains(err.Error(), "hunter2!") {
				t.Errorf("the error tells the secret: %v", err)
			}
		})
	}
}

// A secret prints as its placeholder wherever Lua makes a text of it.
func TestSecretsDoNotPrint(t *testing.T) {
	for _, code := range []string{
		`return tostring(job.secret)`, `return "" .. job.secret`, `return job.secret .. ""`, `return string.format("%s", job.secret)`,
		`return ("%s"):format(job.secret)`,
	} {
		b := newBench(t, []string{"log"}, "", code)
		got, err := b.run(func(s *state, job *lua.LTable) {
			job.RawSetString("secret", s.secret(secret{Secret: sdk.NewSecret([]byte("hunter2!"))}))
		})
		if err != nil || got != lua.LString(placeholder) {
			t.Errorf("%s gives %v, %v; want %s", code, got, err, placeholder)
		}
	}
}

// What leaves a script is without secrets: its log, its output, its errors and reasons,
// also in other forms, also what was made of them.
func TestNothingLeaves(t *testing.T) {
	const manifest = "needs = [\"secret\"]\nreveals = \"to try to lose it\""
	for name, code := range map[string]string{
		"log":            `log.info("it is " .. job.secret:reveal())`,
		"print":          `print(job.secret:reveal())`,
		"error":          `error("it is " .. job.secret:reveal())`,
		"fail":           `sdk.fail{class = "auth", reason = "x", text = job.secret:reveal()}`,
		"error value":    `return nil, {class = "auth", reason = "x", text = job.secret:reveal()}`,
		"reason":         `return sdk.unchanged("policy", job.secret:reveal())`,
		"error's reason": `sdk.fail{class = "auth", reason = job.secret:reveal()}`,
		"in parts":       `local s = job.secret:reveal() log.info(s:sub(1, 4) .. s:sub(5))`,
		"derived":        `log.info(text.concat("prefix-", job.secret):reveal())`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, []string{"log", "text"}, manifest, code)
			a, err := b.runAfter(sdk.OpenRequest{}, sdk.AfterRequest{Secret: password("hunter2hunter2")})
			for what, said := range map[string]string{"log": b.logged.String(), "output": a.Output, "reason": a.Reason} {
				if strings.Contains(said, "hunter2hunter2") {
					t.Errorf("%s: %s", what, said)
				}
			}
			if err != nil {
				if e := errorFrom(t, err); strings.Contains(e.Error(), "hunter2hunter2") {
					t.Errorf("error: %v", err)
				}
			}
		})
	}
}

// A script must say what it did: everything else is not known.
func TestAnswers(t *testing.T) {
	for code, want := range map[string]sdk.AfterResponse{
		`return sdk.changed`:                       {Outcome: sdk.Changed},
		`return sdk.unchanged("conflict", "busy")`: {Outcome: sdk.Unchanged, Class: sdk.ClassConflict, Reason: "busy"},
		`return sdk.unknown`:                       {},
		`return`:                                   {},
		`return true`:                              {},
		`return "changed"`:                         {},
		`return sdk.accepted`:                      {},
		`return {outcome = 1}`:                     {},
	} {
		b := newBench(t, nil, "", code)
		got, err := b.runAfter(sdk.OpenRequest{}, sdk.AfterRequest{})
		said := strings.Contains(got.Output, "gave no answer")
		if asked := strings.HasPrefix(code, "return sdk."); said == asked && code != "return sdk.accepted" {
			t.Errorf("%s: it says %q", code, got.Output)
		}
		got.Output = ""
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", code, got, err, want)
		}
	}
}

// One call knows nothing of another: each has a state of its own.
func TestStatesAreFresh(t *testing.T) {
	b := newBench(t, nil, "", `count = (count or 0) + 1 if count > 1 then error("not fresh") end return sdk.changed`)
	for range 3 {
		if got, err := b.runAfter(sdk.OpenRequest{}, sdk.AfterRequest{}); err != nil || got.Outcome != sdk.Changed {
			t.Fatal(got, err)
		}
	}
}

// The script gets what its manifest asks for, and no more.
func TestJobIsWhatWasAskedFor(t *testing.T) {
	all := sdk.AfterRequest{Account: sdk.Account{Name: "app"}, Secret: password("new-secret"), Former: password("old-secret")}
	open := sdk.OpenRequest{Resource: sdk.Resource{Address: "db.example.org:5432"}, Admin: password("root-secret"), AdminAs: sdk.Account{Name: "root"}}
	for asks, want := range map[string]string{
		``:                   "none",
		`needs = ["secret"]`: "secret",
		`needs = ["former"]`: "former",
		`needs = ["admin"]`:  "admin",
	} {
		b := newBench(t, []string{"log"}, asks, `
			local got = {}
			for _, name in ipairs{"secret", "former", "admin"} do if job[name] then got[#got + 1] = name end end
			log.info("got=" .. (#got > 0 and table.concat(got, "+") or "none"))
			assert(job.account.login == "app" and job.resource.host == "db.example.org" and job.resource.port == 5432)
			return sdk.changed`)
		a, err := b.runAfter(open, all)
		if err != nil || a.Output != "got="+want+"\n" {
			t.Errorf("%s: output %q, %v; want %s", asks, a.Output, err, want)
		}
	}
}

// Who waited for his turn while a session was closed runs nothing in it.
func TestClosedSessionRunsNothing(t *testing.T) {
	b := benchOf(t, "--[[ rotunda\nname = \"r\"\nversion = \"1\"\nkind = \"rotator\"\nabout = \"A test\"\n[rotator]\nkinds = [\"password\"]\n]]\nfunction set_secret() return sdk.changed end\nfunction verify() return sdk.accepted end\n")
	s, err := rotator{b.p}.Open(t.Context(), sdk.OpenRequest{Host: b.host})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Apply(t.Context(), sdk.ApplyRequest{Candidate: password("new-secret")}); err != nil || got.Outcome != sdk.Changed {
		t.Fatalf("%+v, %v", got, err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Apply(t.Context(), sdk.ApplyRequest{Candidate: password("new-secret")})
	if e := errorFrom(t, err); got.Outcome == sdk.Changed || e.Reason != "session.closed" || !e.NotSent {
		t.Errorf("%+v, %v; want session.closed", got, err)
	}
}

// What a refused login says of the secret an administrator's open session on the same resource
// is asked; it accepts nothing, and where there is none the login is not judged.
func TestJudge(t *testing.T) {
	script := func(judge string) *bench {
		return benchOf(t, "--[[ rotunda\nname = \"r\"\nversion = \"1\"\nkind = \"rotator\"\nabout = \"A test\"\nmodules = [\"secret\"]\n[parameters.path]\ntype = \"string\"\nabout = \"A test\"\ndefault = \"a\"\n[rotator]\nkinds = [\"password\"]\n]]\n"+
			"local secret = require \"secret\"\nfunction open() return {} end function set_secret() return sdk.changed end\n"+
			"function verify(job) if job.account.login == \"gone\" then return sdk.undecided(\"unreachable\") end return sdk.undecided() end\n"+judge)
	}
	undecided := func(reason string) sdk.VerifyResponse { return sdk.VerifyResponse{Reason: reason} }
	verify := func(b *bench, at sdk.Resource, name string) sdk.VerifyResponse {
		t.Helper()
		got, err := rotator{b.p}.Verify(t.Context(), sdk.VerifyRequest{Host: b.host, Resource: at, Account: sdk.Account{Name: name}, Credential: password("the candidate")})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	at := sdk.Resource{Address: "192.0.2.1:22", Config: []byte(`{}`)}
	for judge, want := range map[string]sdk.VerifyResponse{
		`function judge(session, job) assert(session and job.admin.login == "adm" and job.account.login == "ann" and secret.equal(job.candidate, "the candidate")) return sdk.rejected() end`: {Verdict: sdk.Rejected, Reason: "bad_secret"},
		`function judge() return sdk.undecided("locked") end`:                                                   undecided("locked"),
		`function judge() return sdk.accepted end`:                                                              undecided("not_judged"),
		`function judge() return sdk.changed end`:                                                               undecided("not_judged"),
		`function judge() error("it broke") end`:                                                                undecided("not_judged"),
		`function judge() return nil, {class = "unreachable", reason = "http", not_sent = true, text = ""} end`: undecided("not_judged"),
		``: undecided("not_judged"),
	} {
		b := script(judge)
		if got := verify(b, at, "ann"); got != undecided("not_judged") {
			t.Errorf("%s: without a session %+v", judge, got)
		}
		s, err := rotator{b.p}.Open(t.Context(), sdk.OpenRequest{Host: b.host, Resource: at, Admin: password("adm1n"), AdminAs: sdk.Account{Name: "adm"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := verify(b, at, "ann"); got != want {
			t.Errorf("%s: %+v", judge, got)
		}
		for _, other := range []sdk.Resource{{Address: "192.0.2.2:22", Config: at.Config}, {Address: at.Address, Config: []byte(`{"path":"other"}`)}} {
			if got := verify(b, other, "ann"); got != undecided("not_judged") {
				t.Errorf("%s: %s %s by another resource's session %+v", judge, other.Address, other.Config, got)
			}
		}
		if got := verify(b, at, "gone"); got != undecided("unreachable") {
			t.Errorf("%s: of a login that was not refused %+v", judge, got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if got := verify(b, at, "ann"); got != undecided("not_judged") {
			t.Errorf("%s: after the session %+v", judge, got)
		}
		own, err := rotator{b.p}.Open(t.Context(), sdk.OpenRequest{Host: b.host, Resource: at, Admin: password("0ld"), AdminAs: sdk.Account{Name: "ann"}, Self: true})
		if err != nil {
			t.Fatal(err)
		}
		if got := verify(b, at, "ann"); got != undecided("not_judged") {
			t.Errorf("%s: by the account's own session %+v", judge, got)
		}
		if err := own.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// connections gives only so many of them.
type connections struct {
	*bench
	left int
}

func (c *connections) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if c.left--; c.left < 0 {
		return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "connection", NotSent: true, Err: errors.New("refused")}
	}
	return c.bench.DialContext(ctx, network, address)
}

// That one request was not sent says nothing of those before it: a script that hands its error
// on has come to nothing only where nothing was done before.
func TestNotSentIsOfOneCall(t *testing.T) {
	for code, want := range map[string]sdk.Outcome{
		`assert(http.post("/none"))`:                          sdk.Unchanged,
		`return http.post("/none")`:                           sdk.Unchanged,
		`assert(http.get("/a")) assert(http.post("/none"))`:   sdk.Unchanged,
		`assert(http.post("/a")) assert(http.post("/none"))`:  sdk.Unknown,
		`assert(http.post("/a")) return http.post("/none")`:   sdk.Unknown,
		`assert(http.delete("/a")) assert(http.get("/none"))`: sdk.Unknown,
		`assert(http.request{method = "PUT", path = "/a"}) local ok, err = http.post("/none") assert(err.not_sent == true) return nil, err`:                                                            sdk.Unknown,
		`assert(http.post("/a")) local ok, err = http.post("/none") assert(err.class == "unreachable" and err.not_sent and tostring(err):find("refused")) return sdk.unchanged(err.class, err.reason)`: sdk.Unchanged,
		`assert(http.post("/a")) local ok, err = http.post("/none") err.not_sent = true error(err)`:                                                                                                    sdk.Unchanged, // the script's own word
		`assert(http.post("/a")) sdk.fail{class = "conflict", reason = "busy", not_sent = true}`:                                                                                                       sdk.Unchanged,
	} {
		method := "POST"
		for m, word := range map[string]string{"GET": `http.get("/a")`, "DELETE": "http.delete", "PUT": "PUT"} {
			if strings.Contains(code, word) {
				method = m
			}
		}
		var known []exchange
		if strings.Contains(code, `"/a"`) {
			known = append(known, exchange{method: method, uri: "/a", header: "Accept-Charset: ", status: 200, answer: "{}"})
		}
		r := newRecorded(t, false, known...)
		b := newBench(t, []string{"http"}, `hosts = ["resource"]`, code)
		b.allow = []string{r.at.Address}
		b.host.Dialer = &connections{b, len(known)}
		got, err := b.runAfter(sdk.OpenRequest{Resource: r.at}, sdk.AfterRequest{})
		if err != nil || got.Outcome != want {
			t.Errorf("%s: %+v, %v; want outcome %d", code, got, err, want)
		}
	}
}
