package pluginhost

import (
	"os"
	"os/exec"
	"path/filepath"
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
			case row.runs && row.lives && len(processesOf(ids.First)) != 1:
				t.Errorf("the process ended: %v", <-ended)
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
