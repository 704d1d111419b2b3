package machineapi

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/rotunda-pam/rotunda/internal/durable"
	"github.com/rotunda-pam/rotunda/internal/ksm"
)

// blobs is a local folder of file contents (ciphertext): ORG/XX/UID in hex, and
// tmp for what is being received.
type blobs struct{ dir string }

func openBlobs(dir string) (blobs, error) {
	if dir == "" {
		return blobs{}, errors.New("machineapi: no folder for file contents was given")
	}
	tmp := filepath.Join(dir, "tmp")
	// What a former process was receiving is void.
	if err := os.RemoveAll(tmp); err != nil {
		return blobs{}, fmt.Errorf("clear %s: %w", tmp, err)
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return blobs{}, fmt.Errorf("make the folder for file contents: %w", err)
	}
	return blobs{dir}, nil
}

func (b blobs) path(org int64, uid []byte) string {
	name := hex.EncodeToString(uid)
	return filepath.Join(b.dir, strconv.FormatInt(org, 10), name[:2], name)
}

func (b blobs) open(org int64, uid []byte) (*os.File, error) { return os.Open(b.path(org, uid)) }

func (b blobs) remove(org int64, uid []byte) error {
	err := os.Remove(b.path(org, uid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// received is a blob that has arrived and has no place yet.
type received struct {
	blobs
	name string
}

// receive writes size bytes to a file of its own, durably. Fewer or more are refused.
func (b blobs) receive(r io.Reader, size int64) (received, error) {
	f, err := os.CreateTemp(filepath.Join(b.dir, "tmp"), "upload-") // 0600
	if err != nil {
		return received{}, fmt.Errorf("make a file for an upload: %w", err)
	}
	got := received{b, f.Name()}
	n, err := io.Copy(f, io.LimitReader(r, size+1))
	if err != nil {
		if _, ok := errors.AsType[*fs.PathError](err); ok {
			err = fmt.Errorf("store an upload: %w", err)
		} else {
			err = ksm.Refuse(ksm.CodeBadRequest, "the upload broke off")
		}
	} else if n != size {
		err = ksm.Refuse(ksm.CodeBadRequest, "the upload does not have the %d bytes that were announced", size)
	} else {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		got.discard()
		return received{}, err
	}
	return got, nil
}

// keep gives a received blob its place.
func (r received) keep(org int64, uid []byte) error {
	path := r.path(org, uid)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the folder for file contents: %w", err)
	}
	if err := os.Rename(r.name, path); err != nil {
		return fmt.Errorf("store an upload: %w", err)
	}
	return durable.Folder(filepath.Dir(path))
}

// discard removes what keep has not taken.
func (r received) discard() { os.Remove(r.name) } //nolint:errcheck // it is gone, or cleared at the next start
