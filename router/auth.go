package router

import (
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
)

// agent is who a channel belongs to.
type agent struct {
	org               int64
	id                seal.ID
	version, os, arch string
	address           string
	head              *channelv1.LogHead
}

// authenticate does keys.md 3.7: the agent's device key signs our challenge
// together with the name that it dialled and this very TLS connection.
func (r *Router) authenticate(sock *socket.Conn, exporter [32]byte, address string) (agent, error) {
	var challenge [32]byte
	rand.Read(challenge[:])
	err := write(sock, &channelv1.ToAgent{Frame: &channelv1.ToAgent_Challenge{
		Challenge: &channelv1.Challenge{Challenge: challenge[:]},
	}})
	if err != nil {
		return agent{}, err
	}
	message, err := sock.Read(r.patience.auth)
	if err != nil {
		return agent{}, fmt.Errorf("no answer to the challenge: %w", err)
	}
	auth, clientID, org, err := parseAuth(message)
	if err != nil {
		return agent{}, refuse(sock, socket.Malformed, "the answer to the challenge is malformed")
	}
	var client db.AgentClientRow
	err = r.cfg.Store.Read(r.ctx, func(q *db.Queries) (err error) {
		client, err = q.AgentClient(r.ctx, clientID[:])
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return agent{}, refuse(sock, socket.AgentUnknown, "no such agent here: enrol it anew, or give the address of the server that it was enrolled at")
	}
	if err != nil {
		return agent{}, errors.Join(err, refuse(sock, socket.Busy, "the server cannot read its database: come back later"))
	}
	id, err := seal.IDFrom(client.OwnerID)
	if err != nil {
		return agent{}, err
	}
	who := agent{
		org: client.Org, id: id, address: host(address),
		version: short(auth.GetVersion()), os: short(auth.GetOs()), arch: short(auth.GetArch()),
		head: &channelv1.LogHead{Epoch: uint64(client.Epoch), Digest: client.Head, Restored: client.Restored},
	}
	reason, message2 := r.judge(client, org, clientID, challenge, exporter, auth.GetSignature())
	if reason != "" {
		r.presence.refused(who, reason)
		return agent{}, refuse(sock, reason, message2)
	}
	return who, nil
}

// judge decides on a known agent: the reason and the words of its refusal, or nothing.
func (r *Router) judge(client db.AgentClientRow, org seal.Digest, clientID [64]byte, challenge, exporter [32]byte, signature []byte) (reason, words string) {
	if string(client.OrgID) != string(org[:]) {
		return socket.WrongOrg, "the agent belongs to another organisation of this server"
	}
	if client.Revoked != 0 {
		return socket.Revoked, "the agent was removed: enrol it anew"
	}
	pub, err := seal.ParseDevicePub(client.PublicKey)
	if err != nil {
		return socket.SignatureBad, "the server has no key of this agent"
	}
	for _, name := range r.cfg.Hosts {
		if seal.VerifyP256(pub, seal.ChannelInput(org, clientID, name, challenge, exporter), signature) {
			return "", ""
		}
	}
	words = "the signature is not this agent's for this server and connection: the server is known as " + strings.Join(r.cfg.Hosts, ", ") +
		"; a proxy that ends TLS in between makes every signature void"
	return socket.SignatureBad, words
}

func parseAuth(message []byte) (auth *channelv1.Auth, clientID [64]byte, org seal.Digest, err error) {
	var frame channelv1.ToRouter
	if err := proto.Unmarshal(message, &frame); err != nil {
		return nil, clientID, org, err
	}
	auth = frame.GetAuth()
	if auth == nil || len(auth.GetClientId()) != len(clientID) || len(auth.GetSignature()) > 128 {
		return nil, clientID, org, errors.New("no Auth, or fields of a wrong length")
	}
	org, err = seal.DigestFrom(auth.GetOrgId())
	return auth, [64]byte(auth.GetClientId()), org, err
}

// refuse tells the agent why, and returns that as an error.
func refuse(sock *socket.Conn, reason, words string) error {
	err := write(sock, refusal(reason, words))
	return errors.Join(fmt.Errorf("%s: %s", reason, words), err)
}

func refusal(reason, words string) *channelv1.ToAgent {
	return &channelv1.ToAgent{Frame: &channelv1.ToAgent_Refused{Refused: &channelv1.Refused{Reason: reason, Message: words}}}
}

func write(sock *socket.Conn, frame *channelv1.ToAgent) error {
	message, err := proto.Marshal(frame)
	if err != nil {
		return err
	}
	return sock.Write(message, usualPatience.write)
}

// host is an address without its port.
func host(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}

// short bounds what an agent says of itself.
func short(s string) string {
	if len(s) > 64 {
		s = s[:64]
	}
	return strings.ToValidUTF8(s, "?")
}

// refusedEvent is what becomes of a refusal of a known agent.
func (r *Router) refusedEvent(who agent, reason string) audit.Event {
	return audit.Event{
		Org: who.org, Time: r.cfg.Now(), Name: audit.AgentRefused, Actor: who.id[:], Reason: reason,
		Fields: map[string]string{"address": who.address, "node": r.cfg.Node},
	}
}
