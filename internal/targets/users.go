package targets

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// UserOptions describe a throw-away Unix account.
type UserOptions struct {
	Name           string // empty: a new one; any that useradd can be talked into
	Password       sdk.Secret
	Shell          string // empty: /bin/bash
	Sudo           bool   // may become root with its own password
	SudoNoPassword bool   // may become root without one
	AuthorizedKeys []byte // whole file
}

// User is a throw-away Unix account.
type User struct {
	Name, Home string
	UID, GID   int
}

// KeysFile is the account's authorized_keys.
func (u User) KeysFile() string { return filepath.Join(u.Home, ".ssh", "authorized_keys") }

// CreateUser makes a Unix account on this machine, which Stop removes.
func (s *SSHD) CreateUser(ctx context.Context, o UserOptions) (User, error) {
	tag := userPrefix + randomHex(4)
	name := o.Name
	if name == "" {
		name = tag
	}
	// A line of /etc/passwd that begins with - or + is an instruction of NIS, without a uid:
	// useradd would write it, and nothing could find it again.
	if strings.ContainsAny(name, ":\n") || strings.HasPrefix(name, "-") || strings.HasPrefix(name, "+") {
		return User{}, fmt.Errorf("no Unix account can be called %q", name)
	}
	if _, err := user.Lookup(name); err == nil {
		return User{}, fmt.Errorf("account %q is there already", name)
	}
	shell := o.Shell
	if shell == "" {
		shell = "/bin/bash"
	}
	// Written down first, so that a killed run leaves nothing that is not known.
	if err := appendLine(filepath.Join(s.dir, userFile), name); err != nil {
		return User{}, err
	}
	home := filepath.Join("/home", tag)
	// No password, and not locked either ("!"): sshd lets nobody into a locked account,
	// by whatever key.
	args := []string{"/usr/sbin/useradd", "-m", "-d", home, "-s", shell, "-c", "rotunda test", "-p", "*"}
	if o.Name != "" {
		args = append(args, "--badname")
	}
	if o.Sudo {
		args = append(args, "-G", "sudo")
	}
	if err := run(ctx, nil, append(args, "--", name)...); err != nil {
		return User{}, fmt.Errorf("make account %q: %w", name, err)
	}
	if o.Password.Len() > 0 {
		if err := s.SetPassword(ctx, name, o.Password); err != nil {
			return User{}, err
		}
	}
	if o.SudoNoPassword {
		rule := name + " ALL=(ALL:ALL) NOPASSWD: ALL\n"
		if err := os.WriteFile(sudoRule(home), []byte(rule), 0o440); err != nil {
			return User{}, fmt.Errorf("let %q become root: %w", name, err)
		}
	}
	a, err := lookup(name)
	if err != nil {
		return User{}, err
	}
	u := User{Name: name, Home: home, UID: a.uid, GID: a.gid}
	if o.AuthorizedKeys != nil {
		return u, u.WriteKeys(o.AuthorizedKeys, 0o600)
	}
	return u, nil
}

// WriteKeys replaces the account's authorized_keys.
func (u User) WriteKeys(content []byte, mode os.FileMode) error {
	dir := filepath.Dir(u.KeysFile())
	for _, err := range []error{
		os.MkdirAll(dir, 0o700), os.Chown(dir, u.UID, u.GID),
		os.WriteFile(u.KeysFile(), content, mode), os.Chmod(u.KeysFile(), mode), os.Chown(u.KeysFile(), u.UID, u.GID),
	} {
		if err != nil {
			return fmt.Errorf("write the keys of %s: %w", u.Name, err)
		}
	}
	return nil
}

// SetPassword sets an account's password as root, behind every plugin's back.
func (s *SSHD) SetPassword(ctx context.Context, name string, password sdk.Secret) error {
	line := append([]byte(name+":"), password.Expose()...)
	defer clear(line)
	argv := []string{"/usr/sbin/chpasswd"}
	if s.options.Quick {
		argv = append(argv, "-c", "SHA512", "-s", "1000")
	}
	return run(ctx, append(line, '\n'), argv...)
}

func sudoRule(home string) string { return filepath.Join("/etc/sudoers.d", filepath.Base(home)) }

// removeUsers removes the accounts that are written down in dir. Only an account with
// a home of ours is touched, whatever the file says.
func removeUsers(dir string) error {
	names, err := lines(filepath.Join(dir, userFile))
	if err != nil {
		return fmt.Errorf("remove test accounts: %w", err)
	}
	var errs []error
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil || !strings.HasPrefix(filepath.Base(u.HomeDir), userPrefix) {
			continue
		}
		if uid, err := strconv.Atoi(u.Uid); err != nil || uid < 1000 {
			continue
		}
		if err := os.Remove(sudoRule(u.HomeDir)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		// -f: a session of the account may not have ended yet.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		errs = append(errs, run(ctx, nil, "/usr/sbin/userdel", "-r", "-f", "--", name))
		cancel()
	}
	return errors.Join(errs...)
}

func appendLine(file, line string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}
