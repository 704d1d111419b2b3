package client

import (
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// A client that has stood open reads what was signed a moment ago by somebody who knows more
// of the log. A server that keeps the log's end back is told of, as before.
func TestRecordSignedByLaterLog(t *testing.T) {
	for name, withheld := range map[string]bool{"the log is served": false, "the log is withheld": true} {
		t.Run(name, func(t *testing.T) {
			e := newEstate(t)
			a := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
			read := func() *Record {
				t.Helper()
				list, err := a.Get(t.Context(), e.resource)
				e.must(err)
				return list[0]
			}
			// Get asks for the log when it is old; from now on it is young.
			e.must(a.Sync(t.Context()))
			a.sync.at = time.Now()
			if r := read(); r.State == Broken || r.Reason != "" {
				t.Fatalf("before: %s (%s)", r.State, r.Reason)
			}
			known := len(e.vault.changes)
			b := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
			_, err := b.AddFolder(t.Context(), "Others")
			e.must(err)
			e.must(b.EditResource(t.Context(), e.resource, func(r *trustv1.Resource) error { r.Host = "db2"; return nil }))
			if withheld {
				e.vault.twist = func(m proto.Message) {
					if log, ok := m.(*clientv1.GetLogResponse); ok && len(log.Changes) > 0 {
						log.Changes = log.Changes[:max(0, len(log.Changes)-(len(e.vault.changes)-known))]
						log.HeadEpoch, log.HeadDigest = a.log.Head().Epoch, a.log.Head().Digest.Bytes()
					}
				}
			}
			host, reason := "db2", ""
			if withheld {
				host, reason = "", string(trust.LogGap)
			}
			if r := read(); r.Reason != reason || r.Statement.GetResource().GetHost() != host {
				t.Errorf("%s (%s), host %q; wanted (%s) and %q", r.State, r.Reason, r.Statement.GetResource().GetHost(), reason, host)
			}
		})
	}
}
