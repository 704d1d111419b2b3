package clientapi

import "testing"

func TestNetwork(t *testing.T) {
	for _, row := range []struct{ from, want string }{
		{"192.0.2.7:4711", "192.0.2.7"},
		{"[::ffff:192.0.2.7]:4711", "::ffff:192.0.2.7"},
		{"[2001:db8:1:2:3:4:5:6]:4711", "2001:db8:1:2::/64"},
		{"[2001:db8:1:2::]:1", "2001:db8:1:2::/64"},
		{"[2001:db8:1:3::]:1", "2001:db8:1:3::/64"},
		{"[fe80::1%eth0]:1", "fe80::/64"},
		{"@", "@"},
	} {
		if got := (conn{addr: row.from}).network(); got != row.want {
			t.Errorf("%s: %s, want %s", row.from, got, row.want)
		}
	}
}
