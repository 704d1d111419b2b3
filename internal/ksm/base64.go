package ksm

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// The SDKs disagree on the alphabet of every field that they send, and some of
// them insist on one in what they receive: lenient on input, exact on output.

// Decode reads base64 of either alphabet, with or without padding.
func Decode(s string) ([]byte, error) {
	s = strings.TrimRight(s, "=")
	if strings.ContainsAny(s, "+/") {
		return decoded(base64.RawStdEncoding.DecodeString(s))
	}
	return decoded(base64.RawURLEncoding.DecodeString(s))
}

func decoded(b []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, errBase64 // the decoder's own error quotes the input
	}
	return b, nil
}

var errBase64 = errors.New("ksm: not base64")

// Std is standard base64 with padding: what the SDKs expect for keys and data.
func Std(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// URL is base64url without padding: what the SDKs expect for uids and appData.
func URL(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Bytes is a field of a request that holds base64 of any kind, or null.
type Bytes []byte

// UnmarshalJSON reads a string by Decode; null is no bytes.
func (b *Bytes) UnmarshalJSON(in []byte) error {
	var s *string
	if err := json.Unmarshal(in, &s); err != nil {
		return errBase64
	}
	if s == nil {
		*b = nil
		return nil
	}
	out, err := Decode(*s)
	*b = out
	return err
}

// UID is a field of a request that holds a uid: 16 bytes, or none.
type UID []byte

// UnmarshalJSON reads a string by Decode; null and "" are no uid.
func (u *UID) UnmarshalJSON(in []byte) error {
	var b Bytes
	if err := b.UnmarshalJSON(in); err != nil {
		return err
	}
	if len(b) != 0 && len(b) != 16 {
		return fmt.Errorf("ksm: a uid has %d bytes instead of 16", len(b))
	}
	*u = UID(b)
	return nil
}

// UIDs is a list of uids in a request. What is no uid is left out, since an
// unknown uid must give an empty answer, not an error. null is no list.
type UIDs [][]byte

// UnmarshalJSON reads a list of strings, or null.
func (u *UIDs) UnmarshalJSON(in []byte) error {
	var list []string
	if err := json.Unmarshal(in, &list); err != nil {
		return errors.New("ksm: not a list of uids")
	}
	*u = nil
	if list == nil {
		return nil
	}
	*u = UIDs{}
	for _, s := range list {
		if b, err := Decode(s); err == nil && len(b) == 16 {
			*u = append(*u, b)
		}
	}
	return nil
}
