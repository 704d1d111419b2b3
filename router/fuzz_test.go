package router

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// nowhere is a store that takes everything and keeps nothing.
type nowhere struct{ store.Store }

func (nowhere) Write(context.Context, func(*db.Queries) error) error { return nil }

// FuzzFrames: whatever an agent sends, the hub neither panics nor keeps more
// than its bounds.
func FuzzFrames(f *testing.F) {
	id := make([]byte, 16)
	for _, frame := range []*channelv1.ToRouter{
		{},
		{Frame: &channelv1.ToRouter_Auth{Auth: &channelv1.Auth{OrgId: make([]byte, 32), ClientId: make([]byte, 64), Signature: make([]byte, 70)}}},
		{Frame: &channelv1.ToRouter_Ack{Ack: &channelv1.Ack{CommandId: id, Reason: "expired"}}},
		{Frame: &channelv1.ToRouter_Heartbeat{Heartbeat: &channelv1.Heartbeat{N: 1, Leases: 1}}},
		{Frame: &channelv1.ToRouter_Progress{Progress: &channelv1.Progress{RunId: id, Phase: "applied", Account: &trustv1.Ref{RecordUid: id}}}},
	} {
		message, err := proto.Marshal(frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(message)
	}
	f.Add([]byte{0xff})
	sock := swallowed(f)
	f.Fuzz(func(t *testing.T, message []byte) {
		_, _, _, err := parseAuth(message) //nolint:dogsled // only whether
		if err == nil {
			var frame channelv1.ToRouter
			if proto.Unmarshal(message, &frame) != nil || len(frame.GetAuth().GetOrgId()) != 32 {
				t.Fatal("took a malformed Auth")
			}
		}
		b := bus.New()
		r := &Router{
			cfg:      Config{Store: nowhere{}, Bus: b, Now: time.Now, Log: slog.New(slog.DiscardHandler)},
			patience: usualPatience, ctx: context.Background(),
		}
		r.presence = newPresence(r)
		c := newChannel(r, sock, agent{org: 1, id: seal.ID{1}})
		var writing sync.WaitGroup
		writing.Go(func() {
			for range c.acks { // the writer's part
			}
		})
		var flow flow
		for range 20 {
			select {
			case <-c.queue:
			default:
			}
			c.handle(message, &flow)
		}
		if c.acked != nil {
			close(c.acked)
		}
		c.others.Wait()
		close(c.acks)
		writing.Wait()
		if len(r.presence.agents) > 1 || len(r.presence.fresh) > 1 || len(c.queue) > queued {
			t.Fatalf("keeps %d agents, %d phases, %d frames", len(r.presence.agents), len(r.presence.fresh), len(c.queue))
		}
	})
}

// swallowed is a socket whose other end reads all and says nothing.
func swallowed(f *testing.F) *socket.Conn {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		end, err := socket.Accept(w, r)
		for err == nil {
			_, err = end.Read(time.Hour)
		}
	}))
	f.Cleanup(server.Close)
	address := server.Listener.Addr().String()
	tcp, err := net.Dial("tcp", address)
	if err != nil {
		f.Fatal(err)
	}
	sock, err := socket.Dial(context.Background(), tcp, address, "/")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { sock.Abort() })
	return sock
}
