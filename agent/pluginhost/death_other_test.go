//go:build !linux

package pluginhost

func hostChild(string) int { return 1 }
