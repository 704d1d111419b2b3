//go:build !unix

// Package durable makes files outlast a power cut.
package durable

// Folder has nothing to do: NTFS journals names, and has no such call.
func Folder(string) error { return nil }
