package enrol_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	"github.com/rotunda-pam/rotunda/proto/rotunda/client/v1/clientv1connect"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
)

// shows is a server that answers every question for the log with the same page.
type shows struct {
	clientv1connect.VaultServiceClient
	page *clientv1.GetLogResponse
}

func (s shows) GetLog(context.Context, *connect.Request[clientv1.GetLogRequest]) (*connect.Response[clientv1.GetLogResponse], error) {
	return connect.NewResponse(s.page), nil
}

// A log never knows more than what was kept of it.
func TestFetchLog(t *testing.T) {
	o := orgtest.New(t, time.Now)
	o.Pool(t, "dc1")
	o.Pool(t, "dc2")
	all, head := o.Changes, o.Log.Head()
	full := errors.New("no room")
	for _, row := range []struct {
		name  string
		shown [][]byte
		keep  error
		kept  int          // of the changes behind the first two
		want  trust.Reason // or the error of keep
	}{
		{"the rest", all[2:], nil, 2, ""},
		{"known ones again", slices.Concat(all[:2], all[2:]), nil, 2, ""},
		{"a known one behind a new one", slices.Concat(all[2:3], all[1:2], all[3:]), nil, 2, ""},
		{"a bad one behind a good one", [][]byte{all[2], all[2][:9]}, nil, 1, trust.Malformed},
		{"no room", all[2:], full, 0, ""},
		{"no room, and a bad one", [][]byte{all[2], all[2][:9]}, full, 0, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			l := trust.NewLog(o.ID)
			for _, c := range all[:2] {
				if _, err := l.Append(c, time.Now()); err != nil {
					t.Fatal(err)
				}
			}
			var kept [][]byte
			server := shows{page: &clientv1.GetLogResponse{Changes: row.shown, HeadEpoch: head.Epoch, HeadDigest: head.Digest.Bytes()}}
			err := enrol.FetchLog(t.Context(), server, l, time.Now, func(signed [][]byte) error {
				if l.Next() != uint64(2+len(kept)) {
					t.Errorf("asked to keep from change %d on, the log is at %d", 2+len(kept), l.Next())
				}
				if row.keep == nil {
					kept = append(kept, signed...)
				}
				return row.keep
			})
			if trust.ReasonOf(err) != row.want || row.want == "" && !errors.Is(err, row.keep) {
				t.Errorf("got %v, want %q %v", err, row.want, row.keep)
			}
			if !slices.EqualFunc(kept, all[2:2+row.kept], slices.Equal) || l.Next() != uint64(2+row.kept) {
				t.Errorf("%d changes are kept, the log is at %d; want %d more", len(kept), l.Next(), row.kept)
			}
		})
	}
}
