package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// dryView is what a script would do, as the plugin that hosts scripts tells it.
type dryView struct {
	File string `json:"file"`
	Does []struct {
		In   string `json:"in"`
		Call string `json:"call,omitempty"`
		Log  string `json:"log,omitempty"`
	} `json:"does"`
	Answer string `json:"answer"`
	Reason string `json:"reason,omitempty"`
	Error  string `json:"error,omitempty"`
}

// dryJob is what the plugin is told of the record. No secret is in it: those of a dry run are
// made up there.
type dryJob struct {
	Login      string          `json:"login"`
	Scope      string          `json:"scope"`
	Pair       string          `json:"pair"`
	Kind       string          `json:"kind"`
	Resource   dryPlace        `json:"resource"`
	Admin      string          `json:"admin"`
	Self       bool            `json:"self"`
	Extras     []string        `json:"extras"`
	Parameters json.RawMessage `json:"parameters"`
	Records    []dryRecord     `json:"records"`
}

type dryPlace struct {
	Address    string      `json:"address"`
	TLS        sdk.TLSMode `json:"tls"`
	ServerName string      `json:"serverName"`
}

type dryRecord struct {
	dryPlace
	Login string `json:"login"`
	Scope string `json:"scope"`
}

func (c *cli) scriptDryRunCmd() *cobra.Command {
	var lua, account, resource string
	cmd := c.leaf("dry-run FILE[,param.P=V,record.R=TITLE]", "tell what a script would do, and reach nothing", func(ctx context.Context, args []string) error {
		spec, err := parseScriptSpec("dry-run", args[0])
		if err != nil {
			return err
		}
		text, err := c.scriptText(spec.name)
		if err != nil {
			return err
		}
		m, err := script.Parse(text)
		if err != nil {
			return failf(exitFindings, "script_problems", "%s: %w", spec.name, err).withHint("`rotunda script check %s`", spec.name)
		}
		program, err := c.luaProgram(lua)
		if err != nil {
			return err
		}
		job, err := c.dryJobOf(ctx, spec, m, account, resource)
		if err != nil {
			return err
		}
		given, err := json.Marshal(job)
		if err != nil {
			return err
		}
		v := dryView{File: spec.name}
		if err := c.lua(ctx, program, bytes.NewReader(given), &v, "dry", spec.name); err != nil {
			return err
		}
		err = c.emit(v, func(w io.Writer) { c.showDryRun(w, v) })
		if err == nil && v.Error != "" {
			err = failf(exitFailed, "script_failed", "%s does not come to its end", spec.name).
				withHint("a dry run's answers are made up, the shortest good ones: a test gives a script others (docs/scripts/write.md)")
		}
		return err
	})
	luaFlag(cmd, &lua)
	cmd.Flags().StringVar(&account, "record", "", "`ACCOUNT` to call it for (default: one that is made up)")
	cmd.Flags().StringVar(&resource, "resource", "", "`RESOURCE` on which a script of kind dependents or discoverer works (default: the account's)")
	return help(cmd, `Calls the script by the plugin that agents run scripts by, with what the record says and
with secrets that are made up, and lists each call of a module that would reach something.
Nothing is reached: each gets an answer that is made up, the shortest good one. What a call
is called with is checked as ever. The file need not be in the vault; without --record
no vault is asked, and all names are made up, but no parameters that have no default.

Exit code 8 says that the script does not come to its end.`, `rotunda script dry-run restart-unit.lua,param.unit=nginx
rotunda script dry-run restart-unit.lua,param.unit=nginx --record app`)
}

func (c *cli) showDryRun(w io.Writer, v dryView) {
	in := ""
	for _, d := range v.Does {
		if d.In != in {
			in = d.In
			printLine(w, "%s", in)
		}
		if d.Log != "" {
			printLine(w, "  log: %s", d.Log)
		} else {
			printLine(w, "  %s", d.Call)
		}
	}
	if v.Error != "" {
		printLine(w, "ends with: %s", v.Error)
		if source := c.sourceOf(v.File, v.Error); source != "" {
			printLine(w, "  | %s", source)
		}
		return
	}
	if v.Reason != "" {
		v.Answer += " (" + v.Reason + ")"
	}
	printLine(w, "answers: %s", v.Answer)
}

// dryJobOf is the job of a record, or one that is made up where none is named.
func (c *cli) dryJobOf(ctx context.Context, spec scriptSpec, m *script.Manifest, account, resource string) (job dryJob, err error) {
	if spec.order != 0 {
		return job, usagef("order is for scripts that run after others")
	}
	if job.Parameters, err = spec.parameters(m); err != nil {
		return job, err
	}
	if job.Parameters == nil {
		job.Parameters = json.RawMessage("{}")
	}
	if m.Kind == script.Discoverer && (account != "" || len(spec.records) > 0) {
		return job, usagef("a script of kind discoverer is called for a resource alone: --resource RESOURCE")
	}
	if resource != "" && m.Kind == script.Discoverer {
		return job, c.with(ctx, func(cl *client.Client) error { return job.on(ctx, cl, nil, resource) })
	}
	if account == "" {
		if resource != "" || len(spec.records) > 0 {
			return job, usagef("without --record all records are made up: name it, or leave the others out")
		}
		madeUp(&job, m)
		return job, nil
	}
	return job, c.with(ctx, func(cl *client.Client) error { return job.read(ctx, cl, spec, m, account, resource) })
}

