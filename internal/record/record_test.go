package record_test

import (
	"encoding/json"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/record"
)

const foreign = `{"type":"pamUser","title":"db","vendorKey":{"a":[1,2]},"fields":[
 {"type":"login","value":["app"]},
 {"type":"password","label":"pw","enforceGeneration":true,"value":["old"]},
 {"type":"fileRef","value":["u1","u2"]}],"custom":[{"type":"text","label":"env","value":["prod"]}]}`

func TestSetKeepsWhatItDoesNotKnow(t *testing.T) {
	r, err := record.Parse([]byte(foreign))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetText("password", []byte(`n<e>w"\`)); err != nil {
		t.Fatal(err)
	}
	out, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var got, want map[string]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	_ = json.Unmarshal([]byte(foreign), &want)
	want["fields"].([]any)[1].(map[string]any)["value"] = []any{`n<e>w"\`}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if string(a) != string(b) {
		t.Fatalf("got  %s\nwant %s", a, b)
	}
}

func TestFields(t *testing.T) {
	r := record.New("pamUser", "x")
	if _, ok := r.Text("password"); ok {
		t.Fatal("a new record has a password")
	}
	kp := record.KeyPair{PublicKey: "pub", PrivateKey: "priv"}
	if err := r.SetKeyPair(kp); err != nil {
		t.Fatal(err)
	}
	if err := r.SetText("login", []byte("root")); err != nil {
		t.Fatal(err)
	}
	if err := r.SetText("password", []byte{0xff}); err == nil {
		t.Fatal("took a password that JSON cannot hold")
	}
	out, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := record.Parse(out)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := again.KeyPair(); !ok || got != kp {
		t.Fatalf("key pair %+v, %v", got, ok)
	}
	if got, _ := again.Text("login"); string(got) != "root" {
		t.Fatalf("login %q", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(foreign))
	f.Add([]byte(`{"fields":[null]}`))
	f.Add([]byte(`{"fields":[{"type":"password","value":"notalist"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := record.Parse(b)
		if err != nil {
			return
		}
		if err := r.SetText("password", []byte("p")); err != nil {
			t.Fatal(err)
		}
		out, err := r.JSON()
		if err != nil {
			t.Fatal(err)
		}
		again, err := record.Parse(out)
		if err != nil {
			t.Fatalf("own output does not parse: %v", err)
		}
		if p, _ := again.Text("password"); string(p) != "p" {
			t.Fatalf("password %q", p)
		}
	})
}

// What is public about a secret is found by its label, among whatever else people have
// written there.
func TestLabelled(t *testing.T) {
	r, err := record.Parse([]byte(foreign))
	if err != nil {
		t.Fatal(err)
	}
	if r.Labelled("env") != "prod" || r.Labelled(record.KeyID) != "" {
		t.Errorf("env %q, key id %q", r.Labelled("env"), r.Labelled(record.KeyID))
	}
	for _, id := range []string{"AKIA1", "AKIA2"} {
		if err := r.SetLabelled(record.KeyID, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.SetLabelled(record.PublicPart, ""); err != nil {
		t.Fatal(err)
	}
	if err := r.SetLabelled(record.KeyID, "\xff"); err == nil {
		t.Error("took an id that JSON cannot hold")
	}
	out, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Custom []map[string]any }
	if err := json.Unmarshal(out, &got); err != nil || len(got.Custom) != 2 {
		t.Errorf("custom fields: %v, %v", got.Custom, err)
	}
	again, err := record.Parse(out)
	if err != nil || again.Labelled(record.KeyID) != "AKIA2" || again.Labelled("env") != "prod" {
		t.Errorf("read again: %q, %v", again.Labelled(record.KeyID), err)
	}
}
