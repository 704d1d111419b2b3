package trust

import (
	"crypto/ed25519"
	"encoding/binary"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// TestHeld: what was verified is not verified again, and nothing else is taken for it.
func TestHeld(t *testing.T) {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	org, body := seal.Hash([]byte("org")), []byte("body")
	sig := seal.Sign(key, seal.KindResult, org, body)
	bad := append([]byte{sig[0] ^ 1}, sig[1:]...)
	for round := range 2 { // the second time from memory
		for _, c := range []struct {
			name string
			got  bool
			want bool
		}{
			{"the signature", verified(pub, seal.KindResult, org, body, sig), true},
			{"another kind", verified(pub, seal.KindCommand, org, body, sig), false},
			{"another organisation", verified(pub, seal.KindResult, seal.Digest{}, body, sig), false},
			{"another body", verified(pub, seal.KindResult, org, []byte("other"), sig), false},
			{"another key", verified(other, seal.KindResult, org, body, sig), false},
			{"another signature", verified(pub, seal.KindResult, org, body, bad), false},
			{"none", verified(pub, seal.KindResult, org, body, nil), false},
			{"bytes moved from one to the next", verified(pub[:31], seal.KindResult, org, body, append(pub[31:32:32], sig...)), false},
		} {
			if c.got != c.want {
				t.Errorf("round %d, %s: held is %v", round, c.name, c.got)
			}
		}
	}
}

// TestMemoForgets: it stays small, and what is asked for stays.
func TestMemoForgets(t *testing.T) {
	m := memo{most: 16}
	name := func(i int) seal.Digest { return seal.Hash(binary.BigEndian.AppendUint32(nil, uint32(i))) }
	m.add(name(0))
	for i := 1; i <= 1000; i++ {
		m.add(name(i))
		if !m.has(name(0)) {
			t.Fatalf("after %d others it has forgotten the one that was asked for", i)
		}
		if n := len(m.young) + len(m.old); n > 2*m.most {
			t.Fatalf("it keeps %d of at most %d", n, 2*m.most)
		}
	}
	if m.has(name(1)) {
		t.Error("it keeps what nobody has asked for since a thousand others")
	}
}
