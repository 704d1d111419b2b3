// Package bus carries hints between the parts of the server: "this agent has a
// command waiting", "this run moved on". A hint is never the truth: the store
// is, and whoever misses one finds out there. So a bus may drop, and everything
// here is bounded.
//
// The in-process bus of New serves one node. A bus over NATS has the same
// interface and passes the same suite (bustest).
package bus

import (
	"encoding/binary"
	"encoding/hex"
	"iter"
	"strconv"
)

// Bus carries payloads from publishers to the subscribers of a topic.
//
// Publish never blocks and never fails: a subscriber that does not keep up
// loses the oldest of what waits for it and is told so. The payload is shared
// by all subscribers; nobody may change it afterwards.
//
// Payloads of one publisher on one topic arrive in order.
type Bus interface {
	Publish(topic string, payload []byte)
	Subscribe(topic string) Subscription
}

// Subscription receives the payloads published to its topic after it was made.
type Subscription interface {
	// C gives the payloads. It is closed by Close, after what was waiting.
	C() <-chan []byte
	// Overflowed reports whether payloads were dropped since it was last
	// asked. The subscriber then looks in the store again.
	Overflowed() bool
	// Close ends the subscription. It may be called more than once.
	Close()
}

// Work wakes the scheduler: a run or a rotation was written and may be due.
// The payload is empty.
const Work = "work"

// Here tells the scheduler which agents have come, so that what waits for them goes out:
// 24 bytes for each, the organisation's number (big endian) and the agent's id.
const Here = "here"

// Arrival is one agent's part of a payload of Here.
func Arrival(payload []byte, org int64, agent [16]byte) []byte {
	return append(binary.BigEndian.AppendUint64(payload, uint64(org)), agent[:]...)
}

// Arrivals gives the agents of a payload of Here.
func Arrivals(payload []byte) iter.Seq2[int64, [16]byte] {
	return func(yield func(int64, [16]byte) bool) {
		for ; len(payload) >= 24; payload = payload[24:] {
			if !yield(int64(binary.BigEndian.Uint64(payload)), [16]byte(payload[8:24])) {
				return
			}
		}
	}
}

// Agent is the topic of one agent's channel. The payload is a row of
// channelv1.ToAgent to be sent as they are, each behind its length
// (protodelim), so that a thousand due runs are one payload; or empty: look in
// the outbox.
func Agent(org int64, agent [16]byte) string {
	return "agent." + strconv.FormatInt(org, 10) + "." + hex.EncodeToString(agent[:])
}

// Push is the topic of what an organisation's clients watch. The payload is an
// encoded clientv1.WatchResponse.
func Push(org int64) string { return "push." + strconv.FormatInt(org, 10) }

// Log is the topic of an organisation's log. The payload is an encoded
// channelv1.LogHead, or empty: look in the store.
func Log(org int64) string { return "log." + strconv.FormatInt(org, 10) }

// Reply is the topic of one command's end, for whoever waits for that alone: a reply or
// a refusal is stored. The payload is empty.
func Reply(org int64, command [16]byte) string {
	return "reply." + strconv.FormatInt(org, 10) + "." + hex.EncodeToString(command[:])
}
