package main

import (
	"testing"
)

// What a server stores as a password is its word: it is understood or refused, and says
// yes only to the password that it was made from.
func FuzzStoredMatches(f *testing.F) {
	v, err := newVerifier([]byte("right"), 10)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(v.String(), "app", "right")
	f.Add("md5"+"0123456789abcdef0123456789abcdef", "app", "right")
	f.Add("SCRAM-SHA-256$1:AA==$AA==:AA==", "", "")
	f.Add("SCRAM-SHA-256$99999999999:$:", "app", "")
	f.Fuzz(func(t *testing.T, stored, role, password string) {
		if p, err := parseVerifier(stored); err == nil {
			if p.iterations > 1000 {
				t.Skip("would take its time")
			}
			if again, err := parseVerifier(p.String()); err != nil || again.iterations != p.iterations || string(again.salt) != string(p.salt) {
				t.Errorf("%q comes back as %q, %v", stored, p, err)
			}
		}
		same, err := storedMatches(stored, role, []byte(password))
		if same && err != nil {
			t.Errorf("%q: yes, and %v", stored, err)
		}
		if same && stored == v.String() && string(saslPrep([]byte(password))) != "right" {
			t.Errorf("%q opens what was made from another", password)
		}
	})
}
