package machineapi_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keeper-security/secrets-manager-go/core"
	"github.com/keeper-security/secrets-manager-go/core/logger"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/vault/machineapi"
)

// goClient makes the unmodified SDK's client. The second argument is the SDK's
// own way of giving a transport; nothing else of it is touched.
func (s *server) goClient(options *core.ClientOptions) *core.SecretsManager {
	s.t.Helper()
	logger.SetLogLevel(logger.CriticalLevel)
	c := &core.Context{Transport: s.transport()}
	client := core.NewSecretsManager(options, &c)
	if client == nil {
		s.t.Fatal("the SDK made no client")
	}
	return client
}

func (s *server) goBound() *core.SecretsManager {
	return s.goClient(&core.ClientOptions{
		Config: core.NewMemoryKeyValueStorage(s.configuration(s.prebound("go"), "localhost")),
	})
}

func sdkCode(t *testing.T, err error) string {
	t.Helper()
	var e *core.KeeperHTTPError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.ResultCode
	}
	return err.Error()
}

func one(t *testing.T, client *core.SecretsManager, uid string) *core.Record {
	t.Helper()
	records, err := client.GetSecrets([]string{uid})
	if err != nil || len(records) != 1 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	return records[0]
}

func TestGoSDKRedeemsAToken(t *testing.T) {
	s := newServer(t)
	r := s.addRecord(s.edit, login("1"))
	token := s.token()
	// No key id in the configuration: the SDK begins with its default, draws the
	// key hint, and goes on with ours.
	config := core.NewMemoryKeyValueStorage()
	client := s.goClient(&core.ClientOptions{Token: "localhost:" + token, Config: config})
	records, err := client.GetSecrets(nil)
	if err != nil || len(records) != 1 || records[0].Uid != r.uid.String() || records[0].Password() != "s3cret-1" {
		t.Fatalf("first answer: %d records, %v", len(records), err)
	}
	if got := config.Get(core.KEY_SERVER_PUBLIC_KEY_ID); got != "100" {
		t.Errorf("key id %q", got)
	}
	if config.Get(core.KEY_APP_KEY) == "" || config.Get(core.KEY_CLIENT_KEY) != "" || config.Get(core.KEY_OWNER_PUBLIC_KEY) == "" {
		t.Error("the client is not bound as the SDK binds it")
	}
	if n := s.calls.Load(); n != 3 {
		t.Errorf("%d requests; want the hint, the binding and its confirmation", n)
	}
	one(t, client, r.uid.String()) // a later call from the stored configuration

	again := s.goClient(&core.ClientOptions{Token: "localhost:" + token, Config: core.NewMemoryKeyValueStorage()})
	if _, err := again.GetSecrets(nil); sdkCode(t, err) != ksm.CodeAccessDenied {
		t.Errorf("the token again: %v", err)
	}
	full, err := client.GetSecretsFullResponse(nil)
	if err != nil || full.AppData.Title != "ci" || full.AppData.AppType != "app" {
		t.Errorf("application: %+v, %v", full.AppData, err)
	}
}

