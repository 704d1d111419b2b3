package enrol

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	"github.com/rotunda-pam/rotunda/proto/rotunda/client/v1/clientv1connect"
)

// FetchLog brings a log up to the server's head: every change is verified, then
// given to keep, page by page, which stores it. A server whose log is older is
// trust.LogRollback: the caller sends the missing changes back. A server whose
// log is another is trust.LogFork: the caller stops using it.
func FetchLog(ctx context.Context, c clientv1connect.VaultServiceClient, l *trust.Log, now func() time.Time, keep func(signed [][]byte) error) error {
	for {
		from := l.Next()
		page, err := c.GetLog(ctx, connect.NewRequest(&clientv1.GetLogRequest{FromEpoch: from}))
		if err != nil {
			return err
		}
		head, err := seal.DigestFrom(page.Msg.HeadDigest)
		if err != nil {
			return &trust.Error{Reason: trust.Malformed, What: "the head of the server's log", Err: err}
		}
		if err := l.CheckServer(page.Msg.HeadEpoch, head); err != nil {
			return err
		}
		for n, signed := range page.Msg.Changes {
			if _, err := l.Append(signed, now()); err != nil {
				// What came before it holds, and is kept.
				if e := keep(page.Msg.Changes[:n]); e != nil {
					return e
				}
				return err
			}
		}
		if err := keep(page.Msg.Changes); err != nil {
			return err
		}
		if l.Next() > page.Msg.HeadEpoch {
			// The server's head is among what this log has now: it must be the same change.
			return l.CheckServer(page.Msg.HeadEpoch, head)
		}
		if l.Next() == from {
			return &trust.Error{Reason: trust.LogGap, What: "the server names a newer change and does not show it"}
		}
	}
}
