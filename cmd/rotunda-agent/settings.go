package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/exitcode"
)

const defaultConfig = "/etc/rotunda/agent.toml"

// Settings of an agent. Every field has a default, so that no file is needed.
type Settings struct {
	DataDir    string `toml:"data_dir"`    // journal, key file, sockets; /var/lib/rotunda-agent
	PluginDir  string `toml:"plugin_dir"`  // plugins beside the program
	PolicyFile string `toml:"policy_file"` // /etc/rotunda/policy.toml
	KeyFile    string `toml:"key_file"`    // agent.key in data_dir
	// PassphraseFile holds the key file's passphrase, if it has one; a systemd
	// credential called "passphrase" is found by itself.
	PassphraseFile string `toml:"passphrase_file"`
	Health         string `toml:"health"`       // address of the health endpoint, e.g. 127.0.0.1:9641; none by default
	Grace          string `toml:"grace"`        // time to drain, 30s
	Runs           int    `toml:"runs"`         // on targets at once, 64
	Processes      int    `toml:"processes"`    // of plugins at once, 16
	PluginUsers    string `toml:"plugin_users"` // first and last user id of plugins, 60706-61183
	LogFormat      string `toml:"log_format"`   // text or json
	LogLevel       string `toml:"log_level"`    // debug, info, warn, error
}

func loadSettings(path string) (*Settings, error) {
	s := &Settings{DataDir: "/var/lib/rotunda-agent", PolicyFile: "/etc/rotunda/policy.toml", Grace: "30s", PluginUsers: "60706-61183", LogFormat: "text", LogLevel: "info"}
	if exe, err := os.Executable(); err == nil {
		s.PluginDir = filepath.Join(filepath.Dir(exe), "plugins")
	}
	explicit := path != ""
	if !explicit {
		path = defaultConfig
	}
	meta, err := toml.DecodeFile(path, s)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !explicit:
	case err != nil:
		return nil, fmt.Errorf("settings %s: %w", path, err)
	default:
		unknown := meta.Undecoded()
		for _, k := range meta.Keys() { // the library takes them in any case
			if k.String() != strings.ToLower(k.String()) {
				unknown = append(unknown, k)
			}
		}
		if len(unknown) > 0 {
			return nil, fmt.Errorf("settings %s: unknown key %q: remove it or mend the spelling", path, unknown[0])
		}
	}
	for _, p := range [][2]string{
		{"data_dir", s.DataDir}, {"plugin_dir", s.PluginDir}, {"policy_file", s.PolicyFile}, {"key_file", s.KeyFile}, {"passphrase_file", s.PassphraseFile},
	} {
		// A service has no folder of its own to start from.
		if p[1] != "" && !filepath.IsAbs(p[1]) {
			return nil, fmt.Errorf("settings %s: %s %q: give a path from the root on", path, p[0], p[1])
		}
	}
	if s.KeyFile == "" {
		s.KeyFile = filepath.Join(s.DataDir, "agent.key")
	}
	if d, err := time.ParseDuration(s.Grace); err != nil || d < 0 {
		return nil, fmt.Errorf("settings %s: grace %q: give a time such as 30s or 2m", path, s.Grace)
	}
	if s.Runs < 1 && meta.IsDefined("runs") || s.Processes < 1 && meta.IsDefined("processes") {
		return nil, fmt.Errorf("settings %s: runs and processes are 1 or more, or left out", path)
	}
	if _, _, err := net.SplitHostPort(s.Health); s.Health != "" && err != nil {
		return nil, fmt.Errorf("settings %s: health %q: give an address with its port, such as 127.0.0.1:9641", path, s.Health)
	}
	if _, err := s.pluginUsers(); err != nil {
		return nil, fmt.Errorf("settings %s: %w", path, err)
	}
	if s.LogFormat != "text" && s.LogFormat != "json" {
		return nil, fmt.Errorf("settings %s: log_format is text or json, not %q", path, s.LogFormat)
	}
	if err := new(slog.Level).UnmarshalText([]byte(s.LogLevel)); err != nil {
		return nil, fmt.Errorf("settings %s: log_level: %w", path, err)
	}
	return s, nil
}

func (s *Settings) journal() string { return filepath.Join(s.DataDir, "journal.db") }

func (s *Settings) grace() time.Duration {
	d, _ := time.ParseDuration(s.Grace) // checked by loadSettings
	return d
}

// pluginUsers reads the range of user ids. Those of the system and of its people are
// no plugin's, nor are those that systemd gives to services for a while (DynamicUser=, 61184 to
// 65519: https://systemd.io/UIDS-GIDS/), to nobody (65534), or to nothing (65535): the agent ends
// what runs under one of its own. Each process and each start beside it needs one.
func (s *Settings) pluginUsers() (pluginhost.UserIDs, error) {
	first, last, _ := strings.Cut(s.PluginUsers, "-")
	from, err := strconv.Atoi(first)
	to, err2 := strconv.Atoi(last)
	const taken, free = 61184, 65536
	if err != nil || err2 != nil || from < 1000 || to-from+1 < 2*max(s.Processes, 16) || to > math.MaxInt32 || from < free && to >= taken {
		return pluginhost.UserIDs{}, fmt.Errorf("plugin_users %q: give two user ids such as 60706-61183 or 70000-71023, from 1000 on, none from 61184 to 65535 (which systemd gives to services, or are nobody's), at least two for each of %d processes", s.PluginUsers, max(s.Processes, 16))
	}
	return pluginhost.UserIDs{First: from, Last: to}, nil
}

// passphrase reads the key file's passphrase; none is an empty one.
func (s *Settings) passphrase() ([]byte, error) {
	path := s.PassphraseFile
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); path == "" && dir != "" {
		path = filepath.Join(dir, "passphrase")
		if _, err := os.Stat(path); err != nil {
			return nil, nil
		}
	}
	if path == "" {
		return nil, nil
	}
	word, err := readSmall(path, nil)
	return word, exitcode.With(exitcode.Locked, err)
}

func (s *Settings) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.LogLevel)) // checked by loadSettings
	o := &slog.HandlerOptions{Level: level}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
