package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/internal/terminal"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

const (
	// luaTime bounds what the plugin may take by hand; its tests have bounds of their own.
	luaTime = 5 * time.Minute
	// maxLuaAnswer bounds what it may say.
	maxLuaAnswer = 16 << 20
)

// luaFlag names the program that reads Lua.
func luaFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "lua", "", "`FILE` of the plugin lua, which reads scripts (default: the newest in plugins beside this program; environment ROTUNDA_LUA)")
}

// errNoLua is that the plugin is not to be found. What needs no Lua is done without it.
var errNoLua = failf(exitNotFound, "no_lua", "the plugin lua, which reads scripts, is not in the folder plugins beside this program").
	withHint("`make plugins` builds it; name it with --lua FILE, or in the environment as ROTUNDA_LUA")

// luaProgram finds the plugin that hosts scripts, the very one that agents start.
func (c *cli) luaProgram(given string) (string, error) {
	if given == "" {
		given = c.p.getenv("ROTUNDA_LUA")
	}
	if given != "" {
		given = c.p.path(given)
		if info, err := os.Stat(given); err != nil || !info.Mode().IsRegular() {
			return "", failf(exitNotFound, "no_lua", "%s is no program", given)
		}
		return given, nil
	}
	found, _ := filepath.Glob(filepath.Join(c.p.programs, "plugins", script.Plugin+"@*"))
	newest, name := time.Time{}, ""
	for _, f := range found {
		if info, err := os.Stat(f); err == nil && info.Mode().IsRegular() && info.ModTime().After(newest) {
			newest, name = info.ModTime(), f
		}
	}
	if name == "" {
		return "", errNoLua
	}
	return name, nil
}

// lua runs the plugin by hand, with in as its standard input, and reads its answer. It gets
// no environment.
func (c *cli) lua(ctx context.Context, program string, in io.Reader, answer any, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, luaTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env, cmd.Stdin = c.p.dir, []string{}, in
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &limited{w: &said, left: 64 << 10}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return failf(exitNotFound, "no_lua", "cannot start %s: %w", program, err)
	}
	text, err := io.ReadAll(io.LimitReader(out, maxLuaAnswer+1))
	if len(text) > maxLuaAnswer {
		cancel()
	}
	ended := cmd.Wait()
	if ctx.Err() != nil || err != nil {
		return failf(exitInternal, "lua_failed", "%s %s came to no end: %w", program, args[0], errors.Join(ctx.Err(), err))
	}
	var code *exec.ExitError
	if errors.As(ended, &code) && code.ExitCode() == 1 { // it found something
		ended = nil
	}
	if ended != nil {
		return failf(exitUsage, "lua_refused", "%s", terminal.Shown(strings.TrimSpace(orElse(said.String(), ended.Error()))))
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return failf(exitInternal, "lua_failed", "%s %s gave no answer that is understood: %w", program, args[0], err).
			withHint("is it the plugin of this version? `make plugins` builds it")
	}
	return nil
}

// limited takes the beginning of what is written, and drops the rest.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.left -= n
	if _, err := l.w.Write(b[:n]); err != nil {
		return 0, fmt.Errorf("keep what was said: %w", err)
	}
	return len(b), nil
}
