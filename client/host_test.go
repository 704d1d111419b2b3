package client

import (
	"strings"
	"testing"
)

func TestCheckHost(t *testing.T) {
	for host, want := range map[string]bool{
		"db1": true, "db1.example.net": true, "db1.example.net.": true, "xn--bcher-kva.example": true,
		"win_1.corp": true, "10.0.0.1": true, "2001:db8::1": true, "fe80::1%eth0": true, "DB1": true,
		"": false, "a b": false, " db1": false, "db1:5432": false, "[2001:db8::1]": false, "db1/x": false,
		"-db1": false, "db1-": false, "a..b": false, ".": false, "bücher.example": false, "db1\n": false,
		"user@db1": false, "https://db1": false, strings.Repeat("a", 64): false,
		strings.Repeat("a.", 126) + "a": true, strings.Repeat("a.", 127) + "a": false,
	} {
		if err := checkHost(host); (err == nil) != want {
			t.Errorf("%q: %v", host, err)
		} else if err != nil && ClassOf(err) != Invalid {
			t.Errorf("%q is refused as %s", host, ClassOf(err))
		}
	}
}
