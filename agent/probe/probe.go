// Package probe asks a target for its TLS key or its SSH host keys, as this agent
// sees them, and sends no credential. A person compares what it reports with what
// the target's administrator says, and pins it in the resource's statement.
package probe

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Dial opens one connection to a target.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Kind is how a target begins to speak.
type Kind string

// The kinds.
const (
	SSH      Kind = "ssh"
	TLS      Kind = "tls"
	Postgres Kind = "postgres" // TLS after an SSLRequest
	MySQL    Kind = "mysql"    // TLS after the server's greeting and an SSLRequest of its own form
	LDAP     Kind = "ldap"     // TLS after an extended request
)

// KindOf is how a target of a plugin with these settings speaks.
func KindOf(plugin string, settings []byte) Kind {
	switch plugin {
	case "ldap", "ad":
		var c struct {
			StartTLS bool `json:"starttls"`
		}
		if json.Unmarshal(settings, &c) == nil && c.StartTLS { // the plugin says what is wrong with them
			return LDAP
		}
		return TLS
	case "ssh":
		return SSH
	case "postgres":
		return Postgres
	case "mysql":
		return MySQL
	default:
		return TLS
	}
}

// hostKeyAlgorithms are asked for one by one, since a server shows one key in one
// handshake.
var hostKeyAlgorithms = []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA256}

// maxChain bounds the certificates that a reply carries.
const maxChain = 8

// Target reports the keys that address shows.
func Target(ctx context.Context, dial Dial, kind Kind, address, serverName string) (*trustv1.ProbeReply, error) {
	reply := &trustv1.ProbeReply{Address: address}
	var err error
	if kind == SSH {
		err = hostKeys(ctx, dial, address, reply)
	} else {
		err = certificates(ctx, dial, kind, address, serverName, reply)
	}
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", address, err)
	}
	return reply, nil
}

// errSeen ends a handshake once the host key is known: nothing is signed in with.
var errSeen = errors.New("host key seen")

func hostKeys(ctx context.Context, dial Dial, address string, reply *trustv1.ProbeReply) error {
	var last error
	for _, algorithm := range hostKeyAlgorithms {
		conn, err := connect(ctx, dial, address)
		if err != nil {
			return err
		}
		var key ssh.PublicKey
		config := &ssh.ClientConfig{
			HostKeyAlgorithms: []string{algorithm},
			HostKeyCallback:   func(_ string, _ net.Addr, k ssh.PublicKey) error { key = k; return errSeen },
		}
		_, _, _, err = ssh.NewClientConn(conn, address, config)
		conn.Close()
		if key == nil {
			last = err
			continue
		}
		sum := sha256.Sum256(key.Marshal())
		reply.SshHostKeySha256 = append(reply.SshHostKeySha256, sum[:])
		reply.SshHostKeyType = append(reply.SshHostKeyType, key.Type())
	}
	if len(reply.SshHostKeySha256) == 0 {
		return fmt.Errorf("it showed no host key: %w", last)
	}
	return nil
}

func certificates(ctx context.Context, dial Dial, kind Kind, address, serverName string, reply *trustv1.ProbeReply) error {
	conn, err := connect(ctx, dial, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	switch kind {
	case Postgres:
		err = postgresTLS(conn)
	case MySQL:
		err = mysqlTLS(conn)
	case LDAP:
		err = ldapTLS(conn)
	}
	if err != nil {
		return err
	}
	if serverName == "" {
		serverName, _, _ = net.SplitHostPort(address)
	}
	// Nothing is believed here: what is shown is reported.
	c := tls.Client(conn, &tls.Config{ServerName: serverName, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	if err := c.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	shown := c.ConnectionState().PeerCertificates
	for _, cert := range shown[:min(len(shown), maxChain)] {
		reply.TlsChain = append(reply.TlsChain, cert.Raw)
	}
	sum := sha256.Sum256(shown[0].RawSubjectPublicKeyInfo)
	reply.TlsSpkiSha256 = [][]byte{sum[:]}
	reply.TlsSubject = strings.ToValidUTF8(shown[0].Subject.String(), "?")
	return nil
}

// postgresTLS asks a PostgreSQL server to speak TLS (PostgreSQL manual, "Message
// Formats", SSLRequest).
func postgresTLS(conn net.Conn) error {
	if _, err := conn.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 8), 80877103)); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return fmt.Errorf("no answer to the request for tls: %w", err)
	}
	if answer[0] != 'S' {
		return errors.New("the server does not offer tls")
	}
	return nil
}

// maxGreeting bounds what a MySQL server says first.
const maxGreeting = 4096