func TestGoSDKReadsAndWritesRecords(t *testing.T) {
	s := newServer(t)
	r := s.addRecord(s.edit, login("1"))
	fixed := s.addRecord(s.read, login("fixed"))
	s.addRecord(s.hidden, login("hidden"))
	client := s.goBound()

	t.Run("only what is shared", func(t *testing.T) {
		records, err := client.GetSecrets(nil)
		if err != nil || len(records) != 2 {
			t.Fatalf("%d records, %v", len(records), err)
		}
		for _, rec := range records {
			if want := rec.Uid == r.uid.String(); rec.IsEditable != want {
				t.Errorf("record %s is editable: %v", rec.Uid, rec.IsEditable)
			}
		}
	})
	t.Run("an unknown uid is no error", func(t *testing.T) {
		records, err := client.GetSecrets([]string{seal.NewID().String()})
		if err != nil || len(records) != 0 {
			t.Errorf("%d records, %v", len(records), err)
		}
	})
	t.Run("by folder", func(t *testing.T) {
		records, err := client.GetSecretsWithOptions(core.QueryOptions{FoldersFilter: []string{s.read.String()}})
		if err != nil || len(records) != 1 || records[0].Uid != fixed.uid.String() {
			t.Errorf("%d records, %v", len(records), err)
		}
	})
	t.Run("notation", func(t *testing.T) {
		uid := r.uid.String()
		for notation, want := range map[string]string{
			"keeper://" + uid + "/field/password":                 "s3cret-1",
			"keeper://" + uid + "/field/url[1]":                   "https://two",
			"keeper://" + uid + "/field/target[0][hostName]":      "db.example",
			"keeper://" + uid + "/custom_field/stage":             "blue",
			"keeper://" + uid + "/title":                          "Build host",
			"keeper://" + uid + "/type":                           "login",
			"keeper://" + fixed.uid.String() + "/field/password":  "s3cret-fixed",
			"keeper://" + fixed.uid.String() + "/field/login":     "ci",
			"keeper://" + fixed.uid.String() + "/field/url[0]":    "https://one",
			"keeper://" + fixed.uid.String() + "/notes":           "n",
			"keeper://" + fixed.uid.String() + "/field/target[0]": `{"hostName":"db.example","port":"5432"}`,
		} {
			got, err := client.GetNotationResults(notation)
			if err != nil || len(got) != 1 || got[0] != want {
				t.Errorf("%s: %q, %v", notation, got, err)
			}
		}
	})
	t.Run("update, and a stale revision", func(t *testing.T) {
		rec, stale := one(t, client, r.uid.String()), one(t, client, r.uid.String())
		rec.SetPassword("new")
		if err := client.Save(rec); err != nil {
			t.Fatal(err)
		}
		if got := one(t, client, r.uid.String()); got.Password() != "new" || got.Revision != 2 {
			t.Errorf("password %q, revision %d", got.Password(), got.Revision)
		}
		stale.SetPassword("stale")
		if err := client.Save(stale); sdkCode(t, err) != ksm.CodeOutOfSync {
			t.Errorf("stale revision: %v", err)
		}
	})
	t.Run("no update where it may only read", func(t *testing.T) {
		rec := one(t, client, fixed.uid.String())
		rec.SetPassword("new")
		if err := client.Save(rec); sdkCode(t, err) != ksm.CodeAccessDenied {
			t.Errorf("got %v", err)
		}
	})
	t.Run("rotation: rollback, then finalize", func(t *testing.T) {
		rec := one(t, client, r.uid.String())
		rec.SetPassword("staged")
		if err := client.SaveBeginTransaction(rec, core.TransactionTypeRotation); err != nil {
			t.Fatal(err)
		}
		if got := one(t, client, r.uid.String()); got.Password() != "new" || got.Revision != 2 {
			t.Errorf("while staged: %q, revision %d", got.Password(), got.Revision)
		}
		if err := client.CompleteTransaction(rec.Uid, true); err != nil {
			t.Fatal(err)
		}
		if got := one(t, client, r.uid.String()); got.Password() != "new" || got.Revision != 2 {
			t.Errorf("rolled back: %q, revision %d", got.Password(), got.Revision)
		}
		if err := client.SaveBeginTransaction(rec, core.TransactionTypeRotation); err != nil {
			t.Fatal(err)
		}
		if err := client.CompleteTransaction(rec.Uid, false); err != nil {
			t.Fatal(err)
		}
		if got := one(t, client, r.uid.String()); got.Password() != "staged" || got.Revision != 3 {
			t.Errorf("finalized: %q, revision %d", got.Password(), got.Revision)
		}
		if err := client.CompleteTransaction(rec.Uid, false); err != nil {
			t.Errorf("finalize without a staged update: %v", err)
		}
	})
}

