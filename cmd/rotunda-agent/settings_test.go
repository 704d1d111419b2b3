package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/agent"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A settings file that is not understood says what to mend.
func TestSettingsThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	for text, says := range map[string]string{
		"data_dri = \"/x\"":                        `unknown key "data_dri"`,
		"grace = \"soon\"":                         "grace",
		"log_format = \"xml\"":                     "text or json",
		"log_level = \"loud\"":                     "log_level",
		"data_dir = /no/quotes":                    "agent.toml",
		"plugin_users = \"0-65000\"":               "plugin_users",
		"plugin_users = \"70000\"":                 "plugin_users",
		"plugin_users = \"70000-69000\"":           "plugin_users",
		"plugin_users = \"70000-70015\"":           "at least two for each",
		"plugin_users = \"61000-61184\"":           "systemd gives to services",
		"plugin_users = \"65535-66000\"":           "systemd gives to services",
		"plugin_users = \"62000-63023\"":           "systemd gives to services",
		"plugin_users = \"3000000000-3000001000\"": "plugin_users",
		"runs = \"many\"":                          "agent.toml",
		"runs = 0":                                 "1 or more",
		"processes = -1":                           "1 or more",
		"health = \"nope\"":                        "with its port",
		"processes = 1\n[other]":                   `unknown key "other"`,
	} {
		_, err := loadSettings(write(t, filepath.Join(dir, "agent.toml"), text))
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "agent.toml") {
			t.Errorf("%q: %v; want the file and %q", text, err, says)
		}
	}
	if _, err := loadSettings(filepath.Join(dir, "missing.toml")); err == nil {
		t.Error("a file that was named and is not there is no error")
	}
}

// The passphrase comes from the file of the settings, else from systemd's credential.
func TestPassphrase(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "word"), "of the settings\n")
	write(t, filepath.Join(dir, "passphrase"), "of systemd\n")
	for _, c := range []struct{ file, credentials, want string }{
		{"", "", ""},
		{"", dir, "of systemd"},
		{file, dir, "of the settings"},
		{file, "", "of the settings"},
		{"", t.TempDir(), ""}, // credentials of another name
	} {
		t.Setenv("CREDENTIALS_DIRECTORY", c.credentials)
		got, err := (&Settings{PassphraseFile: c.file}).passphrase()
		if err != nil || string(got) != c.want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}

// What doctor says of an agent that cannot work, and that it says what to do.
func TestDoctorFindings(t *testing.T) {
	good := []byte("a plugin")
	sum := sha256.Sum256(good)
	for name, c := range map[string]struct {
		set  func(t *testing.T, s *Settings)
		says []string
	}{
		"not enrolled": {func(*testing.T, *Settings) {}, []string{"bad   keys", "rotunda-agent enrol"}},
		"key file for all to read": {func(t *testing.T, s *Settings) {
			write(t, s.KeyFile, "{}")
			if err := os.Chmod(s.KeyFile, 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"bad   keys", "chmod 600"}},
		"locked, and no passphrase": {func(t *testing.T, s *Settings) {
			write(t, s.KeyFile, string(seal.Lock([]byte("word"), "agent", []byte("{}"))))
		}, []string{"bad   keys", "passphrase_file"}},
		"a rule is misspelt": {func(t *testing.T, s *Settings) {
			write(t, s.PolicyFile, "[networks]\ndney = [\"10.0.0.0/8\"]\n")
		}, []string{"bad   policy", `unknown key "networks.dney"`}},
		"programs for scripts": {func(t *testing.T, s *Settings) {
			if runtime.GOOS == "windows" {
				t.Skip("left out: agents on Windows run no programs for scripts")
			}
			mine := filepath.Join(s.DataDir, "mine")
			write(t, mine, "#!/bin/sh\n")
			if err := os.Chmod(mine, 0o777); err != nil {
				t.Fatal(err)
			}
			write(t, s.PolicyFile, fmt.Sprintf("scripts.programs = [\"/bin/sh\", \"/bin/no-such\", %q]\n", mine))
		}, []string{"good  program    /bin/sh", "bad   program    lstat ", "bad   program    /", "could put something else in the program's place: ch"}},
		"no policy": {func(*testing.T, *Settings) {}, []string{"good  policy", "no file"}},
		"no plugins": {func(t *testing.T, s *Settings) {
			if err := os.RemoveAll(s.PluginDir); err != nil {
				t.Fatal(err)
			}
		}, []string{"bad   plugins", "plugin_dir"}},
		"an empty folder of plugins": {func(*testing.T, *Settings) {}, []string{"bad   plugins", "bin/plugins"}},
		"plugins of all kinds": {func(t *testing.T, s *Settings) {
			write(t, filepath.Join(s.PluginDir, "mine@"+hex.EncodeToString(sum[:])), string(good))
			write(t, filepath.Join(s.PluginDir, "replaced@"+hex.EncodeToString(sum[:])), "another")
			write(t, filepath.Join(s.PluginDir, "unnamed"), string(good))
		}, []string{"good  plugins    mine, not built with this agent", "replaced@" + hex.EncodeToString(sum[:]) + ": the file has another hash", "unnamed: plugin \"unnamed\": want NAME@SHA256"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := &Settings{
				DataDir: dir, KeyFile: filepath.Join(dir, "agent.key"), PolicyFile: filepath.Join(dir, "policy.toml"),
				PluginDir: filepath.Join(dir, "plugins"),
			}
			if err := os.Mkdir(s.PluginDir, 0o755); err != nil {
				t.Fatal(err)
			}
			c.set(t, s)
			var out bytes.Buffer
			if err := doctor(t.Context(), s, &out); err == nil {
				t.Error("an agent that is not enrolled is found well")
			}
			for _, w := range c.says {
				if !strings.Contains(out.String(), w) {
					t.Errorf("does not say %q:\n%s", w, out.String())
				}
			}
		})
	}
}

// A key file that was locked opens with its passphrase and no other.
func TestLockedKeyFile(t *testing.T) {
	keys, err := enrol.MakeKeys(trustv1.EntryKind_ENTRY_KIND_AGENT)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "agent.key")
	if err := agent.SaveIdentity(file, &enrol.Identity{Name: "gw1", Keys: keys}, []byte("the right one")); err != nil {
		t.Fatal(err)
	}
	for word, opens := range map[string]bool{"the right one": true, "another": false} {
		id, err := agent.LoadIdentity(file, func() ([]byte, error) { return []byte(word), nil })
		if (err == nil) != opens || opens && id.Name != "gw1" {
			t.Errorf("%q: %v", word, err)
		}
		if !opens && !strings.Contains(fmt.Sprint(err), "wrong passphrase") {
			t.Errorf("a wrong passphrase is called: %v", err)
		}
	}
}
