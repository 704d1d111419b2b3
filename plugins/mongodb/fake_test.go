package main

import (
	"encoding/base64"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/xdg-go/scram"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/rotunda-pam/rotunda/sdk"
)

var factors = scram.KeyFactors{Salt: "a salt of sixteen", Iters: 4096}

// serve is a server that lets root in with "the administrator's" and gives its answers by
// the command's name; a login as a user of which it has an answer gets that. To a command
// whose answer is nil it hangs up.
func serve(t *testing.T, answers map[string]bson.D) (sdk.Host, sdk.Resource) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				defer c.Close()
				for one := (&served{answers: answers}); one.answer(c) == nil; {
				}
			}()
		}
	}()
	h := sdk.Host{Dialer: new(net.Dialer), Log: slog.New(slog.DiscardHandler), Progress: func(string) {}}
	return h, sdk.Resource{Address: l.Addr().String(), TLS: sdk.TLS{Mode: sdk.TLSOff}}
}

type served struct {
	answers map[string]bson.D
	login   *scram.ServerConversation
}

func (s *served) answer(c net.Conn) error {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(c, header); err != nil {
		return err
	}
	body := make([]byte, binary.LittleEndian.Uint32(header)-headerSize)
	if _, err := io.ReadFull(c, body); err != nil {
		return err
	}
	var command bson.D
	if err := bson.Unmarshal(body[5:], &command); err != nil {
		return err
	}
	out := s.reply(command)
	if out == nil {
		return io.EOF
	}
	m, err := request(1, out)
	if err != nil {
		return err
	}
	copy(m[8:12], header[4:8]) // the request's number
	_, err = c.Write(m)
	return err
}

func (s *served) reply(command bson.D) bson.D {
	ok := bson.E{Key: "ok", Value: 1.0}
	switch name := command[0].Key; name {
	case "hello":
		return bson.D{{Key: "saslSupportedMechs", Value: bson.A{sha256, sha1}}, ok}
	case "saslStart":
		server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) {
			maker, err := scram.SHA256.NewClientUnprepped("root", "the administrator's", "")
			if err != nil {
				return scram.StoredCredentials{}, err
			}
			return maker.GetStoredCredentialsWithError(factors)
		})
		if err != nil {
			return nil
		}
		s.login = server.NewConversation()
		return s.step(command)
	case "saslContinue":
		return s.step(command)
	case "connectionStatus":
		return bson.D{{Key: "authInfo", Value: bson.D{{Key: "authenticatedUsers", Value: bson.A{
			bson.D{{Key: "user", Value: s.login.Username()}, {Key: "db", Value: "admin"}},
		}}}}, ok}
	default:
		return s.answers[name]
	}
}

func (s *served) step(command bson.D) bson.D {
	var payload []byte
	for _, e := range command {
		if b, is := e.Value.(bson.Binary); is {
			payload = b.Data
		}
	}
	out, err := s.login.Step(string(payload))
	if a, has := s.answers[s.login.Username()]; has {
		return a
	}
	if err != nil {
		return bson.D{{Key: "ok", Value: 0.0}, {Key: "code", Value: int32(18)}}
	}
	return bson.D{{Key: "conversationId", Value: int32(1)}, {Key: "done", Value: s.login.Done()}, {Key: "payload", Value: bson.Binary{Data: []byte(out)}}, {Key: "ok", Value: 1.0}}
}

// storedFor is how a server stores a password.
func storedFor(t *testing.T, maker *scram.Client) bson.D {
	t.Helper()
	c, err := maker.GetStoredCredentialsWithError(factors)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	return bson.D{
		{Key: "iterationCount", Value: int32(factors.Iters)},
		{Key: "salt", Value: b64([]byte(factors.Salt))},
		{Key: "storedKey", Value: b64(c.StoredKey)},
		{Key: "serverKey", Value: b64(c.ServerKey)},
	}
}
