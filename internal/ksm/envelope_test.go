package ksm

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

func newKey(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	k, err := seal.GenerateDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	point, err := seal.DevicePub(k)
	if err != nil {
		t.Fatal(err)
	}
	return k, point
}

func TestEnvelope(t *testing.T) {
	old, oldPoint := newKey(t)
	now, nowPoint := newKey(t)
	_, foreignPoint := newKey(t)
	signer, signerPoint := newKey(t)
	keys := ServerKeys{{ID: 101, Private: now}, {ID: 100, Private: old}}
	payload := []byte(`{"clientId":"x"}`)

	for name, test := range map[string]struct {
		point []byte
		label int
		want  string // code of the refusal
		keyID int
	}{
		"the current key":                              {nowPoint, 101, "", 0},
		"a former key, for pinned clients":             {oldPoint, 100, "", 0},
		"the id is only a label":                       {nowPoint, 7, "", 0},
		"another's key under a foreign id":             {foreignPoint, 10, CodeKey, 101},
		"another's key under our id: no hint, no loop": {foreignPoint, 101, CodeBadRequest, 0},
		"another's key under our former id":            {foreignPoint, 100, CodeBadRequest, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h, body, key, err := sealRequest(test.point, test.label, signer, payload)
			if err != nil {
				t.Fatal(err)
			}
			o, refused := keys.Open(h, body)
			if test.want != "" {
				if refused == nil || refused.Code != test.want || refused.KeyID != test.keyID {
					t.Fatalf("got %+v, want %s %d", refused, test.want, test.keyID)
				}
				return
			}
			if refused != nil {
				t.Fatal(refused)
			}
			if !bytes.Equal(o.Payload, payload) || !o.Verify(signerPoint) {
				t.Error("the payload or its signature did not come through")
			}
			if o.Verify(nowPoint) || o.Verify(nil) || o.Verify(make([]byte, 65)) {
				t.Error("another key verifies")
			}
			answer, err := seal.OpenGCM(key, o.Seal([]byte("answer")), nil)
			if err != nil || string(answer) != "answer" {
				t.Errorf("answer %q, %v", answer, err)
			}
		})
	}
}

// TestEnvelopeAltered alters each part of a request that is on the wire.
func TestEnvelopeAltered(t *testing.T) {
	key, point := newKey(t)
	signer, signerPoint := newKey(t)
	keys := ServerKeys{{ID: 100, Private: key}}
	flip := func(s string) string {
		raw, err := Decode(s)
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)-1] ^= 1
		return Std(raw)
	}
	for name, test := range map[string]struct {
		alter func(h http.Header, body []byte) []byte
		opens bool // it opens, and the signature does not verify
	}{
		"body": {func(_ http.Header, b []byte) []byte { b[20] ^= 1; return b }, false},
		"transmission key": {func(h http.Header, b []byte) []byte {
			h.Set("TransmissionKey", flip(h.Get("TransmissionKey")))
			return b
		}, false},
		"no transmission key":   {func(h http.Header, b []byte) []byte { h.Del("TransmissionKey"); return b }, false},
		"long transmission key": {func(h http.Header, b []byte) []byte { h.Set("TransmissionKey", string(make([]byte, 4096))); return b }, false},
		"no signature":          {func(h http.Header, b []byte) []byte { h.Del("Authorization"); return b }, false},
		"another scheme": {func(h http.Header, b []byte) []byte {
			h.Set("Authorization", "Bearer"+h.Get("Authorization")[len("Signature"):])
			return b
		}, false},
		"signature": {func(h http.Header, b []byte) []byte {
			h.Set("Authorization", "Signature "+flip(h.Get("Authorization")[len("Signature "):]))
			return b
		}, true},
		"empty body": {func(http.Header, []byte) []byte { return nil }, false},
		"large body": {func(http.Header, []byte) []byte { return make([]byte, MaxBody+1) }, false},
	} {
		h, body, _, err := sealRequest(point, 100, signer, []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		o, refused := keys.Open(h, test.alter(h, body))
		if (refused == nil) != test.opens {
			t.Errorf("%s: %v", name, refused)
		}
		if o != nil && o.Verify(signerPoint) {
			t.Errorf("%s: the signature verifies", name)
		}
	}
}

func TestBase64(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "+/8=": "\xfb\xff", "+/8": "\xfb\xff", "-_8=": "\xfb\xff", "-_8": "\xfb\xff", "QQ==": "A", "QQ": "A",
	} {
		if got, err := Decode(text); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"Q", "+_8", "Q Q", "é"} {
		if got, err := Decode(text); err == nil {
			t.Errorf("%q is %q", text, got)
		}
	}
	if Std([]byte{0xfb, 0xff}) != "+/8=" || URL([]byte{0xfb, 0xff}) != "-_8" {
		t.Error("output is not exact")
	}
}

func TestPayloadsAreLenient(t *testing.T) {
	uid := URL(make([]byte, 16))
	var get GetRequest
	err := json.Unmarshal([]byte(`{"clientVersion":"ms17","requestedRecords":null,"requestedFolders":["`+uid+`","a title",""],"later":{"x":[1]}}`), &get)
	if err != nil || get.RequestedRecords != nil || len(get.RequestedFolders) != 1 {
		t.Errorf("got %+v, %v", get, err)
	}
	var file FileRequest
	if err := json.Unmarshal([]byte(`{"fileRecordUid":"`+uid+`","fileSize":3}`), &file); err != nil || file.OwnerRecordRevision != nil || len(file.FileRecordUID) != 16 {
		t.Errorf("got %+v, %v", file, err)
	}
	var create CreateRequest
	if err := json.Unmarshal([]byte(`{"recordUid":"AA"}`), &create); err == nil {
		t.Error("a uid of one byte was taken")
	}
	if err := json.Unmarshal([]byte(`{"subFolderUid":"","folderUid":null}`), &create); err != nil || len(create.SubFolderUID) != 0 {
		t.Errorf("no sub-folder: %+v, %v", create, err)
	}
}

// TestAnswersHaveEveryKey: other SDKs fail where a key is missing or null.
func TestAnswersHaveEveryKey(t *testing.T) {
	got, err := json.Marshal(GetAnswer{Folders: []Folder{{Records: []Record{{Files: []File{{}}}}}}, Records: []Record{}})
	want := `{"encryptedAppKey":null,"appOwnerPublicKey":null,"appData":"","folders":[{"folderUid":"","folderKey":"","data":null,"parent":null,` +
		`"records":[{"recordUid":"","recordKey":"","data":"","revision":0,"isEditable":false,"files":[{"fileUid":"","fileKey":"","data":"","url":"","thumbnailUrl":null}],` +
		`"innerFolderUid":null,"links":null}]}],"records":[],"expiresOn":0,"warnings":null}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
}
