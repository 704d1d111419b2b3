package machineapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
)

// addFile announces a file of a size and gives what the server answered.
func (s *server) addFile(m machine, r record, size int) (uid seal.ID, url string, fields map[string]string) {
	s.t.Helper()
	uid = seal.NewID()
	code, answer := s.send(ksm.PathMachine+ksm.OpAddFile, s.raw(m, map[string]any{
		"fileRecordUid": uid, "fileRecordData": "AAAA", "ownerRecordUid": r.uid, "ownerRecordData": r.seal("with a file"),
		"ownerRecordRevision": s.row(r.uid[:]).Revision, "linkKey": ksm.Std(make([]byte, 60)), "fileSize": size,
	}))
	s.want("add_file", code, "")
	var got ksm.FileAnswer
	s.must(json.Unmarshal(answer, &got))
	s.must(json.Unmarshal([]byte(got.Parameters), &fields))
	if got.SuccessStatusCode != http.StatusCreated {
		s.t.Errorf("success is %d", got.SuccessStatusCode)
	}
	return uid, got.URL, fields
}

// form is an upload's body: the fields, then the file.
func form(t *testing.T, fields map[string]string, file []byte) (contentType string, body []byte) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for name, value := range fields {
		if err := w.WriteField(name, value); err != nil {
			t.Fatal(err)
		}
	}
	part, err := w.CreateFormField("file") // as Node sends it: without a file name
	if err == nil {
		_, err = part.Write(file)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return w.FormDataContentType(), b.Bytes()
}

func (s *server) upload(url, contentType string, body []byte) (status int, answer string, header http.Header) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, url, bytes.NewReader(body))
	s.must(err)
	req.Header.Set("Content-Type", contentType)
	t := s.transport()
	t.ForceAttemptHTTP2 = false // as Node
	defer t.CloseIdleConnections()
	resp, err := (&http.Client{Transport: t}).Do(req)
	s.must(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	s.must(err)
	resp.Header.Set("Connection", map[bool]string{true: "close"}[resp.Close])
	return resp.StatusCode, string(b), resp.Header
}

func (s *server) get(url string) (int, []byte) {
	s.t.Helper()
	t := s.transport()
	defer t.CloseIdleConnections()
	resp, err := (&http.Client{Transport: t}).Get(url)
	s.must(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	s.must(err)
	return resp.StatusCode, b
}

func (s *server) listed(m machine) (files []ksm.File) {
	s.t.Helper()
	_, answer := s.send(ksm.PathMachine+ksm.OpGetSecret, s.raw(m, map[string]any{}))
	var got ksm.GetAnswer
	s.must(json.Unmarshal(answer, &got))
	for _, f := range got.Folders {
		for _, r := range f.Records {
			files = append(files, r.Files...)
		}
	}
	return files
}

func (s *server) blobs() []string { return filesIn(s.t, s.files) }

func filesIn(t testing.TB, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestFileContents(t *testing.T) {
	s := newServer(t)
	s.setClock(time.Now())
	r := s.addRecord(s.edit, login("1"))
	m := s.prebound("m")
	content := bytes.Repeat([]byte{7}, 4096)
	_, url, fields := s.addFile(m, r, len(content))
	if got := s.listed(m); len(got) != 0 {
		t.Errorf("%d files before the contents arrived", len(got))
	}
	altered := map[string]string{}
	for name, value := range fields {
		altered[name] = strings.Repeat("A", len(value))
	}
	for name, test := range map[string]struct {
		fields map[string]string
		file   []byte
		want   int
	}{
		"too short":      {fields, content[1:], http.StatusBadRequest},
		"too long":       {fields, append(content, 1), http.StatusBadRequest},
		"another secret": {altered, content, http.StatusForbidden},
		"no secret":      {nil, content, http.StatusForbidden},
	} {
		contentType, body := form(t, test.fields, test.file)
		if status, _, _ := s.upload(url, contentType, body); status != test.want {
			t.Errorf("%s: %d, want %d", name, status, test.want)
		}
	}
	if got := s.listed(m); len(got) != 0 || len(s.blobs()) != 0 {
		t.Errorf("refused uploads left %d files, %v", len(got), s.blobs())
	}
	contentType, body := form(t, fields, content)
	status, answer, header := s.upload(url, contentType, body)
	if status != http.StatusCreated || answer == "" || header.Get("Connection") != "close" {
		t.Errorf("upload: %d %q, connection %q", status, answer, header.Get("Connection"))
	}
	if status, _, _ := s.upload(url, contentType, body); status != http.StatusForbidden {
		t.Errorf("the secret a second time: %d", status)
	}
	got := s.listed(m)
	if len(got) != 1 {
		t.Fatalf("%d files", len(got))
	}
	if status, b := s.get(got[0].URL); status != http.StatusOK || !bytes.Equal(b, content) {
		t.Errorf("download: %d, %d bytes", status, len(b))
	}
	if paths := s.blobs(); len(paths) != 1 {
		t.Errorf("blobs: %v", paths)
	} else if info, err := os.Stat(paths[0]); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	at := len(got[0].URL) - 10 // within the address's proof
	guess := got[0].URL[:at] + map[bool]string{true: "B", false: "A"}[got[0].URL[at] == 'A'] + got[0].URL[at+1:]
	if status, _ := s.get(guess); status != http.StatusNotFound {
		t.Errorf("an altered address: %d", status)
	}
	s.setClock(s.clock().Add(time.Hour))
	if status, _ := s.get(got[0].URL); status != http.StatusGone {
		t.Errorf("an old address: %d", status)
	}
	fresh := s.listed(m)[0].URL

	_, answerBody := s.send(ksm.PathMachine+ksm.OpDeleteSecret, s.raw(m, map[string]any{"recordUids": []any{r.uid}}))
	if !bytes.Contains(answerBody, []byte(`"ok"`)) || len(s.blobs()) != 0 {
		t.Errorf("delete: %s, blobs %v", answerBody, s.blobs())
	}
	if status, _ := s.get(fresh); status != http.StatusNotFound {
		t.Errorf("a deleted file: %d", status)
	}
}

// Uploads without a good secret, however slow and many, take nobody's place.
func TestStrangersTakeNoUploadsPlace(t *testing.T) {
	s := newServer(t)
	content := []byte("123456789012345678901234567890")
	_, url, fields := s.addFile(s.prebound("m"), s.addRecord(s.edit, login("1")), len(content))
	const head = "--x\r\nContent-Disposition: form-data; name=\"upload\"\r\n\r\n"
	before := s.calls.Load()
	for range 40 { // more than there are places
		body, send := io.Pipe()
		defer send.Close()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, body)
		s.must(err)
		req.Header.Set("Content-Type", "multipart/form-data; boundary=x")
		tr := s.transport()
		defer tr.CloseIdleConnections()
		go func() {
			if resp, err := (&http.Client{Transport: tr}).Do(req); err == nil {
				resp.Body.Close()
			}
		}()
		go io.WriteString(send, head) //nolint:errcheck // it ends with the test
	}
	for end := time.Now().Add(20 * time.Second); s.calls.Load() < before+40; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d uploads have begun", s.calls.Load()-before)
		}
	}
	contentType, form := form(t, fields, content)
	if status, answer, _ := s.upload(url, contentType, form); status != http.StatusCreated {
		t.Errorf("a good upload: %d %s", status, answer)
	}
}

