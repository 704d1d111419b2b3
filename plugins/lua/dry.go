package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"
	"golang.org/x/crypto/ssh"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// A dry run calls a script with what a record says, and with secrets that are made up. Its
// modules check what they are called with as ever, and then tell it instead of reaching
// anything: the script gets an answer that is made up, the shortest good one.

// dryRun is what a dry run has told so far.
type dryRun struct {
	allow    []string // the script's places
	manifest *script.Manifest
	values   map[string]any
	answer   func(*args) int
	in       string // the script's function that is called
	does     []dryStep
}

// dryStep is something that a script would do, or what it logged.
type dryStep struct {
	In   string `json:"in"`
	Call string `json:"call,omitempty"`
	Log  string `json:"log,omitempty"`
}

// dryJob is what the script is called with.
type dryJob struct {
	Login, Scope, Pair string
	Kind               sdk.Kind
	Resource           dryPlace
	Admin              string   // login; empty: there is none
	Self               bool     // the account changes its own secret
	Extras             []string // names
	Parameters         json.RawMessage
	Records            []dryRecord // in the manifest's order
}

type dryPlace struct{ Address, TLS, ServerName string }

type dryRecord struct {
	dryPlace
	Login, Scope string
}

// dryAnswer is what became of it.
type dryAnswer struct {
	Does   []dryStep `json:"does"`
	Answer string    `json:"answer"`
	Reason string    `json:"reason,omitempty"`
	Error  string    `json:"error,omitempty"`
}

// Bounds of what is read of a job, and of what is told.
const (
	maxDryJob   = 1 << 20
	maxDrySteps = 1000
)

func dryFile(file string, in io.Reader) (any, bool, error) {
	text, err := readScript(file)
	if err != nil {
		return nil, false, err
	}
	p, err := load(text)
	if err != nil {
		return nil, false, err
	}
	var job dryJob
	d := json.NewDecoder(io.LimitReader(in, maxDryJob))
	d.DisallowUnknownFields()
	if err := d.Decode(&job); err != nil {
		return nil, false, fmt.Errorf("the job on standard input: %w", err)
	}
	a, err := p.dryRun(job)
	return a, a.Error != "", err
}

// dryRun calls the functions of the script's kind, as the agent would.
func (p *program) dryRun(job dryJob) (out dryAnswer, err error) {
	values, err := p.manifest.Values(job.Parameters)
	if err != nil {
		return out, err
	}
	if len(job.Records) != len(p.manifest.Records) {
		return out, fmt.Errorf("it works with %d further records, and is given %d", len(p.manifest.Records), len(job.Records))
	}
	names := map[string]string{}
	for n, r := range p.manifest.Records {
		names[r.Name] = job.Records[n].Address
	}
	d := &dryRun{answer: (*args).pretended, manifest: p.manifest, values: values}
	if d.allow, err = p.manifest.Places(job.Resource.Address, values, names); err != nil {
		return out, err
	}
	dry := &program{manifest: p.manifest, code: p.code, dry: d}
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	defer cancel()
	out.Answer, out.Reason, err = dry.dryCalls(ctx, job)
	if out.Does = d.does; out.Does == nil {
		out.Does = []dryStep{}
	}
	if err != nil {
		out.Error = err.Error()
	}
	return out, nil
}

