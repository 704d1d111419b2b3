package main

import (
	"bytes"
	"encoding/binary"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// reply is the answer to request 7, whose header says what is given.
func reply(t testing.TB, flags uint32, kind uint32, to int32, doc bson.D, after ...byte) []byte {
	t.Helper()
	m, err := request(99, doc)
	if err != nil {
		t.Fatal(err)
	}
	m = append(m, after...)
	binary.LittleEndian.PutUint32(m, uint32(len(m)))
	binary.LittleEndian.PutUint32(m[8:], uint32(to))
	binary.LittleEndian.PutUint32(m[12:], kind)
	binary.LittleEndian.PutUint32(m[16:], flags)
	return m
}

func TestReadReply(t *testing.T) {
	fine := bson.D{{Key: "ok", Value: 1.0}}
	short := reply(t, 0, opMsg, 7, fine)
	manySections := reply(t, 0, opMsg, 7, fine)
	manySections[20] = 1
	long := reply(t, 0, opMsg, 7, fine)
	binary.LittleEndian.PutUint32(long, 1<<31)
	for name, c := range map[string]struct {
		message []byte
		fine    bool
	}{
		"an answer":                {reply(t, 0, opMsg, 7, fine), true},
		"with a checksum":          {reply(t, hasChecksum, opMsg, 7, fine, 1, 2, 3, 4), true},
		"with more behind":         {reply(t, 0, opMsg, 7, fine, 1, 2, 3, 4), false},
		"to another":               {reply(t, 0, opMsg, 8, fine), false},
		"compressed":               {reply(t, 0, 2012, 7, fine), false},
		"the first of many":        {reply(t, 2, opMsg, 7, fine), false},
		"in sections":              {manySections, false},
		"longer than can be":       {long, false},
		"cut short":                {short[:len(short)-1], false},
		"cut in its header":        {short[:10], false},
		"a checksum and no more":   {append(reply(t, hasChecksum, opMsg, 7, bson.D{})[:21], 0), false},
		"nothing at all":           {nil, false},
		"shorter than its headers": {[]byte{20, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 221, 7, 0, 0, 0, 0, 0, 0}, false},
	} {
		doc, err := readReply(bytes.NewReader(c.message), 7)
		if (err == nil) != c.fine {
			t.Errorf("%s: %v, %v", name, doc, err)
		}
	}
}

// A server's bytes are an answer or an error, and what is taken for an answer can be read
// by all that reads one.
func FuzzReply(f *testing.F) {
	user := bson.D{{Key: "user", Value: "app"}, {Key: "db", Value: "shop"}, {Key: "mechanisms", Value: bson.A{sha256}}, {
		Key: "credentials", Value: bson.D{{Key: sha256, Value: bson.D{
			{Key: "iterationCount", Value: int32(1)}, {Key: "salt", Value: "AA=="}, {Key: "storedKey", Value: "AA=="},
		}}},
	}}
	f.Add(reply(f, 0, opMsg, 7, bson.D{{Key: "users", Value: bson.A{user}}, {Key: "ok", Value: 1.0}}))
	f.Add(reply(f, hasChecksum, opMsg, 7, bson.D{{Key: "ok", Value: int32(0)}, {Key: "code", Value: int32(18)}, {Key: "errmsg", Value: "no"}}, 1, 2, 3, 4))
	f.Add(reply(f, 0, opMsg, 7, bson.D{{Key: "ok", Value: 1.0}, {Key: "writeConcernError", Value: bson.D{{Key: "code", Value: int32(64)}}}}))
	who := account{"app", "shop"}
	f.Fuzz(func(t *testing.T, message []byte) {
		doc, err := readReply(bytes.NewReader(message), 7)
		if err != nil {
			return
		}
		if len(doc) > len(message) || doc.Validate() != nil {
			t.Errorf("%x is taken for the answer %x", message, []byte(doc))
		}
		_ = refused(doc)
		u, err := readUser(who, doc)
		if err == nil && !u.found && len(u.mechanisms) > 0 {
			t.Errorf("%s: a user who is missing logs in by %q", doc, u.mechanisms)
		}
	})
}
