package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Events lists events, and the token of the next page.
func (c *Client) Events(ctx context.Context, f EventFilter) ([]Event, string, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, "", err
	}
	page, err := call(ctx, c, "list events", c.conn.ListEvents, &clientv1.ListEventsRequest{
		AfterSeq: f.After, NewestFirst: f.NewestFirst, Names: f.Names, Page: &clientv1.Page{Size: uint32(max(f.Limit, 0)), Token: f.Token},
	})
	if err != nil {
		return nil, "", err
	}
	out := make([]Event, len(page.Events))
	for i, v := range page.Events {
		out[i] = c.event(v)
	}
	return out, page.Next, nil
}

func (c *Client) event(v *clientv1.EventView) Event {
	actor := idOr(v.Actor)
	record, err := refFrom(v.Record)
	if err != nil {
		record = Ref{Folder: idOr(v.Record.GetFolderUid())} // an event of a folder
	}
	e := Event{
		Seq: v.Seq, Time: when(v.Time), Name: v.Name, Actor: actor, ActorName: c.nameOf(actor), Record: record, RunID: idOr(v.RunId), Reason: v.Reason,
	}
	if json.Unmarshal([]byte(v.Fields), &e.Fields) != nil {
		e.Fields = nil // the server's text is not JSON: there is nothing to show
	}
	return e
}

// FollowEvents calls f with every event after a sequence number, until ctx ends
// (which is no error) or f fails. Negative: from now on.
func (c *Client) FollowEvents(ctx context.Context, after int64, names []string, f func(Event) error) error {
	if err := c.fresh(ctx); err != nil {
		return err
	}
	w := c.watch(ctx, nil, "events")
	defer w.close()
	woken := w.waker(seal.ID{})
	if after < 0 {
		newest, _, err := c.Events(ctx, EventFilter{NewestFirst: true, Limit: 1})
		if err != nil {
			return err
		}
		after = 0
		if len(newest) > 0 {
			after = newest[0].Seq
		}
	}
	for {
		list, next, err := c.Events(ctx, EventFilter{After: after, Names: names, Limit: 1000})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && ClassOf(err) != Unreachable:
			return err
		}
		for _, e := range list {
			if err := f(e); err != nil {
				return err
			}
			after = max(after, e.Seq)
		}
		if err == nil && next != "" && len(list) > 0 {
			continue
		}
		select {
		case <-woken:
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return nil
		}
	}
}

// ---- log ----

