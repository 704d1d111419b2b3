package client

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// A log file holds signed changes one after another, each behind its length as
// four bytes. It only grows. A torn last change (power was lost) is cut off.

const maxChange = 1 << 20

// readLogFile gives every whole change to f, and returns the length of what is whole.
func readLogFile(path string, f func(signed []byte) error) (int64, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	r := bufio.NewReaderSize(file, 1<<16)
	var whole int64
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return whole, nil
			}
			return whole, err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxChange {
			return whole, fmt.Errorf("%s: a change of %d bytes at %d: the file is damaged; move it away, it is fetched anew", path, n, whole)
		}
		signed := make([]byte, n)
		if _, err := io.ReadFull(r, signed); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return whole, nil
			}
			return whole, err
		}
		if err := f(signed); err != nil {
			return whole, err
		}
		whole += int64(len(head)) + int64(n)
	}
}

// appendLogFile writes changes behind the first whole bytes and returns the new length.
func appendLogFile(path string, whole int64, changes [][]byte) (int64, error) {
	if len(changes) == 0 {
		return whole, nil
	}
	var b []byte
	for _, c := range changes {
		b = binary.BigEndian.AppendUint32(b, uint32(len(c)))
		b = append(b, c...)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return whole, err
	}
	defer func() { _ = file.Close() }()
	if err := file.Truncate(whole); err != nil {
		return whole, err
	}
	if _, err := file.WriteAt(b, whole); err != nil {
		return whole, err
	}
	if err := file.Sync(); err != nil {
		return whole, err
	}
	return whole + int64(len(b)), file.Close()
}
