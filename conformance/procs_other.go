//go:build !linux

package conformance

import "testing"

func (k *kit) pids() []string        { return nil }
func (k *kit) kill() int             { return 0 }
func (k *kit) uses(*testing.T) usage { return usage{} }

func (k *kit) sockets() map[string]int { return nil }

type usage struct{ files, kB int }
