package probe

import "testing"

// What is taken off lies within what came, and nothing is taken twice.
func FuzzBERElement(f *testing.F) {
	for _, seed := range []string{
		"\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00",
		"\x78\x84\x00\x00\x00\x07\x0a\x01\x34\x04\x00\x04\x00",
		"\x30\x84\x7f\xff\xff\xff", "\x30\x80", "\x30\x89\x01", "\x30", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tag, value, rest, ok := berElement(b)
		if !ok {
			if tag != 0 || value != nil || rest != nil {
				t.Errorf("%x: not read, and %x %x %x", b, tag, value, rest)
			}
			return
		}
		if head := len(b) - len(value) - len(rest); head < 2 || head > 6 || tag != b[0] || len(value) > maxLDAP {
			t.Errorf("%x: %x %x %x", b, tag, value, rest)
		}
	})
}
