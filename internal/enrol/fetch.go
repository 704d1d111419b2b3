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
// given to keep, page by page, which stores it from l.Next() on, and only then
// part of the log. A server whose log is older is
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
		next := l.Clone()
		var fresh [][]byte
		var refused error // what comes before it holds, and is kept
		for _, signed := range page.Msg.Changes {
			var done trust.Appended
			if done, refused = next.Append(signed, now()); refused != nil {
				break
			}
			if done.New {
				fresh = append(fresh, signed)
			}
		}
		if err := keep(fresh); err != nil {
			return err
		}
		l.Adopt(next)
		if refused != nil {
			return refused
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