func TestGoSDKCreatesAndDeletes(t *testing.T) {
	s := newServer(t)
	s.addRecord(s.edit, login("1"))
	kept := s.addRecord(s.edit, login("statement"))
	s.addStatement(kept)
	client := s.goBound()
	data := func(password string) *core.RecordCreate {
		r := core.NewRecordCreate("login", "made by the SDK")
		r.Fields = append(r.Fields, core.NewLogin("ci"), core.NewPassword(password))
		r.Custom = []interface{}{}
		return r
	}
	uid, err := client.CreateSecretWithRecordData("", s.edit.String(), data("made"))
	if err != nil {
		t.Fatal(err)
	}
	if got := one(t, client, uid); got.Password() != "made" || got.Revision != 1 {
		t.Errorf("password %q, revision %d", got.Password(), got.Revision)
	}
	if _, err := client.CreateSecretWithRecordData(uid, s.edit.String(), data("again")); sdkCode(t, err) != ksm.CodeBadRequest {
		t.Errorf("a uid again: %v", err)
	}
	if _, err := client.CreateSecretWithRecordData("", s.read.String(), data("x")); sdkCode(t, err) != ksm.CodeAccessDenied {
		t.Errorf("in a folder that it may only read: %v", err)
	}
	absent := seal.NewID().String()
	status, err := client.DeleteSecrets([]string{uid, kept.uid.String(), absent})
	if err != nil {
		t.Fatal(err)
	}
	if status[uid] != "ok" || !strings.HasPrefix(status[kept.uid.String()], ksm.CodeAccessDenied) || !strings.HasPrefix(status[absent], ksm.CodeAccessDenied) {
		t.Errorf("status: %v", status)
	}
	if records, err := client.GetSecrets([]string{uid}); err != nil || len(records) != 0 {
		t.Errorf("after the deletion: %d records, %v", len(records), err)
	}
}

