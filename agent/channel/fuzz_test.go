package channel

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Whatever a router sends, the agent takes it in, or ends the channel with a reason; it
// holds no more than its queue, and nobody but a heartbeat that was sent lets it work on.
func FuzzFrames(f *testing.F) {
	for _, frame := range []*channelv1.ToAgent{
		toAgent(&channelv1.Deliver{Command: &trustv1.CommandFrame{Id: make([]byte, 16), Sealed: []byte("sealed")}}),
		toAgent(&channelv1.Deliver{}), toAgent(&channelv1.RunDue{RunId: make([]byte, 16)}), toAgent(&channelv1.LogHead{Epoch: 7}),
		toAgent(&channelv1.HeartbeatAck{N: 1, Now: 1 << 62}), toAgent(&channelv1.Restarting{ComeBackAfterMs: 1 << 31}),
		toAgent(&channelv1.Refused{Reason: "revoked", Message: "words"}), toAgent(&channelv1.Welcome{}),
		{},
	} {
		b, err := proto.Marshal(frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0xff})
	sock := deadSocket(f)
	c, err := New(Config{
		Server: "h:1", TLS: &tls.Config{}, OrgID: seal.Hash([]byte("org")), Sign: func([]byte) ([]byte, error) { return nil, nil },
		Deliver: each(func(context.Context, *trustv1.CommandFrame) error { return nil }), RunDue: func(context.Context, *channelv1.RunDue) {},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		s := &session{
			c: c, sock: sock, out: make(chan *channelv1.ToRouter, inbox), work: make(chan any, inbox),
			sent: map[uint64]time.Time{}, over: make(chan struct{}),
		}
		more := s.take(message)
		if more != (s.err == nil) {
			t.Errorf("goes on %v, with %v", more, s.err)
		}
		if !more && (ReasonOf(s.err) == "" || s.err.Error() == "") {
			t.Errorf("ends without a reason: %v", s.err)
		}
		if pause := c.pause(1, s.err); pause < 0 || pause > 10*time.Minute {
			t.Errorf("comes back in %s", pause)
		}
		for len(s.work) > 0 {
			switch item := (<-s.work).(type) {
			case *trustv1.CommandFrame:
				s.deliver(t.Context(), []*trustv1.CommandFrame{item})
			case *channelv1.RunDue, *channelv1.LogHead:
			default:
				t.Errorf("%T is at work", item)
			}
		}
		if !c.LastAcked().IsZero() {
			t.Error("a heartbeat that was never sent is acknowledged")
		}
	})
}

// deadSocket is a socket that has ended.
func deadSocket(f *testing.F) *socket.Conn {
	f.Helper()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s, err := socket.Accept(w, r); err == nil {
			s.Abort()
		}
	}))
	defer srv.Close()
	raw, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		f.Fatal(err)
	}
	s, err := socket.Dial(f.Context(), raw, srv.Listener.Addr().String(), "/")
	if err != nil {
		f.Fatal(err)
	}
	s.Abort()
	return s
}
