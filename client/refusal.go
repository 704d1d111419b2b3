package client

import (
	"context"
	"time"

	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

// tellTime bounds how long a client waits to tell of a refusal.
const tellTime = 5 * time.Second

// Events by which a client tells of what it refused. The server may hide them;
// an honest one that was tampered with shows them to its administrators.
const (
	eventLogRefused       = "log.refused"
	eventLogRollback      = "log_rollback"
	eventClientRefused    = "client.refused"
	eventRecordRefused    = "record.refused"
	eventResultRefused    = "result.refused"
	eventCandidateRefused = "candidate.refused"
)

// tellRefusal tells the server's record of a check that failed here, each kind
// once in this client's life. That it may not arrive changes nothing.
func (c *Client) tellRefusal(ctx context.Context, event string, reason trust.Reason) {
	c.tellRefusalOf(ctx, event, reason, Ref{})
}

// tellRefusalOf is tellRefusal of a record.
func (c *Client) tellRefusalOf(ctx context.Context, event string, reason trust.Reason, about Ref) {
	c.told.Lock()
	again := c.told.refusals[event+string(reason)]
	if c.told.refusals == nil {
		c.told.refusals = map[string]bool{}
	}
	c.told.refusals[event+string(reason)] = true
	c.told.Unlock()
	if again {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	note := &clientv1.NoteEvent{Name: event, Reason: string(reason)}
	if !about.IsZero() && c.log.Roles(c.facts.Entry, about.Folder).Has(Read) {
		note.Record = about.Proto()
	}
	_, _ = call(ctx, c, "tell of a refusal", c.conn.Write, &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{
		{Op: &clientv1.WriteOp_NoteEvent{NoteEvent: note}},
	}})
}

// tellRecords tells of records that no honest server serves so. A value that nobody
// signed for, a statement of somebody who was removed, or none where there never was one
// is not among them: an honest server has those, too.
func (c *Client) tellRecords(ctx context.Context, list []*opened) {
	for _, o := range list {
		reason := trust.Reason(o.Reason)
		if (o.State == Broken || o.State == RolledBack || o.stripped) && reason.Meaning() != "" {
			c.tellRefusalOf(ctx, eventRecordRefused, reason, o.Ref)
		}
		if o.Candidate != nil && o.Candidate.Reason != "" && o.Candidate.Reason != PoolUnknown {
			c.tellRefusalOf(ctx, eventCandidateRefused, trust.Reason(o.Candidate.Reason), o.Ref)
		}
	}
}
