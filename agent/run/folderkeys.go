package run

import (
	"encoding/binary"
	"sync"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// folderKeys remembers folder keys that were opened, since every run needs one or two,
// and opening is the dearest part of looking a record up. It gives nothing away that the
// agent's seal key, which is in the same memory, would not. Whether a key is still the
// log's is asked each time.
type folderKeys struct {
	mu   sync.Mutex
	keys map[seal.Digest]seal.Key // by folder, version and sealed key
}

// mostFolderKeys bounds the memory; an agent seldom reads so many folders.
const mostFolderKeys = 4096

func (k *folderKeys) open(log *trust.Log, me Identity, folder seal.ID, version uint32, sealed []byte) (seal.Key, error) {
	name := seal.Hash(folder[:], binary.BigEndian.AppendUint32(nil, version), sealed)
	k.mu.Lock()
	key, known := k.keys[name]
	k.mu.Unlock()
	if known && trust.CheckFolderKey(log, folder, key) == nil {
		return key, nil
	}
	key, err := trust.OpenFolderKey(log, me.ID, me.Seal, folder, version, sealed)
	if err != nil {
		return seal.Key{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil || len(k.keys) >= mostFolderKeys {
		k.keys = map[seal.Digest]seal.Key{}
	}
	k.keys[name] = key
	return key, nil
}
