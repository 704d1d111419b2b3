//go:build !linux

package sdk

func harden() {}
