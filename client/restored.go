package client

import (
	"context"
	"fmt"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Restored is a statement that is older than the log allows.
type Restored struct {
	Ref    Ref
	Title  string
	Seq    uint64
	Least  uint64 // the log asks for this one, or a later
	By     string
	Issued time.Time
	Says   []string // all of it, line by line
}

// takeRestored takes a statement for what it is that is older than its floor, so that the
// person, who is asked, signs it anew, and that the secret is the one from before the
// backup: who knows a newer one takes that for a rollback, and brings it back.
func (c *Client) takeRestored(ctx context.Context, o *opened, ask func(Restored) (bool, error)) error {
	signed, err := seal.OpenExt(c.facts.OrgID, o.content.Key, o.Ref.Record, seal.ExtStatement, o.view.Statement.GetBlob())
	if err != nil {
		return nil // it keeps its reason
	}
	s, err := trust.OpenStatement(c.log, signed)
	if err != nil || s.Ref != o.Ref || s.Kind != statementKind(o.Type) || seal.Digest(s.KeyCheck) != seal.RecordKeyCheck(c.facts.OrgID, o.content.Key, o.Ref.Record) {
		return nil
	}
	if o.Unlinked = trust.Unlinked(c.log, s); len(o.Unlinked) > 0 {
		o.Reason, o.SignedByName = string(trust.NotLinked), c.log.FullName(s.Signer)
		return nil // agents refused it before the restore, too
	}
	yes, err := ask(Restored{
		Ref: o.Ref, Title: o.Title, Seq: s.Seq, Least: c.log.Floor(o.Ref), By: c.log.FullName(s.Signer), Issued: when(s.Issued),
		Says: difference(nil, c.factsOf(s.Statement, c.titled)),
	})
	if err != nil || !yes {
		return err
	}
	o.checked, o.Statement, o.StatementDigest, o.SignedBy = s, s.Statement, s.Digest, s.Signer.ID
	o.State, o.Reason, o.restored = InUse, "", true
	pools, err := c.poolsOf(ctx, []*opened{o})
	if err != nil {
		return err
	}
	if err := c.memory.work(func(m *memoryTx) error { return c.judgeValue(m, o, pools) }); err != nil {
		return err
	}
	if o.State == RolledBack && o.value != nil && seal.Digest(o.value.Result.DataDigest) == o.content.DataDigest {
		o.State, o.Reason = InUse, ""
	}
	if o.value != nil {
		o.known = o.value.Seq + restoredGap
	}
	return nil
}

// titled is a reference with the title that this client has seen there.
func (c *Client) titled(r *trustv1.Ref) string {
	ref, err := refFrom(r)
	if err != nil || ref.IsZero() {
		return ""
	}
	if title := c.names.of(ref.String()); title != "" {
		return fmt.Sprintf("%s (%s)", title, ref)
	}
	return ref.String()
}
