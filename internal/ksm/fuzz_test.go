package ksm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// fixedKey is the same key every time, so that inputs that were kept stay good.
func fixedKey(t testing.TB, n byte) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{n}, 32))
	if err != nil {
		t.Fatal(err)
	}
	point, err := seal.DevicePub(k)
	if err != nil {
		t.Fatal(err)
	}
	return k, point
}

// FuzzOpen offers a request's parts as an attacker may choose them. What opens is what
// the client sealed, and what the client's key verifies is what it signed.
func FuzzOpen(f *testing.F) {
	key, point := fixedKey(f, 1)
	signer, signerPoint := fixedKey(f, 2)
	keys := ServerKeys{{ID: 100, Private: key}}
	h, body, _, err := sealRequest(point, 100, signer, []byte("{}"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(h.Get("TransmissionKey"), h.Get("Authorization"), "100", body)
	f.Add(h.Get("TransmissionKey"), h.Get("Authorization"), "7", []byte{})
	f.Add("", "Signature ", "x", []byte{})
	f.Add("AAAA", "Signature AAAA", "7", []byte("x"))
	f.Fuzz(func(t *testing.T, sealed, authorization, id string, body []byte) {
		o, refused := keys.Open(http.Header{"Transmissionkey": {sealed}, "Authorization": {authorization}, "Publickeyid": {id}}, body)
		if (o == nil) == (refused == nil) {
			t.Fatal("neither opened nor refused, or both")
		}
		if refused != nil {
			if refused.Status < 400 || refused.Status >= 500 || refused.Code == "" {
				t.Fatalf("refused with %d %q", refused.Status, refused.Code)
			}
			return
		}
		if string(o.Payload) != "{}" {
			t.Fatalf("opened %q, which nobody sealed", o.Payload)
		}
		// The input of an earlier run was signed, too; a kept one may verify.
		if o.Verify(point) {
			t.Fatal("verifies under another key")
		}
		o.Verify(signerPoint)
		o.Wipe()
		if !bytes.Equal(o.Payload, make([]byte, len(o.Payload))) {
			t.Fatal("the payload is left after Wipe")
		}
	})
}

// FuzzPayloads decodes each payload from bytes of a stranger's client. What is read has
// uids of 16 bytes, holds no more than the payload did, and written anew reads the same.
func FuzzPayloads(f *testing.F) {
	uid := seal.ID{1}
	for _, v := range []any{
		FetchRequest{AgentHead: AgentHead{"rt1", "AA==", OpFetch}, RequestedRecords: []string{uid.String()}, Ext: true},
		LeaseRequest{Account: Ref{uid[:], uid[:]}, RunID: uid[:], Cause: "mandate", Fetch: true},
		StageRequest{Account: Ref{uid[:], uid[:]}, RunID: uid[:], Epoch: 1, Revision: 1, Data: []byte("data"), DataDigest: make([]byte, 32), ValueSeq: 1},
		SettleRequest{Account: Ref{uid[:], uid[:]}, RunID: uid[:], Epoch: 1, Finish: true},
		ReportRequest{RunID: uid[:], Refusals: []Refusal{{Name: "run.refused", Reason: "mandate_off", Fields: map[string]string{"a": "b"}}}, Retry: true},
		RestateRequest{Record: Ref{uid[:], uid[:]}, Seq: 1, Digest: make([]byte, 32), Blob: []byte("blob"), PoolID: uid[:]},
		LogRequest{From: 1, Limit: 10},
		AppendRequest{Changes: [][]byte{{1}}},
		KeysRequest{EntryIDs: [][]byte{uid[:]}},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"clientVersion":"ms17.5.0","clientId":"AA==","publicKey":"BA","requestedRecords":["AAAAAAAAAAAAAAAAAAAAAA"],"revision":1,"data":"-_8","links2Remove":null}`))
	f.Add([]byte(`{"recordUids":[1],"fileSize":1e300,"ownerRecordRevision":null}`))
	f.Add([]byte(`{"recordUid":"AAAAAAAAAAAAAAAAAAAAAA","folderUid":"AAAAAAAAAAAAAAAAAAAAAA","recordKey":"AA","recordData":"AA"}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, into := range []any{
			&Head{}, &GetRequest{}, &UpdateRequest{}, &SettleUpdate{}, &CreateRequest{}, &DeleteRequest{}, &CreateFolderRequest{},
			&UpdateFolderRequest{}, &DeleteFolderRequest{}, &FileRequest{},
		} {
			if json.Unmarshal(payload, into) == nil {
				bounded(t, reflect.ValueOf(into), len(payload))
			}
		}
		for _, into := range []any{
			&FetchRequest{}, &LeaseRequest{}, &StageRequest{}, &SettleRequest{}, &ReportRequest{}, &LogRequest{}, &AppendRequest{},
			&KeysRequest{}, &RestateRequest{},
		} {
			if json.Unmarshal(payload, into) == nil {
				bounded(t, reflect.ValueOf(into), len(payload))
				readsTheSame(t, into)
			}
		}
	})
}

