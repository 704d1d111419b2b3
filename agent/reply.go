package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/agent/run"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/internal/version"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Bounds of a command without a run: what it may take, and what sending the answer may.
const (
	replyLimit = 90 * time.Second
	sendLimit  = 30 * time.Second
)

// reply answers a command that is no run: test, probe, discover, info.
func (a *Agent) reply(ctx context.Context, c *trust.Command) {
	whole := ctx
	ctx, cancel := context.WithTimeout(whole, replyLimit)
	defer cancel()
	result := &trustv1.Result{Phase: trustv1.Phase_PHASE_REPLIED, Credential: trustv1.Outcome_OUTCOME_DONE}
	detail := &trustv1.Detail{}
	err := a.mayReply(ctx, c)
	switch {
	case err != nil:
	case c.Action == trustv1.Action_ACTION_TEST:
		err = a.engine.Test(ctx, c)
	case c.Action == trustv1.Action_ACTION_PROBE:
		detail.Probe, err = a.engine.Probe(ctx, c)
	case c.Action == trustv1.Action_ACTION_DISCOVER:
		detail.Discover, err = a.engine.Discover(ctx, c)
	case c.Action == trustv1.Action_ACTION_INFO:
		detail.Info, detail.Plugins = a.info()
	}
	if err != nil {
		result.Credential = trustv1.Outcome_OUTCOME_FAILED
		result.Class, result.Reason = run.Classify(err)
		detail.Text = strings.ToValidUTF8(err.Error(), "?")
		a.log.Info("command failed", "command", c.ID, "action", c.Action, "class", result.Class, "reason", result.Reason, "error", err)
	}
	ctx, cancelSend := context.WithTimeout(whole, sendLimit) // also when all the time was used up
	defer cancelSend()
	if err := a.sendReplyAgain(ctx, c, result, detail); err != nil {
		a.log.Error("a reply could not be sent", "command", c.ID, "reason", trust.ReasonOf(err), "error", err)
		if reason := trust.ReasonOf(err); reason != "" {
			a.refuse(ksm.Refusal{Name: "command.refused", Reason: string(reason), Time: a.now().UnixMilli()})
		}
		return // unsettled: it is answered again after the next start
	}
	if err := a.journal.SettleCommand(c.ID, a.now()); err != nil {
		a.log.Error("journal", "error", err)
	}
}

// mayReply looks again at what open looked at: the command may have waited in the
// journal for the agent's next start.
func (a *Agent) mayReply(ctx context.Context, c *trust.Command) error {
	l, err := a.dir.Fresh(ctx)
	if err != nil {
		return err
	}
	if err := c.StillHolds(l, a.id.Entry); err != nil {
		return err
	}
	if err := c.CheckStaging(a.now()); err != nil {
		return err
	}
	if err := a.cfg.Policy.Permit(actions[c.Action]); err != nil {
		return &trust.Error{Reason: trust.LocalPolicy, Err: err}
	}
	return nil
}

// sendReplyAgain sends until the vault has answered, or the time of a reply is over: the
// person who asked waits for it.
func (a *Agent) sendReplyAgain(ctx context.Context, c *trust.Command, result *trustv1.Result, detail *trustv1.Detail) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := a.sendReply(ctx, c, result, detail)
		var refused *ksm.Error
		if err == nil || trust.ReasonOf(err) != "" || errors.As(err, &refused) && refused.Code != ksm.CodeThrottled {
			return err
		}
		timer := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// sendReply seals the detail to the device that asked, signs, and sends.
func (a *Agent) sendReply(ctx context.Context, c *trust.Command, result *trustv1.Result, detail *trustv1.Detail) error {
	l := a.dir.Known()
	keys, err := a.keysOf(ctx, l, c.Signer.ID)
	if err != nil {
		return err
	}
	sealed, err := trust.SealReply(l, a.id.Entry, c.Signer.ID, keys, c.ID, detail)
	if err != nil {
		return err
	}
	digest := seal.Hash(sealed)
	target := c.Target()
	if !target.IsZero() {
		result.Account = target.Proto()
	}
	result.RunId, result.Event, result.By = c.RunId, 1, a.id.Entry.Bytes()
	result.Cause, result.Time, result.DetailDigest = c.Digest.Bytes(), a.now().UnixMilli(), digest.Bytes()
	signed, _, err := trust.SignResult(l, a.id.Keys.Sign, result)
	if err != nil {
		return err
	}
	report := ksm.ReportRequest{CommandID: c.ID.Bytes(), Result: signed, Detail: sealed}
	if !target.IsZero() {
		report.Account = ksm.Ref{Folder: target.Folder.Bytes(), Record: target.Record.Bytes()}
	}
	if reason := trust.Reason(result.Reason); reason.Meaning() != "" {
		report.Refusals = []ksm.Refusal{{Name: run.EventOf(reason, false), Reason: result.Reason, Record: report.Account, Time: result.Time}}
	}
	return a.vault.Report(ctx, report)
}

// maxKeys bounds the devices whose public keys an agent remembers.
const maxKeys = 1000

// keysOf are a device's public keys. Only those are remembered that are its entry's.
func (a *Agent) keysOf(ctx context.Context, l *trust.Log, device seal.ID) ([]byte, error) {
	e, live := l.Entry(device)
	a.mu.Lock()
	known := a.keys[device]
	a.mu.Unlock()
	if live && known != nil {
		if _, err := trust.CheckKeys(e, known); err == nil {
			return known, nil
		}
	}
	got, err := a.vault.Keys(ctx, ksm.KeysRequest{EntryIDs: [][]byte{device.Bytes()}})
	if err != nil {
		return nil, err
	}
	if len(got.Keys) != 1 {
		return nil, errors.New("the vault has no keys of the device that asked")
	}
	keys := got.Keys[0]
	if _, err := trust.CheckKeys(e, keys); live && err == nil {
		a.mu.Lock()
		if len(a.keys) >= maxKeys {
			clear(a.keys)
		}
		a.keys[device] = keys
		a.mu.Unlock()
	}
	return keys, nil
}

func (a *Agent) info() (*trustv1.InfoReply, []*trustv1.PluginReply) {
	l := a.dir.Known()
	head := l.Head()
	info := &trustv1.InfoReply{
		Version: version.Version, Os: runtime.GOOS, Arch: runtime.GOARCH, Started: a.started.UnixMilli(),
		LogEpoch: head.Epoch, LogValidUntil: head.ValidUntil.UnixMilli(),
		ActiveRuns: uint32(a.activeRuns()), Clock: a.now().UnixMilli(),
	}
	var plugins []*trustv1.PluginReply
	for _, p := range a.catalog.List() {
		r := &trustv1.PluginReply{Name: p.Name, Sha256: p.SHA256[:], Source: "log"}
		if a.catalog.BuiltIn(p) {
			r.Source = "built-in"
		}
		plugins = append(plugins, r)
	}
	return info, plugins
}

func trustOutcome(o trustv1.Outcome) string {
	return strings.ToLower(strings.TrimPrefix(o.String(), "OUTCOME_"))
}
