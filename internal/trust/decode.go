package trust

import (
	"crypto/ed25519"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// maxDepth bounds the nesting of messages; ours need five.
const maxDepth = 8

// decode unmarshals bytes strictly. The library alone would keep unknown fields,
// let the last of two singular fields win and merge repeated messages: then two
// readers could take different meanings from one signed body.
func decode(what string, b []byte, max int, m proto.Message) error {
	if len(b) > max {
		return fail(TooLarge, "%s of %d bytes, at most %d", what, len(b), max)
	}
	if err := walk(b, m.ProtoReflect().Descriptor(), maxDepth); err != nil {
		err.What = what + ": " + err.What
		return err
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return &Error{Reason: Malformed, What: what, Err: err}
	}
	return nil
}

// walk checks every field of an encoded message against its descriptor, at any
// depth: known, of the right wire type, given once unless repeated, at most one
// member of a oneof, enum values known.
func walk(b []byte, d protoreflect.MessageDescriptor, depth int) *Error {
	if depth == 0 {
		return fail(Malformed, "nested too deep")
	}
	fields := d.Fields()
	var seen uint64 // field numbers below 64; ours end at 35
	var oneofs uint64
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fail(Malformed, "a tag in %s is broken", d.Name())
		}
		b = b[n:]
		f := fields.ByNumber(num)
		if f == nil {
			return fail(UnknownField, "field %d in %s", num, d.Name())
		}
		if f.Cardinality() != protoreflect.Repeated {
			if num > 63 || seen&(1<<num) != 0 {
				return fail(Malformed, "field %s of %s is given twice", f.Name(), d.Name())
			}
			seen |= 1 << num
		}
		if o := f.ContainingOneof(); o != nil {
			if oneofs&(1<<o.Index()) != 0 {
				return fail(Malformed, "two members of %s in %s", o.Name(), d.Name())
			}
			oneofs |= 1 << o.Index()
		}
		if typ != wireType(f.Kind()) {
			return fail(Malformed, "field %s of %s has wire type %d", f.Name(), d.Name(), typ)
		}
		switch typ {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return fail(Malformed, "field %s of %s is broken", f.Name(), d.Name())
			}
			b = b[n:]
			if e := f.Enum(); e != nil && (v > 1<<31-1 || e.Values().ByNumber(protoreflect.EnumNumber(v)) == nil) {
				return fail(UnknownField, "value %d of %s in %s", v, f.Name(), d.Name())
			}
			if k := f.Kind(); (k == protoreflect.Uint32Kind && v > 1<<32-1) || (k == protoreflect.BoolKind && v > 1) {
				return fail(Malformed, "field %s of %s is out of range", f.Name(), d.Name())
			}
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return fail(Malformed, "field %s of %s is cut off", f.Name(), d.Name())
			}
			b = b[n:]
			if sub := f.Message(); sub != nil {
				if err := walk(v, sub, depth-1); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// wireType is the wire type of the kinds that our messages use; -1 for others,
// which then match nothing.
func wireType(k protoreflect.Kind) protowire.Type {
	switch k {
	case protoreflect.BoolKind, protoreflect.EnumKind, protoreflect.Int64Kind, protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return protowire.VarintType
	case protoreflect.BytesKind, protoreflect.StringKind, protoreflect.MessageKind:
		return protowire.BytesType
	}
	return -1
}

// envelope is a decoded Signed. Its body is not to be acted on before verify.
type envelope struct {
	kind   seal.Kind
	body   []byte
	sigs   []*trustv1.Sig
	signed []byte
}

// openEnvelope decodes a Signed with 1 to maxSigs signatures.
func openEnvelope(kind seal.Kind, signed []byte, max, maxSigs int) (*envelope, error) {
	var s trustv1.Signed
	if err := decode("signed "+string(kind), signed, max, &s); err != nil {
		return nil, err
	}
	if len(s.Sigs) < 1 || len(s.Sigs) > maxSigs {
		return nil, fail(Malformed, "signed %s with %d signatures", kind, len(s.Sigs))
	}
	for _, sig := range s.Sigs {
		if len(sig.KeyId) != len(seal.ID{}) || len(sig.Sig) != ed25519.SignatureSize {
			return nil, fail(Malformed, "signed %s: length of a key id or signature", kind)
		}
	}
	return &envelope{kind, s.Body, s.Sigs, signed}, nil
}

func (e *envelope) keyID(n int) seal.ID { return seal.ID(e.sigs[n].KeyId) }

func (e *envelope) digest(org seal.Digest) seal.Digest {
	return seal.MessageDigest(e.kind, org, e.body)
}

func (e *envelope) verify(n int, pub ed25519.PublicKey, org seal.Digest) error {
	if !verified(pub, e.kind, org, e.body, e.sigs[n].Sig) {
		return fail(SignatureBad, "signature of a %s", e.kind)
	}
	return nil
}

// signEnvelope encodes and signs a body. What it makes is what it decodes.
func signEnvelope(kind seal.Kind, org seal.Digest, m proto.Message, keys ...ed25519.PrivateKey) ([]byte, seal.Digest, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, seal.Digest{}, &Error{Reason: Malformed, What: "encode a " + string(kind), Err: err}
	}
	s := &trustv1.Signed{Body: body}
	for _, k := range keys {
		id := keyID(k.Public().(ed25519.PublicKey))
		s.Sigs = append(s.Sigs, &trustv1.Sig{KeyId: id.Bytes(), Sig: seal.Sign(k, kind, org, body)})
	}
	signed, err := proto.Marshal(s)
	if err != nil {
		return nil, seal.Digest{}, &Error{Reason: Malformed, What: "encode a signed " + string(kind), Err: err}
	}
	return signed, seal.MessageDigest(kind, org, body), nil
}

