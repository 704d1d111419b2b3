package trust

import (
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

func replyRoute(org seal.Digest, agent, device, command seal.ID) seal.Route {
	return seal.Route{Purpose: seal.PurposeReply, Org: org, From: agent, To: device, Object: command}
}

// SealReply seals a reply's detail to the device that signed the command, whose
// encoded Keys are deviceKeys; the result's detail_digest is seal.Hash of what it
// returns. RecipientUnverified.
func SealReply(l *Log, agent, device seal.ID, deviceKeys []byte, command seal.ID, d *trustv1.Detail) ([]byte, error) {
	e, ok := l.Entry(device)
	if !ok {
		return nil, fail(RecipientUnverified, "%s is not live in the log", device)
	}
	k, err := CheckKeys(e, deviceKeys)
	if err != nil {
		return nil, err
	}
	b, err := proto.Marshal(d)
	if err != nil {
		return nil, &Error{Reason: Malformed, What: "encode a reply", Err: err}
	}
	return seal.SealTo(k.SealPub, replyRoute(l.Org(), agent, device, command), b)
}

// OpenReply opens a reply's detail and holds it against the result's
// detail_digest: ResultForged.
func OpenReply(l *Log, r *Result, device seal.ID, k *seal.SealKey, command seal.ID, sealed []byte) (*trustv1.Detail, error) {
	if string(r.DetailDigest) != string(seal.Hash(sealed).Bytes()) {
		return nil, fail(ResultForged, "the reply is not the one that agent %q signed", l.FullName(r.Signer))
	}
	b, err := seal.OpenFrom(k, replyRoute(l.Org(), r.Signer.ID, device, command), sealed)
	if err != nil {
		return nil, &Error{Reason: ResultForged, What: "reply", Err: err}
	}
	return decodeDetail(b)
}

// SealDetail encrypts a result's detail beside its record; the result's
// detail_digest is seal.Hash of what it returns.
func SealDetail(org seal.Digest, recordKey seal.Key, record seal.ID, d *trustv1.Detail) ([]byte, error) {
	b, err := proto.Marshal(d)
	if err != nil {
		return nil, &Error{Reason: Malformed, What: "encode a detail", Err: err}
	}
	return seal.SealExt(org, recordKey, record, seal.ExtDetail, b), nil
}

// OpenDetail opens a result's detail and holds it against the result's
// detail_digest: ResultForged.
func OpenDetail(org seal.Digest, recordKey seal.Key, r *Result, blob []byte) (*trustv1.Detail, error) {
	if string(r.DetailDigest) != string(seal.Hash(blob).Bytes()) {
		return nil, fail(ResultForged, "the detail is not the one that %s %q signed", kindName(r.Signer.Kind), r.Signer.Name)
	}
	b, err := seal.OpenExt(org, recordKey, r.Account.Record, seal.ExtDetail, blob)
	if err != nil {
		return nil, &Error{Reason: ResultForged, What: "detail", Err: err}
	}
	return decodeDetail(b)
}

func decodeDetail(b []byte) (*trustv1.Detail, error) {
	d := &trustv1.Detail{}
	return d, decode("detail", b, MaxSigned, d)
}
