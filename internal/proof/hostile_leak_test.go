package proof

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keeper-security/secrets-manager-go/core"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	"github.com/rotunda-pam/rotunda/proto/rotunda/client/v1/clientv1connect"
	"github.com/rotunda-pam/rotunda/sdk"
)

// secret is one of the run's, with a name that may be printed.
type secret struct {
	name  string
	bytes []byte
}

// searcher finds secrets in every form in which they could have been written down.
type searcher struct {
	forms  map[uint64][]form // by their first eight bytes
	begins [1 << 16]bool     // by their first two
}

type form struct {
	of, as string
	bytes  []byte
}

// anchor is how many bytes a form has at least; a shorter one would be found by chance.
const anchor = 8

func newSearcher(secrets []secret) *searcher {
	s := &searcher{forms: map[uint64][]form{}}
	for _, x := range secrets {
		for as, b := range formsOf(x.bytes) {
			if len(b) < anchor {
				continue
			}
			key := binary.LittleEndian.Uint64(b)
			s.forms[key] = append(s.forms[key], form{x.name, as, b})
			s.begins[binary.LittleEndian.Uint16(b)] = true
		}
	}
	return s
}

// formsOf are raw, hex, URL and JSON escapes, and base64 of both alphabets at each of
// the three places where it may begin within a longer text.
func formsOf(b []byte) map[string][]byte {
	forms := map[string][]byte{
		"raw": b, "hex": []byte(hex.EncodeToString(b)), "HEX": []byte(strings.ToUpper(hex.EncodeToString(b))),
		"query": []byte(url.QueryEscape(string(b))), "path": []byte(url.PathEscape(string(b))),
	}
	if quoted, err := json.Marshal(string(b)); err == nil {
		forms["JSON"] = quoted[1 : len(quoted)-1]
	}
	for name, e := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
		for shift := range 3 {
			text := e.EncodeToString(append(make([]byte, shift), b...))
			// The first characters hold bits of what stands before, the last of what follows.
			from, to := (shift*8+5)/6, len(text)
			if (len(b)+shift)%3 != 0 {
				to--
			}
			if from < to {
				forms[name+"+"+string(rune('0'+shift))] = []byte(text[from:to])
			}
		}
	}
	return forms
}

// in looks for every form of every secret.
func (s *searcher) in(data []byte) (found []form) {
	for i := 0; i+anchor <= len(data); i++ {
		if !s.begins[binary.LittleEndian.Uint16(data[i:])] {
			continue
		}
		for _, f := range s.forms[binary.LittleEndian.Uint64(data[i:])] {
			if bytes.HasPrefix(data[i:], f.bytes) {
				found = append(found, f)
			}
		}
	}
	return found
}

// places are all that the operator, a thief of an agent's or a person's disk without
// their key files, and whoever reads logs or listens, can have. The operator's server is
// the other end of TLS, so what it decrypts is his, too.
func (w *hostileWorld) places(t *testing.T) map[string][]byte {
	t.Helper()
	heard, err := w.Heard()
	if err != nil {
		t.Fatal(err)
	}
	places := map[string][]byte{"traffic": w.Wire(), "what the server decrypted": heard}
	err = filepath.WalkDir(w.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(w.Dir, path)
		if err != nil {
			return err
		}
		top, _, _ := strings.Cut(name, string(filepath.Separator))
		switch {
		case d.Name() == "agent.key", strings.HasPrefix(d.Name(), "agent.key."): // an agent's own
			return nil
		case top == name, top == "fault": // what the rows themselves put there
			return nil
		}
		if info, err := d.Info(); err != nil || info.Mode()&0o111 != 0 { // plugins' programs
			return nil
		}
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil // gone in the meantime
		}
		places[name] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return places
}

