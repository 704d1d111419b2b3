package targets

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// needs are the programs and the Debian packages that bring them.
var needs = []struct {
	pkg  string
	have func() bool
}{
	{"openssh-server", func() bool { return exists("/usr/sbin/sshd") }},
	{"sudo", func() bool { return exists("/usr/bin/sudo") }},
	{"postgresql", func() bool { _, err := postgresBin(); return err == nil }},
}

// Install installs the servers' Debian packages that are missing. It says what it is
// about to do first. Several processes may call it at once. Without root or apt-get it
// fails with [ErrUnavailable], which names what a person should install.
func Install(ctx context.Context, log func(string)) error {
	if len(missing()) == 0 {
		return nil
	}
	if os.Getuid() != 0 || !exists("/usr/bin/apt-get") {
		return fmt.Errorf("%w: install %s (needs root and apt-get)", ErrUnavailable, strings.Join(missing(), " "))
	}
	root, err := base()
	if err != nil {
		return err
	}
	unlock, err := lockFile(filepath.Join(root, "install.lock"), true)
	if err != nil {
		return err
	}
	defer unlock()
	packages := missing() // somebody may have installed them while we waited
	if len(packages) == 0 {
		return nil
	}
	log("installing the test servers: apt-get install " + strings.Join(packages, " "))
	apt := []string{"apt-get", "-q", "-o", "DPkg::Lock::Timeout=600"}
	if err := run(ctx, nil, append(slices.Clone(apt), "update")...); err != nil {
		return fmt.Errorf("install test servers: %w", err)
	}
	install := append(slices.Clone(apt), "install", "-y", "--no-install-recommends")
	if err := run(ctx, nil, append(install, packages...)...); err != nil {
		return fmt.Errorf("install test servers: %w", err)
	}
	if left := missing(); len(left) > 0 {
		return fmt.Errorf("%w: apt-get ended well but %s is still missing", ErrUnavailable, strings.Join(left, " "))
	}
	return nil
}

func missing() []string {
	var out []string
	for _, n := range needs {
		if !n.have() {
			out = append(out, n.pkg)
		}
	}
	return out
}

func exists(file string) bool { _, err := os.Stat(file); return err == nil }

// postgresBin is the folder of the newest PostgreSQL: Debian keeps initdb and
// postgres out of the path.
func postgresBin() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	slices.SortFunc(found, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b) // 9 before 15
		}
		return strings.Compare(a, b)
	})
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1]), nil
	}
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		return "", fmt.Errorf("%w: install postgresql", ErrUnavailable)
	}
	return filepath.Dir(initdb), nil
}