// mysqlTLS hears a MySQL or MariaDB server's greeting and asks it to speak TLS (MySQL
// source documentation, "Protocol::HandshakeV10" and "Protocol::SSLRequest").
func mysqlTLS(conn net.Conn) error {
	header := make([]byte, 4) // length, sequence number
	if _, err := io.ReadFull(conn, header); err != nil {
		return fmt.Errorf("no greeting: %w", err)
	}
	size := int(header[0]) | int(header[1])<<8 | int(header[2])<<16
	if size > maxGreeting {
		return errors.New("what it says first is no greeting of a mysql server")
	}
	greeting := make([]byte, size)
	if _, err := io.ReadFull(conn, greeting); err != nil {
		return fmt.Errorf("no greeting: %w", err)
	}
	if size > 0 && greeting[0] == 0xff { // code, text
		return fmt.Errorf("the server turns us away: %q", greeting[min(3, size):min(size, 300)])
	}
	// Protocol version, server version, connection id, scramble, filler, capabilities.
	_, rest, ok := bytes.Cut(greeting, []byte{0})
	if !ok || greeting[0] != 10 || len(rest) < 15 {
		return errors.New("what it says first is no greeting of a mysql server")
	}
	const protocol41, wantsTLS, secureConnection, pluginAuth = 1 << 9, 1 << 11, 1 << 15, 1 << 19
	if binary.LittleEndian.Uint16(rest[13:])&wantsTLS == 0 {
		return errors.New("the server does not offer tls")
	}
	request := make([]byte, 4+32)
	request[0], request[3] = 32, header[3]+1
	binary.LittleEndian.PutUint32(request[4:], protocol41|wantsTLS|secureConnection|pluginAuth)
	binary.LittleEndian.PutUint32(request[8:], 1<<24) // largest packet
	request[12] = 45                                  // utf8mb4
	_, err := conn.Write(request)
	return err
}

// maxLDAP bounds what an LDAP server answers to a request for TLS.
const maxLDAP = 4096

// ldapTLS asks an LDAP server to speak TLS (RFC 4511, 4.14).
func ldapTLS(conn net.Conn) error {
	const operation = "1.3.6.1.4.1.1466.20037"
	request := append([]byte{
		0x30, 7 + byte(len(operation)), 0x02, 1, 1, // message 1
		0x77, 2 + byte(len(operation)), 0x80, byte(len(operation)), // extended request, its name
	}, operation...)
	if _, err := conn.Write(request); err != nil {
		return err
	}
	strange := errors.New("what it answers to the request for tls is no ldap")
	header := make([]byte, 2, 6)
	if _, err := io.ReadFull(conn, header); err != nil {
		return fmt.Errorf("no answer to the request for tls: %w", err)
	}
	if more := int(header[1]) - 0x80; more > 0 { // bytes that the length has
		if more > 4 {
			return strange
		}
		header = header[:2+more]
		if _, err := io.ReadFull(conn, header[2:]); err != nil {
			return fmt.Errorf("no answer to the request for tls: %w", err)
		}
	}
	size, ok := berLength(header[1:])
	if !ok || size > maxLDAP {
		return strange
	}
	message := make([]byte, size)
	if _, err := io.ReadFull(conn, message); err != nil {
		return fmt.Errorf("no answer to the request for tls: %w", err)
	}
	_, _, rest, _ := berElement(message) // its number
	tag, response, _, _ := berElement(rest)
	code, result, _, ok := berElement(response)
	switch {
	case header[0] != 0x30 || tag != 0x78 || code != 0x0a || !ok || len(result) != 1:
		return strange
	case result[0] != 0:
		return fmt.Errorf("the server does not offer tls: it answers %d (RFC 4511, 4.1.9)", result[0])
	}
	return nil
}

// berElement takes the first element off b.
func berElement(b []byte) (tag byte, value, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, nil, false
	}
	size, ok := berLength(b[1:])
	if begin := 2 + max(0, int(b[1])-0x80); ok && begin+size <= len(b) {
		return b[0], b[begin : begin+size], b[begin+size:], true
	}
	return 0, nil, nil, false
}

// berLength reads a length that is at the beginning of b: Active Directory writes small
// ones in the long form, too.
func berLength(b []byte) (int, bool) {
	if b[0] < 0x80 {
		return int(b[0]), true
	}
	more := int(b[0]) - 0x80
	if more == 0 || more > 4 || len(b) < 1+more {
		return 0, false
	}
	n := 0
	for _, c := range b[1 : 1+more] {
		n = n<<8 | int(c)
	}
	return n, n <= maxLDAP
}

func connect(ctx context.Context, dial Dial, address string) (net.Conn, error) {
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	deadline, ok := ctx.Deadline()
	if limit := time.Now().Add(20 * time.Second); !ok || limit.Before(deadline) {
		deadline = limit
	}
	if err := conn.SetDeadline(deadline); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
