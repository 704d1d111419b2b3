package run

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/rotunda-pam/rotunda/agent/jump"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// way is how a target is reached.
type way struct {
	statements []*trust.Statement // of the jump hosts, in the order in which they are passed
	dial       pluginhost.DialFunc
	digest     [32]byte
}

// findWay opens the records of the jump hosts that lead to a resource.
func (e *Engine) findWay(ctx context.Context, served *servedRecords, resource *trust.Statement, pool seal.ID) (way, error) {
	w := way{dial: e.Dial}
	seen := map[trust.Ref]bool{resource.Ref: true}
	for via := mustRef(resource.GetResource().GetVia()); !via.IsZero(); {
		if seen[via] || len(w.statements) == jump.Most {
			return w, &sdk.Error{Class: sdk.ClassInvalid, Reason: "jump.chain", NotSent: true, Err: fmt.Errorf("the jump hosts go in a circle, or are more than %d: --via of the resource, or of one of them, has to change", jump.Most)}
		}
		seen[via] = true
		if err := served.need(ctx, via); err != nil {
			return w, fmt.Errorf("jump host: %w", err)
		}
		rec, err := served.record(via, trustv1.RecordKind_RECORD_KIND_RESOURCE)
		if err != nil {
			return w, fmt.Errorf("jump host: %w", err)
		}
		s := rec.Statement.GetResource()
		switch {
		case rec.Statement.Pool() != pool:
			return w, &trust.Error{Reason: trust.WrongPool, What: fmt.Sprintf("jump host %s is of another pool", via)}
		case s.Plugin != "ssh":
			return w, &sdk.Error{Class: sdk.ClassInvalid, Reason: "jump.plugin", NotSent: true, Err: fmt.Errorf("jump host %s:%d is a resource of the plugin %s: only ssh hosts lead further", s.Host, s.Port, s.Plugin)}
		}
		if err := trust.CheckLinks(served.log, rec.Statement, pool); err != nil {
			return w, fmt.Errorf("jump host: %w", err)
		}
		w.statements = append(w.statements, rec.Statement)
		via = mustRef(s.Via)
	}
	slices.Reverse(w.statements)
	return w, nil
}

// openWay opens the logins of the jump hosts. Nothing is dialled yet, but for a host key
// that is to be seen first.
func (e *Engine) openWay(ctx context.Context, served *servedRecords, w *way, pool seal.ID) error {
	var hosts []jump.Host
	for _, s := range w.statements {
		h, err := e.jumpHost(ctx, served, s, pool, w.dial)
		if err != nil {
			return err
		}
		hosts = append(hosts, h)
		w.dial, w.digest = e.Ways.Dial(hosts)
	}
	return nil
}

// jumpHost is one host, dialled through those before it.
func (e *Engine) jumpHost(ctx context.Context, served *servedRecords, s *trust.Statement, pool seal.ID, dial pluginhost.DialFunc) (jump.Host, error) {
	r := s.GetResource()
	h := jump.Host{Address: addressOf(r)}
	login := mustRef(r.GetAdminAccount())
	for _, x := range r.Extras {
		if x.Name == trust.JumpExtra {
			login = mustRef(x.Account)
		}
	}
	if login.IsZero() {
		return h, &sdk.Error{Class: sdk.ClassInvalid, Reason: "jump.login", NotSent: true, Err: fmt.Errorf("the resource of jump host %s names nobody to log in as: --extra %s=ACCOUNT, or an administrator", h.Address, trust.JumpExtra)}
	}
	var err error
	if h.Pins, err = e.pinsOf(ctx, s, dial); err != nil {
		return h, fmt.Errorf("jump host %s: %w", h.Address, err)
	}
	var as sdk.Account
	h.Credential, as, err = served.login(ctx, "login on jump host "+h.Address, login, pool)
	h.Login = as.Name
	return h, err
}

func addressOf(r *trustv1.Resource) string {
	return net.JoinHostPort(r.Host, strconv.Itoa(int(r.Port)))
}