// madeUp fills a job with names that are nobody's (RFC 2606).
func madeUp(job *dryJob, m *script.Manifest) {
	job.Login, job.Admin, job.Kind = "app", "admin", string(sdk.Password)
	if m.Rotates != nil && len(m.Rotates.Kinds) > 0 {
		job.Kind = string(m.Rotates.Kinds[0])
	}
	job.Resource = dryPlace{"target.example:443", sdk.TLSSystem, ""}
	for _, r := range m.Records {
		job.Records = append(job.Records, dryRecord{dryPlace{r.Name + ".example:443", sdk.TLSSystem, ""}, "admin", ""})
	}
}

// read fills it with what the records say that the statement of the account leads to.
func (job *dryJob) read(ctx context.Context, cl *client.Client, spec scriptSpec, m *script.Manifest, account, resource string) error {
	a, err := cl.FindRecord(ctx, account, client.TypeAccount)
	if err != nil {
		return err
	}
	says, err := accountOf(a)
	if err != nil {
		return err
	}
	job.Login, job.Scope, job.Kind = says.Login, says.Scope, says.SecretKind
	if job.Kind == "" {
		job.Kind = string(sdk.Password)
	}
	if says.PairAccount != nil {
		other, err := loginOf(ctx, cl, says.PairAccount)
		if err != nil {
			return err
		}
		job.Pair = other.Login
	}
	at := refText(says.Resource)
	if resource != "" {
		at = resource
	}
	if err := job.on(ctx, cl, a, at); err != nil {
		return err
	}
	return job.further(ctx, cl, spec, m)
}

// on fills it with what a resource's record says; account is the one that it is for, nil for
// none.
func (job *dryJob) on(ctx context.Context, cl *client.Client, account *client.Record, resource string) error {
	r, err := cl.FindRecord(ctx, resource, resourceTypes[:]...)
	if err != nil {
		return err
	}
	on := r.Statement.GetResource()
	if on == nil {
		return unsigned(r)
	}
	job.Resource = dryPlaceOf(on)
	job.Self = account != nil && (refText(on.AdminAccount) == "" || refText(on.AdminAccount) == account.Ref.String())
	job.Admin = job.Login
	if !job.Self && on.AdminAccount == nil {
		return failf(exitUsage, "administrator.none", "%s has no administrator, as whom the script logs in", r.Title)
	}
	if !job.Self {
		admin, err := loginOf(ctx, cl, on.AdminAccount)
		if err != nil {
			return err
		}
		job.Admin = admin.Login
	}
	for _, x := range on.Extras {
		job.Extras = append(job.Extras, x.Name)
	}
	return nil
}

// further adds the further records that are named for it.
func (job *dryJob) further(ctx context.Context, cl *client.Client, spec scriptSpec, m *script.Manifest) error {
	var use trustv1.ScriptUse
	if err := spec.furtherRecords(ctx, cl, m, &use); err != nil {
		return err
	}
	for n, want := range m.Records {
		login, at := use.Records[n], use.Records[n]
		if want.As == script.AsAccount {
			says, err := loginOf(ctx, cl, login)
			if err != nil {
				return err
			}
			at = says.Resource
		}
		r, err := cl.FindRecord(ctx, refText(at))
		if err != nil {
			return err
		}
		on := r.Statement.GetResource()
		if on == nil {
			return unsigned(r)
		}
		if want.As == script.AsResource {
			if login = on.AdminAccount; login == nil {
				return failf(exitUsage, "administrator.none", "%s has no administrator, whose login the script gets as %s", r.Title, want.Name)
			}
		}
		says, err := loginOf(ctx, cl, login)
		if err != nil {
			return err
		}
		job.Records = append(job.Records, dryRecord{dryPlaceOf(on), says.Login, says.Scope})
	}
	return nil
}

func loginOf(ctx context.Context, cl *client.Client, ref *trustv1.Ref) (*trustv1.Account, error) {
	r, err := cl.FindRecord(ctx, refText(ref), client.TypeAccount)
	if err != nil {
		return nil, err
	}
	return accountOf(r)
}

func accountOf(r *client.Record) (*trustv1.Account, error) {
	if says := r.Statement.GetAccount(); says != nil {
		return says, nil
	}
	return nil, unsigned(r)
}

func unsigned(r *client.Record) error {
	return failf(exitDenied, orWord(r.Reason, "statement_missing"), "nobody has signed for %s whose word counts", r.Title).
		withHint("`rotunda record show %s` tells more", r.Title)
}

func dryPlaceOf(r *trustv1.Resource) dryPlace {
	mode := map[trustv1.TlsMode]sdk.TLSMode{trustv1.TlsMode_TLS_MODE_OFF: sdk.TLSOff, trustv1.TlsMode_TLS_MODE_PIN: sdk.TLSPin}[r.Tls.GetMode()]
	if mode == "" {
		mode = sdk.TLSSystem
	}
	return dryPlace{net.JoinHostPort(r.Host, strconv.Itoa(int(r.Port))), mode, r.Tls.GetServerName()}
}
