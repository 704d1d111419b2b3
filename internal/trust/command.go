package trust

import (
	"crypto/ed25519"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// SealCommand fills in v and the log's head, signs the command with the device's
// key and seals it to the agent that it names, whose encoded Keys are agentKeys.
// Pins: the account first where there is one, then the resource, then whatever
// else. The digest is the cause that results will carry. RecipientUnverified,
// Malformed.
func SealCommand(l *Log, device seal.ID, key ed25519.PrivateKey, agentKeys []byte, c *trustv1.Command, now time.Time) (frame *trustv1.CommandFrame, digest seal.Digest, err error) {
	c = proto.CloneOf(c)
	h := l.Head()
	c.V, c.LogEpoch, c.LogDigest = Version, h.Epoch, h.Digest.Bytes()
	if err := checkCommand(c); err != nil {
		return nil, seal.Digest{}, err
	}
	agent := seal.ID(c.AgentId)
	keys, err := l.Recipient(agent, agentKeys, now)
	if err != nil {
		return nil, seal.Digest{}, err
	}
	signed, digest, err := signEnvelope(seal.KindCommand, l.Org(), c, key)
	if err != nil {
		return nil, seal.Digest{}, err
	}
	sealed, err := seal.SealTo(keys.SealPub, commandRoute(l.Org(), device, agent, seal.ID(c.Id)), signed)
	if err != nil {
		return nil, seal.Digest{}, err
	}
	if len(sealed) > MaxSealedCommand {
		return nil, seal.Digest{}, fail(TooLarge, "sealed command of %d bytes, at most %d", len(sealed), MaxSealedCommand)
	}
	return &trustv1.CommandFrame{
		To: agent.Bytes(), From: device.Bytes(), Id: c.Id, Expires: c.Expires, RunId: c.RunId, Sealed: sealed,
	}, digest, nil
}

func commandRoute(org seal.Digest, device, agent, id seal.ID) seal.Route {
	return seal.Route{Purpose: seal.PurposeCommand, Org: org, From: device, To: agent, Object: id}
}

// Command is a decoded command whose signature holds.
type Command struct {
	*trustv1.Command
	ID      seal.ID
	Account Ref // zero: none
	Pins    []Pin
	Digest  seal.Digest
	Signed  []byte // to journal; ReadCommand reads it back
	Signer  Entry  // the device
}

// Pin names a statement that the command's signer saw.
type Pin struct {
	Ref    Ref
	Digest seal.Digest
}

// Target is the record whose folder decides about Operate: the account, or the
// resource (the first pin) where none is named; zero for info.
func (c *Command) Target() Ref {
	if c.Account.IsZero() && len(c.Pins) > 0 {
		return c.Pins[0].Ref
	}
	return c.Account
}

// OpenCommand is 4.3 steps 1 to 7, local policy aside. The caller journals the
// command's Signed before it acts. On LogGap the caller fetches the log and asks
// again, once. On Replayed the caller acknowledges and looks for the unfinished
// run in its journal.
func OpenCommand(l *Log, m AgentMemory, me seal.ID, k *seal.SealKey, frame *trustv1.CommandFrame, now time.Time) (*Command, error) {
	// 1. Size, open with info from the frame, decode.
	if len(frame.GetSealed()) > MaxSealedCommand {
		return nil, fail(TooLarge, "sealed command of %d bytes, at most %d", len(frame.Sealed), MaxSealedCommand)
	}
	f := &form{what: "command frame"}
	f.id("to", frame.GetTo())
	f.id("from", frame.GetFrom())
	f.id("id", frame.GetId())
	if err := f.done(); err != nil {
		return nil, err
	}
	from := seal.ID(frame.From)
	signed, err := seal.OpenFrom(k, commandRoute(l.Org(), from, seal.ID(frame.To), seal.ID(frame.Id)), frame.Sealed)
	if err != nil {
		return nil, &Error{Reason: SealOpen, What: "command frame", Err: err}
	}
	env, c, err := decodeCommand(l, signed)
	if err != nil {
		return nil, err
	}
	// 2. Log head of the signer; mine is fresh.
	if err := l.CheckHead(c.LogEpoch, c.LogDigest); err != nil {
		return nil, err
	}
	if err := l.CheckFresh(now); err != nil {
		return nil, err
	}
	// 3. Signer: a live device, the frame's from; signature.
	if err := c.verify(l, env); err != nil {
		return nil, err
	}
	if c.Signer.ID != from {
		return nil, fail(SignerUnknown, "the frame is from %s, the command from device %q", from, l.FullName(c.Signer))
	}
	if c.Signer.Expired(now) {
		return nil, fail(SignerUnknown, "the time of device %q is over", l.FullName(c.Signer))
	}
	// 4. For me.
	if seal.ID(c.AgentId) != me || seal.ID(frame.To) != me || seal.ID(frame.Id) != c.ID {
		return nil, fail(WrongAgent, "the command is for %s", seal.ID(c.AgentId))
	}
	// 5. Times.
	if err := c.checkTimes(m, now); err != nil {
		return nil, err
	}
	// 6. Once.
	known, err := m.CommandKnown(c.ID)
	if err != nil {
		return nil, err
	}
	if known {
		return nil, fail(Replayed, "command %s", c.ID)
	}
	floor, err := m.ReplayFloor()
	if err != nil {
		return nil, err
	}
	if !floor.IsZero() && !time.UnixMilli(c.Issued).After(floor) {
		return nil, fail(ReplayFloor, "command %s was issued before this agent's memory begins, %s", c.ID, floor.UTC().Format(time.RFC3339))
	}
	// 7. Roles.
	if err := c.checkRoles(l, me); err != nil {
		return nil, err
	}
	return c, nil
}

// ReadCommand reads a command back from the journal, or from beside a candidate:
// signer and signature hold now; its time and id are not looked at.
func ReadCommand(l *Log, signed []byte) (*Command, error) {
	env, c, err := decodeCommand(l, signed)
	if err != nil {
		return nil, err
	}
	if err := c.verify(l, env); err != nil {
		return nil, err
	}
	return c, nil
}

// StillHolds is 4.3 steps 3 and 7 once more, by the log as it is now, for a command
// that has waited since it was opened: what its signer may no longer do is not done.
// SignerUnknown, SignatureBad, NotAllowed.
func (c *Command) StillHolds(l *Log, me seal.ID) error {
	now, err := ReadCommand(l, c.Signed)
	if err != nil {
		return err
	}
	return now.checkRoles(l, me)
}

func decodeCommand(l *Log, signed []byte) (*envelope, *Command, error) {
	env, err := openEnvelope(seal.KindCommand, signed, MaxSealedCommand, 1)
	if err != nil {
		return nil, nil, err
	}
	p := &trustv1.Command{}
	if err := decode("command", env.body, MaxSealedCommand, p); err != nil {
		return nil, nil, err
	}
	if err := checkCommand(p); err != nil {
		return nil, nil, err
	}
	c := &Command{Command: p, ID: seal.ID(p.Id), Account: mustRef(p.Account), Digest: env.digest(l.Org()), Signed: signed}
	for _, pin := range p.Pins {
		c.Pins = append(c.Pins, Pin{mustRef(pin.Record), seal.Digest(pin.Digest)})
	}
	return env, c, nil
}

func (c *Command) verify(l *Log, env *envelope) (err error) {
	if c.Signer, err = liveSigner(l, env, trustv1.EntryKind_ENTRY_KIND_DEVICE); err != nil {
		return err
	}
	if c.Signer.Expired(time.UnixMilli(c.Issued)) {
		return fail(SignerUnknown, "device %q signed the command after its time was over", l.FullName(c.Signer))
	}
	return nil
}

// checkTimes is step 5: my clock runs forward; the command lives at most ten
// minutes; now lies in its time, give or take the skew.
func (c *Command) checkTimes(m AgentMemory, now time.Time) error {
	greatest, err := m.GreatestTime()
	if err != nil {
		return err
	}
	if err := checkClock(greatest, now); err != nil {
		return err
	}
	issued, expires := time.UnixMilli(c.Issued), time.UnixMilli(c.Expires)
	begins := issued
	if c.NotBefore > c.Issued {
		begins = time.UnixMilli(c.NotBefore)
	}
	switch {
	case expires.Sub(issued) > MaxLifetime || !expires.After(issued):
		return fail(Lifetime, "the command lives for %s", expires.Sub(issued))
	case now.Before(begins.Add(-Skew)):
		return fail(NotYet, "the command begins at %s", begins.UTC().Format(time.RFC3339))
	case now.After(expires.Add(Skew)):
		return fail(Expired, "the command ended at %s", expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkRoles is step 7: Operate in scope of the target's folder, or on any folder
// of my pool for info; Read in scope of the other pinned records' folders.
func (c *Command) checkRoles(l *Log, me seal.ID) error {
	if c.Action == trustv1.Action_ACTION_INFO {
		agent, _ := l.Entry(me)
		for _, g := range l.GrantsTo(agent.Owner) {
			if g.Roles.Has(Read) && mayOperateIn(l, c.Signer, g.Folder) {
				return nil
			}
		}
		return fail(NotAllowed, "device %q may operate no folder of this agent's pool", l.FullName(c.Signer))
	}
	target := c.Target()
	if !l.Roles(c.Signer.ID, target.Folder).Has(Operate) {
		return fail(NotAllowed, "device %q may not operate in folder %s", l.FullName(c.Signer), target.Folder)
	}
	for _, p := range c.Pins {
		if p.Ref != target && !l.Roles(c.Signer.ID, p.Ref.Folder).Has(Read) {
			return fail(NotAllowed, "device %q may not read folder %s", l.FullName(c.Signer), p.Ref.Folder)
		}
	}
	return nil
}

// mayOperateIn: a pool that reads every folder shares one with whoever may operate
// in any.
func mayOperateIn(l *Log, device Entry, folder seal.ID) bool {
	if !folder.IsZero() {
		return l.Roles(device.ID, folder).Has(Operate)
	}
	for _, g := range l.GrantsTo(device.Owner) {
		if l.Roles(device.ID, g.Folder).Has(Operate) {
			return true
		}
	}
	return false
}

// CheckPins is 4.3 step 9: every pin is among the records used with its digest,
// and beside the pinned ones only the administrator, the extras and the scripts'
// further records that their statements name are used: PinMismatch.
func CheckPins(c *Command, used ...*Statement) error {
	pinned := map[Ref]bool{}
	named := map[Ref]bool{}
	for _, pin := range c.Pins {
		pinned[pin.Ref] = true
		found := false
		for _, s := range used {
			if s.Ref != pin.Ref {
				continue
			}
			if s.Digest != pin.Digest {
				return fail(PinMismatch, "%s is not as it was when the command was signed", pin.Ref)
			}
			found = true
			for _, r := range References(s.Statement) {
				switch r.As {
				case "administrator", "extra", "record":
					named[r.Ref] = true
				}
			}
		}
		if !found {
			return fail(PinMismatch, "%s is pinned and not among the records used", pin.Ref)
		}
	}
	for _, s := range used {
		if !pinned[s.Ref] && !named[s.Ref] {
			return fail(PinMismatch, "%s is neither pinned nor named by what is pinned", s.Ref)
		}
	}
	return nil
}

// CheckStaging is 4.3 step 10: a run that is not staged within StagingTime of the
// command's issued is dropped: Expired.
func (c *Command) CheckStaging(now time.Time) error {
	if issued := time.UnixMilli(c.Issued); now.After(issued.Add(StagingTime)) {
		return fail(Expired, "the command was issued at %s and its run is not staged yet", issued.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkCommand holds a command's fields to their lengths and bounds, and to what
// its action needs.
func checkCommand(c *trustv1.Command) error {
	f := &form{what: "command"}
	f.version(c.V)
	f.head(c.LogEpoch, c.LogDigest)
	f.id("id", c.Id)
	f.id("agent_id", c.AgentId)
	f.optionalRef("account", c.Account)
	checkPins(f, c.Pins)
	f.time("issued", c.Issued)
	f.optionalTime("not_before", c.NotBefore)
	f.time("expires", c.Expires)
	f.optional("run_id", c.RunId, len(seal.ID{}))
	f.optional("follows", c.Follows, len(seal.ID{}))
	if f.err != nil {
		return f.err
	}
	cancel := c.GetCancel()
	pinned := len(c.Pins) > 0
	switch c.Action {
	case trustv1.Action_ACTION_INFO:
		f.must(c.Account == nil && !pinned, "info names a record")
	case trustv1.Action_ACTION_CANCEL:
		f.ref("account", c.Account)
		f.id("cancel's run_id", cancel.GetRunId())
	case trustv1.Action_ACTION_ROTATE, trustv1.Action_ACTION_VERIFY, trustv1.Action_ACTION_RUN_SCRIPT:
		f.ref("account", c.Account)
		f.id("run_id", c.RunId)
		f.must(len(c.Pins) >= 2, "account and resource are not pinned")
	case trustv1.Action_ACTION_TEST, trustv1.Action_ACTION_PROBE, trustv1.Action_ACTION_DISCOVER, trustv1.Action_ACTION_SESSION:
		f.must(pinned, "the resource is not pinned")
	default:
		f.fail("it has no action")
	}
	f.must(cancel == nil || c.Action == trustv1.Action_ACTION_CANCEL, "arguments of another action")
	if c.Account != nil && pinned {
		f.must(mustRef(c.Account) == mustRef(c.Pins[0].Record), "the first pin is not the account's")
	}
	seen := map[Ref]bool{}
	for _, p := range c.Pins {
		r := mustRef(p.Record)
		f.must(!seen[r], "%s is pinned twice", r)
		seen[r] = true
	}
	return f.done()
}