func TestLateUploadIsRefused(t *testing.T) {
	s := newServer(t)
	s.setClock(time.Now())
	r := s.addRecord(s.edit, login("1"))
	content := []byte("123456789012345678901234567890")
	_, url, fields := s.addFile(s.prebound("m"), r, len(content))
	s.setClock(s.clock().Add(time.Hour))
	contentType, body := form(t, fields, content)
	if status, _, _ := s.upload(url, contentType, body); status != http.StatusForbidden {
		t.Errorf("got %d", status)
	}
}

func TestFilesOfOtherRecordsAreNotDetached(t *testing.T) {
	s := newServer(t)
	m := s.prebound("m")
	mine, other := s.addRecord(s.edit, login("1")), s.addRecord(s.edit, login("2"))
	uid, _, _ := s.addFile(m, other, 30)
	s.want("update", s.do(m, ksm.OpUpdateSecret, map[string]any{
		"recordUid": mine.uid, "revision": 1, "data": mine.seal("x"), "links2Remove": []any{uid, seal.NewID()},
	}), "")
	s.query(func(ctx context.Context, q *db.Queries) error {
		_, err := q.FileByUID(ctx, db.FileByUIDParams{Org: s.org, FileUid: uid[:]})
		return err
	})
	if names := s.events("file."); slices.ContainsFunc(names, func(e db.Event) bool { return e.Name == "file.deleted" }) {
		t.Error("another record's file was deleted")
	}
}

// FuzzUpload offers upload bodies to the handler: none may panic, be taken, or
// leave anything behind.
func FuzzUpload(f *testing.F) {
	s := newServer(f)
	f.Add("multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=\"upload\"\r\n\r\nAAAA\r\n--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n1\r\n--x--"))
	unknown := "--x\r\nContent-Disposition: form-data; name=\"upload\"\r\n\r\n" + ksm.URL(make([]byte, 56)) +
		"\r\n--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"\"\r\n\r\n1\r\n--x--"
	f.Add("multipart/form-data; boundary=x", []byte(unknown))
	f.Add("multipart/form-data", []byte("--"))
	f.Add("multipart/mixed; boundary=\"\"", []byte{})
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, ksm.PathFiles+"upload", bytes.NewReader(body))
		r.Header["Content-Type"] = []string{contentType}
		w := httptest.NewRecorder()
		s.api.ServeHTTP(w, r)
		if w.Code < 400 {
			t.Fatalf("an upload that nobody announced: %d", w.Code)
		}
		if paths := filesIn(t, s.files); len(paths) != 0 {
			t.Fatalf("left behind: %v", paths)
		}
	})
}
