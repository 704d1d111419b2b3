package clientapi

import (
	"encoding/base64"
	"encoding/binary"
	"math"

	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

// Bounds of a page.
const (
	pageDefault = 100
	pageMax     = 1000
	pageBytes   = 4 << 20 // a page ends early when it holds this much
)

// size is the number of rows that a page may have.
func size(p *clientv1.Page) int {
	switch n := p.GetSize(); {
	case n == 0:
		return pageDefault
	case n > pageMax:
		return pageMax
	default:
		return int(n)
	}
}

// A token is the key of the last row seen: the next page begins behind it, so
// that rows that come or go between two pages neither repeat nor hide others.
// Clients must not look inside; it is checked as any other input.

func token(key []byte) string { return base64.RawURLEncoding.EncodeToString(key) }

// after reads a token of one of the lengths; the empty token is the beginning.
func after(p *clientv1.Page, lengths ...int) ([]byte, error) {
	if p.GetToken() == "" {
		return nil, nil
	}
	key, err := base64.RawURLEncoding.DecodeString(p.GetToken())
	if err == nil {
		for _, n := range lengths {
			if len(key) == n {
				return key, nil
			}
		}
	}
	return nil, malformed("the page token is not one of this list")
}

// number is a count as part of a token.
func number(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// beforeNumber reads a token of number; the empty one is the newest.
func beforeNumber(p *clientv1.Page) (int64, error) {
	key, err := after(p, 8)
	if key == nil || err != nil {
		return math.MaxInt64, err
	}
	return int64(binary.BigEndian.Uint64(key) & math.MaxInt64), nil
}
