package pluginhost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"unique"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// A script is a plugin of its own: one process of the binary that runs it, which has been
// told that script and no other.

// Scripted is the plugin that p becomes with a script.
func Scripted(p Plugin, text []byte) Plugin {
	p.Script = unique.Make(string(text))
	return p
}

// binaryOnly is p without the script that a process of it is told.
func (p Plugin) binaryOnly() Plugin { return Plugin{Name: p.Name, SHA256: p.SHA256} }

func (p Plugin) scripted() bool { return p.Script != unique.Handle[string]{} }

const maxDescribed = 128 // manifests that are kept

// remember keeps what a plugin says of itself: of scripts, whose texts it keeps with it, only
// so many. With h.mu held.
func (h *Host) remember(p *process) {
	for other := range h.manifests {
		if len(h.manifests) < maxDescribed {
			break
		}
		if other.scripted() {
			delete(h.manifests, other)
		}
	}
	h.manifests[p.plugin] = p.manifest
}

// load tells the process which script it is.
func (p *process) load(ctx context.Context) error {
	text := p.plugin.Script.Value()
	if len(text) > pluginv1.MaxScript {
		return p.fail(BadRequest, fmt.Errorf("script of %d bytes, at most %d can be run", len(text), pluginv1.MaxScript))
	}
	_, err := p.scripts.Load(ctx, &pluginv1.LoadRequest{Call: &pluginv1.Call{Id: p.lastCall.Add(1)}, Text: []byte(text)})
	code := status.Code(err)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil, code == codes.DeadlineExceeded, code == codes.Canceled: // its side may see the deadline first
		return p.fail(PluginStart, fmt.Errorf("it did not load the script: %w", cmp.Or(ctx.Err(), errors.New("the call was given up"))))
	}
	switch e := p.classify(err).(type) { //nolint:errorlint // it is one of the two, as it is
	case *sdk.Error:
		e.NotSent = true // it had nowhere to send anything to
		return e
	case *Error:
		e.NotSent = true
		return e
	default:
		return e
	}
}

// Run as sdk.After. A missing answer is Outcome Unknown together with an error.
func (h *Host) Run(ctx context.Context, p Plugin, j Job, r sdk.AfterRequest) (sdk.AfterResponse, error) {
	req := &pluginv1.RunRequest{
		Account: account(r.Account), Secret: credential(r.Secret), Former: credential(r.Former),
		RunId: r.RunID, Time: timestamppb.New(r.Time),
	}
	secrets := []*pluginv1.Credential{req.Secret, req.Former}
	for _, one := range r.Records {
		w := &pluginv1.Record{Resource: resource(one.Resource), Account: account(one.Account), Secret: credential(one.Secret), Pins: one.Pins}
		req.Records, secrets = append(req.Records, w), append(secrets, w.Secret)
	}
	var resp *pluginv1.RunResponse
	proc, err := h.place(ctx, p, j, after, secrets, func(ctx context.Context, proc *process, at *pluginv1.Place, c *pluginv1.Call) (err error) {
		req.Call, req.Place = c, at
		resp, err = proc.scripts.Run(ctx, req)
		return err
	})
	if err != nil {
		return sdk.AfterResponse{}, err
	}
	return sdk.AfterResponse{
		Outcome: outcome(resp.GetOutcome()), Class: class(resp.GetClass()), Reason: proc.code(resp.GetReason()),
		Output: proc.told(resp.GetOutput()),
	}, nil
}

func after(d Description) bool { return d.After }

// Generate as sdk.Generator.
func (h *Host) Generate(ctx context.Context, p Plugin, j Job, a sdk.Account) (sdk.Secret, error) {
	req := &pluginv1.GenerateRequest{Account: account(a)}
	var resp *pluginv1.GenerateResponse
	proc, err := h.place(ctx, p, j, generator, nil, func(ctx context.Context, proc *process, at *pluginv1.Place, c *pluginv1.Call) (err error) {
		req.Call, req.Place = c, at
		resp, err = proc.scripts.Generate(ctx, req)
		return err
	})
	if err != nil {
		return sdk.Secret{}, err
	}
	made := &pluginv1.Credential{Secret: resp.GetSecret()}
	defer wipe(made)
	defer proc.hide([]*pluginv1.Credential{made})()
	if n := len(made.Secret); n == 0 || n > sdk.MaxSecret {
		return sdk.Secret{}, proc.failed(PluginProtocol, fmt.Errorf("it gave a secret of %d bytes", n))
	}
	return sdk.NewSecret(made.Secret), nil
}

func generator(d Description) bool { return d.Generator }

// Discover as sdk.Discoverer, all at once. More says that the target has others.
func (h *Host) Discover(ctx context.Context, p Plugin, j Job) (found []sdk.Finding, more bool, err error) {
	req := &pluginv1.DiscoverRequest{}
	var bad error
	proc, err := h.place(ctx, p, j, discoverer, nil, func(ctx context.Context, proc *process, at *pluginv1.Place, c *pluginv1.Call) error {
		req.Call, req.Place = c, at
		resp, err := proc.scripts.Discover(ctx, req)
		if err == nil { // while the secrets of the call are looked for
			found, bad = proc.found(resp)
			more = resp.GetMore()
		}
		return err
	})
	if err != nil {
		return nil, false, err
	}
	if bad != nil {
		return nil, false, proc.failed(PluginProtocol, fmt.Errorf("it found %w", bad))
	}
	return found, more, nil
}

func discoverer(d Description) bool { return d.Discoverer }

// found is what a plugin says that it found, held to the bounds, and without what it puts of
// a secret into that.
func (p *process) found(r *pluginv1.DiscoverResponse) (out []sdk.Finding, err error) {
	if len(r.GetAccounts()) > pluginv1.MaxFound {
		return nil, fmt.Errorf("%d accounts, at most %d", len(r.GetAccounts()), pluginv1.MaxFound)
	}
	if size := proto.Size(r); size > 2*pluginv1.MaxFoundBytes {
		return nil, fmt.Errorf("%d bytes", size)
	}
	hidden := func(s string) bool { return p.out.secrets.Text(s) != s }
	for _, a := range r.GetAccounts() {
		f := sdk.Finding{Login: string(a.GetName()), Scope: string(a.GetScope()), Facts: a.GetAttrs()}
		if err := f.Check(); err != nil {
			return nil, err
		}
		if hidden(f.Login) || hidden(f.Scope) {
			return nil, errors.New("an account that is called as a secret is")
		}
		for name, value := range f.Facts {
			if hidden(name) || hidden(value) {
				return nil, errors.New("a fact with a secret in it")
			}
		}
		out = append(out, f)
	}
	return out, nil
}

// code is code, and what a script puts of a secret into one is none.
func (p *process) code(s string) string {
	if p.plugin.scripted() && p.out.secrets.Text(s) != s {
		return malformed
	}
	return code(s)
}

// told is what a plugin says for people, cut after it was scrubbed.
func (p *process) told(s string) string {
	return strings.ToValidUTF8(cut(p.out.secrets.Text(s), pluginv1.MaxOutput), "")
}
