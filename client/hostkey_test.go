package client

import (
	"strings"
	"testing"
)

// The digest is that of the text rotunda.
func TestSSHFingerprint(t *testing.T) {
	const hex, text = "5795f392aa1075a3073feeaec71bce16a5fcda78d9e81cc13d76fa0bd886f9e8", "SHA256:V5XzkqoQdaMHP+6uxxvOFqX82njZ6BzBPXb6C9iG+eg"
	for _, s := range []string{text, hex, strings.ToUpper(hex), hex[:2] + ":" + hex[2:]} {
		d, err := ParseSSHFingerprint(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if got := SSHFingerprint(d); got != text {
			t.Errorf("%s: %s, want %s", s, got, text)
		}
	}
	for _, bad := range []string{"", "SHA256:", text[:len(text)-1], text + "A", text + "=", "MD5:" + hex, text[:len(text)-1] + "/", hex[2:], "SHA256:" + hex} {
		if d, err := ParseSSHFingerprint(bad); err == nil {
			t.Errorf("%q is taken as %s", bad, SSHFingerprint(d))
		}
	}
}
