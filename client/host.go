package client

import (
	"net/netip"
	"strings"
)

// checkHost refuses what no agent could dial: a host is an IP address or a name that a
// resolver takes.
func checkHost(host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	ok := len(host) <= 253
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		ok = ok && validLabel(label)
	}
	if !ok {
		return invalid("", "%q is no host: it is a name such as db1.example.net, or an IP address without port and brackets", host)
	}
	return nil
}

func validLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (r < '0' || r > '9') && r != '-' && r != '_' {
			return false
		}
	}
	return true
}