// Log is the verified changes from an epoch on, at most limit (0: all).
func (c *Client) Log(ctx context.Context, from uint64, limit int) ([]Change, error) {
	const op = "show the log"
	if err := c.fetchLog(ctx); err != nil {
		return nil, err
	}
	// Names are those of the time: the log is replayed beside.
	replay := trust.NewLog(c.facts.OrgID)
	names := map[seal.ID]string{} // of what is removed, too
	var out []Change
	err := c.memory.work(func(t *memoryTx) error {
		return t.changes(0, func(epoch uint64, signed []byte) error {
			if limit > 0 && len(out) == limit {
				return errEnough
			}
			var envelope trustv1.Signed
			if err := proto.Unmarshal(signed, &envelope); err != nil {
				return err
			}
			var by []string
			for _, s := range envelope.Sigs {
				by = append(by, signerName(replay, s.KeyId))
			}
			done, err := replay.Append(signed, c.now())
			if err != nil {
				return err
			}
			for _, o := range done.Change.Ops {
				if put := o.GetPut(); put != nil {
					id := idOr(put.EntryId)
					names[id] = entryName(replay, id)
				}
			}
			if epoch < from {
				return nil
			}
			ch := Change{
				Epoch: epoch, Digest: done.Digest, Issued: when(done.Change.Issued), ValidUntil: when(done.Change.ValidUntil),
				By: by, Ops: done.Change.Ops,
			}
			for _, o := range ch.Ops {
				ch.Summary = append(ch.Summary, summary(o, names))
			}
			out = append(out, ch)
			return nil
		})
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return out, fail(op, err)
}

var errEnough = errors.New("enough")

func signerName(l *trust.Log, keyID []byte) string {
	e, ok := l.EntryByKey(idOr(keyID))
	switch {
	case !ok && (len(l.Root()) == 0 || seal.KeyID(seal.AlgEd25519, l.Root()) == idOr(keyID)):
		return "root"
	case !ok:
		return "the new party itself"
	}
	return l.FullName(e)
}

// entryName is a live entry's kind and name.
func entryName(l *trust.Log, id seal.ID) string {
	e, ok := l.Entry(id)
	if !ok {
		return id.String()
	}
	return fmt.Sprintf("%s %q", kindWords([]trustv1.EntryKind{e.Kind}), l.FullName(e))
}

// summary is an op in one line. names are those of all entries that ever were.
func summary(op *trustv1.Op, names map[seal.ID]string) string {
	name := func(id []byte) string { return orElse(names[idOr(id)], idOr(id).String()) }
	switch o := op.Op.(type) {
	case *trustv1.Op_Put:
		what := kindWords([]trustv1.EntryKind{o.Put.Kind})
		if o.Put.Kind == KindEnrolment {
			what = "token for the " + kindWords([]trustv1.EntryKind{o.Put.TargetKind})
		}
		text := fmt.Sprintf("put %s %q", what, o.Put.Name)
		if len(o.Put.OwnerId) > 0 {
			text += " of " + name(o.Put.OwnerId)
		}
		return text
	case *trustv1.Op_Remove:
		return "remove " + name(o.Remove.EntryId)
	case *trustv1.Op_Grant:
		folder := "every folder"
		if f := idOr(o.Grant.FolderUid); !f.IsZero() {
			folder = "folder " + f.String()
		}
		return fmt.Sprintf("grant %s on %s to %s", Roles(o.Grant.Roles), folder, name(o.Grant.To))
	case *trustv1.Op_Folder:
		return fmt.Sprintf("key version %d of folder %s", o.Folder.KeyVersion, idOr(o.Folder.FolderUid))
	case *trustv1.Op_Floor:
		return fmt.Sprintf("floor %d of record %s/%s", o.Floor.MinSeq, idOr(o.Floor.FolderUid), idOr(o.Floor.RecordUid))
	case *trustv1.Op_Plugin:
		return fmt.Sprintf("approve plugin %s %s (%s/%s) %x", o.Plugin.Name, o.Plugin.Version, o.Plugin.Os, o.Plugin.Arch, o.Plugin.Sha256)
	case *trustv1.Op_DropPlugin:
		return fmt.Sprintf("drop plugin %x", o.DropPlugin.Sha256)
	case *trustv1.Op_Policy:
		return fmt.Sprintf("policy: the log is good for %d days, own devices: %t", o.Policy.MaxAgeDays, o.Policy.SelfDevices)
	case *trustv1.Op_Root:
		return fmt.Sprintf("root key %s", seal.KeyID(seal.AlgEd25519, o.Root.SignPub))
	}
	return strings.TrimSpace(op.String())
}

// VerifyLog fetches the whole log anew, verifies it from change 0 and holds it
// against the profile's own.
func (c *Client) VerifyLog(ctx context.Context) (LogStatus, error) {
	const op = "verify the log"
	if err := c.fetchLog(ctx); err != nil {
		return LogStatus{}, err
	}
	anew := trust.NewLog(c.facts.OrgID)
	if err := enrol.FetchLog(ctx, c.conn, anew, c.now, func([][]byte) error { return nil }); err != nil {
		return LogStatus{}, fail(op, err)
	}
	head := c.log.Head()
	if d, ok := anew.DigestAt(head.Epoch); !ok || d != head.Digest {
		return LogStatus{}, fail(op, &trust.Error{Reason: trust.LogFork, What: "the server's log, fetched anew, is another than this profile's"})
	}
	return c.LogStatus(ctx)
}

// LogStatus is the log's state, and which agents have not confirmed the newest removal.
func (c *Client) LogStatus(ctx context.Context) (LogStatus, error) {
	if err := c.fetchLog(ctx); err != nil {
		return LogStatus{}, err
	}
	head := c.log.Head()
	s := LogStatus{
		OrgID: c.facts.OrgID, Fingerprint: c.facts.OrgID.Fingerprint(), Epoch: head.Epoch, Head: head.Digest,
		ValidUntil: head.ValidUntil, Changes: c.log.Next(), Warn: c.log.Warn(c.now()),
	}
	agents, err := c.Agents(ctx, seal.ID{})
	if err != nil {
		return s, err
	}
	removal, err := c.newestRemoval()
	if err != nil {
		return s, fail("read the log", err)
	}
	for _, a := range agents {
		if a.LogEpoch < removal {
			s.Behind = append(s.Behind, a)
		}
	}
	return s, nil
}

// newestRemoval is the epoch of the newest change that takes something away.
func (c *Client) newestRemoval() (uint64, error) {
	var newest uint64
	err := c.eachChange(func(change *trustv1.Change) {
		for _, op := range change.Ops {
			if op.GetRemove() != nil || op.GetDropPlugin() != nil || op.GetGrant() != nil && op.GetGrant().Roles == 0 {
				newest = change.Epoch
			}
		}
	})
	return newest, err
}
