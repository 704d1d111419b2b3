package ksmkey_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/keeper-security/secrets-manager-go/core"

	"github.com/rotunda-pam/rotunda/ksmkey"
)

func newPoint(t *testing.T) []byte {
	t.Helper()
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k.PublicKey().Bytes()
}

// TestSDKSealsToARegisteredKey asks the SDK itself: it seals to the key, whose
// id it would otherwise have replaced by its default.
func TestSDKSealsToARegisteredKey(t *testing.T) {
	point := newPoint(t)
	if err := ksmkey.Register(101, base64.StdEncoding.EncodeToString(point)); err != nil {
		t.Fatal(err)
	}
	config := core.NewMemoryKeyValueStorage(map[string]string{
		"hostname": "vault.example", "clientId": base64.StdEncoding.EncodeToString(make([]byte, 64)),
		"privateKey": "x", "appKey": "x", "serverPublicKeyId": "101",
	})
	client := core.NewSecretsManager(&core.ClientOptions{Config: config})
	if client == nil {
		t.Fatal("the SDK made no client")
	}
	if got := config.Get(core.KEY_SERVER_PUBLIC_KEY_ID); got != "101" {
		t.Errorf("the SDK fell back to key %q", got)
	}
	if key := client.GenerateTransmissionKey("101"); key == nil || len(key.EncryptedKey) != 125 {
		t.Error("the SDK does not seal to the registered key")
	}
	if client.GenerateTransmissionKey("102") != nil {
		t.Error("the SDK seals to a key that nobody registered")
	}
}

func TestRefusedKeys(t *testing.T) {
	good := base64.RawURLEncoding.EncodeToString(newPoint(t))
	for name, test := range map[string]struct {
		id   int
		key  string
		want error
	}{
		"the vendor's":          {10, good, ksmkey.ErrKeyID},
		"the vendor's isolated": {20, good, ksmkey.ErrKeyID},
		"no id":                 {0, good, ksmkey.ErrKeyID},
		"not base64":            {100, "?", ksmkey.ErrKey},
		"not on the curve":      {100, base64.RawURLEncoding.EncodeToString(append([]byte{4}, make([]byte, 64)...)), ksmkey.ErrKey},
		"cut":                   {100, good[:40], ksmkey.ErrKey},
	} {
		if err := ksmkey.Register(test.id, test.key); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// TestConfiguration: the key is taken out of the client's configuration.
func TestConfiguration(t *testing.T) {
	key := base64.RawURLEncoding.EncodeToString(newPoint(t))
	config := `{"hostname":"vault.example","serverPublicKeyId":"103","serverPublicKey":"` + key + `"}`
	for name, test := range map[string]struct {
		text string
		want error
	}{
		"JSON":              {config, nil},
		"base64 of it":      {base64.StdEncoding.EncodeToString([]byte(config)) + "\n", nil},
		"without a key":     {`{"hostname":"vault.example","serverPublicKeyId":"103"}`, ksmkey.ErrConfiguration},
		"without an id":     {`{"serverPublicKey":"` + key + `"}`, ksmkey.ErrConfiguration},
		"a token":           {"vault.example:" + key, ksmkey.ErrConfiguration},
		"the vendor's":      {strings.Replace(config, "103", "10", 1), ksmkey.ErrKeyID},
		"a key that is cut": {strings.Replace(config, key, key[:40], 1), ksmkey.ErrKey},
	} {
		if err := ksmkey.RegisterConfiguration(test.text); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	storage := core.NewMemoryKeyValueStorage(map[string]string{
		"hostname": "vault.example", "clientId": base64.StdEncoding.EncodeToString(make([]byte, 64)),
		"privateKey": "x", "appKey": "x", "serverPublicKeyId": "103",
	})
	client := core.NewSecretsManager(&core.ClientOptions{Config: storage})
	if client == nil || client.GenerateTransmissionKey("103") == nil {
		t.Error("the SDK does not seal to the configuration's key")
	}
}

// TestEnvironment loads the package in a process of its own.
func TestEnvironment(t *testing.T) {
	if os.Getenv("KSMKEY_TEST_CHILD") != "" {
		os.Stdout.WriteString("started\n")
		return
	}
	good := base64.RawURLEncoding.EncodeToString(newPoint(t))
	for name, test := range map[string]struct {
		id, key string
		starts  bool
	}{
		"good":    {"100", good, true},
		"no id":   {"", good, false},
		"bad key": {"100", "x", false},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestEnvironment$", "-test.v")
		cmd.Env = append(os.Environ(), "KSMKEY_TEST_CHILD=1", ksmkey.EnvKeyID+"="+test.id, ksmkey.EnvKey+"="+test.key)
		out, err := cmd.CombinedOutput()
		if started := strings.Contains(string(out), "started\n"); started != test.starts || (err == nil) != test.starts {
			t.Errorf("%s: started %v, %v\n%s", name, started, err, out)
		}
	}
}

// TestRenamedTableIsNoticed: a later SDK without the table must not leave the
// caller with a key that nobody uses.
func TestRenamedTableIsNoticed(t *testing.T) {
	key := base64.RawURLEncoding.EncodeToString(newPoint(t))
	ksmkey.WithoutTable(func() {
		if err := ksmkey.Register(100, key); !errors.Is(err, ksmkey.ErrTable) {
			t.Errorf("got %v", err)
		}
	})
}