// bounded looks into a decoded payload: uids, and the size of what it holds.
func bounded(t *testing.T, v reflect.Value, size int) {
	t.Helper()
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			bounded(t, v.Elem(), size)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			bounded(t, v.Field(i), size)
		}
	case reflect.Slice:
		if u, ok := v.Interface().(UID); ok && len(u) != 0 && len(u) != 16 {
			t.Fatalf("a uid of %d bytes came through", len(u))
		}
		if v.Len() > size {
			t.Fatalf("%d elements from %d bytes", v.Len(), size)
		}
		list, ok := v.Interface().(UIDs)
		for _, u := range list {
			if ok && len(u) != 16 {
				t.Fatalf("a uid of %d bytes came through", len(u))
			}
		}
		if k := v.Type().Elem().Kind(); k == reflect.Slice || k == reflect.Struct {
			for i := range v.Len() {
				bounded(t, v.Index(i), size)
			}
		}
	}
}

func readsTheSame(t *testing.T, decoded any) {
	t.Helper()
	out, err := json.Marshal(decoded)
	if err != nil {
		t.Fatal(err)
	}
	again := reflect.New(reflect.TypeOf(decoded).Elem()).Interface()
	if err := json.Unmarshal(out, again); err != nil {
		t.Fatalf("%T, written anew: %v", decoded, err)
	}
	if twice, err := json.Marshal(again); err != nil || !bytes.Equal(out, twice) {
		t.Fatalf("%T %s, written anew, is %s, %v", decoded, out, twice, err)
	}
}

// answering is a server that gives one answer to everything, sealed as it should be.
type answering struct {
	keys   ServerKeys
	status int
	plain  []byte // sealed, with status 200
	raw    []byte // as it is, otherwise
}

func (a *answering) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := func(status int, body []byte) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
	}
	if a.status != http.StatusOK || r.Body == nil {
		return answer(a.status, a.raw)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	o, refused := a.keys.Open(r.Header, body)
	if refused != nil {
		return nil, refused
	}
	return answer(http.StatusOK, o.Seal(a.plain))
}

// FuzzAnswers: whatever the server answers to an agent's operation. It is read, or an
// error that quotes none of it, since an answer can hold secrets; only the server's own
// word is a refusal.
func FuzzAnswers(f *testing.F) {
	key, point := fixedKey(f, 1)
	device, _ := fixedKey(f, 2)
	uid := seal.ID{1}
	fetched := FetchAnswer{
		Folders: []ExtFolder{{FolderUID: uid[:], KeyVersion: 1, Sealed: []byte("sealed")}},
		Records: []ExtRecord{{Ref: Ref{uid[:], uid[:]}, Kind: "pamUser", RecordKey: []byte("key"), Data: []byte("data"), Revision: 1, Recent: [][]byte{{1}}, Staged: &ExtStaged{Owner: "agent", RunID: uid[:], Data: []byte("d")}}},
	}
	for _, v := range []any{
		fetched,
		LeaseAnswer{Epoch: 7, TermMS: 10_000, Action: "rotate", Cause: "person", Fetched: &fetched},
		LeaseAnswer{Busy: true, Holder: uid[:]},
		LogAnswer{Changes: [][]byte{{1}}, Epoch: 1, Digest: make([]byte, 32)},
		KeysAnswer{Keys: [][]byte{{1}}},
		ServerInfo{Host: "vault", KeyID: 100, PublicKey: point, Version: "1"},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(200, b)
	}
	f.Add(409, []byte(`{"error":"epoch_old","message":"the lease has moved on"}`))
	f.Add(403, []byte(`{"error":"key","key_id":101,"message":"another key"}`))
	f.Add(403, []byte(`{"error":"throttled","retry_after":-9223372036854775808}`))
	f.Add(502, []byte(`<html>`))
	f.Add(500, []byte(`{"error":"busy"}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 {
			return
		}
		server := &answering{keys: ServerKeys{{ID: 100, Private: key}}, status: status, plain: body, raw: body}
		c, err := NewClient(ClientConfig{BaseURL: "https://vault", HTTP: &http.Client{Transport: server}, ServerKey: point, KeyID: 100, Key: device, Version: "1"})
		if err != nil {
			t.Fatal(err)
		}
		judge := func(answer any, err error) {
			t.Helper()
			if err == nil {
				if status != http.StatusOK {
					t.Fatalf("status %d is a success", status)
				}
				bounded(t, reflect.ValueOf(answer), len(body))
				readsTheSame(t, answer)
				return
			}
			e, ok := errors.AsType[*Error](err)
			switch {
			case ok && (status == http.StatusOK || status >= 500 || e.Code == ""):
				t.Fatalf("status %d is a refusal: %v", status, err)
			case ok && (e.RetryAfter < 0 || e.RetryAfter > time.Hour):
				t.Fatalf("comes back in %s", e.RetryAfter)
			case !ok && len(body) >= 8 && strings.Contains(err.Error(), string(body)):
				t.Fatalf("the error quotes the answer: %v", err)
			}
		}
		fetch, err := c.Fetch(t.Context(), FetchRequest{})
		judge(&fetch, err)
		lease, err := c.Lease(t.Context(), LeaseRequest{})
		judge(&lease, err)
		log, err := c.Log(t.Context(), LogRequest{})
		judge(&log, err)
		keys, err := c.Keys(t.Context(), KeysRequest{})
		judge(&keys, err)
		judge(&struct{}{}, c.Commit(t.Context(), SettleRequest{}))

		server.status, server.raw = status, body
		if info, err := c.Server(t.Context()); err == nil {
			if _, err := seal.ParseDevicePub(info.PublicKey); err != nil || status != http.StatusOK {
				t.Fatalf("status %d, and the server's key is %x", status, info.PublicKey)
			}
		}
	})
}