// secrets are all of the run: what Ada's keys open, and the keys themselves.
func (w *hostileWorld) secrets(t *testing.T) (all []secret) {
	t.Helper()
	add := func(name string, b []byte) {
		all = append(all, secret{name, b})
		// A key in a text of several lines: its last full line is private.
		if lines := bytes.Split(bytes.TrimSpace(b), []byte("\n")); len(lines) > 3 {
			all = append(all, secret{name + ", a line", lines[len(lines)-3]})
		}
	}
	ada := w.ada(t)
	for name, keys := range map[string]enrol.Keys{"Ada": ada.keys, "gw1": stolen(t, w.agent).Keys} {
		stored, err := keys.Store()
		if err != nil {
			t.Fatal(err)
		}
		add(name+"'s signing key", stored.Sign)
		add(name+"'s seal key", stored.Seal)
		if len(stored.Device) > 0 {
			private, err := keys.Device.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			add(name+"'s device key", private)
		}
	}
	add("the passphrase", []byte(installation.Passphrase))
	add("the target's administrator", w.pg.AdminPassword.Expose())

	l := w.log(t)
	folders := map[seal.ID]seal.Key{}
	for _, f := range l.Folders() {
		var n int
		w.read(t, "SELECT count(*) FROM folder_key WHERE org = 1 AND folder_uid = ? AND recipient_id = ?", []any{f.UID.Bytes(), ada.id.Bytes()}, &n)
		if n > 0 {
			key := w.folderKey(t, ada.stolen(), f.UID)
			folders[f.UID] = key
			add("folder key", key.Expose())
		}
	}
	rows, err := w.file.QueryContext(t.Context(), `SELECT folder_uid, record_key, data FROM record WHERE org = 1
		UNION ALL SELECT r.folder_uid, h.record_key, h.data FROM record_history h JOIN record r ON r.org = h.org AND r.record_uid = h.record_uid WHERE h.org = 1`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var folder, wrapped, box []byte
		if err := rows.Scan(&folder, &wrapped, &box); err != nil {
			t.Fatal(err)
		}
		key, err := seal.UnwrapKey(folders[seal.ID(folder)], wrapped)
		if err != nil {
			continue // of a folder that Ada does not read, or left over by a row
		}
		plain, err := seal.OpenGCM(key, box, nil)
		if err != nil {
			continue
		}
		rec, err := record.Parse(plain)
		if err != nil {
			t.Fatal(err)
		}
		add("record key", key.Expose())
		if pw, ok := rec.Text("password"); ok {
			add("password of "+rec.Title(), pw)
		}
		if pair, ok := rec.KeyPair(); ok {
			add("private key of "+rec.Title(), []byte(pair.PrivateKey))
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func nothingLeaks(t *testing.T, w *hostileWorld) {
	// What the row itself makes, so that there is something to find; and all that the
	// rows before it have made.
	title := w.account(t)
	first, err := w.Secret(t.Context(), title)
	if err != nil {
		t.Fatal(err)
	}
	w.works(t, title)
	second, err := w.Secret(t.Context(), title)
	if err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(w.Dir, w.name("token"))
	w.cli(t, "agent", "token", w.name("gw"), "--pool", installation.Pool, "--unattended", "--out", token)
	text, err := os.ReadFile(token)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := enrol.ParseToken(sdk.NewSecret(bytes.TrimSpace(text)))
	if err != nil {
		t.Fatal(err)
	}
	app := w.application(t)
	config := w.configured(t, app).config
	bound := w.bound(t, app)
	if _, err := bound.GetSecrets(nil); err != nil {
		t.Fatal(err)
	}

	secrets := append(w.secrets(t),
		secret{"the enrolment token's seed", parsed.Seed.Expose()},
		secret{"the first secret", first.Expose()}, secret{"the second secret", second.Expose()})
	for _, c := range []core.IKeyValueStorage{config, bound.config} {
		key, err := base64.StdEncoding.DecodeString(c.Get(core.KEY_APP_KEY))
		if err != nil || len(key) != 32 {
			t.Fatalf("the application's key in a configuration: %d bytes, %v", len(key), err)
		}
		der, err := base64.StdEncoding.DecodeString(c.Get(core.KEY_PRIVATE_KEY))
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			t.Fatal(err)
		}
		own, err := private.(*ecdsa.PrivateKey).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, secret{"the application's key", key}, secret{"a machine client's key", own})
	}
	held := 0
	for _, s := range secrets {
		if bytes.Equal(s.bytes, first.Expose()) || bytes.Equal(s.bytes, second.Expose()) {
			held++
		}
	}
	if held < 4 { // as the row was told them, and as it opened the vault's record and history
		t.Errorf("the list of secrets has the row's own %d times", held)
	}

	search, size, hits := newSearcher(secrets), 0, 0
	for place, data := range w.places(t) {
		size += len(data)
		for _, f := range search.in(data) {
			hits++
			t.Errorf("%s is in %s, as %s", f.of, place, f.as)
		}
		if place == "what the server decrypted" && bytes.Contains(data, []byte("Content-Encoding: ")) {
			t.Error("a request's body is compressed: a secret in it would not be found")
		}
	}
	t.Logf("%d secrets, %d hits in %d KiB", len(secrets), hits, size>>10)
	w.searchFinds(t)
}

// say sends the server a text within TLS in every way that there is: as a header and in a
// body (a person's request), in the envelope of the secrets-manager API (an agent's), and
// in a frame of the agents' channel. What it gives are the texts that were sent.
func (w *hostileWorld) say(t *testing.T) (said map[string][]byte) {
	t.Helper()
	said = map[string][]byte{}
	for _, way := range []string{"header", "body", "payload", "frame"} {
		said[way] = []byte("said <in confidence> as a " + way)
	}
	config, err := w.TLS()
	if err != nil {
		t.Fatal(err)
	}

	transport := &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	body := encode(t, &clientv1.ChallengeRequest{KeyId: said["body"]})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+w.Addr+clientv1connect.VaultServiceChallengeProcedure, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/proto")
	r.Header.Set("Said", string(said["header"]))
	answer, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.ProtoMajor != 2 {
		t.Errorf("a person's request went by %s, which is not what clients speak", answer.Proto)
	}

	key, err := seal.GenerateDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	agent, err := ksm.NewClient(ksm.ClientConfig{BaseURL: "https://" + w.Addr, HTTP: &http.Client{Transport: transport}, Key: key, Version: string(said["payload"])})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Log(t.Context(), ksm.LogRequest{}); refusedWith(err) != ksm.CodeAccessDenied {
		t.Errorf("a request of nobody's: %v", err)
	}

	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	raw, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", w.Addr)
	if err != nil {
		t.Fatal(err)
	}
	sock, err := socket.Dial(t.Context(), raw, w.Addr, socket.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	if err := sock.Write(said["frame"], patience); err != nil {
		t.Fatal(err)
	}
	for err == nil { // the challenge, the refusal, the end: then it was read
		_, err = sock.Read(patience)
	}
	return said
}

// searchFinds is the positive control: what is planted is found, in every form, and in
// the places that are searched.
func (w *hostileWorld) searchFinds(t *testing.T) {
	t.Helper()
	planted := []byte("what ünder <no> circumstances & ever / leaks?")
	search := newSearcher([]secret{{"planted", planted}})
	for as, b := range formsOf(planted) {
		if len(search.in(append(append([]byte("before "), b...), " behind"...))) == 0 {
			t.Errorf("the search does not find a secret as %s", as)
		}
	}
	for shift := range 3 {
		within := base64.StdEncoding.EncodeToString(append(make([]byte, shift), append(bytes.Clone(planted), "and more"...)...))
		if len(search.in([]byte(within))) == 0 {
			t.Errorf("the search does not find a secret within longer base64, at %d", shift)
		}
	}
	w.sql(t, "INSERT INTO enrol_blob (org, entry_id, blob) VALUES (2, ?, ?)", seal.NewID().Bytes(), []byte(base64.URLEncoding.EncodeToString(planted)))
	line := filepath.Join(w.Dir, "log", "planted")
	if err := os.WriteFile(line, append([]byte("error: "), url.QueryEscape(string(planted))...), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(line)
	said := w.say(t)
	found := map[string]bool{}
	for place, data := range w.places(t) {
		if len(search.in(data)) > 0 {
			found[strings.TrimSuffix(place, "-wal")] = true
		}
		for way, text := range said {
			if hit := len(newSearcher([]secret{{way, text}}).in(data)) > 0; hit != (place == "what the server decrypted") {
				t.Errorf("what was said within TLS as a %s is found in %s: %t", way, place, hit)
			}
		}
	}
	for _, place := range []string{"server/rotunda.db", "log/planted"} {
		if !found[place] {
			t.Errorf("what was planted in %s is not found; found in %v", place, found)
		}
	}
	if !bytes.Contains(w.Wire(), []byte{0x16, 0x03, 0x01}) { // how every greeting of TLS begins
		t.Error("the traffic was not seen")
	}
}
