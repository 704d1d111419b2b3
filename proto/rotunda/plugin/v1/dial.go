package pluginv1

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// The dialer. The plugin connects to the agent's Unix socket, once for each dial:
//
//	plugin                                              agent
//	  | token 32 | version 1 | network len 1 |            |
//	  | address len 2 | timeout ms 4 | network | address  |
//	  | ------------------------------------------------> |  checks the token first, then the
//	  |                                                   |  address; resolves; dials
//	  | <------------------------------------------------ |
//	  |               status 1 | text len 1 | text        |  text: remote address or empty
//	  | <================= bytes both ways =============> |
//
// Numbers are big-endian. A timeout of 0 means none. Until the reply the plugin sends
// nothing; closing its end gives the dial up. After it half-close is carried both ways.
//
// The network agent has one address, local: the agent itself, where a job may ask
// something of the machine that it runs on.
const (
	LocalNetwork = "agent"
	LocalAddress = "local"

	TokenLen      = 32
	dialVersion   = 1
	dialHead      = 8
	maxNetwork    = 8
	maxAddress    = 300 // a name of 253, a colon, a port, and room
	maxRemoteText = 64
)

// DialRequest follows the token.
type DialRequest struct {
	Network, Address string
	Timeout          time.Duration // 0: none; carried in milliseconds, at most 49 days
}

// DialStatus is the agent's answer.
type DialStatus uint8

// The answers.
const (
	DialOK          DialStatus = iota
	DialRefused                // not an address of this job
	DialUnreachable            // the target does not answer, or its name is unknown
	DialTimeout                // the request's timeout has passed
	DialLimit                  // too many connections
	DialClosed                 // the job has ended or its deadline has passed
	DialDenied                 // the local policy of the agent's host does not allow the address
	dialStatusEnd
)

// Reason is the stable code that a plugin sees.
func (s DialStatus) Reason() string {
	switch s {
	case DialRefused:
		return "dial.refused"
	case DialUnreachable:
		return "dial.unreachable"
	case DialTimeout:
		return "dial.timeout"
	case DialLimit:
		return "dial.limit"
	case DialClosed:
		return "dial.closed"
	case DialDenied:
		return "local_policy"
	default:
		return "dial.protocol"
	}
}

// ErrFrame is any violation of the frames above.
var ErrFrame = errors.New("malformed dial frame")

// AppendDialRequest appends the frame that follows the token.
func AppendDialRequest(b []byte, r DialRequest) ([]byte, error) {
	if len(r.Network) > maxNetwork || len(r.Address) > maxAddress {
		return nil, fmt.Errorf("dial %s: address longer than %d bytes", r.Network, maxAddress)
	}
	ms := uint32(0)
	if r.Timeout > 0 {
		ms = uint32(min(max(r.Timeout.Milliseconds(), 1), 1<<32-1))
	}
	b = append(b, dialVersion, byte(len(r.Network)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Address)))
	b = binary.BigEndian.AppendUint32(b, ms)
	return append(append(b, r.Network...), r.Address...), nil
}

// ReadDialRequest reads exactly one frame, and never beyond it.
func ReadDialRequest(r io.Reader) (DialRequest, error) {
	var head [dialHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return DialRequest{}, err
	}
	n, a := int(head[1]), int(binary.BigEndian.Uint16(head[2:]))
	if head[0] != dialVersion || n == 0 || n > maxNetwork || a == 0 || a > maxAddress {
		return DialRequest{}, ErrFrame
	}
	text := make([]byte, n+a)
	if _, err := io.ReadFull(r, text); err != nil {
		return DialRequest{}, err
	}
	return DialRequest{
		Network: string(text[:n]),
		Address: string(text[n:]),
		Timeout: time.Duration(binary.BigEndian.Uint32(head[4:])) * time.Millisecond,
	}, nil
}

// AppendDialReply appends the agent's answer; remote is cut to what fits.
func AppendDialReply(b []byte, s DialStatus, remote string) []byte {
	remote = remote[:min(len(remote), maxRemoteText)]
	return append(append(b, byte(s), byte(len(remote))), remote...)
}

// ReadDialReply reads exactly one answer, and never beyond it.
func ReadDialReply(r io.Reader) (DialStatus, string, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, "", err
	}
	if DialStatus(head[0]) >= dialStatusEnd || head[1] > maxRemoteText {
		return 0, "", ErrFrame
	}
	text := make([]byte, head[1])
	if _, err := io.ReadFull(r, text); err != nil {
		return 0, "", err
	}
	return DialStatus(head[0]), string(text), nil
}
