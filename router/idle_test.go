package router

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
)

const (
	idleAgents = 400
	idleCost   = 25 << 10 // bytes for each, heap and stacks
)

func TestMain(m *testing.M) {
	if address := os.Getenv("ROTUNDA_TEST_IDLE"); address != "" {
		if err := idle(address); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func idleID(i int) seal.ID { return seal.ID{0: 1, 1: byte(i), 2: byte(i >> 8)} }

// TestAnIdleAgentIsCheap counts what the server's process keeps for an agent that
// only stands there. The agents are in a process of their own, or they would
// be counted with it.
func TestAnIdleAgentIsCheap(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: four hundred TLS connections")
	}
	if raceEnabled {
		t.Skip("the race detector's own memory would be counted")
	}
	n := start(t)
	key, err := seal.GenerateDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := seal.DevicePub(key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := seal.MarshalDeviceKey(key)
	if err != nil {
		t.Fatal(err)
	}
	n.write(func(q *db.Queries) error {
		for i := range idleAgents {
			id := idleID(i)
			client := seal.AgentClientID(orgID, id)
			err := q.PutAgentClient(context.Background(), db.PutAgentClientParams{ClientID: client[:], Org: 1, OwnerID: id[:], PublicKey: pub})
			if err != nil {
				return err
			}
		}
		return nil
	})
	n.welcomed(n.enrol()) // what is paid once is paid
	before := inUse()

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "ROTUNDA_TEST_IDLE="+n.server.Listener.Addr().String())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() //nolint:errcheck // its work is done
	defer in.Close()
	if _, err := fmt.Fprintf(in, "%x\n", der); err != nil { // a key of this test alone
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the agents did not come: %v", err)
	}
	until(t, "all are stored", func() bool { return len(n.events("agent.connected")) >= idleAgents })
	each := (inUse() - before) / idleAgents
	t.Logf("%d bytes for each idle agent", each)
	if each > idleCost {
		t.Errorf("%d bytes for each idle agent, at most %d", each, idleCost)
	}
}

// inUse is the memory of heap objects and stacks after a collection.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // what finalizers let go of
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// idle is the other process: it opens the channels and waits for its input's end.
func idle(address string) error {
	in := bufio.NewReader(os.Stdin)
	var der []byte
	if _, err := fmt.Fscanf(in, "%x\n", &der); err != nil {
		return err
	}
	key, err := seal.ParseDeviceKey(der)
	if err != nil {
		return err
	}
	var all []*socket.Conn
	for i := range idleAgents {
		tcp, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		// The server's certificate is made by the test's library; nothing here is secret.
		secure := tls.Client(tcp, &tls.Config{InsecureSkipVerify: true})
		if err := secure.Handshake(); err != nil {
			return err
		}
		state := secure.ConnectionState()
		exporter, err := state.ExportKeyingMaterial(seal.ChannelExporter, nil, 32)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		sock, err := socket.Dial(ctx, secure, address, socket.Path)
		cancel()
		if err != nil {
			return err
		}
		message, err := sock.Read(time.Minute)
		if err != nil {
			return err
		}
		var frame channelv1.ToAgent
		if err := proto.Unmarshal(message, &frame); err != nil {
			return err
		}
		client := seal.AgentClientID(orgID, idleID(i))
		signature, err := seal.SignP256(key, seal.ChannelInput(orgID, client, "127.0.0.1", [32]byte(frame.GetChallenge().GetChallenge()), [32]byte(exporter)))
		if err != nil {
			return err
		}
		message, err = proto.Marshal(&channelv1.ToRouter{Frame: &channelv1.ToRouter_Auth{Auth: &channelv1.Auth{
			OrgId: orgID[:], ClientId: client[:], Signature: signature,
		}}})
		if err != nil {
			return err
		}
		if err := sock.Write(message, time.Minute); err != nil {
			return err
		}
		if _, err := sock.Read(time.Minute); err != nil {
			return err
		}
		all = append(all, sock)
	}
	fmt.Println("here")
	io.Copy(io.Discard, in) //nolint:errcheck // until the parent lets go
	for _, sock := range all {
		sock.Abort()
	}
	return nil
}