// dryCalls gives what the script answered last.
func (p *program) dryCalls(ctx context.Context, job dryJob) (answered, reason string, err error) {
	account := sdk.Account{Name: job.Login, Scope: job.Scope}
	if job.Pair != "" {
		account.Attrs = map[string]string{sdk.PairAttr: job.Pair}
	}
	open := sdk.OpenRequest{
		Resource: job.Resource.resource(), Self: job.Self, Extra: map[string]sdk.Credential{},
		Host: sdk.Host{Dialer: noDialer{}, Log: slog.New(slog.DiscardHandler)},
	}
	open.Resource.Config = job.Parameters
	if job.Admin != "" {
		open.AdminAs, open.Admin = sdk.Account{Name: job.Admin}, madeUp(sdk.Password)
	}
	for _, name := range job.Extras {
		open.Extra[name] = madeUp(sdk.Password)
	}
	candidate, current := madeUp(job.Kind), madeUp(job.Kind)
	switch p.manifest.Kind {
	case script.Rotator:
		return p.dryRotation(ctx, open, account, candidate, current)
	case script.AfterRotation:
		q := sdk.AfterRequest{Account: account, RunID: "dry-run", Time: time.Now(), Secret: candidate, Former: current}
		for _, r := range job.Records {
			q.Records = append(q.Records, sdk.Record{Resource: r.resource(), Account: sdk.Account{Name: r.Login, Scope: r.Scope}, Secret: madeUp(sdk.Password)})
		}
		got, err := after{p}.Run(ctx, open, q)
		return outcomeWords[got.Outcome], got.Reason, err
	case script.Dependents:
		d := dependents{p}
		steps, err := d.Plan(ctx, open, sdk.ApplyRequest{Account: account, Candidate: candidate, Current: current})
		for _, step := range steps {
			p.dry.log("step " + step.ID + ": " + step.Title)
			var got sdk.StepResponse
			if got, err = d.Do(ctx, open, step, candidate); err != nil || got.Outcome != sdk.Changed {
				return outcomeWords[got.Outcome], got.Reason, err
			}
		}
		return outcomeWords[sdk.Changed], "", err
	case script.Generator:
		made, err := generator{p}.Generate(ctx, open, account)
		return fmt.Sprintf("a secret of %d bytes", made.Len()), "", err
	case script.Discoverer:
		found := 0
		err := discoverer{p}.Discover(ctx, open, func(sdk.Finding) error { found++; return nil })
		return fmt.Sprintf("%d accounts", found), "", err
	}
	return "", "", fmt.Errorf("a script of kind %s cannot be run dry", p.manifest.Kind)
}

func (p *program) dryRotation(ctx context.Context, open sdk.OpenRequest, account sdk.Account, candidate, current sdk.Credential) (answered, reason string, err error) {
	s, err := rotator{p}.Open(ctx, open)
	if err != nil {
		return "", "", err
	}
	changed, err := s.Apply(ctx, sdk.ApplyRequest{Account: account, Candidate: candidate, Current: current})
	if err := errors.Join(err, s.Close()); err != nil || changed.Outcome != sdk.Changed {
		return outcomeWords[changed.Outcome], changed.Reason, err
	}
	got, err := rotator{p}.Verify(ctx, sdk.VerifyRequest{Host: open.Host, Resource: open.Resource, Account: account, Credential: candidate})
	return verdictWord(got.Verdict), got.Reason, err
}

func (a dryPlace) resource() sdk.Resource {
	return sdk.Resource{Address: a.Address, TLS: sdk.TLS{Mode: sdk.TLSMode(a.TLS), ServerName: a.ServerName}}
}

// madeUp is a secret that opens nothing.
func madeUp(kind sdk.Kind) sdk.Credential {
	if kind == sdk.SSHKey {
		_, key, _ := ed25519.GenerateKey(rand.Reader) // never fails (crypto/rand, Go 1.24)
		block, err := ssh.MarshalPrivateKey(key, "")
		if err == nil {
			return sdk.Credential{Kind: kind, Secret: sdk.NewSecret(pem.EncodeToMemory(block))}
		}
	}
	return sdk.Credential{Kind: kind, Secret: sdk.NewSecret([]byte(rand.Text()))}
}

// wouldReach is what a module's function panics with in a dry run, where it would reach
// something: all that it was called with has been checked then.
type wouldReach struct{}

