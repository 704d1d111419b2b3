//go:build !unix

package agent

import "io/fs"

// ownerOnly: access lists are the folder's business where modes mean nothing.
func ownerOnly(string, fs.FileInfo) error { return nil }
