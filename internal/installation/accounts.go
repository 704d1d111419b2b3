package installation

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Pool and Folder are what every account of an installation uses.
const (
	Pool   = "dc1"
	Folder = "Accounts"
)

// AddFolder makes the folder of the accounts and lets the pool read it. The pool
// is there once its first agent's token was made.
func (i *Installation) AddFolder(ctx context.Context) error {
	if _, err := i.CLI(ctx, nil, "folder", "add", Folder); err != nil {
		return err
	}
	_, err := i.CLI(ctx, nil, "folder", "grant", Folder, Pool, "read", "--yes")
	return err
}

// AddPostgres makes a resource of the server, pinned by its key, with its
// administrator's account (NAME-admin).
func (i *Installation) AddPostgres(ctx context.Context, name string, pg *targets.PG) error {
	if _, err := i.CLI(ctx, nil, "resource", "add", name, "--folder", Folder, "--type", "database", "--pool", Pool, "--plugin", "postgres",
		"--host", pg.Host, "--port", strconv.Itoa(pg.Port), "--tls", "pin", "--tls-key", hex.EncodeToString(pg.SPKI[:])); err != nil {
		return err
	}
	if err := i.addAccount(ctx, name+"-admin", name, pg.Admin, pg.AdminPassword); err != nil {
		return err
	}
	_, err := i.CLI(ctx, nil, "resource", "edit", name, "--admin", name+"-admin", "--yes")
	return err
}

// AddRole makes a role on the server with a secret of its own, and its account.
func (i *Installation) AddRole(ctx context.Context, pg *targets.PG, resource, title, role string) (sdk.Secret, error) {
	pw := newPassword()
	if err := pg.CreateRole(ctx, role, pw, ""); err != nil {
		return pw, err
	}
	return pw, i.addAccount(ctx, title, resource, role, pw)
}

// AddSSHD makes a resource of the sshd, pinned by its host keys, whose
// administrator is root with a key.
func (i *Installation) AddSSHD(ctx context.Context, name string, s *targets.SSHD) error {
	args := []string{
		"resource", "add", name, "--folder", Folder, "--pool", Pool, "--plugin", "ssh",
		"--host", s.Host, "--port", strconv.Itoa(s.Port),
	}
	for _, k := range s.HostKeys {
		args = append(args, "--host-key", hex.EncodeToString(k[:]))
	}
	if _, err := i.CLI(ctx, nil, args...); err != nil {
		return err
	}
	if err := i.addKeyAccount(ctx, name+"-admin", name, s.Admin, s.AdminKey, s.AdminPub); err != nil {
		return err
	}
	_, err := i.CLI(ctx, nil, "resource", "edit", name, "--admin", name+"-admin", "--yes")
	return err
}

// AddUser makes the account of a Unix user, whose secret is c.
func (i *Installation) AddUser(ctx context.Context, resource, title, login string, c sdk.Credential) error {
	if c.Kind == sdk.SSHKey {
		return i.addKeyAccount(ctx, title, resource, login, c.Secret, c.Public)
	}
	return i.addAccount(ctx, title, resource, login, c.Secret)
}

func (i *Installation) addAccount(ctx context.Context, title, resource, login string, pw sdk.Secret) error {
	_, err := i.CLI(ctx, pw.Expose(), "record", "add", title, "--folder", Folder, "--resource", resource, "--login", login, "--password-stdin")
	return err
}

func (i *Installation) addKeyAccount(ctx context.Context, title, resource, login string, private sdk.Secret, public []byte) error {
	path := filepath.Join(i.Dir, "public-key")
	if err := os.WriteFile(path, public, 0o600); err != nil {
		return err
	}
	_, err := i.CLI(ctx, private.Expose(), "record", "add", title, "--folder", Folder, "--resource", resource, "--login", login,
		"--kind", "ssh_key", "--public-key-file", path, "--password-stdin")
	return err
}

// Secret is an account's secret in the vault, by the command line.
func (i *Installation) Secret(ctx context.Context, title string) (sdk.Secret, error) {
	out, err := i.CLI(ctx, nil, "record", "get", title, "--reveal", "--field", "secret")
	if err != nil {
		return sdk.Secret{}, err
	}
	defer clear(out)
	return sdk.NewSecret(bytes.TrimSuffix(out, []byte("\n"))), nil
}

// Credential is an account's secret with its public half.
func (i *Installation) Credential(ctx context.Context, title string, kind sdk.Kind) (sdk.Credential, error) {
	if kind != sdk.SSHKey {
		secret, err := i.Secret(ctx, title)
		return sdk.Credential{Kind: sdk.Password, Secret: secret}, err
	}
	var r struct {
		Secret    string
		PublicKey string `json:"public_key"`
	}
	err := i.JSON(ctx, &r, nil, "record", "get", title, "--reveal")
	return sdk.Credential{Kind: sdk.SSHKey, Public: []byte(strings.TrimSpace(r.PublicKey)), Secret: sdk.NewSecret([]byte(r.Secret))}, err
}

// Record is what the command line shows of a record, masked.
type Record struct {
	State     string `json:"state"`
	Reason    string `json:"reason"`
	Revision  int64  `json:"revision"`
	Candidate *struct {
		RunID string `json:"run_id"`
	} `json:"candidate"`
}

// Record asks the command line for a record.
func (i *Installation) Record(ctx context.Context, title string) (r Record, err error) {
	err = i.JSON(ctx, &r, nil, "record", "get", title)
	return r, err
}

// Outcome is how the command line says that a run ended.
type Outcome struct {
	RunID      string `json:"run_id"`
	State      string `json:"state"`
	Credential string `json:"credential"`
	Dependents string `json:"dependents"`
	Scripts    string `json:"scripts"`
	Class      string `json:"class"`
	Reason     string `json:"reason"`
	Detail     string `json:"detail"`
	Error      string `json:"error"`
}

// Rotate rotates one account by hand and follows the run. How it ended is in the
// outcome also where the command line's exit code makes it an error.
func (i *Installation) Rotate(ctx context.Context, title string, flags ...string) (Outcome, error) {
	return i.start(ctx, append([]string{"rotate", title, "--json"}, flags...))
}

// RunScripts runs what runs after an account's rotations, and nothing else.
func (i *Installation) RunScripts(ctx context.Context, title string) (Outcome, error) {
	return i.start(ctx, []string{"script", "run", title, "--json"})
}

// patience bounds a run that is followed: one that stands would never end.
const patience = 10 * time.Minute

func (i *Installation) start(ctx context.Context, args []string) (Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := i.CLI(ctx, nil, args...)
	var all struct {
		Outcomes []Outcome `json:"outcomes"`
	}
	if json.Unmarshal(out, &all) == nil && len(all.Outcomes) == 1 {
		return all.Outcomes[0], err
	}
	if err == nil {
		err = fmt.Errorf("rotunda %s: one outcome was expected: %s", strings.Join(args, " "), out)
	}
	return Outcome{}, err
}

func newPassword() sdk.Secret {
	var b [18]byte
	_, _ = rand.Read(b[:]) // does not fail
	return sdk.NewSecret([]byte(base64.RawURLEncoding.EncodeToString(b[:])))
}