// call is a module's function in a dry run.
func (d *dryRun) call(f function, a *args) (n int) {
	given := a.L.GetTop()
	if a.name == "time.sleep" {
		d.tell(a, given)
		return 0
	}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case wouldReach:
			d.tell(a, given)
			n = d.answer(a)
		default:
			panic(p)
		}
	}()
	return f.do(a)
}

// tell notes a call with its first arguments: what stands behind them on the stack is the
// function's own.
func (d *dryRun) tell(a *args, given int) {
	if len(d.does) >= maxDrySteps {
		a.wrong("the script has done %d things, and goes on: the answers of a dry run are made up, and it may wait for another", maxDrySteps)
	}
	d.does = append(d.does, dryStep{In: d.in, Call: a.hidden.Text(a.shown(given))})
}

func (d *dryRun) log(text string) {
	if len(d.does) < maxDrySteps {
		d.does = append(d.does, dryStep{In: d.in, Log: text})
	}
}

// onHost refuses what the agent would refuse whatever its host's policy says.
func (d *dryRun) onHost(a *args, r pluginv1.LocalRequest) {
	in := func(name string, list []string, err error, key string) {
		if err != nil || !slices.Contains(list, name) {
			a.wrong("%s is not among the %s of the script's manifest", name, key)
		}
	}
	programs, err := d.manifest.Commands(d.values)
	files, bad := d.manifest.Paths(d.values)
	switch {
	case r.Exec != nil:
		in(r.Exec.Program, programs, err, "programs")
	case r.Read != nil:
		in(r.Read.Path, files, bad, "files")
	case r.Write != nil:
		in(r.Write.Path, files, bad, "files")
	}
}

// pretended answers as a target might: shortly, and well.
func (a *args) pretended() int {
	hide := func(option int) bool {
		t, ok := a.L.Get(option).(*lua.LTable)
		return ok && (t.RawGetString("secret") == lua.LTrue || t.RawGetString("secret_output") == lua.LTrue)
	}
	text := func(hide bool) lua.LValue {
		if hide {
			return a.secretBytes([]byte("made up"))
		}
		return lua.LString("")
	}
	switch a.name {
	case "ssh.connect":
		return a.push(sshConnection.of(a.state, &sshConn{}))
	case "ssh.connection:shell", "telnet.connect":
		return a.push(dialogueObject.of(a.state, &dialogue{end: func() {}, cut: func() {}, gone: make(chan struct{})}))
	case "sql.connect":
		return a.push(sqlConnection.of(a.state, &sqlConn{db: dryDatabase{}, limit: time.Second}))
	case "ldap.connect":
		return a.push(ldapConnection.of(a.state, &ldapConn{limit: time.Second}))
	case "ssh.connection:run", "exec.run", "winrm.run", "winrm.powershell":
		t := a.L.NewTable()
		t.RawSetString("status", lua.LNumber(0))
		t.RawSetString("stdout", text(hide(1)))
		t.RawSetString("stderr", text(hide(1)))
		t.RawSetString("truncated", lua.LFalse)
		return a.push(t)
	case "ssh.connection:get", "file.read":
		return a.push(text(hide(2)))
	case "ssh.connection:stat":
		return a.push(a.plain(map[string]any{"kind": "file", "size": 0, "mode": "0600", "modified": 0, "uid": 0, "gid": 0}))
	case "kube.get":
		if o := a.L.Get(1).(*lua.LTable); hide(1) || o.RawGetString("kind").String() == "secrets" {
			return a.give([]byte("{}"), true)
		}
		return a.push(a.L.NewTable())
	case "state.get":
		return a.push(lua.LNil)
	case "kube.patch", "kube.set_secret", "kube.restart", "state.set", "state.forget", "ssh.connection:put", "file.write", "dialogue:send", "ldap.connection:bind", "ldap.connection:modify":
		return a.push(lua.LTrue)
	case "dialogue:expect":
		return a.push(lua.LNumber(1), a.plain(map[string]any{"text": "", "before": ""}))
	case "sql.connection:query", "ldap.connection:search":
		return a.push(a.markList(a.L.NewTable()))
	case "sql.connection:exec":
		return a.push(lua.LNumber(1))
	case "sql.connection:quote_literal":
		b, isSecret := a.bytes(1)
		return a.give([]byte("'"+strings.ReplaceAll(string(b), "'", "''")+"'"), isSecret)
	case "ldap.connection:password_modify":
		if o, ok := a.L.Get(1).(*lua.LTable); ok && o.RawGetString("new") == lua.LNil {
			return a.push(text(true))
		}
		return a.push(lua.LTrue)
	}
	if strings.HasPrefix(a.name, "http.") {
		last := a.L.GetTop()
		return a.push(a.httpAnswer(&httpReply{status: http.StatusOK, header: http.Header{}, body: []byte("{}")}, hide(last)))
	}
	a.wrong("a dry run has no answer for it in this version")
	return 0
}

