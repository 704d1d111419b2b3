// Package floor does by bare client libraries what the plugins do, on servers of its own:
// a secret changed on an administrator's session that is open already, and a fresh login
// with it. Nobody can be faster.
package floor

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// Target is a server, started for the measurement.
type Target interface {
	// Name is the server's and the client library's, with their versions.
	Name() string
	// Endpoint is how a plugin reaches it.
	Endpoint() Endpoint
	// Accounts makes n accounts.
	Accounts(ctx context.Context, n int) ([]*Account, error)
	// Warm opens administrators' sessions until there are n.
	Warm(ctx context.Context, n int) error
	// Rotate gives an account a new secret on one of these sessions, and proves it, by a
	// login or as Verify says.
	Rotate(ctx context.Context, session int, a *Account, verify string) error
	// Pid is of the process whose children serve it.
	Pid() int
	Close() error
}

// Endpoint of a server.
type Endpoint struct {
	Resource sdk.Resource
	Pins     [][sha256.Size]byte // of its TLS or host keys
	Admin    sdk.Credential
	AdminAs  sdk.Account
}

// Account of a target, with the secret that it has.
type Account struct {
	sdk.Account
	Secret sdk.Secret
}

// Starts is how the target of each plugin is started, in an empty folder.
var Starts = map[string]func(ctx context.Context, dir string) (Target, error){
	"postgres": StartPostgres, "ssh": StartSSHD, "mysql": StartMariaDB, "ldap": StartLDAP, "ad": StartAD, "redis": StartRedis,
}

// Password is a new one, as long as the generator's.
func Password() sdk.Secret {
	var b [18]byte
	_, _ = rand.Read(b[:]) // does not fail
	// Active Directory wants of everything something.
	return sdk.NewSecret([]byte("Aa1-" + base64.RawURLEncoding.EncodeToString(b[:])))
}

func credential(s sdk.Secret) sdk.Credential {
	return sdk.Credential{Kind: sdk.Password, Secret: s}
}

// module is a library's path with the version that this program was built with.
func module(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return path + " " + m.Version
			}
		}
	}
	return path
}

// CPUModel is the processor's name, where the system tells.
func CPUModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.Trim(name, "\t\n :")
		}
	}
	return "unknown"
}

// Times does f for a time, n at once, each with accounts of its own, and gives what each
// took and how many there were in a second.
func Times(ctx context.Context, n int, span time.Duration, accounts []*Account, f func(ctx context.Context, worker int, a *Account) error) (took []time.Duration, perSecond float64, err error) {
	each := make([][]time.Duration, n)
	errs := make([]error, n)
	began := time.Now()
	var all sync.WaitGroup
	for w := range n {
		all.Go(func() {
			for i := w; time.Since(began) < span && errs[w] == nil; i += n {
				if i >= len(accounts) {
					i = w
				}
				start := time.Now()
				errs[w] = f(ctx, w, accounts[i])
				each[w] = append(each[w], time.Since(start))
			}
		})
	}
	all.Wait()
	elapsed := time.Since(began)
	for w := range n {
		if errs[w] != nil {
			return nil, 0, errs[w] // one says it
		}
		took = append(took, each[w]...)
	}
	return took, float64(len(took)) / elapsed.Seconds(), nil
}