func TestGoSDKFolders(t *testing.T) {
	s := newServer(t)
	s.addRecord(s.edit, login("1"))
	client := s.goBound()
	root := core.CreateOptions{FolderUid: s.edit.String()}
	top, err := client.CreateFolder(root, "top", nil)
	if err != nil {
		t.Fatal(err)
	}
	below, err := client.CreateFolder(core.CreateOptions{FolderUid: s.edit.String(), SubFolderUid: top}, "below", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.UpdateFolder(top, "renamed", nil); err != nil {
		t.Fatal(err)
	}
	folders, err := client.GetFolders()
	if err != nil {
		t.Fatal(err)
	}
	names, parents := map[string]string{}, map[string]string{}
	for _, f := range folders {
		names[f.FolderUid], parents[f.FolderUid] = f.Name, f.ParentUid
	}
	if len(folders) != 4 || names[s.edit.String()] != "edit" || names[s.read.String()] != "read" || names[top] != "renamed" || names[below] != "below" {
		t.Errorf("names: %v", names)
	}
	if parents[s.edit.String()] != "" || parents[top] != s.edit.String() || parents[below] != top {
		t.Errorf("parents: %v", parents)
	}

	made := core.NewRecordCreate("login", "inside")
	made.Fields = append(made.Fields, core.NewPassword("deep"))
	made.Custom = []interface{}{}
	inside := core.CreateOptions{FolderUid: s.edit.String(), SubFolderUid: below}
	uid, err := client.CreateSecretWithRecordDataAndOptions(&inside, made, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := one(t, client, uid); got.Password() != "deep" || got.InnerFolderUid() != below || got.FolderUid() != s.edit.String() {
		t.Errorf("record in %s below %s: %q", got.InnerFolderUid(), got.FolderUid(), got.Password())
	}
	records, err := client.GetSecretsWithOptions(core.QueryOptions{FoldersFilter: []string{below}})
	if err != nil || len(records) != 1 {
		t.Errorf("by sub-folder: %d records, %v", len(records), err)
	}
	status, err := client.DeleteFolder([]string{top}, false)
	if err != nil || !strings.HasPrefix(status[top], "not_empty") {
		t.Errorf("delete a folder that is not empty: %v, %v", status, err)
	}
	if _, err := client.CreateFolder(core.CreateOptions{FolderUid: s.read.String()}, "no", nil); sdkCode(t, err) != ksm.CodeAccessDenied {
		t.Errorf("a folder where it may only read: %v", err)
	}
	status, err = client.DeleteFolder([]string{top}, true)
	if err != nil || status[top] != "ok" {
		t.Errorf("delete by force: %v, %v", status, err)
	}
	if records, _ := client.GetSecrets([]string{uid}); len(records) != 0 {
		t.Error("the record below is still there")
	}
	if folders, err := client.GetFolders(); err != nil || len(folders) != 2 {
		t.Errorf("%d folders, %v", len(folders), err)
	}
}

func TestGoSDKFiles(t *testing.T) {
	s := newServer(t)
	r := s.addRecord(s.edit, login("1"))
	client := s.goBound()
	content := bytes.Repeat([]byte("configuration\n"), 50_000)
	uid, err := client.UploadFile(one(t, client, r.uid.String()), &core.KeeperFileUpload{Name: "app.conf", Title: "App", Type: "text/plain", Data: content})
	if err != nil {
		t.Fatal(err)
	}
	rec := one(t, client, r.uid.String())
	file := rec.FindFile("app.conf")
	if file == nil || file.Uid != uid || rec.Revision != 2 {
		t.Fatalf("file %+v, revision %d", file, rec.Revision)
	}
	if !bytes.Equal(file.GetFileData(), content) { // by http.DefaultClient, with SSL_CERT_FILE
		t.Error("the contents came back otherwise")
	}
	if refs := rec.GetFieldValuesByType("fileRef"); len(refs) != 1 || refs[0] != uid {
		t.Errorf("fileRef: %v", refs)
	}

	err = client.SaveWithOptions(rec, core.UpdateOptions{LinksToRemove: []string{uid}})
	if err != nil {
		t.Fatal(err)
	}
	rec = one(t, client, r.uid.String())
	if len(rec.Files) != 0 || len(rec.GetFieldValuesByType("fileRef")) != 0 {
		t.Errorf("after the removal: %d files", len(rec.Files))
	}
}

func TestGoSDKRefusals(t *testing.T) {
	s := newServer(t, func(c *machineapi.Config) { c.Rate, c.Burst = 1, 5 })
	s.addRecord(s.edit, login("1"))
	get := func(m machine, alter func(map[string]string)) error {
		config := s.configuration(m, "localhost")
		alter(config)
		_, err := s.goClient(&core.ClientOptions{Config: core.NewMemoryKeyValueStorage(config)}).GetSecrets(nil)
		return err
	}
	asIs := func(map[string]string) {}
	good := s.prebound("good")
	for name, test := range map[string]struct {
		m     machine
		alter func(map[string]string)
		want  string
	}{
		"as it should be":   {good, asIs, ""},
		"wrong private key": {machine{good.id, s.prebound("other").key}, asIs, ksm.CodeAccessDenied},
		"unknown client":    {machine{make([]byte, 64), good.key}, asIs, ksm.CodeAccessDenied},
		"expired": {s.prebound("expired", func(p *db.AddAppClientParams) {
			p.AccessExpires = s.clock().Add(-time.Second).UnixMilli()
		}), asIs, ksm.CodeAccessDenied},
		"unbound token": {machine{s.prebound("unbound", func(p *db.AddAppClientParams) { p.PublicKey = nil }).id, good.key}, asIs, ksm.CodeAccessDenied},
	} {
		if got := sdkCode(t, get(test.m, test.alter)); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	client := s.goBound()
	var err error
	for range 6 {
		if _, err = client.GetSecrets(nil); err != nil {
			break
		}
	}
	if sdkCode(t, err) != ksm.CodeThrottled {
		t.Errorf("a client that asks too often: %v", err)
	}
	if err := get(s.prebound("another"), asIs); err != nil {
		t.Errorf("another client is not held up: %v", err)
	}
}
