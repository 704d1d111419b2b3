package pluginhost

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
)

// Under which user ids plugins run, and what is ended for it: nothing of the host's own.
func TestUsersOfPlugins(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to run processes as other users")
	}
	first := 200_000 + os.Getpid()%50_000*10
	lockFile := func(uid int) string { return filepath.Join(userLocks, strconv.Itoa(uid)) }
	for n, row := range []struct {
		name   string
		before func(t *testing.T, j *jail) // makes the first user id what the name says
		runs   bool                        // a process runs under it
		given  bool
		lives  bool
	}{
		{"nobody's", func(*testing.T, *jail) {}, false, true, false},
		{"a service's, which the user database does not know", func(*testing.T, *jail) {}, true, false, true},
		{"a plugin's that outlived its agent", func(t *testing.T, j *jail) { taken(t, j)() }, true, true, false},
		{"an agent's before the machine started anew, now a service's", func(t *testing.T, j *jail) {
			taken(t, j)()
			if err := os.WriteFile(lockFile(j.users.First), []byte("an earlier start"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, true, false, true},
		{"another agent's", func(t *testing.T, j *jail) { t.Cleanup(taken(t, j)) }, true, false, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			ids := UserIDs{first + 2*n, first + 2*n + 1}
			t.Cleanup(func() { _ = os.Remove(lockFile(ids.First)); _ = os.Remove(lockFile(ids.Last)) })
			j := newJail(ids, defaultBounds())
			if !j.iso.User {
				t.Skip("this root may not become another user")
			}
			row.before(t, j)
			var ended chan error
			if row.runs {
				cmd := exec.Command("/bin/sleep", "60")
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(ids.First), Gid: uint32(ids.First)}}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				ended = make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				defer func() { _ = cmd.Process.Kill() }()
			}
			uid, release, err := j.user()
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			if (uid == ids.First) != row.given {
				t.Errorf("given %d of %+v", uid, ids)
			}
			switch {
			case row.runs && row.lives:
				if pids, err := processesOf("/proc", ids.First); err != nil || len(pids) != 1 {
					t.Errorf("of the process there is %v: %v", pids, err)
				}
			case row.runs && !row.lives:
				<-ended
			}
		})
	}

	// Known to the user database.
	if uid, _, err := newJail(UserIDs{1, 1}, defaultBounds()).user(); err == nil && uid >= 0 {
		t.Errorf("a plugin is given the host's own user %d", uid)
	}
}

func taken(t *testing.T, j *jail) (release func()) {
	t.Helper()
	uid, release, err := j.user()
	if err != nil || uid != j.users.First {
		t.Fatalf("user %d, %v", uid, err)
	}
	return release
}

// A user of whom nobody can say what runs under him is not given to a plugin.
func TestUserNobodyKnowsOf(t *testing.T) {
	status := func(proc, pid, uid string) {
		t.Helper()
		dir := filepath.Join(proc, pid)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "status"), []byte("Name:\tx\nUid:\t"+uid+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, row := range map[string]struct {
		make func(proc string)
		pids []int
		bad  bool
	}{
		"his by any of the four":         {func(proc string) { status(proc, "7", "0\t0\t4242\t0"); status(proc, "8", "1\t1\t1\t1") }, []int{7}, false},
		"one that has ended":             {func(proc string) { _ = os.Mkdir(filepath.Join(proc, "7"), 0o700); status(proc, "8", "4242") }, []int{8}, false},
		"one whose state cannot be read": {func(proc string) { _ = os.MkdirAll(filepath.Join(proc, "7", "status"), 0o700) }, nil, true},
		"no list of processes":           {func(proc string) { _ = os.RemoveAll(proc) }, nil, true},
		"a list that hides others":       {func(proc string) { _ = os.RemoveAll(filepath.Join(proc, "1")) }, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			status(proc, "1", "0\t0\t0\t0")
			row.make(proc)
			pids, err := processesOf(proc, 4242)
			if (err != nil) != row.bad || !slices.Equal(pids, row.pids) {
				t.Errorf("%v, %v", pids, err)
			}
		})
	}

	if os.Geteuid() != 0 {
		t.Skip("the rest needs root, for the files of the users")
	}
	first := 200_000 + os.Getpid()%50_000*10 + 9
	t.Cleanup(func() { _ = os.Remove(filepath.Join(userLocks, strconv.Itoa(first))) })
	_, release, err := users{UserIDs{first, first}}.take(func(int, bool) (bool, error) { return true, os.ErrPermission })
	if !errors.Is(err, os.ErrPermission) {
		t.Errorf("a user is given: %v", err)
	}
	if release != nil {
		release()
	}
}