// dryDatabase writes names and texts as most servers read them.
type dryDatabase struct{}

func (dryDatabase) query(context.Context, string, []any) (*rows, error)    { return &rows{}, nil }
func (dryDatabase) exec(context.Context, string, []any) (int64, error)     { return 1, nil }
func (dryDatabase) literal(_ context.Context, text string) (string, error) { return text, nil }
func (dryDatabase) identifier(name string) (string, error) {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`, nil
}

func (dryDatabase) fault(err error) *sdk.Error {
	return asError(err, sdk.ClassInternal, "script.error")
}
func (dryDatabase) close() {}

// shown is the call as its author wrote it, with the values in it.
func (a *args) shown(given int) string {
	var list []string
	s := showing{left: maxShownCall}
	for n := 1; n <= given; n++ {
		list = append(list, s.value(a.L.Get(n), 0))
	}
	if _, alone := a.L.Get(1).(*lua.LTable); alone && len(list) == 1 {
		return a.name + list[0]
	}
	return a.name + "(" + strings.Join(list, ", ") + ")"
}

// Bounds of what is shown of a value.
const (
	maxShown      = 200 // bytes of a text
	maxShownCall  = 500 // values of a call
	maxShownItems = 50
	maxShownDepth = 4
)

// showing counts what is shown of a call: tables may be shared, so that a small value stands
// for a huge one.
type showing struct{ left int }

func (s *showing) value(v lua.LValue, depth int) string {
	if s.left--; s.left < 0 {
		return "…"
	}
	if _, ok := secretOf(v); ok {
		return placeholder
	}
	switch v := v.(type) {
	case lua.LString:
		text := string(v)
		if len(text) > maxShown {
			return strconv.Quote(strings.ToValidUTF8(text[:maxShown], "")) + "…"
		}
		return strconv.Quote(text)
	case *lua.LTable:
		return s.table(v, depth)
	case *lua.LUserData:
		if h, ok := v.Value.(held); ok {
			return h.kind
		}
		return "null"
	case *lua.LFunction:
		return "function"
	}
	return v.String()
}

var identifierRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (s *showing) table(t *lua.LTable, depth int) string {
	if depth == maxShownDepth {
		return "{…}"
	}
	var parts []string
	for n := 1; n <= t.Len() && n <= maxShownItems && s.left > 0; n++ {
		parts = append(parts, s.value(t.RawGetInt(n), depth+1))
	}
	names, _ := sortedKeys(t)
	names = slices.DeleteFunc(names, func(name string) bool { return name == "" || !utf8.ValidString(name) })
	for _, name := range names[:min(len(names), maxShownItems)] {
		if s.left <= 0 {
			break
		}
		as := name
		if !identifierRE.MatchString(name) {
			as = "[" + strconv.Quote(name) + "]"
		}
		parts = append(parts, as+" = "+s.value(t.RawGetString(name), depth+1))
	}
	if t.Len() > maxShownItems || len(names) > maxShownItems {
		parts = append(parts, "…")
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
