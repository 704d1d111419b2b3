package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// conn is one connection to a server: one command, one answer. The driver's own
// connections come with others that watch the server, and repeat what a server is too busy
// for; here a change is sent once, by what the plugin has counted.
type conn struct {
	net  net.Conn
	last int32 // number of the last request
	dead bool  // it cannot be used for another command
}

// run sends one command to a database and gives the server's answer. Where ctx ends before
// it the connection ends with it. An error of type *refusal is the server's word.
func (c *conn) run(ctx context.Context, db string, command bson.D) (bson.Raw, error) {
	c.last++
	message, err := request(c.last, append(command, bson.E{Key: "$db", Value: db}))
	if err != nil {
		return nil, err
	}
	defer clear(message)
	stop := context.AfterFunc(ctx, func() { _ = c.net.Close() })
	reply, err := c.ask(message)
	if !stop() || err != nil {
		c.dead = true
	}
	if err != nil {
		return nil, err
	}
	return reply, refused(reply)
}

func (c *conn) ask(message []byte) (bson.Raw, error) {
	if _, err := c.net.Write(message); err != nil {
		return nil, err
	}
	return readReply(c.net, c.last)
}

// Messages (https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol, OP_MSG):
// a header of length, number, number of the request and kind; flags; one section, whose
// first byte is 0, of one document. All numbers are little-endian.
const (
	opMsg       = 2013
	headerSize  = 16
	beforeDoc   = headerSize + 4 + 1
	maxReply    = 16<<20 + 16<<10 // what a server may send: its largest document, and some
	hasChecksum = 1 << 0
)

// request is a message of one command.
func request(number int32, command bson.D) ([]byte, error) {
	doc, err := bson.Marshal(command)
	if err != nil {
		return nil, fmt.Errorf("write a command: %w", err)
	}
	defer clear(doc)
	m := make([]byte, beforeDoc, beforeDoc+len(doc))
	binary.LittleEndian.PutUint32(m, uint32(beforeDoc+len(doc)))
	binary.LittleEndian.PutUint32(m[4:], uint32(number))
	binary.LittleEndian.PutUint32(m[12:], opMsg)
	return append(m, doc...), nil
}

// readReply reads the answer to a request: a message of one document.
func readReply(r io.Reader, request int32) (bson.Raw, error) {
	strange := func(what string) (bson.Raw, error) {
		return nil, fmt.Errorf("what the server sends is no answer: %s", what)
	}
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(header)
	switch {
	case binary.LittleEndian.Uint32(header[12:]) != opMsg:
		return strange("of another kind")
	case binary.LittleEndian.Uint32(header[8:]) != uint32(request):
		return strange("to another request")
	case size < beforeDoc || size > maxReply:
		return strange(fmt.Sprintf("%d bytes long", size))
	}
	body := make([]byte, size-headerSize)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	flags, section := binary.LittleEndian.Uint32(body), body[4:]
	switch flags {
	case 0:
	case hasChecksum: // which TLS makes needless
		if len(section) < 5 {
			return strange("too short")
		}
		section = section[:len(section)-4]
	default:
		return strange("with flags that were not asked for")
	}
	if section[0] != 0 {
		return strange("in several documents")
	}
	doc := bson.Raw(section[1:])
	if err := doc.Validate(); err != nil {
		return strange(err.Error())
	}
	// Validate takes a document that ends before its bytes do.
	if binary.LittleEndian.Uint32(doc) != uint32(len(doc)) {
		return strange("longer than its document")
	}
	return doc, nil
}

// refusal is what a server answers in place of carrying a command out, or, where done is
// set, after it did.
type refusal struct {
	code int32
	text string
	done bool
}

func (r *refusal) Error() string { return fmt.Sprintf("server answers %d: %s", r.code, r.text) }

// refused reads whether a command was carried out.
func refused(reply bson.Raw) error {
	var a struct {
		OK    float64 `bson:"ok"`
		Code  int32   `bson:"code"`
		Text  string  `bson:"errmsg"`
		After *struct {
			Code int32  `bson:"code"`
			Text string `bson:"errmsg"`
		} `bson:"writeConcernError"`
	}
	err := bson.Unmarshal(reply, &a)
	switch {
	case err != nil:
		return fmt.Errorf("what the server answers is not understood: %w", err)
	case a.After != nil && a.OK == 1:
		return &refusal{code: a.After.Code, text: a.After.Text, done: true}
	case a.OK == 1:
		return nil
	case a.Code == 0:
		return errors.New("server answers that it failed, and not why")
	}
	return &refusal{code: a.Code, text: a.Text}
}
