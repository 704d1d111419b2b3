package trust

import (
	"crypto/ed25519"
	"sync"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// held remembers signatures that held, since one statement or result is looked at in
// many runs and a verification is the dearest part of looking at it. A name is the hash
// of everything that the verdict depends on: public key, signature and signed bytes. So
// nothing that is remembered can become wrong; whether the signer is live, and what he
// may do, is asked anew each time, of the log.
var held = memo{most: 1 << 13}

// memo is a set that forgets the half that it was not asked for lately.
type memo struct {
	mu         sync.Mutex
	most       int // of each half
	young, old map[seal.Digest]struct{}
}

// verified is seal.Verify, which is not done twice for the same bytes.
func verified(pub ed25519.PublicKey, kind seal.Kind, org seal.Digest, body, sig []byte) bool {
	name := seal.Hash(pub, sig, seal.SigInput(kind, org, body))
	if len(pub) != ed25519.PublicKeySize || len(sig) != ed25519.SignatureSize {
		return false // else two triples could have one name
	}
	if held.has(name) {
		return true
	}
	ok := seal.Verify(pub, kind, org, body, sig)
	if ok {
		held.add(name)
	}
	return ok
}

func (m *memo) has(name seal.Digest) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.young[name]; ok {
		return true
	}
	if _, ok := m.old[name]; !ok {
		return false
	}
	m.put(name)
	return true
}

func (m *memo) add(name seal.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(name)
}

func (m *memo) put(name seal.Digest) {
	if m.young == nil || len(m.young) >= m.most {
		m.young, m.old = map[seal.Digest]struct{}{}, m.young
	}
	m.young[name] = struct{}{}
}