func keyID(pub ed25519.PublicKey) seal.ID { return seal.KeyID(seal.AlgEd25519, pub) }

// form gathers the first thing that is wrong with a decoded message's fields.
type form struct {
	what string
	err  *Error
}

func (f *form) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fail(Malformed, "%s: "+format, append([]any{f.what}, args...)...)
	}
}

// done is the error, as a plain error so that nil stays nil.
func (f *form) done() error {
	if f.err != nil {
		return f.err
	}
	return nil
}

func (f *form) version(v uint32) {
	if v > Version && f.err == nil {
		f.err = fail(UnknownField, "%s: format %d, this version reads up to %d", f.what, v, Version)
	}
	f.must(v > 0, "no format number")
}

func (f *form) must(ok bool, format string, args ...any) {
	if !ok {
		f.fail(format, args...)
	}
}

// size wants exactly n bytes.
func (f *form) size(name string, b []byte, n int) {
	if len(b) != n {
		f.fail("%s of %d bytes, want %d", name, len(b), n)
	}
}

// optional wants n bytes or none.
func (f *form) optional(name string, b []byte, n int) {
	if len(b) != 0 {
		f.size(name, b, n)
	}
}

// id wants 16 bytes that are not all zero.
func (f *form) id(name string, b []byte) {
	f.size(name, b, len(seal.ID{}))
	if len(b) == len(seal.ID{}) && seal.ID(b).IsZero() {
		f.fail("%s is zero", name)
	}
}

func (f *form) ref(name string, r *trustv1.Ref) {
	f.id(name+"'s folder", r.GetFolderUid())
	f.id(name+"'s record", r.GetRecordUid())
}

func (f *form) optionalRef(name string, r *trustv1.Ref) {
	if r != nil {
		f.ref(name, r)
	}
}

// text wants 1 to max bytes of UTF-8 without control characters.
func (f *form) text(name, s string, max int) {
	f.must(s != "", "%s is empty", name)
	f.optionalText(name, s, max)
}

func (f *form) optionalText(name, s string, max int) {
	f.must(len(s) <= max, "%s of %d bytes, at most %d", name, len(s), max)
	f.must(utf8.ValidString(s), "%s is not UTF-8", name)
	for _, r := range s {
		f.must(r >= 0x20 && r != 0x7f, "%s holds a control character", name)
	}
}

func (f *form) count(name string, n, max int) {
	f.must(n <= max, "%d %s, at most %d", n, name, max)
}

func (f *form) time(name string, ms int64) {
	f.must(ms > 0 && ms < maxTime, "%s is no time", name)
}

func (f *form) optionalTime(name string, ms int64) {
	f.must(ms >= 0 && ms < maxTime, "%s is no time", name)
}

// maxTime (year 9999) keeps sums of times far from overflow.
const maxTime = 253402300800000

func (f *form) head(epoch uint64, digest []byte) {
	f.must(epoch < 1<<62, "log epoch %d", epoch)
	f.size("log digest", digest, len(seal.Digest{}))
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
