package targets

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/rotunda-pam/rotunda/sdk"
)

// FerretDBServer is a running FerretDB on 127.0.0.1, which speaks MongoDB's protocol over
// TLS only and keeps what it is given in SQLite. Every user may do everything: it has no
// roles.
type FerretDBServer struct {
	Host          string // 127.0.0.1
	Port          int
	Address       string // host:port
	Admin         string // of the database admin
	AdminPassword sdk.Secret
	CA            []byte            // PEM
	SPKI          [sha256.Size]byte // of the server's key, for pinning
	LogFile       string

	dir  string
	proc *process
}

// StartFerretDB starts a FerretDB of its own in dir, which must be empty, absent or left
// over from an earlier one.
func StartFerretDB(ctx context.Context, dir string) (*FerretDBServer, error) {
	if !Installed(FerretDB) {
		return nil, fmt.Errorf("%w: FerretDB is not built yet, or python3-pymongo not installed", ErrUnavailable)
	}
	if err := prepare(dir); err != nil {
		return nil, err
	}
	cert, err := newCertificate()
	if err != nil {
		return nil, err
	}
	f := &FerretDBServer{
		Host: "127.0.0.1", Admin: "root", AdminPassword: sdk.NewSecret([]byte(randomHex(12))), CA: cert.ca, SPKI: cert.spki,
		LogFile: filepath.Join(dir, "ferretdb.out"), dir: dir,
	}
	for name, b := range map[string][]byte{"ca.pem": cert.ca, "server.crt": cert.cert, "server.key": cert.key} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return nil, fmt.Errorf("prepare FerretDB: %w", err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		return nil, fmt.Errorf("prepare FerretDB: %w", err)
	}
	err = onFreePort(func(port int) error {
		f.Port, f.Address = port, net.JoinHostPort(f.Host, strconv.Itoa(port))
		return f.Up(ctx)
	})
	if err != nil {
		return nil, errors.Join(err, f.Stop())
	}
	return f, nil
}

// Up starts the server again after Down, on the same port with the same data.
func (f *FerretDBServer) Up(ctx context.Context) error {
	program, err := built[FerretDB].program()
	if err != nil {
		return err
	}
	data := filepath.Join(f.dir, "data")
	f.proc, err = startWith(f.dir, "ferretdb", nil, []string{"FERRETDB_SETUP_PASSWORD=" + f.AdminPassword.ExposeString()}, program,
		"--handler=sqlite", "--sqlite-url=file:"+data+"/", "--state-dir="+data, "--telemetry=disable", "--debug-addr=-", "--listen-addr=",
		"--listen-tls="+f.Address, "--listen-tls-cert-file="+filepath.Join(f.dir, "server.crt"), "--listen-tls-key-file="+filepath.Join(f.dir, "server.key"),
		"--test-enable-new-auth", "--setup-database=admin", "--setup-username="+f.Admin)
	if err != nil {
		return err
	}
	err = f.proc.ready(ctx, func(ctx context.Context) error {
		// Whoever takes connections can be asked; Python takes long to begin.
		c, err := new(net.Dialer).DialContext(ctx, "tcp", f.Address)
		if err != nil {
			return err
		}
		c.Close()
		_, err = f.Do(ctx, "admin", map[string]any{"listCollections": 1})
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, f.Down()), logTail(f.LogFile))
	}
	return nil
}

// Down stops the server and waits for its end; the data stays.
func (f *FerretDBServer) Down() error {
	err := f.proc.stop(terminate)
	f.proc = nil
	return err
}

// Stop stops the server and removes its folder.
func (f *FerretDBServer) Stop() error { return errors.Join(f.Down(), Clean(f.dir)) }

// CreateUser makes a user of a database. Mechanisms are those that it may log in by; none
// is all.
func (f *FerretDBServer) CreateUser(ctx context.Context, name, db string, password sdk.Secret, mechanisms ...string) error {
	var by any
	if len(mechanisms) > 0 {
		by = mechanisms
	}
	_, err := f.python(ctx, map[string]any{
		"user": f.Admin, "password": f.AdminPassword.ExposeString(), "source": "admin", "db": db,
		"make": name, "pwd": password.ExposeString(), "mechanisms": by,
	})
	return err
}

// Do runs one command of one key as the administrator, and gives its answer in JSON.
func (f *FerretDBServer) Do(ctx context.Context, db string, command map[string]any) ([]byte, error) {
	return f.python(ctx, map[string]any{
		"user": f.Admin, "password": f.AdminPassword.ExposeString(), "source": "admin", "db": db, "command": command,
	})
}

// Accepts tells whether the server lets a user in with this password, and carries a
// command of its out. It asks PyMongo, so that the judge shares no code with what is judged.
func (f *FerretDBServer) Accepts(ctx context.Context, name, db string, password sdk.Secret) (bool, error) {
	_, err := f.python(ctx, map[string]any{
		"user": name, "password": password.ExposeString(), "source": db, "db": db, "command": map[string]any{"listCollections": 1},
	})
	var refused *mongoError
	if errors.As(err, &refused) && refused.Code == 18 { // AuthenticationFailed
		return false, nil
	}
	return err == nil, err
}

// Failures is how many logins as a user have failed.
func (f *FerretDBServer) Failures(name string) (int, error) {
	b, err := os.ReadFile(f.LogFile)
	if err != nil {
		return 0, fmt.Errorf("read the server's log: %w", err)
	}
	n, who := 0, fmt.Appendf(nil, "\"username\":%q", name)
	for line := range bytes.Lines(b) {
		if bytes.Contains(line, []byte("saslContinue: step failed")) && bytes.Contains(line, who) {
			n++
		}
	}
	return n, nil
}

// mongoError is what a server answers in place of carrying a command out.
type mongoError struct {
	Code int
	Text string
}

func (e *mongoError) Error() string { return fmt.Sprintf("server answers %d: %s", e.Code, e.Text) }

// pymongo logs in and runs one command; everything comes by standard input, since a name
// and a password may be anything.
const pymongo = `
import json, sys
from bson import json_util
import pymongo
a = json.load(sys.stdin)
client = pymongo.MongoClient(a["host"], a["port"], tls=True, tlsCAFile=a["ca"], username=a["user"], password=a["password"],
    authSource=a["source"], serverSelectionTimeoutMS=20000, retryReads=False, retryWrites=False)
try:
    db = client[a["db"]]
    if "make" in a:
        more = {"mechanisms": a["mechanisms"]} if a["mechanisms"] else {}
        out = db.command("createUser", a["make"], pwd=a["pwd"], roles=[], **more)
    else:
        out = db.command(a["command"])
    print(json.dumps({"Reply": json_util.dumps(out)}))
except pymongo.errors.OperationFailure as e:
    print(json.dumps({"Code": e.code or -1, "Text": str(e)}))
`

func (f *FerretDBServer) python(ctx context.Context, input map[string]any) ([]byte, error) {
	input["host"], input["port"], input["ca"] = f.Host, f.Port, filepath.Join(f.dir, "ca.pem")
	b, err := json.Marshal(input)
	if err != nil {
		return nil, fmt.Errorf("ask PyMongo: %w", err)
	}
	defer clear(b)
	cmd := exec.CommandContext(ctx, "/usr/bin/python3", "-c", pymongo)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	cmd.Stdin = bytes.NewReader(b)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("ask PyMongo: %w: %s", err, tail(stderr.Bytes(), 500))
	}
	var answer struct {
		mongoError
		Reply string
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, fmt.Errorf("ask PyMongo: %w", err)
	}
	if answer.Code != 0 {
		return nil, &answer.mongoError
	}
	return []byte(answer.Reply), nil
}
